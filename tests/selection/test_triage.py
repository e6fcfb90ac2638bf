"""Triage by error and uncertainty: against ranks in plain Python, exact numbers, nested, and what cannot be."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import select
from curate.errors import BudgetError, RecipeError, UsageError
from curate.hashing import tie
from curate.selection.triage import layers


def rows(n, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    error, uncertainty = rng.random(n), rng.random(n)
    if levels:
        error, uncertainty = np.round(error * levels), np.round(uncertainty * levels)
    return pl.DataFrame({"uid": [f"u{i}" for i in range(n)], "loss": error, "entropy": uncertainty})


def by_definition(frame, n_keep, misconception):
    """Return the uids of the smallest corners that hold enough, the outermost layer by tie; None if none does."""
    uids, n = frame["uid"].to_list(), len(frame)
    ties = dict(zip(uids, tie(uids, 0).tolist(), strict=True))
    ranks = []
    for name in ("loss", "entropy"):
        values = dict(zip(uids, frame[name], strict=True))
        order = sorted(uids, key=lambda uid, values=values: (values[uid], ties[uid]))
        ranks.append({uid: place + 1 for place, uid in enumerate(order)})
    error, uncertainty = ranks

    def corners(m):
        low_high = {uid for uid in uids if error[uid] <= m and uncertainty[uid] > n - m}
        high_low = {uid for uid in uids if error[uid] > n - m and uncertainty[uid] <= m}
        return low_high | (high_low if misconception else set())

    for m in range(n // 2 + 1):
        if len(corners(m)) >= n_keep:
            inner = corners(m - 1) if m else set()
            layer = sorted(corners(m) - inner, key=lambda uid: ties[uid])
            return inner | set(layer[: n_keep - len(inner)])
    return None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(0, 9), st.sampled_from([None, 2, 5]), st.booleans(), st.floats(0, 0.6))
def test_the_corners_are_the_definition(n, seed, levels, misconception, share):
    frame = rows(n, seed, levels)
    count = int(share * n)
    want = by_definition(frame, count, misconception)
    if want is None:
        with pytest.raises(BudgetError, match="at most"):
            select(frame, "triage", count=count, misconception=misconception)
        return
    got = select(frame, "triage", count=count, misconception=misconception)
    assert set(got.filter("keep")["uid"]) == want
    moved = frame.sample(fraction=1.0, shuffle=True, seed=seed)
    again = select(moved, "triage", count=count, misconception=misconception)
    assert set(again.filter("keep")["uid"]) == want


def test_what_is_kept_is_nested_and_sure_but_wrong_rows_come_only_where_asked_for():
    frame = rows(600)
    before = set()
    for count in range(0, 140, 20):
        now = set(select(frame, "triage", count=count).filter("keep")["uid"])
        assert before <= now
        before = now
    kept = frame.filter(pl.col("uid").is_in(list(before)))
    middle = {name: frame[name].median() for name in ("loss", "entropy")}
    assert (kept["loss"] < middle["loss"]).all()
    assert (kept["entropy"] > middle["entropy"]).all()
    both = select(frame, "triage", count=200, misconception=True).filter("keep")
    assert (both["loss"] > middle["loss"]).any()


def test_the_most_that_can_be_kept_is_named():
    n = 1_000
    frame = rows(n)
    with pytest.raises(
        BudgetError, match=r"600 rows asked for, method triage can keep 2\d\d of 1,000 at most"
    ):
        select(frame, "triage", count=600)
    with pytest.raises(BudgetError, match=r"can keep 5\d\d of 1,000 at most .*: ask for fewer, or take"):
        select(frame, "triage", count=600, misconception=True)
    found = select(frame, "triage", count=600, misconception=True, at_most=True)
    assert 480 < found["keep"].sum() < 560, "about half where the axes know nothing of each other"
    same = frame.with_columns(entropy="loss")
    assert select(same, "triage", count=0)["keep"].sum() == 0
    with pytest.raises(BudgetError, match="can keep 0 of 1,000 at most"):
        select(same, "triage", count=1)


def test_rows_without_one_of_the_scores_are_kept_at_the_same_rate():
    frame = rows(400).with_columns(entropy=pl.when(pl.int_range(400) % 4 > 0).then("entropy"))
    found = select(frame, "triage", count=40)
    assert found["keep"].sum() == 40
    assert found.filter(pl.col("entropy").is_null())["keep"].sum() == 10
    dropped = select(frame, "triage", count=40, on_null="drop")
    assert set(dropped.filter(pl.col("entropy").is_null())["reason"]) == {"no_score:null"}


def test_refusals():
    with pytest.raises(RecipeError, match="needs two scores for method triage, got loss"):
        select(rows(4), "triage", count=1, uncertainty="loss")
    with pytest.raises(UsageError, match="no column 'entropy'"):
        select(rows(4).drop("entropy"), "triage", count=1)


def test_layers_of_no_row_and_of_one():
    assert layers(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
    assert layers(np.array([1]), np.array([1]), misconception=True).tolist() == [0]
