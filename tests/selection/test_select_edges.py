"""Selection where little is left: nothing to keep, no rows, odd columns, too few rows, runs that were ended."""

import numpy as np
import polars as pl
import pytest
from builders import planted, recipe_values, write_shards
from folders import changed, tables

from curate import open_run
from curate.errors import CurateError, UsageError
from curate.execution import exchange
from curate.execution.context import Context
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.stages import select
from curate.recipe.loading import parse_recipe
from curate.selection.rows import ranks, run_rows

N, SEED = 120, 3
BY = {"by": "position"}
METHODS = [
    {"method": "density"},
    {"method": "random"},
    {"method": "prototypes", "balance": 0.5},
    {"method": "diversity"},
    {"method": "quotas", "per": "label"},
    {"method": "quotas", "per": "concept"},
    {"method": "hardest", **BY},
    {"method": "top", **BY},
    {"method": "weighted", **BY},
    {"method": "window", "offset": 500, **BY},
    {"method": "window", "drop_hardest": 0.9, **BY},
    {"method": "stratified", "beta": 0.9, "cutoff": "score", **BY},
]
NAMES = [f"{one['method']}-{place}" for place, one in enumerate(METHODS)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a source, an empty one, and scores whose columns are named as the stage names its own."""
    folder = tmp_path_factory.mktemp("edges")
    labels = [("cät", "犬", None)[i % 3] for i in range(N)]
    write_shards(folder / "in", planted(N), extra={"label": labels})
    write_shards(folder / "empty", planted(1)[:0], extra={"label": pl.Series([], dtype=pl.String)})
    rng = np.random.default_rng(1)
    columns = {name: rng.gamma(1.0, 1.0, N) for name in ("position", "score", "group", "tie", "part")}
    signed = columns["position"] - 1
    table = pl.DataFrame({"id": [f"s{i:06d}" for i in range(N)], **columns, "signed": signed})
    table.filter(pl.int_range(N) % 10 != 0).write_parquet(folder / "mine.parquet")
    return folder


def recipe(place, out, *, source="in", weight=None, **changes):
    score = [{"file": f"{place}/mine.parquet", "on": "id", "on_missing": "null"}]
    settings = {name: changes.pop(name) for name in ("pin", "filter", "workers") if name in changes}
    values = recipe_values(f"{place}/{source}/*.parquet", out, select=changes, score=score, seed=SEED)
    values["source"] |= {"label": "label"}
    return parse_recipe(values | {"weight": weight} | settings)


def decide(place, out, **given):
    runner.run(recipe(place, out, **given), until="select")
    return open_run(out)


@pytest.mark.parametrize("given", METHODS, ids=NAMES)
def test_nothing_to_keep(place, given):
    decisions = decide(place, place / "run", count=0, **given).decisions()
    assert len(decisions) == N
    assert decisions["keep"].sum() == decisions["random_control"].sum() == 0
    assert decisions["inclusion_prob"].drop_nulls().max() == 0


@pytest.mark.parametrize("given", METHODS, ids=NAMES)
def test_an_empty_source(place, given):
    run = decide(place, place / "nothing", source="empty", keep=0.3, weight="concept", **given)
    assert len(run.decisions()) == len(run.concepts()) == 0


@pytest.mark.parametrize("given", METHODS, ids=NAMES)
def test_at_most_keeps_what_a_method_leaves(place, given):
    run = decide(place, place / "run", count=500, at_most=True, **given)
    skipped = {"window": round(0.9 * 108), "stratified": round(0.9 * 108)}.get(given["method"], 0)
    if "offset" in given:
        skipped = 108
    decisions, facts = run.decisions(), run.folder.marker(run.folder.decisions)["facts"]
    assert decisions["keep"].sum() == N - skipped == facts["kept"] == run.concepts()["kept"].sum()
    assert decisions["random_control"].sum() == N - skipped


@pytest.mark.parametrize("column", ["position", "score", "group", "tie", "part"])
def test_columns_that_have_the_names_of_the_stages_own(place, column):
    run = decide(place, place / "run", method="hardest", by=column, count=40, on_null="drop")
    rows = run.decisions().join(run.scores().select("uid", column), on="uid", how="left")
    best = rows.drop_nulls(column).sort(column, descending=True)["uid"][:40]
    assert set(rows.filter("keep")["uid"]) == set(best)


@pytest.mark.parametrize("method", ["hardest", "top", "weighted"])
@pytest.mark.parametrize("column", ["caption_length", "label", "mine_status", "concept"])
def test_what_is_no_score_is_refused_before_any_work(place, method, column):
    with pytest.raises(UsageError, match=f"select.by: .*'{column}'"):
        decide(place, place / "never", method=method, by=column, count=10)
    assert not (place / "never").exists()


def test_the_odds_of_pinned_rows_do_not_matter(place):
    """A draw refuses negative odds, but a pinned row is not drawn."""
    table = pl.read_parquet(place / "mine.parquet")
    negative = table.filter(pl.col("signed") < 0)["id"].to_list()
    (place / "pins.txt").write_text("\n".join(negative))
    given = {"method": "weighted", "by": "signed", "count": len(negative) + 10}
    run = decide(place, place / "run", pin=[f"{place}/pins.txt"], **given)
    assert run.decisions()["keep"].sum() == len(negative) + 10
    with pytest.raises(CurateError, match="must be at least 0"):
        decide(place, place / "run", **given)


@pytest.mark.parametrize("count", [1, 2])
def test_concept_weights_of_few_rows(place, count):
    weight = {"method": "concept", "budget": 0.1}
    run = decide(place, place / "run", method="random", count=count, weight=weight)
    assert run.decisions().filter("keep")["weight"].mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "prototypes", "prefer": "random", "balance": 0.9, "weight": "inverse"}, "closed form"),
        ({"method": "window", "offset": 100, "by": "position"}, "after 100 others"),
        ({"method": "hardest", "by": "position", "on_null": "error"}, r"\(missing: 12\)"),
    ],
)
def test_an_error_leaves_the_decisions_before_finished(place, given, said):
    before = decide(place, place / "run", method="random", count=50)
    kept, mark = before.decisions(), before.folder.marker(before.folder.decisions)
    with pytest.raises(CurateError, match=said):
        decide(place, place / "run", count=50, **given)
    after = open_run(place / "run")
    assert after.decisions().equals(kept)
    assert after.folder.marker(after.folder.decisions) == mark


# --- runs that are ended, and go on ------------------------------------------------------------------------------


class Ended(BaseException):
    """The process was killed."""


def ended(monkeypatch, where, name, *, after=0):
    """Let the function `name` end the run at its call number `after`, counted from 0."""
    real, calls = getattr(where, name), []

    def end(*arguments):
        calls.append(1)
        if len(calls) > after:
            raise Ended
        return real(*arguments)

    monkeypatch.setattr(where, name, end)


WEIGHTED = {"method": "stratified", "by": "position", "count": 40, "weight": "inverse"}


@pytest.mark.parametrize("given", [WEIGHTED, {"method": "diversity", "count": 40}], ids=["weights", "ranks"])
def test_ended_at_any_file_it_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch, given):
    decide(place, tmp_path / "fresh", **given)
    expected = tables(tmp_path / "fresh")
    decide(place, tmp_path / "run", method="random", count=10)
    for step in range(0, 200, 7):
        with monkeypatch.context() as patch:
            ended(patch, storage, "_sync", after=step)
            try:
                decide(place, tmp_path / "run", **given)
            except Ended:
                continue
        break
    assert step >= 14
    assert changed(expected, tables(tmp_path / "run")) == []


def test_facts_of_concepts_that_another_run_began_are_not_taken(place, tmp_path, monkeypatch):
    """A run ended between the two files of a bucket leaves facts that belong to its own ranks only."""
    given = {"method": "density", "count": 20}
    decide(place, tmp_path / "fresh", **given)
    expected = tables(tmp_path / "fresh")
    with monkeypatch.context() as patch, pytest.raises(Ended):
        ended(patch, select, "_decide")
        decide(place, tmp_path / "run", **given)
    with monkeypatch.context() as patch, pytest.raises(Ended):
        ended(patch, ranks, "scatter_back")
        decide(place, tmp_path / "run", filter=["distance > 0.05"], **given)
    decide(place, tmp_path / "run", **given)
    assert changed(expected, tables(tmp_path / "run")) == []


def test_buckets_of_other_memory_are_not_taken(place, tmp_path, monkeypatch):
    """As many buckets, but other concepts in them: what was ranked for them is of no use."""
    given = {"method": "diversity", "count": 40}
    fresh = decide(place, tmp_path / "fresh", **given)
    sizes = pl.read_parquet(tmp_path / "fresh" / "2_concepts" / "concepts.parquet")["n_assigned"].to_numpy()
    plans = {rows: exchange.plan_buckets(sizes, rows).tolist() for rows in range(15, 31)}
    one, two = next(
        (a, b)
        for a in plans
        for b in plans
        if a < b and max(plans[a]) == max(plans[b]) and plans[a] != plans[b]
    )
    row_bytes = ranks.ROW_BYTES + 16 * ranks.VECTOR_BYTES
    with monkeypatch.context() as patch, pytest.raises(Ended):
        patch.setattr(Context, "task_memory", 3 * row_bytes * one)
        ended(patch, run_rows, "_diverse_bucket", after=max(plans[one]))
        decide(place, tmp_path / "run", **given)
    monkeypatch.setattr(Context, "task_memory", 3 * row_bytes * two)
    run = decide(place, tmp_path / "run", **given)
    assert run.decisions().equals(fresh.decisions())


def test_methods_back_and_forth_and_workers_give_the_bytes_of_a_fresh_run(place, tmp_path):
    wanted = [WEIGHTED, {"method": "diversity", "count": 40}]
    fresh = []
    for given in wanted:
        decide(place, tmp_path / "fresh", **given)
        fresh.append(tables(tmp_path / "fresh"))
        storage.remove(tmp_path / "fresh")
    for workers, given, expected in zip((1, 1, 1, 2), wanted * 2, fresh * 2, strict=True):
        decide(place, tmp_path / "run", workers=workers, **given)
        assert changed(expected, tables(tmp_path / "run")) == []
