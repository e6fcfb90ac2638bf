import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, RecipeError
from curate.selection.budget import allocate, softmax


def plain(target, lower, upper, total, **more):
    k = len(target)
    ties = {"complexity": np.zeros(k), "smallest_uid_rank": np.arange(k)} | more
    return allocate(np.array(target, float), np.array(lower), np.array(upper), total, **ties)


def projection_by_bisection(target, lower, upper, total):
    low, high = (lower - target).min() - 1, (upper - target).max() + 1
    for _ in range(200):
        middle = (low + high) / 2
        if np.clip(target + middle, lower, upper).sum() < total:
            low = middle
        else:
            high = middle
    return np.clip(target + high, lower, upper)


def rounded_by_definition(exact, upper, total, complexity, rank):
    budget = np.floor(exact + 1e-11).astype(int)
    order = sorted(
        range(len(exact)), key=lambda j: (-round(exact[j] - budget[j], 8), -complexity[j], rank[j])
    )
    for j in [j for j in order if budget[j] < upper[j]][: total - budget.sum()]:
        budget[j] += 1
    return budget


@st.composite
def problems(draw, largest=6, most=12):
    k = draw(st.integers(1, largest))
    upper = np.array(draw(st.lists(st.integers(0, most), min_size=k, max_size=k)))
    lower = np.minimum(upper, draw(st.integers(0, 3)))
    total = draw(st.integers(int(lower.sum()), int(upper.sum())))
    weights = np.array(draw(st.lists(st.integers(1, 1000), min_size=k, max_size=k)), float)
    return weights / weights.sum() * total, lower, upper, total


@given(problems(), st.randoms())
@settings(max_examples=150, deadline=None)
def test_allocation_by_bisection_and_its_laws(problem, random):
    target, lower, upper, total = problem
    got = plain(target, lower, upper, total)
    budget = got.budget
    assert budget.sum() == total and (lower <= budget).all() and (budget <= upper).all()
    exact = projection_by_bisection(target, lower, upper, total)
    np.testing.assert_allclose(np.clip(target + got.lam, lower, upper), exact, atol=1e-9)
    assert (np.abs(budget - exact) < 1 + 1e-9).all()
    shifted = target + got.lam
    inner = ~got.at_cap & ~got.at_floor
    assert (np.abs(budget - shifted)[inner] < 1 + 1e-9).all()
    assert (shifted >= upper - 1 - 1e-9)[got.at_cap & ~got.at_floor].all()
    assert (shifted <= lower + 1 + 1e-9)[got.at_floor & ~got.at_cap].all()
    moved = np.array(random.sample(range(len(target)), len(target)))
    again = plain(target[moved], lower[moved], upper[moved], total, smallest_uid_rank=moved)
    assert again.budget.tolist() == budget[moved].tolist()


@given(problems(largest=4, most=7))
@settings(max_examples=60, deadline=None)
def test_projection_is_the_least_squares_of_all_whole_budgets_nearby(problem):
    """The best whole budgets, by trying all, are as near to the target as those allocated."""
    target, lower, upper, total = problem
    choices = itertools.product(*(range(a, b + 1) for a, b in zip(lower, upper, strict=True)))
    best = min(((np.array(c) - target) ** 2).sum() for c in choices if sum(c) == total)
    budget = plain(target, lower, upper, total).budget
    assert ((budget - target) ** 2).sum() == pytest.approx(best, abs=1e-6)


@given(problems())
@settings(max_examples=80, deadline=None)
def test_rounding_by_definition(problem):
    target, lower, upper, total = problem
    exact = projection_by_bisection(target, lower, upper, total)
    complexity, rank = np.arange(len(target)) % 2.0, np.arange(len(target))[::-1]
    parts = exact % 1
    gaps = np.abs(parts[:, None] - parts)
    assume(((gaps < 1e-9) | (gaps > 1e-7)).all() and (np.abs(parts - 1) > 1e-7).all())
    got = plain(target, lower, upper, total, complexity=complexity, smallest_uid_rank=rank)
    assert got.budget.tolist() == rounded_by_definition(exact, upper, total, complexity, rank).tolist()


