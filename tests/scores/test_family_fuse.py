"""Columns computed from other columns: fused ranks, and the difference of two losses."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from builders import planted, recipe_values, write_shards
from folders import changed, tables

from curate.errors import RunError, UsageError
from curate.pipeline import runner
from curate.pipeline.stages.score import SOURCES
from curate.recipe import Fuse
from curate.recipe.loading import parse_recipe
from curate.scores.registry import check_recipe, folders_for, score_columns

N = 50
UIDS = [f"s{i:06d}" for i in range(N)]
LABELS = [None if i % 11 == 0 else "xyz"[i % 3] for i in range(N)]


def columns():
    """Two columns with ties, gaps and what is not finite."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, N).astype(float).tolist(), rng.standard_normal(N).tolist()
    a[4], b[6], b[7] = None, float("inf"), None
    return {"a": a, "b": b}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    pl.DataFrame({"uid": UIDS, **columns()}, strict=False).write_parquet(folder / "mine.parquet")
    glob = write_shards(folder / "shards", planted(N), shards=3, extra={"label": LABELS})
    return glob, str(folder / "mine.parquet")


def recipe(data, out, *families, **changes):
    glob, file = data
    source = {"path": glob, "uid": "id", "label": "label"}
    score = [*families, {"file": file}]
    return parse_recipe(recipe_values(glob, out, source=source, score=score, **changes))


def scored(values, name):
    runner.run(values, until="score")
    return pl.read_parquet(f"{values.run}/3_scores/{name}/part-*").sort("uid")


def facts(values, name):
    return json.loads((Path(values.run) / f"3_scores/{name}/_done.json").read_text())["facts"]


def brought_to_one(values, group, scale):
    """Ranks (or ranges) in each group by counting, None where there is no value."""
    result = [None] * N
    for i in range(N):
        if values[i] is None or group[i] is None:
            continue
        others = [values[j] for j in range(N) if values[j] is not None and group[j] == group[i]]
        below, equal = sum(v < values[i] for v in others), sum(v == values[i] for v in others)
        if len(set(others)) == 1:
            result[i] = 0.5
        elif scale == "rank":
            result[i] = (below + (equal - 1) / 2) / (len(others) - 1)
        else:
            result[i] = (values[i] - min(others)) / (max(others) - min(others))
    return result


def by_definition(given, weights, group, scale):
    total = [0.0] * N
    for name, weight in weights.items():
        if weight == 0:
            continue
        part = brought_to_one(
            [v if v is not None and np.isfinite(v) else None for v in given[name]], group, scale
        )
        share = abs(weight) / sum(map(abs, weights.values()))
        for i in range(N):
            known = total[i] is not None and part[i] is not None
            total[i] = total[i] + share * (part[i] if weight > 0 else 1 - part[i]) if known else None
    return total


@pytest.mark.parametrize("scale", ["rank", "minmax"])
@pytest.mark.parametrize("per", [None, "concept", "label"])
@pytest.mark.parametrize("weights", [{"a": 1, "b": -3}, {"b": 2, "a": 0}, {"distance": -1, "a": 0.5}])
def test_by_definition(data, tmp_path, scale, per, weights):
    fuse = {"fuse": {"columns": weights, "scale": scale, "per": per}}
    found = scored(recipe(data, tmp_path / "run", fuse), "fused")
    assert found.schema == {"uid": pl.String, "fused": pl.Float32, "fused_status": pl.String}
    assigned = pl.read_parquet(tmp_path / "run/2_concepts/assignments/part-*").sort("uid")
    group = {None: [0] * N, "concept": assigned["concept"].to_list(), "label": LABELS}[per]
    want = by_definition(columns() | {"distance": assigned["distance"].to_list()}, weights, group, scale)
    assert [value is None for value in found["fused"]] == [value is None for value in want]
    known = [i for i in range(N) if want[i] is not None]
    np.testing.assert_allclose(found["fused"].to_numpy()[known], [want[i] for i in known], atol=1e-6)
    assert all((status == "ok") == (want[i] is not None) for i, status in enumerate(found["fused_status"]))


def test_why_there_is_no_score(data, tmp_path):
    found = scored(
        recipe(data, tmp_path / "run", {"fuse": {"columns": {"b": 1, "a": 1}, "per": "label"}}), "fused"
    )
    status = found["fused_status"].to_list()
    assert [status[i] for i in (1, 4, 6, 7, 11)] == ["ok", "missing", "nonfinite", "missing", "no_label"]
    assert facts(recipe(data, tmp_path / "run"), "fused")["scored"] == status.count("ok")


@pytest.mark.long
def test_order_shards_workers_and_memory_change_nothing(data, tmp_path):
    fuse = {"fuse": {"columns": {"a": 1, "b": 1, "distance": 1}, "per": "label"}}
    want = scored(recipe(data, tmp_path / "one", fuse), "fused")
    again = {"fuse": {"columns": {"distance": 1, "b": 1, "a": 1}, "per": "label"}}
    order = np.random.default_rng(1).permutation(N)
    glob = write_shards(tmp_path / "in", planted(N), shards=5, order=order, extra={"label": LABELS})
    assert scored(recipe((glob, data[1]), tmp_path / "two", again), "fused").equals(want)
    scored(recipe(data, tmp_path / "three", fuse, workers=2, memory="1GB"), "fused")
    assert not changed(tables(tmp_path / "one"), tables(tmp_path / "three"))
    assert any("fused" in name for name in tables(tmp_path / "one"))


