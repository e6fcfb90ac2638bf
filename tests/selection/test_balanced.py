"""Balanced selection: budgets against water poured row by row, and what must hold of them."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.api.select import select
from curate.errors import BudgetError, UsageError
from curate.hashing import hash_uids, tie
from curate.selection.balanced import balanced_budgets, siblings, water_fill
from curate.selection.spread import effective_number

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=12)


def poured(sizes, total):
    """Pour row by row: each goes to a group with room that has fewest, of these to the largest, then the first."""
    given = [0] * len(sizes)
    for _ in range(total):
        least = min(given[j] for j in range(len(sizes)) if given[j] < sizes[j])
        group = min(
            (j for j in range(len(sizes)) if given[j] < sizes[j] and given[j] == least),
            key=lambda j: (-sizes[j], j),
        )
        given[group] += 1
    return given


def divided(sizes, total, parents):
    """Divide over the top level, then inside each of its concepts, by recursion from the definition."""

    def inside(members, rows, levels):
        if not levels:
            return dict(zip(members, poured([sizes[j] for j in members], rows), strict=True))
        branches = {}
        for j in members:
            branches.setdefault(int(levels[0][j]), []).append(j)
        names = sorted(branches)
        shares = poured([sum(sizes[j] for j in branches[name]) for name in names], rows)
        found = {}
        for name, share in zip(names, shares, strict=True):
            found |= inside(branches[name], share, levels[1:])
        return found

    found = inside(list(range(len(sizes))), total, list(reversed(parents)))
    return [found[j] for j in range(len(sizes))]


@settings(max_examples=80, deadline=None)
@given(SIZES, st.data())
def test_water_fill_is_water_poured_row_by_row(sizes, data):
    total = data.draw(st.integers(0, sum(sizes)))
    assert water_fill(np.array(sizes), total).tolist() == poured(sizes, total)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.data())
def test_budgets_of_levels_by_recursion(sizes, data):
    k, parents, below = len(sizes), [], list(range(len(sizes)))
    for _ in range(data.draw(st.integers(0, 3))):
        width = max(below) + 1
        above = [data.draw(st.integers(0, 3)) for _ in range(width)]
        below = [above[one] for one in below]
        parents.append(np.array(below))
    before = np.zeros(k, np.int64)
    for total in range(sum(sizes) + 1):
        budget = balanced_budgets(np.array(sizes), total, parents)
        assert budget.tolist() == divided(sizes, total, parents)
        assert budget.sum() == total and (budget <= sizes).all()
        assert (budget >= before).all(), "with more to keep no concept keeps fewer"
        concept, way = total % k, total
        for shared, place in siblings(np.array(sizes), parents, concept):
            way = water_fill(shared, way)[place]
        assert way == budget[concept]
        before = budget


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_siblings_with_room_get_the_same_but_for_one_row(sizes, data):
    total = data.draw(st.integers(0, sum(sizes)))
    budget = water_fill(np.array(sizes), total)
    room = budget[budget < np.array(sizes)]
    if len(room):
        assert room.max() - room.min() <= 1
        assert budget.max() <= room.min() + 1, "none has more than one with room has, but for one row"


def test_large_numbers_are_exact():
    sizes = np.array([10**12, 3, 10**12 + 5])
    assert water_fill(sizes, 10**12).tolist() == [(10**12 - 3) // 2, 3, 10**12 - 3 - (10**12 - 3) // 2]


def test_edges():
    none = np.empty(0, np.int64)
    assert water_fill(none, 0).tolist() == [] == balanced_budgets(none, 0).tolist()
    assert balanced_budgets(none, 0, [none]).tolist() == []
    assert water_fill(np.array([1]), 1).tolist() == [1]
    assert balanced_budgets(np.array([0, 0]), 0, [np.array([0, 1])]).tolist() == [0, 0]
    for call in (lambda: water_fill(np.array([1, 2]), 4), lambda: balanced_budgets(np.array([1, 2]), 4)):
        with pytest.raises(BudgetError, match="4 rows asked for, the groups have 3"):
            call()
    with pytest.raises(BudgetError, match="1 rows asked for"):
        balanced_budgets(none, 1)
    with pytest.raises(BudgetError, match="at least 0"):
        water_fill(np.array([1]), -1)


def frame_of(sizes, parents=(), seed=0):
    concept = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "uid": [f"u{i}" for i in range(len(concept))],
            "concept": concept,
            "distance": rng.random(len(concept)),
        }
    )
    above = [pl.Series(f"concept_{level}", np.asarray(one)[concept]) for level, one in enumerate(parents, 2)]
    return frame.with_columns(above).sample(fraction=1.0, shuffle=True, seed=seed)


@pytest.mark.parametrize("prefer", ["random", "hardest", "easiest", "score:good"])
def test_rows_inside_are_the_first(prefer):
    sizes, parents = [40, 3, 25, 7, 9], [np.array([0, 0, 1, 1, 1])]
    frame = frame_of(sizes, parents).with_columns(good=pl.col("distance") * 7 % 1)
    got = select(frame, "balanced", count=30, prefer=prefer, seed=5)
    budget = divided(sizes, 30, parents)
    assert got.filter("keep").group_by("concept").len().sort("concept")["len"].to_list() == budget
    key = {
        "random": hash_uids(got["uid"].to_list(), 5, "select", "random").tolist(),
        "hardest": (-got["distance"]).to_list(), "easiest": got["distance"].to_list(), "score:good": (-got["good"]).to_list(),
    }[prefer]  # fmt: skip
    rows = sorted(zip(key, tie(got["uid"].to_list(), 5).tolist(), got["uid"], got["concept"], strict=True))
    for concept, count in enumerate(budget):
        first = [uid for _, _, uid, where in rows if where == concept][:count]
        assert set(got.filter(pl.col("concept") == concept, "keep")["uid"]) == set(first)
        if prefer == "random":
            share = got.filter(pl.col("concept") == concept)["inclusion_prob"].unique().to_list()
            assert share == [count / sizes[concept]]


def test_the_order_of_rows_has_no_effect_and_pinned_rows_come_on_top():
    sizes = [30, 12, 5]
    a, b = (
        select(frame_of(sizes, seed=0).sample(fraction=1.0, shuffle=True, seed=s), "balanced", count=20)
        for s in (1, 2)
    )
    assert a.sort("uid").equals(b.sort("uid"))
    pinned = frame_of(sizes).with_columns(pinned=pl.col("uid").is_in(["u0", "u1", "u40"]))
    got = select(pinned, "balanced", count=20)
    kept = got.filter("keep").group_by("concept").len().sort("concept")["len"].to_list()
    free = water_fill(np.array([28, 11, 5]), 17)
    assert kept == [2 + free[0], 1 + free[1], free[2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.data())
def test_no_choice_of_as_many_rows_is_more_even(sizes, data):
    """Its entropy is the largest of all ways to take so many rows, each concept within its size."""
    total = data.draw(st.integers(0, sum(sizes)))
    ways = itertools.product(*(range(size + 1) for size in sizes))
    best = max(effective_number(np.array(way)) for way in ways if sum(way) == total)
    assert effective_number(water_fill(np.array(sizes), total)) == pytest.approx(best)


def test_kept_concepts_are_even_where_sizes_allow_it():
    sizes = np.maximum(12, (2000 / np.arange(1, 41) ** 1.1).astype(int))
    kept = select(frame_of(sizes), "balanced", count=461).filter("keep")["concept"].to_numpy()
    assert math.log(effective_number(np.bincount(kept))) > 0.999 * math.log(40)
    kept = select(frame_of(sizes), "random", count=461).filter("keep")["concept"].to_numpy()
    assert math.log(effective_number(np.bincount(kept))) < 0.9 * math.log(40)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.lit(None, pl.Int64), "concept_2 must be a whole number from 0, one for each concept"),
        (pl.lit(-1), "concept_2 must be"),
        (pl.col("distance"), "concept_2 must be"),
        (pl.int_range(pl.len()), "concept_2 must be"),
    ],
)
def test_levels_in_a_frame_are_checked(column, message):
    with pytest.raises(UsageError, match=message):
        select(frame_of([4, 4]).with_columns(concept_2=column), "balanced", count=2)


def test_a_level_must_be_the_union_of_what_is_below():
    frame = frame_of([4, 4, 4], [np.array([0, 0, 1]), np.array([0, 1, 1])])
    with pytest.raises(UsageError, match="concept_3 must be a whole number from 0, one for each concept_2"):
        select(frame, "balanced", count=2)


def test_effective_number():
    assert effective_number(np.array([], np.int64)) == effective_number(np.array([0])) == 0
    assert effective_number(np.array([3, 3, 3])) == pytest.approx(3)
    share = np.array([0.5, 0.25, 0.25])
    assert effective_number(np.array([2, 1, 1])) == pytest.approx(math.exp(-(share * np.log(share)).sum()))