def test_ties_of_the_remainder():
    target, lower, upper = [1.5] * 4, [0] * 4, [9] * 4
    assert plain(target, lower, upper, 6).budget.tolist() == [2, 2, 1, 1]
    assert plain(target, lower, upper, 6, smallest_uid_rank=np.array([3, 2, 1, 0])).budget.tolist() == [
        1,
        1,
        2,
        2,
    ]
    complexity = np.array([0.0, 1.0, 0.0, 2.0])
    assert plain(target, lower, upper, 6, complexity=complexity).budget.tolist() == [1, 2, 1, 2]
    nearly = np.array([1.5, 1.5 - 4e-10, 1.5 + 3e-10, 1.5])
    assert plain(nearly, lower, upper, 6, complexity=complexity).budget.tolist() == [1, 2, 1, 2]


def test_known_allocations():
    assert plain([0.0], [0], [5], 3).budget.tolist() == [3]
    assert plain([9.0, 1.0], [0, 0], [4, 100], 10).budget.tolist() == [4, 6]
    assert plain([10.0, 0.0], [0, 2], [100, 100], 10).budget.tolist() == [8, 2]
    full = plain([5.0, 5.0], [0, 0], [3, 4], 7)
    assert full.budget.tolist() == [3, 4] and full.at_cap.all()
    assert plain([0.0, 0.0], [0, 0], [3, 4], 0).budget.tolist() == [0, 0]
    assert plain([], [], [], 0).budget.tolist() == []


def test_allocation_refuses():
    with pytest.raises(BudgetError, match="8 rows do not fit between the bounds' sums 0 and 7"):
        plain([5.0, 5.0], [0, 0], [3, 4], 8)
    with pytest.raises(BudgetError, match="sums 4 and 8"):
        plain([5.0, 5.0], [2, 2], [4, 4], 3)
    with pytest.raises(BudgetError, match="lower <= upper"):
        plain([5.0], [3], [2], 2)
    with pytest.raises(BudgetError, match="targets must be finite"):
        plain([np.nan], [0], [2], 2)


def test_half_a_million_concepts_in_a_second():
    rng = np.random.default_rng(0)
    k, total = 500_000, 30_000_000
    upper = rng.integers(1, 500, k)
    complexity = rng.random(k)
    target = softmax(complexity, 0.1) * total
    spent = []
    for _ in range(3):
        started = time.process_time()
        budget = plain(target, np.ones(k, int), upper, total, complexity=complexity).budget
        spent.append(time.process_time() - started)
    assert budget.sum() == total
    assert min(spent) < 1


@given(st.lists(st.floats(0, 4), min_size=1, max_size=20), st.floats(0.01, 10))
def test_softmax_by_definition(values, temperature):
    c = np.array(values)
    want = np.array([1 / sum(np.exp(np.minimum((c - x) / temperature, 700))) for x in c])
    np.testing.assert_allclose(softmax(c, temperature), want, rtol=1e-9, atol=1e-300)


def test_softmax_edges():
    assert softmax(np.array([1.0, 2.0, 2.0]), 1e-320).tolist() == [0, 0.5, 0.5]
    assert softmax(np.array([1.0, 2.0]), np.inf).tolist() == [0.5, 0.5]
    assert softmax(np.array([1e300, 0.0]), 0.1).tolist() == [1, 0]
    assert softmax(np.empty(0), 0.1).shape == (0,)
    for temperature in (0, -1, np.nan):
        with pytest.raises(RecipeError, match=r"select\.temperature must be > 0, got"):
            softmax(np.ones(2), temperature)
    with pytest.raises(BudgetError, match="complexity must be finite"):
        softmax(np.array([np.nan]), 1)
