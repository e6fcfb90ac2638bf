from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.errors import CurateError, RecipeError
from curate.scores.fuse import fuse, normalise

numbers = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-1e308, 1e308), st.sampled_from([np.nan, np.inf, -np.inf])
)
columns = hnp.arrays(float, st.integers(0, 12), elements=numbers)


def by_definition(values, scale):
    seen = [v for v in values if np.isfinite(v)]
    out = []
    for v in values:
        if not np.isfinite(v):
            out.append(np.nan)
        elif min(seen) == max(seen):
            out.append(0.5)
        elif scale == "rank":
            out.append((sum(w < v for w in seen) + (sum(w == v for w in seen) - 1) / 2) / (len(seen) - 1))
        else:
            low, high = Fraction(min(seen)), Fraction(max(seen))
            out.append(float((Fraction(v) - low) / (high - low)))
    return out


@given(columns, st.sampled_from(["rank", "minmax"]), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_normalise_by_definition(values, scale, n_groups, seed):
    group = np.random.default_rng(seed).integers(-1, n_groups, len(values))
    np.testing.assert_allclose(normalise(values, scale), by_definition(values, scale), atol=1e-12)
    got = normalise(values, scale, group=group)
    for g in set(group.tolist()):
        np.testing.assert_allclose(got[group == g], by_definition(values[group == g], scale), atol=1e-12)


@given(
    hnp.arrays(float, (3, 7), elements=st.floats(-5, 5)), hnp.arrays(float, 3, elements=st.floats(0.01, 9))
)
@settings(deadline=None)
def test_fuse_by_definition(values, weights):
    for scale in ("rank", "minmax"):
        got = fuse(list(values), weights.tolist(), scale)
        want = sum(w * np.array(by_definition(v, scale)) for w, v in zip(weights, values, strict=True))
        np.testing.assert_allclose(got, want / weights.sum(), atol=1e-12)
        np.testing.assert_allclose(fuse(list(values), (weights * 1e300).tolist(), scale), got, atol=1e-12)
        turned = fuse([values[0]], [-2.0], scale)
        np.testing.assert_allclose(turned, 1 - normalise(values[0], scale), atol=1e-12)


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1.0, 1e300, 1.7e308])
def test_ranges_of_any_width(size):
    np.testing.assert_allclose(normalise(np.array([0.0, size, -size]), "minmax"), [0.5, 1, 0])
    np.testing.assert_array_equal(normalise(np.array([0.0, size, size]), "minmax"), [0, 1, 1])


def test_hand_values():
    np.testing.assert_array_equal(normalise(np.full(4, 2.0), "minmax"), [0.5] * 4)
    np.testing.assert_array_equal(normalise(np.full(1, 2.0)), [0.5])
    assert normalise(np.empty(0)).shape == (0,)
    np.testing.assert_array_equal(normalise(np.array([-3.0, -1.0, -2.0]), "minmax"), [0, 1, 0.5])
    a, b = np.array([1.0, np.nan, 3.0]), np.array([np.inf, 1.0, 2.0])
    np.testing.assert_array_equal(fuse([a, b], [1, 1]), [np.nan, np.nan, 1])
    np.testing.assert_array_equal(fuse([a, b], [1, 0]), [0, np.nan, 1])


def test_refuses():
    a = np.ones(2)
    for weights in ([np.nan, 1], [np.inf, 1], [0, 0], [1]):
        with pytest.raises(RecipeError, match="weights must be 2 finite numbers and not all 0, got"):
            fuse([a, a], weights)
    with pytest.raises(CurateError, match=r"columns must be \(n,\) alike, got"):
        fuse([a, np.ones(3)], [1, 1])
    with pytest.raises(RecipeError, match="scale must be rank or minmax, got 'z'"):
        normalise(a, "z")
    with pytest.raises(CurateError, match=r"group must be \(2,\), got \(3,\)"):
        normalise(a, group=np.zeros(3, int))
