"""Selection of a frame: what may be left out of it, and what is wrong, in words. (That a run decides the same is in
tests/pipeline/test_select.py.)
"""

import numpy as np
import polars as pl
import pytest

from curate.api.select import select
from curate.errors import BudgetError, CurateError, RecipeError, UsageError


def test_all_keeps_every_row_and_takes_no_share():
    frame = pl.DataFrame({"uid": list("abcd"), "distance": [0.1, 0.4, 0.2, 0.3]})
    assert select(frame, "all")["keep"].all()
    for wrong in ({"keep": 0.5}, {"count": 3}):
        with pytest.raises(
            RecipeError, match=r"with method all keeps every row that passes, got (keep 0\.5|count 3)"
        ):
            select(frame, "all", **wrong)


def test_no_score_at_all_is_no_draw():
    frame = pl.DataFrame(
        {"uid": list("abcd"), "x": pl.Series([None, float("nan"), None, None], dtype=pl.Float64)}
    )
    for method in ("hardest", "easiest", "top", "stratified", "middle", "weighted"):
        with pytest.raises(
            CurateError, match=rf"none of the 4 eligible rows has the score 'x', by which method {method}"
        ):
            select(frame, method, by="x", count=2)
    assert select(frame, "hardest", by="x", count=4, on_null="keep")["keep"].all()
    assert not select(frame, "hardest", by="x", count=0, on_null="drop")["keep"].any()
    assert select(frame.head(0), "hardest", by="x", count=0).height == 0


@pytest.mark.parametrize(("missing", "said"), [(1, False), (2, True)])
def test_many_rows_without_the_score_are_said(caplog, missing, said):
    frame = pl.DataFrame({"x": [None] * missing + list(range(100 - missing))})
    select(frame, "hardest", by="x", keep=0.6)
    assert (f"{missing} of 100 eligible rows ({missing}.0%) have no x; " in caplog.text) == said


def test_without_uids_concepts_or_distances():
    frame = pl.DataFrame({"el2n": [0.1, None, 0.9, 0.5, 0.3]})
    got = select(frame, "hardest", by="el2n", keep=0.4)
    assert got["el2n"].to_list() == frame["el2n"].to_list()
    assert got.filter("keep")["el2n"].to_list() == [0.9, 0.5]
    assert got.columns == ["el2n", "keep", "reason", "rank", "inclusion_prob"]
    assert select(got, "random", count=0)["keep"].sum() == 0
    assert select(frame.head(0), "random", count=0).height == 0


def test_density_of_vectors_alone():
    rng = np.random.default_rng(1)
    concept = np.repeat([0, 1, 3], [20, 30, 10])
    frame = pl.DataFrame(
        {"concept": concept, "distance": rng.uniform(size=60), "vector": rng.normal(size=(60, 4))}
    )
    got = select(frame, keep=0.5, min_per_concept=2)
    assert got["keep"].sum() == 30
    assert (got.filter("keep")["concept"].value_counts()["count"] >= 2).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"keep": 0.5, "beta": 0.1},
            RecipeError,
            r"select\.beta is not a setting of method density; it belongs to st",
        ),
        (
            {"method": "hardst", "keep": 0.5},
            RecipeError,
            r"select\.method must be 'auto', 'density', 'random'",
        ),
        ({"method": "random"}, RecipeError, r"select needs keep \(a share\) or count"),
        ({"method": "random", "count": 4}, BudgetError, r"4 rows asked for, 3 can be kept"),
        (
            {"method": "hardest", "by": "x", "count": 1},
            UsageError,
            r"select: no column 'x'; there are uid, a",
        ),
        ({"method": "prototypes", "count": 1}, UsageError, r"select: no column 'distance'"),
        ({"method": "diversity", "prefer": "random", "count": 1}, UsageError, r"select: no column 'vector'"),
        (
            {"method": "quotas", "per": "label", "prefer": "random", "count": 1},
            UsageError,
            r"no column 'label'",
        ),
    ],
)
def test_what_is_wrong(settings, error, message):
    frame = pl.DataFrame({"uid": ["a", "b", "c"], "a": [1.0, 2.0, 3.0]})
    with pytest.raises(error, match=message):
        select(frame, **settings)


def test_uids_must_be_unique():
    with pytest.raises(UsageError, match="unique"):
        select(pl.DataFrame({"uid": ["a", "a"]}), "random", count=1)


@pytest.mark.parametrize("vectors", [[[1.0, 0.0], [1.0]], [[1.0], None], [None, None]])
@pytest.mark.parametrize("method", ["density", "diversity"])
def test_vectors_must_be_of_one_length(method, vectors):
    frame = pl.DataFrame({"distance": [0.1, 0.2], "vector": pl.Series(vectors, dtype=pl.List(pl.Float32))})
    with pytest.raises(UsageError, match=r"select: vectors must be there and of one length; there are leng"):
        select(frame, method, count=1)
