import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.errors import EmbeddingError
from curate.linalg import (
    as_float32,
    distances,
    first_equal,
    load_unit,
    margin,
    row_dots,
    unit_rows,
    units_and_norms,
)


def rows(n, d, seed=0):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


def test_row_dots_equals_exact_sum():
    a, b = rows(20, 37), rows(20, 37, 1)
    exact = [
        math.fsum(float(x) * float(y) for x, y in zip(p, q, strict=True)) for p, q in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(row_dots(a, b), exact, rtol=0, atol=1e-15)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 127, 128, 129, 512, 1000])
def test_row_dots_depends_on_its_two_rows_alone(d):
    a, b = rows(600, d), rows(600, d, 1)
    whole = row_dots(a, b)
    for start, stop in [(0, 1), (1, 2), (5, 8), (250, 600), (17, 18)]:
        np.testing.assert_array_equal(whole[start:stop], row_dots(a[start:stop], b[start:stop]))
    np.testing.assert_array_equal(whole, row_dots(b, a))
    np.testing.assert_array_equal(whole, row_dots(np.asfortranarray(a), b[:, ::-1][:, ::-1]))
    scattered = np.random.default_rng(2).permutation(600)
    np.testing.assert_array_equal(whole[scattered], row_dots(a[scattered], b[scattered]))
    np.testing.assert_array_equal(row_dots(a, b[:1]), row_dots(a, np.repeat(b[:1], 600, axis=0)))


def test_row_dots_of_nothing():
    assert row_dots(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)).shape == (0,)


@pytest.mark.parametrize("d", [4, 512, 2048])
def test_margin_bounds_the_float32_product(d):
    for x in (rows(200, d), np.full((200, d), 1 / np.sqrt(d), np.float32)):
        product = x @ x.T
        exact = x.astype(np.float64) @ x.T.astype(np.float64)
        assert 2 * np.abs(product - exact).max() < margin(d)


def test_distances_are_clamped():
    assert distances(np.array([1 + 1e-9, 1.0, 0.0, -1.0, -1 - 1e-9])).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("scale", [1e-300, 1e-11, 1.0, 1e38, 1e300])
def test_unit_rows_at_any_magnitude(scale):
    x = np.random.default_rng(0).standard_normal((5, 64))
    got, valid = unit_rows(x * scale)
    if scale < 1e-20:
        assert not valid.any() and np.isnan(got).all()
    else:
        assert valid.all()
        np.testing.assert_allclose(got, x / np.linalg.norm(x, axis=1)[:, None], rtol=1e-6)


def test_unit_rows_marks_what_has_no_direction():
    x = np.ones((6, 4), np.float32)
    x[0, 1], x[1, 2], x[2, 3], x[3], x[4] = np.nan, np.inf, -np.inf, 0.0, 1e-13
    got, valid = unit_rows(x)
    assert valid.tolist() == [False] * 5 + [True]
    assert np.isnan(got[:5]).all() and (got[5] == 0.5).all()
    assert unit_rows(np.full((1, 3), 65504, np.float16))[1].all()
    assert unit_rows(np.empty((0, 4), np.float32))[0].shape == (0, 4)


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(max_examples=50, deadline=None)
def test_unit_rows_have_length_one(x):
    got, valid = unit_rows(x)
    np.testing.assert_allclose(np.sqrt(row_dots(got[valid], got[valid])), 1.0, rtol=3e-7)
    assert np.isnan(got[~valid]).all()


def test_load_unit_by_the_definition_and_independent_of_the_batch():
    stored = rows(700, 64).astype(np.float16)
    single = stored.astype(np.float32)
    want = (single.astype(np.float64) / np.sqrt(row_dots(single, single))[:, None]).astype(np.float32)
    whole = load_unit(stored)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, want)
    np.testing.assert_array_equal(whole[300:301], load_unit(stored[300:301]))
    stored.setflags(write=False)
    load_unit(stored)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_load_unit_refuses(value):
    stored = np.ones((300, 4), np.float16)
    stored[299] = value
    with pytest.raises(EmbeddingError, match="row 299"):
        load_unit(stored)


@pytest.mark.parametrize("d", [1, 3, 200])
def test_first_equal_by_comparing_all_pairs(d):
    rng = np.random.default_rng(d)
    x = rng.integers(-1, 2, (60, 1)).astype(np.float32) * rng.integers(0, 2, (60, d)).astype(np.float32)
    x[rng.integers(0, 60, 20)] = x[rng.integers(0, 60, 20)]
    want = [next(i for i in range(60) if (x[i] == x[j]).all()) for j in range(60)]
    assert first_equal(x).tolist() == want


def test_first_equal_where_the_probed_columns_agree():
    x = np.zeros((4, 130), np.float32)
    x[1, 1] = x[3, 1] = 1.0
    assert first_equal(x).tolist() == [0, 1, 0, 1]
    assert first_equal(x[:0]).tolist() == []


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-13, 1e-44, 1e30, 3e38])
@pytest.mark.parametrize("d", [1, 17, 512])
def test_rows_of_float32_are_scaled_as_those_of_float64(scale, d):
    with np.errstate(over="ignore"):
        x = (np.random.default_rng(d).standard_normal((150, d)) * scale).astype(np.float32)
    x[3], x[5, 0], x[7, 0] = 0, np.inf, np.nan
    (narrow, valid), (wide, wide_valid) = unit_rows(x), unit_rows(x.astype(np.float64))
    np.testing.assert_array_equal(narrow, wide)
    np.testing.assert_array_equal(valid, wide_valid)
    np.testing.assert_array_equal(units_and_norms(x)[1] >= 1e-12, valid)


def test_every_number_of_half_precision_is_the_same_in_single():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(512, 128)
    found = np.empty(halves.shape, np.float32)
    as_float32(halves, found)
    assert found.tobytes() == halves.astype(np.float32).tobytes()


@pytest.mark.parametrize("kind", ["<f2", ">f2", ">f4", "<f8"])
@pytest.mark.parametrize("n", [0, 1, 129, 300])
def test_numbers_of_any_kind_are_rounded_once(kind, n):
    numbers = (10 * np.random.default_rng(n).standard_normal((n, 3))).astype(kind)
    found = np.empty((n, 3), np.float32)
    as_float32(numbers, found)
    assert np.array_equal(found, numbers.astype(np.float32))


def test_what_is_too_large_for_single_precision_is_infinite():
    found = np.empty((1, 2), np.float32)
    as_float32(np.array([[1e300, -1e300]]), found)
    assert found.tolist() == [[np.inf, -np.inf]]
