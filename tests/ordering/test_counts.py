import math
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import BudgetError
from curate.ordering.shares import exact_share, n_keep


@pytest.mark.parametrize(
    ("total", "share", "kept"),
    [
        (750, 0.018, 14),
        (5, 0.5, 3),
        (3, 0.5, 2),
        (10, 0.25, 3),
        (7, 0.1, 1),
        (0, 0.3, 0),
        (4, 0.1, 0),
        (1, 1, 1),
    ],
)
def test_known_counts(total, share, kept):
    assert n_keep(share, total) == kept


@pytest.mark.parametrize("share", [0.3, "0.3", "30%", " 30 %", "3e-1", Fraction(3, 10), np.float32(0.3)])
def test_ways_to_write_a_share(share):
    assert n_keep(share, 15) == 5


@pytest.mark.parametrize("share", [0, 0.0, -0.1, 1.4, "101%", "0%"])
def test_share_out_of_range(share):
    with pytest.raises(BudgetError, match=r"select.keep must be in \(0, 1\], got"):
        n_keep(share, 10)


@pytest.mark.parametrize("share", [math.nan, math.inf, "third", "", "%", None, True, "1/0"])
def test_share_that_is_no_number(share):
    with pytest.raises(BudgetError, match="number or a percentage"):
        n_keep(share, 10)


def test_negative_total():
    with pytest.raises(BudgetError, match="at least 0, got -1"):
        n_keep(0.5, -1)


@given(st.decimals("0.0001", "1", places=4), st.integers(0, 10**12))
def test_equals_decimal_arithmetic(share, total):
    want = int((share * total + Decimal("0.5")).to_integral_value(ROUND_FLOOR))
    assert n_keep(float(share), total) == n_keep(str(share), total) == want


@given(st.integers(1, 1000), st.integers(0, 10**6))
def test_within_range_and_growing(thousandths, total):
    share = Fraction(thousandths, 1000)
    assert 0 <= n_keep(share, total) <= total
    assert n_keep(share, total) <= n_keep(share, total + 1)
    assert n_keep(1, total) == total


def test_exact_share():
    assert exact_share("1e-3") == Fraction(1, 1000)
