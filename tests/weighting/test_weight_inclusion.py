import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError, RecipeError
from curate.ordering.span import first_rows
from curate.selection.rules import group_inclusion
from curate.weighting.inverse import CERTAIN, UNKNOWN, inclusion, inverse_inclusion
from tests.reference.infobatch import select_infobatch
from tests.reference.selection import select_stratified


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30), st.booleans())
@settings(max_examples=80, deadline=None)
def test_weights_undo_the_probabilities(rows, normalise):
    group, keep = np.array([g for g, _ in rows], int), np.array([k for _, k in rows], bool)
    p = inclusion("stratified", keep, group)
    for g in set(group.tolist()):
        assert (p[group == g] == keep[group == g].mean()).all()
    weight = inverse_inclusion(p, keep, normalise=normalise)
    assert (weight[~keep] == 0).all()
    if normalise and keep.any():
        assert weight[keep].mean() == pytest.approx(1)
        assert np.ptp((weight * p)[keep]) < 1e-9
    else:
        np.testing.assert_allclose((weight * p)[keep], 1)
        if all(keep[group == g].any() for g in group):
            assert weight.sum() == pytest.approx(len(rows))


@pytest.mark.parametrize("method", CERTAIN)
def test_certain_methods(method):
    keep = np.array([True, False])
    assert inclusion(method, keep).tolist() == [1, 0]
    assert inverse_inclusion(inclusion(method, keep), keep).tolist() == [1, 0]


def test_unknown_methods():
    keep = np.array([True, False])
    for method in UNKNOWN:
        assert np.isnan(inclusion(method, keep)).all()
        with pytest.raises(CurateError, match="this method has none"):
            inverse_inclusion(inclusion(method, keep), keep)
    with pytest.raises(RecipeError, match="no selection method 'best'; there are hardest"):
        inclusion("best", keep)


def test_agrees_with_infobatch_and_strata():
    rng = np.random.default_rng(0)
    score, draw, uid = rng.random(40), rng.permutation(40).astype(np.uint64), np.arange(40).astype(str)
    info = select_infobatch(score, draw, uid, 0.4)
    p = inclusion("infobatch", info.keep, info.easy)
    np.testing.assert_allclose(inverse_inclusion(p, info.keep, normalise=False), info.weight)
    got = select_stratified(score, draw, draw, uid, 20, n_strata=5, cutoff=score, beta=0.1)
    p = inclusion("stratified", got.keep, got.stratum)
    assert (p[got.stratum < 0] == 0).all()
    chance = group_inclusion(got.budget, got.sizes)
    assert p[got.stratum >= 0].tolist() == chance[got.stratum[got.stratum >= 0]].tolist()
    assert inverse_inclusion(p, got.keep, normalise=False).sum() == pytest.approx(36)


def test_random_reaches_every_row_in_the_mean():
    rng, total = np.random.default_rng(1), np.zeros(6)
    uid, rounds = np.arange(6).astype(str), 1500
    for _ in range(rounds):
        draw = rng.permutation(6).astype(np.uint64)
        keep = first_rows(draw, draw, uid, 2)
        total += inverse_inclusion(inclusion("random", keep), keep, normalise=False)
    np.testing.assert_allclose(total / rounds, 1, atol=0.15)


def test_refusals():
    with pytest.raises(CurateError, match="between 0 and the size"):
        group_inclusion(np.array([2]), np.array([1]))
    for p in (0.0, 1.5):
        with pytest.raises(CurateError, match=r"must be in \(0, 1\]"):
            inverse_inclusion(np.array([p]), np.array([True]))
    assert inverse_inclusion(np.array([]), np.array([], bool)).tolist() == []
