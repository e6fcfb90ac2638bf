"""Small pictures: the best correlation over small shifts, against NumPy's own on what lies on both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.deduplication.pictures import MIN_CORRELATION, SIDE, best_correlations, grey

SHIFTS = [(y, x) for y in range(-3, 4) for x in range(-3, 4)]


def by_definition(one, other):
    one, other = (x.reshape(SIDE, SIDE).astype(np.float64) for x in (one, other))
    if one.min() == one.max() and (other == one[0, 0]).all():
        return 1.0
    best = -1.0
    for y, x in SHIFTS:
        here = one[max(0, y) : SIDE + min(0, y), max(0, x) : SIDE + min(0, x)].ravel()
        there = other[max(0, -y) : SIDE + min(0, -y), max(0, -x) : SIDE + min(0, -x)].ravel()
        if here.std() > 0 and there.std() > 0:
            best = max(best, np.corrcoef(here, there)[0, 1])
    return best


def pictures(n, seed=0, smooth=4):
    """Return smooth random pictures, (n, SIDE * SIDE)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, smooth, smooth)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE))) for one in small]).reshape(n, -1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 4, 32]), st.booleans())
def test_correlations_are_those_of_the_definition(seed, smooth, extreme):
    every = pictures(6, seed, smooth)
    if extreme:  # the largest sums there can be
        every = np.where(every > 127, 255, 0).astype(np.uint8)
    found = best_correlations(every[0], every)
    np.testing.assert_allclose(found, [by_definition(every[0], one) for one in every], atol=1e-9)
    assert found[0] == 1


def test_a_correlation_depends_on_its_two_pictures_alone():
    every = pictures(40, 3)
    together = best_correlations(every[0], every)
    assert together.tolist() == [best_correlations(every[0], one)[0] for one in every]
    assert together.tolist() == [best_correlations(one, every[0])[0] for one in every]


def test_moved_and_brighter_pictures_are_copies_and_others_are_not():
    picture = pictures(1, 1, 8).reshape(SIDE, SIDE)
    moved = np.roll(picture, (3, -3), (0, 1))
    brighter = np.clip(picture * 0.8 + 20, 0, 255).astype(np.uint8)
    too_far, negative, mirrored = np.roll(picture, 5, 0), 255 - picture, picture[:, ::-1]
    found = best_correlations(picture, np.stack([picture, moved, brighter, too_far, negative, mirrored]))
    assert (found > MIN_CORRELATION).tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("value", [0, 7, 128, 255])
def test_pictures_of_one_grey_are_copies_where_it_is_the_same(value):
    flat = np.full(SIDE * SIDE, value, np.uint8)
    others = np.stack([flat, np.full_like(flat, 99), *pictures(1)])
    assert best_correlations(flat, others).tolist() == [1.0, -1.0, -1.0]
    assert best_correlations(flat, np.empty((0, SIDE * SIDE), np.uint8)).tolist() == []


def test_grey_is_the_luma_of_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    luma = np.asarray(Image.fromarray(pixels).convert("L")).reshape(-1)
    assert np.abs(grey(pixels).astype(int) - luma).max() <= 1
