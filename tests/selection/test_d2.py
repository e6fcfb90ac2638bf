"""D2 pruning: neighbours and messages against plain Python, then over concepts, pinned rows, and the edges."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import select
from curate.errors import CurateError
from curate.hashing import tie
from curate.linalg import load_unit, row_dots
from curate.selection import d2
from curate.selection.d2 import nearest_rows, pass_messages


def unit(n, dim=4, seed=0, copies=False):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    if copies and n > 3:
        rows[n // 2 :] = rows[: n - n // 2]
    return load_unit(rows) if n else rows


def near_by_definition(vectors, k):
    """Return (distance, place) of the k nearest others of each row, in order."""
    found = []
    for row in range(len(vectors)):
        dots = row_dots(vectors, vectors[row : row + 1]) if len(vectors) else []
        order = sorted((-dots[other], other) for other in range(len(vectors)) if other != row)[:k]
        found.append([(math.sqrt(min(4.0, max(0.0, 2 + 2 * minus))), other) for minus, other in order])
    return found


def by_definition(hard, near, gamma_f, gamma_r, first=()):
    """Take the row that is worth most, again and again."""
    # The sum begins with the row's own: of rows worth the same, the last bit of another order would choose another one.
    worth = [sum((math.exp(-gamma_f * d) * hard[j] for d, j in near[i]), h) for i, h in enumerate(hard)]
    taken, then = [], {}
    for group in (list(first), [i for i in range(len(hard)) if i not in first]):
        left = set(group)
        while left:
            row = max(left, key=lambda i: (worth[i], -i))
            left.remove(row)
            taken.append(row)
            then[row] = worth[row]
            for d, j in near[row]:
                if j not in then:
                    worth[j] -= math.exp(-gamma_r * d) * max(worth[row], 0.0)
    return taken, then


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 14), st.integers(1, 5), st.integers(0, 5), st.booleans(), st.sampled_from([0.0, 0.7, 4.0])
)
def test_neighbours_and_messages_are_the_definition(n, k, seed, copies, gamma):
    vectors = unit(n, seed=seed, copies=copies)
    hard = np.round(np.random.default_rng(seed).random(n), 1)
    first = np.arange(n) % 5 == 3
    near = near_by_definition(vectors, k)
    places, distances = nearest_rows(vectors, k)
    assert places.tolist() == [[j for _, j in row] for row in near]
    np.testing.assert_allclose(distances.tolist(), [[d for d, _ in row] for row in near], atol=1e-12)
    turn, worth = pass_messages(hard, (places, distances), gamma_f=gamma, gamma_r=1.0, first=first)
    taken, then = by_definition(hard.tolist(), near, gamma, 1.0, np.flatnonzero(first).tolist())
    assert sorted(turn) == list(range(1, n + 1))
    np.testing.assert_allclose(
        [worth[row] for row in np.argsort(turn)], [then[row] for row in taken], atol=1e-9
    )
    free = np.argsort(turn)[int(first.sum()) :]
    assert (np.diff(worth[free]) <= 0).all()


def test_blocks_change_nothing(monkeypatch):
    vectors = unit(60, 16, copies=True)
    whole = nearest_rows(vectors, 7)
    monkeypatch.setattr(d2, "_CELLS", 130)
    again = nearest_rows(vectors, 7)
    assert all((one == other).all() for one, other in zip(whole, again, strict=True))


def frame(n=120, concepts=4, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "uid": [f"u{i}" for i in range(n)],
            "concept": rng.integers(0, concepts, n),
            "hard": np.round(rng.gamma(1.0, 1.0, n), 2),
            "vector": unit(n, 6, seed),
        }
    )


def oracle(rows, n_keep, *, k, gamma_f, gamma_r, pinned=()):
    """Return what is kept: each concept by itself, then all rows by what they were worth."""
    ties = dict(zip(rows["uid"], tie(rows["uid"].to_list(), 0).tolist(), strict=True))
    low, high = rows.filter(~pl.col("uid").is_in(list(pinned)))["hard"].min(), rows["hard"].max()
    every = []
    for _, group in rows.group_by("concept"):
        group = group.with_columns(tie=pl.col("uid").replace_strict(ties, return_dtype=pl.UInt64)).sort("tie")
        uids = group["uid"].to_list()
        vectors = load_unit(np.array(group["vector"].to_list(), np.float32))
        hard = [(value - low) / (high - low) for value in group["hard"]]
        first = [i for i, uid in enumerate(uids) if uid in pinned]
        _, then = by_definition(hard, near_by_definition(vectors, k), gamma_f, gamma_r, first)
        every += [(-then[i], ties[uid], uid) for i, uid in enumerate(uids) if uid not in pinned]
    return {uid for _, _, uid in sorted(every)[: n_keep - len(pinned)]} | set(pinned)


@pytest.mark.parametrize(("k", "gamma_f", "gamma_r"), [(3, 1.0, 1.0), (10, 0.0, 5.0), (200, 2.0, 0.3)])
def test_a_selection_is_the_most_worthy_rows_of_all_concepts(k, gamma_f, gamma_r):
    rows, before = frame(), set()
    asked = {"k": k, "gamma_f": gamma_f, "gamma_r": gamma_r}
    for count in (0, 17, 60):
        found = select(rows, "d2", by="hard", count=count, **asked)
        now = set(found.filter("keep")["uid"])
        assert now == oracle(rows, count, **asked)
        assert before <= now, "nested"
        before = now
    moved = select(rows.sample(fraction=1.0, shuffle=True, seed=2), "d2", by="hard", count=60, **asked)
    assert moved.sort("uid").equals(select(rows, "d2", by="hard", count=60, **asked).sort("uid"))
    for _, group in found.group_by("concept"):
        assert sorted(group["rank"]) == list(range(1, len(group) + 1))


def test_pinned_rows_are_taken_first_and_take_from_their_neighbours():
    rows = frame().with_columns(hard=pl.col("hard").clip(0, 3))
    pinned = [f"u{i}" for i in (0, 5, 9, 40)]
    marked = rows.with_columns(pinned=pl.col("uid").is_in(pinned))
    found = select(marked, "d2", by="hard", count=30, k=5)
    want = oracle(rows, 30, k=5, gamma_f=1.0, gamma_r=1.0, pinned=pinned)
    assert set(found.filter("keep")["uid"]) == want


def test_without_neighbours_it_is_the_hardest_and_copies_are_taken_last():
    rows = frame(40, 40)
    rows = rows.with_columns(concept=pl.int_range(40))
    kept = select(rows, "d2", by="hard", count=15).filter("keep")
    assert sorted(kept["hard"]) == sorted(rows["hard"])[-15:]
    same = pl.DataFrame({"hard": [3.0, 3.0, 1.0, 0.0], "vector": unit(4)[[0, 0, 1, 2]]})
    found = select(same, "d2", by="hard", count=2, k=1, gamma_f=50.0, gamma_r=0.0)
    assert found["keep"].to_list()[2:] == [True, False]
    assert found["keep"].to_list()[:2].count(True) == 1


def test_rows_without_the_score_send_nothing_and_are_drawn():
    rows = frame().with_columns(hard=pl.when(pl.int_range(120) % 4 > 0).then("hard"))
    found = select(rows, "d2", by="hard", count=40)
    assert found.filter(pl.col("hard").is_null())["keep"].sum() == 10
    known = rows.filter(pl.col("hard").is_not_null())
    kept = set(found.filter(pl.col("keep") & pl.col("hard").is_not_null())["uid"])
    assert kept == oracle(known, 30, k=10, gamma_f=1.0, gamma_r=1.0)


def test_edges_and_refusals():
    one = frame(1, 1)
    assert select(one, "d2", by="hard", count=1)["keep"].to_list() == [True]
    even = frame(20).with_columns(hard=pl.lit(2.0))
    assert select(even, "d2", by="hard", count=7)["keep"].sum() == 7
    with pytest.raises(CurateError, match="difficulties must be finite and at least 0"):
        pass_messages(np.array([-1.0]), nearest_rows(unit(1), 1), gamma_f=1.0, gamma_r=1.0)
    with pytest.raises(CurateError, match="k must be at least 1, got 0"):
        nearest_rows(unit(3), 0)