def test_all_labels_may_be_missing(data, tmp_path):
    glob = write_shards(tmp_path / "in", planted(N), extra={"label": [None] * (N - 1) + ["x"]})
    found = scored(
        recipe((glob, data[1]), tmp_path / "run", {"fuse": {"columns": {"a": 1}, "per": "label"}}), "fused"
    )
    assert found["fused_status"].to_list() == ["no_label"] * (N - 1) + ["ok"]
    assert found["fused"].to_list()[-1] == 0.5


def test_one_sample(tmp_path):
    glob = write_shards(tmp_path / "in", planted(1), shards=1)
    values = recipe_values(
        glob, tmp_path / "run", score=[{"fuse": {"columns": {"distance": 1}}}], cluster={"concepts": 1}
    )
    assert scored(parse_recipe(values), "fused").rows() == [("s000000", 0.5, "ok")]


def test_too_many_rows_for_memory(data, tmp_path, monkeypatch):
    from curate.scores import fuse

    monkeypatch.setattr(fuse, "_ROW_BYTES", 10**9)
    with pytest.raises(
        RunError, match=r"score: fused needs 50.0 GB for 50 samples; memory 2GB fits 1: raise memory"
    ):
        scored(recipe(data, tmp_path / "run", {"fuse": {"columns": {"a": 1}}}), "fused")


# --- what a recipe may ask for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"columns": {"clip_score": 1, "a": 1}}, "a (higher is harder) and clip_score (higher is better) have weights of the same"),
        ({"columns": {"clip_score": -1, "a": -2}}, "weights of the same sign and work against each other"),
        ({"columns": {"clip_score": -1, "a": 1}}, None),
        ({"columns": {"a": 1, "distance": 1}}, None),
        ({"columns": {"clip_score": 1}}, "higher_is is harder, but with these weights a higher value is easier or better"),
        ({"columns": {"a": 1}, "higher_is": "better"}, "a higher value is harder or noisier"),
        ({"columns": {"clip_score": 1}, "higher_is": "better"}, None),
        ({"columns": {"clip_score": 0, "a": 1}}, None),
    ],
)  # fmt: skip
def test_columns_that_work_against_each_other_are_told(data, tmp_path, settings, warning, caplog):
    values = recipe(data, tmp_path / "run", "clip_score", {"fuse": settings})
    scored(values, "fused")
    told = facts(values, "fused")["warnings"]
    assert [warning in text for text in told] == ([] if warning is None else [True])
    assert ("score: fused: " in caplog.text) == (warning is not None)


def test_columns_must_be_scores(data, tmp_path):
    def refused(*families):
        with pytest.raises(UsageError) as caught:
            check_recipe(recipe(data, tmp_path / "run", *families), SOURCES)
        return str(caught.value)

    assert "needs the column 'nce', which no family in score gives (pair has it)" in refused(
        {"fuse": {"columns": {"nce": 1}}}
    )
    assert "score: fuse.columns of fused: 'mine_status' is no score to rank by" in refused(
        {"fuse": {"columns": {"mine_status": 1}}}
    )
    assert "score: color.prior: 'mine_status' is no score" in refused(
        {"color": {"prior": "mine_status", "conditional": "a"}}
    )


def test_fused_columns_can_be_fused(data, tmp_path):
    first = {"fuse": {"columns": {"a": 1}, "name": "one"}}
    second = {"fuse": {"columns": {"one": 1, "b": 1}, "name": "two", "higher_is": "noisier"}}
    values = recipe(data, tmp_path / "run", second, first)
    assert folders_for(values, ["two", "a", "distance"]) == ("mine", "two")
    assert score_columns(values)["two"].higher_is == "noisier"
    assert scored(values, "two")["two"].null_count() == 3
    assert Fuse(columns={"a": 1}).folder == "fused"


def test_only_what_it_reads_makes_it_new(data, tmp_path):
    fuse = {"fuse": {"columns": {"a": 1}}}
    scored(recipe(data, tmp_path / "run", fuse), "fused")
    before = tables(tmp_path / "run")
    marker = tmp_path / "run/3_scores/fused/_done.json"
    fingerprint = marker.stat().st_mtime_ns
    scored(recipe(data, tmp_path / "run", fuse, "clip_score"), "fused")
    assert marker.stat().st_mtime_ns == fingerprint
    assert all("clip_score" in name for name in changed(before, tables(tmp_path / "run")))
    scored(recipe(data, tmp_path / "run", {"fuse": {"columns": {"a": -1}}}), "fused")
    assert marker.stat().st_mtime_ns != fingerprint


# --- color -----------------------------------------------------------------------------------------------------


def test_color_is_the_difference(data, tmp_path):
    values = recipe(data, tmp_path / "run", {"color": {"prior": "a", "conditional": "b"}})
    found = scored(values, "color")
    assert found.schema == {"uid": pl.String, "color": pl.Float32, "color_status": pl.String}
    given = columns()
    for i, (_, value, status) in enumerate(found.rows()):
        a, b = given["a"][i], given["b"][i]
        if i in (4, 6, 7):
            assert (value, status) == (None, "nonfinite" if i == 6 else "missing")
        else:
            assert value == pytest.approx(a - b, abs=1e-5)
            assert status == "ok"
    assert facts(values, "color")["scored"] == N - 3
    assert score_columns(values)["color"].higher_is == "better"
