"""Selection of a frame: the same rows as a run keeps, by every method; and what is wrong, in words."""

import numpy as np
import polars as pl
import pytest
from builders import planted, recipe_values, write_shards

from curate import open_run
from curate.analysis.explain import explain
from curate.api.select import select
from curate.errors import BudgetError, CurateError, RecipeError, UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.selection.registry import selectors

N, SEED = 200, 3

METHODS = [
    {"method": "density", "temperature": 0.05},
    {"method": "density", "prefer": "score:hard", "min_per_concept": 3, "complexity": "inter"},
    {"method": "density", "prefer": "random"},
    {"method": "random"},
    {"method": "prototypes", "balance": 0.5, "prefer": "easiest"},
    {"method": "hardest", "by": "hard"},
    {"method": "easiest", "by": "good", "on_null": "keep"},
    {"method": "top", "by": "good", "on_null": "drop"},
    {"method": "window", "by": "hard", "offset": 20},
    {"method": "window", "by": "hard", "drop_hardest": 0.1},
    {"method": "middle", "by": "hard", "center": 0.3},
    {"method": "stratified", "by": "hard", "beta": 0.2, "cutoff": "noisy", "strata": 7},
    {"method": "weighted", "by": "hard", "gamma": 2},
    {"method": "quotas", "per": "label", "prefer": "random"},
    {"method": "quotas", "min_per_group": 4},
    {"method": "diversity"},
    {"method": "diversity", "start": "isolated", "min_per_concept": 3},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Vectors, labels, and scores that some rows lack; three rows are pinned."""
    folder = tmp_path_factory.mktemp("in-memory")
    rng = np.random.default_rng(0)
    labels = [["cat", "dog", None, "eel"][i] for i in rng.choice(4, N, p=[0.6, 0.25, 0.1, 0.05])]
    write_shards(folder / "in", planted(N, near=10), extra={"label": labels})
    ids = [f"s{i:06d}" for i in range(N)]
    table = pl.DataFrame(
        {"id": ids, "hard": rng.gamma(1.0, 1.0, N).round(1), "noisy": rng.normal(size=N).round(2)}
    )
    table.filter(pl.int_range(N) % 13 != 0).write_parquet(folder / "mine.parquet")
    table.select("id", good=-pl.col("hard")).write_parquet(folder / "good.parquet")
    (folder / "pins.txt").write_text("s000000\ns000026\ns000101\n")
    return folder


def run_of(place, settings):
    score = [
        {"file": f"{place}/mine.parquet", "on": "id", "on_missing": "null"},
        {"file": f"{place}/good.parquet", "on": "id", "higher_is": "better"},
    ]
    values = recipe_values(f"{place}/in/*.parquet", place / "run", select=settings, seed=SEED, score=score)
    values["source"] |= {"label": "label"}
    asked = parse_recipe(values | {"pin": [f"{place}/pins.txt"]})
    runner.run(asked, until="select")
    return open_run(asked.run)


def frame_of(run, place):
    """Return the rows that reached selection (or lack its score), in another order, with all that methods read."""
    decisions = run.decisions().filter(~pl.col("reason").str.contains("duplicate|unusable|filter"))
    scores = run.scores().drop("concept", "distance")
    vectors = pl.read_parquet(f"{place}/in/*.parquet").select(uid="id", vector="embedding")
    inter = run.concepts().select("concept", "d_inter")
    frame = decisions.select("uid", "concept", "distance", "inclusion_prob", "keep", "rank", "reason")
    frame = frame.join(scores, on="uid", how="left").join(
        run.samples().select("uid", "label"), on="uid", how="left"
    )
    frame = frame.join(vectors, on="uid", how="left").join(inter, on="concept", how="left")
    pinned = pl.col("uid").is_in(["s000000", "s000026", "s000101"])
    return frame.with_columns(pinned=pinned).sample(fraction=1.0, shuffle=True, seed=1)


@pytest.mark.parametrize("settings", METHODS, ids=lambda one: "-".join(map(str, one.values())))
def test_a_frame_is_decided_as_in_a_run(place, settings):
    frame = frame_of(run_of(place, {"count": 60, **settings}), place)
    got = select(frame, count=60, seed=SEED, higher_is={"good": "better"}, **settings)
    assert got["keep"].to_list() == frame["keep"].to_list()
    assert got["rank"].to_list() == frame["rank"].to_list()
    same = frame["reason"].str.replace("no_score:.*", "no_score:null")
    assert got["reason"].to_list() == same.to_list()
    known = frame["inclusion_prob"].to_list()
    assert got["inclusion_prob"].cast(pl.Float32).to_list() == known or settings.get("on_null") == "drop"


def test_every_method_is_among_these():
    assert {one["method"] for one in METHODS} == set(selectors()) - {"all"}


def test_all_keeps_what_is_left_in_a_run_and_in_a_frame(place):
    run = run_of(place, {"method": "all"})
    decisions = run.decisions()
    assert set(decisions["reason"]) == {"kept", "pinned", "near_duplicate"}
    assert decisions["keep"].to_list() == (decisions["reason"] != "near_duplicate").to_list()
    budgets = run.concepts()
    assert budgets["kept"].to_list() == budgets["n_eligible"].to_list()
    assert explain(run.path, "s000050")["flip"]["why"].startswith("method all keeps every row that passes")
    frame = frame_of(run, place)
    got = select(frame, "all")
    assert got["keep"].all()
    assert got["rank"].to_list() == frame["rank"].to_list()
    for wrong in ({"keep": 0.5}, {"count": 3}):
        with pytest.raises(
            RecipeError, match=r"with method all keeps every row that passes, got (keep 0\.5|count 3)"
        ):
            select(frame, "all", **wrong)


def test_no_score_at_all_is_no_draw(place):
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
    (place / "none.parquet").unlink(missing_ok=True)
    pl.DataFrame({"id": ["no such uid"], "gone": [1.0]}).write_parquet(place / "none.parquet")
    score = [{"file": f"{place}/none.parquet", "on": "id", "on_missing": "null"}]
    values = recipe_values(f"{place}/in/*.parquet", place / "run", score=score, seed=SEED)
    values["source"] |= {"label": "label"}
    values |= {"select": {"method": "hardest", "by": "gone", "keep": 0.3}, "pin": [f"{place}/pins.txt"]}
    with pytest.raises(
        CurateError, match=r"eligible rows has the score 'gone' \(\w+: \d+\), by which method hardest"
    ):
        runner.run(parse_recipe(values), until="select")


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
        ({"method": "hardst", "keep": 0.5}, RecipeError, r"select\.method must be 'density', 'random'"),
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
