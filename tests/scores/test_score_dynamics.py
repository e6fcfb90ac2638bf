import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.errors import CurateError
from curate.scores.heads import dynamics
from curate.scores.heads.dynamics import Moments
from tests.fixtures.trained_formulas import accumulated
from tests.reference.dynamics import early_agreement, forgetting, mdl_hardness, neg_aum
from tests.reference.losses import margin_logit


@pytest.mark.parametrize(
    ("course", "events"),
    [
        ([0, 1, 0, 1, 1], 1),
        ([1, 1, 1], 0),
        ([1, 0, 1, 0, 1, 0], 3),
        ([0, 1, 0, 0], 1),
        ([0, 0, 0, 0], 4),
        ([0], 1),
        ([1], 0),
    ],
)
def test_forgetting_by_hand(course, events):
    assert forgetting(np.array(course, bool)[:, None]).tolist() == [events]
    assert accumulated(right=np.array(course, bool)[None, :, None]).forgetting().tolist() == [events]


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_forgetting_by_definition(runs):
    seeds, epochs, n = runs.shape
    want = np.zeros(n)
    for r in range(seeds):
        for i in range(n):
            course = runs[r, :, i].tolist()
            if any(course):
                want[i] += sum(a and not b for a, b in itertools.pairwise(course))
            else:
                want[i] += epochs
    assert forgetting(runs).tolist() == want.tolist()
    assert accumulated(right=runs).forgetting().tolist() == want.tolist()


def test_area_under_the_margin():
    logits = np.array([[3.74, 2.48], [4.59, 3.44]])
    margins = np.stack([margin_logit(row[None], np.array([0])) for row in logits])
    np.testing.assert_allclose(neg_aum(margins), [-1.205])
    np.testing.assert_allclose(neg_aum(np.stack([margins, margins + 2])), [-2.205])
    sums = accumulated(margin=np.stack([margins, margins + 2])).sums
    np.testing.assert_allclose(dynamics.neg_aum(sums["margin"], sums["looks"]), [-2.205])
    gone = np.array([[1.0, np.nan], [np.nan, np.inf], [2.0, np.nan]])
    np.testing.assert_array_equal(neg_aum(gone), [-1.5, np.nan])
    np.testing.assert_array_equal(neg_aum(np.stack([gone, np.full((3, 2), 4.0)])), [-2.75, -4])


@given(hnp.arrays(float, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(0, 1)))
def test_early_agreement_by_definition(runs):
    want = np.zeros(runs.shape[2])
    for run in runs:
        average = run[0]
        for p in run[1:]:
            average = 0.7 * average + 0.3 * p
        want += average / len(runs)
    got = early_agreement(runs)
    np.testing.assert_allclose(got, want, atol=1e-12)
    sums = accumulated(p_label=runs).sums
    np.testing.assert_allclose(dynamics.early_agreement(sums["early"], sums["weight"]), want, atol=1e-12)
    assert ((got >= 0) & (got <= 1 + 1e-12)).all()
    np.testing.assert_allclose(early_agreement(runs, 0), runs[:, -1].mean(axis=0), atol=1e-12)


def test_early_agreement_edges():
    values = np.array([[np.nan, 0.5, np.nan], [0.5, np.nan, np.nan], [1.0, 1.0, np.nan]])
    np.testing.assert_allclose(early_agreement(values), [0.65, 0.65, np.nan])
    for decay in (-0.1, 1, np.nan):
        with pytest.raises(CurateError, match=r"decay must be in \[0, 1\), got"):
            early_agreement(values, decay)
    with pytest.raises(CurateError, match=r"p_label must be \(epochs, n\) or"):
        early_agreement(np.zeros(3))
    with pytest.raises(CurateError, match=r"margins must be .* got \(0, 2\)"):
        neg_aum(np.zeros((0, 2)))


def test_mdl_hardness():
    p = np.array([[0.1, 0.9, np.nan], [0.5, 0.9, np.nan], [0.9, np.inf, np.nan]])
    np.testing.assert_allclose(mdl_hardness(p), [0.5, 0.1, np.nan])
    with pytest.raises(CurateError, match=r"p_label must be \(subsets, n\)"):
        mdl_hardness(np.zeros(2))


observations = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, -np.inf]))


@given(
    hnp.arrays(float, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=observations), st.data()
)
@settings(max_examples=100, deadline=None)
def test_moments_by_definition_however_they_are_joined(values, data):
    seeds, n = values.shape
    cut = data.draw(st.integers(0, seeds))
    parts = [sum(map(Moments.of, part), Moments.zeros(n)) for part in (values[:cut], values[cut:])]
    for got in (parts[0] + parts[1], sum(map(Moments.of, values), Moments.zeros(n))):
        for i in range(n):
            seen = values[np.isfinite(values[:, i]), i]
            assert got.n_obs[i] == len(seen)
            want = seen.mean() if len(seen) else np.nan
            np.testing.assert_allclose(got.means()[i], want, rtol=1e-9, atol=1e-6)
            want = seen.std(ddof=1) if len(seen) > 1 else np.nan
            np.testing.assert_allclose(got.std()[i], want, rtol=1e-6, atol=1e-6)


def test_moments_keep_digits_beside_a_large_mean():
    got = sum((Moments.of(np.array([1e8 + k])) for k in (0.0, 1.0, 2.0)), Moments.zeros(1))
    assert got.means()[0] == 1e8 + 1 and got.std()[0] == pytest.approx(1.0)
    assert Moments.zeros(0).means().shape == (0,)
