import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, CurateError, RecipeError
from curate.weighting.concept import concept_weights, offset, repeats
from curate.weighting.effective_size import effective_by_group


def test_by_hand():
    concept, sizes, budget = np.array([0, 0, 0, 0, 1, 1]), np.array([4, 2]), np.array([1, 2])
    assert concept_weights(concept, sizes, budget).tolist() == [0.5, 0.5, 0.5, 0.5, 2, 2]
    assert effective_by_group(concept_weights(concept, sizes, budget), concept, 2).tolist() == [4, 2]


def by_definition(concept, sizes, budget, distance, t):
    weight = np.zeros(len(concept))
    for j in range(len(sizes)):
        mine = concept == j
        if mine.any():
            share = np.exp(distance[mine] / t) / np.exp(distance[mine] / t).sum() * mine.sum()
            weight[mine] = budget[j] / sizes[j] * share
    return weight * len(concept) / weight.sum()


@given(st.integers(1, 40), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, np.inf]))
@settings(max_examples=80, deadline=None)
def test_by_definition_and_laws(n, seed, t):
    rng = np.random.default_rng(seed)
    concept, distance = rng.integers(0, 4, n), rng.random(n)
    sizes = np.bincount(concept, minlength=5)
    budget = rng.integers(0, sizes + 1)
    budget[concept[0]] += budget.sum() == 0
    got = concept_weights(concept, sizes, budget, distance, t)
    np.testing.assert_allclose(got, by_definition(concept, sizes, budget, distance, t), rtol=1e-9)
    assert got.mean() == pytest.approx(1)
    of_concept = np.bincount(concept, got, minlength=5)
    np.testing.assert_allclose(of_concept, budget * n / budget.sum(), rtol=1e-9)
    plain = concept_weights(concept, sizes, budget)
    if t == np.inf:
        np.testing.assert_allclose(got, plain)
    moved = rng.permutation(n)
    again = concept_weights(concept[moved], sizes, budget, distance[moved], t)
    assert again.tolist() == got[moved].tolist()
    some = np.isin(concept, [0, 2])  # one bucket of concepts gives the same numbers
    assert concept_weights(concept[some], sizes, budget, distance[some], t).tolist() == got[some].tolist()


def test_farther_rows_weigh_more_and_tiny_temperatures_stay_finite():
    concept, sizes = np.zeros(3, int), np.array([3])
    weight = concept_weights(concept, sizes, np.array([2]), np.array([0.1, 0.2, 0.4]), 0.1)
    assert (np.diff(weight) > 0).all()
    weight = concept_weights(concept, sizes, np.array([2]), np.array([0.1, 0.2, 0.4]), 1e-9)
    assert weight.tolist() == [0, 0, 3]


def test_no_rows():
    assert concept_weights(np.array([], int), np.array([0]), np.array([0])).tolist() == []


def test_refusals():
    one, two = np.zeros(2, int), np.array([2])
    with pytest.raises(BudgetError, match="a budget for at least one concept"):
        concept_weights(one, two, np.array([0]))
    with pytest.raises(BudgetError, match="0 for concepts without rows"):
        concept_weights(one, np.array([2, 0]), np.array([1, 1]))
    with pytest.raises(RecipeError, match="needs the distances"):
        concept_weights(one, two, two, temperature=1.0)
    with pytest.raises(RecipeError, match=r"weight.temperature must be > 0, got 0"):
        concept_weights(one, two, two, np.zeros(2), 0)
    with pytest.raises(CurateError, match="must be finite"):
        concept_weights(one, two, two, np.array([0, np.nan]), 1)
    with pytest.raises(CurateError, match="all of its rows in one call"):
        concept_weights(one[:1], two, two, np.zeros(1), 1)


weights = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.75, 3.0]), max_size=20).map(np.array)


@given(weights, st.floats(0.001, 0.999))
@settings(max_examples=150, deadline=None)
def test_repeats_by_definition(weight, u):
    got = repeats(weight, u)
    n = int((weight > 0).sum())
    assert got.sum() == n and (got[weight == 0] == 0).all()
    if n:
        scaled = weight * n / weight.sum()
        ends = np.cumsum(scaled)
        ends[np.flatnonzero(weight)[-1] :] = n
        marks = np.arange(n) + u
        want = [((marks >= end - w) & (marks < end)).sum() for w, end in zip(scaled, ends, strict=True)]
        clear = np.abs(ends[:, None] - marks).min() > 1e-9
        assert not clear or got.tolist() == want
        assert (got >= np.floor(scaled - 1e-9)).all() and (got <= np.ceil(scaled + 1e-9)).all()


def test_repeats_have_the_weights_as_their_mean():
    weight = np.array([0.3, 2.2, 0.0, 1.1, 0.4])
    grid = (np.arange(1000) + 0.5) / 1000
    mean = np.mean([repeats(weight, u, total=4) for u in grid], axis=0)
    np.testing.assert_allclose(mean, weight, atol=1e-3)


def test_repeats_of_equal_weights_and_of_none():
    assert repeats(np.full(10, 0.1), 0.3).tolist() == [1] * 10
    assert repeats(np.array([0.0, 2.0, 0.0]), 0.999999999).tolist() == [0, 1, 0]
    assert repeats(np.array([1.0, 3.0]), 0.5, total=0).tolist() == [0, 0]
    assert repeats(np.array([]), 0.5).tolist() == []
    assert repeats(np.array([1.0, 1.0]), 0.5, total=6).tolist() == [3, 3]


def test_no_repeat_of_rows_without_weight_where_sums_fall_short():
    for seed in range(50):
        weight = np.append(np.random.default_rng(seed).random(40), [0.0, 0.0])
        got = repeats(weight, 1 - 2.0**-53)
        assert got.sum() == 40 and not got[40:].any()


def test_repeats_refuse():
    for u in (0, 1, np.nan):
        with pytest.raises(RecipeError, match=r"the offset must be in \(0, 1\)"):
            repeats(np.ones(2), u)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(CurateError, match="finite and at least 0"):
            repeats(np.array([bad]), 0.5)
    for total in (-1, 3):
        with pytest.raises(BudgetError, match="0 have a weight above 0"):
            repeats(np.zeros(2), 0.5, total)


def test_offset_is_uniform_over_seeds():
    drawn = np.array([offset(seed) for seed in range(500)])
    assert len(set(drawn.tolist())) == 500 and (drawn > 0).all() and (drawn < 1).all()
    assert abs(drawn.mean() - 0.5) < 0.05
