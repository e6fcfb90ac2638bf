"""Columns computed from other columns, in a run: all of them from one run, copied where a test changes it."""

import json

import numpy as np
import polars as pl
import pytest

from curate.errors import RunError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.folders import again, changed, files_below, tables
from tests.reference.fused import LABELS, UIDS, WEIGHTS, N, columns, fused

#: Name, weights, scale and groups of every fusion that is compared with the definition.
FUSIONS = [
    (f"{scale}-per-{per}-{number}", weights, scale, per)
    for scale in ("rank", "minmax")
    for per in (None, "concept", "label")
    for number, weights in enumerate(WEIGHTS)
]
#: Settings, and what is said of them.
ODD = [
    ({"columns": {"clip_score": 1, "a": 1}}, "a (higher is harder) and clip_score (higher is better) have weights of the same"),
    ({"columns": {"clip_score": -1, "a": -2}}, "weights of the same sign and work against each other"),
    ({"columns": {"clip_score": -1, "a": 1}}, None),
    ({"columns": {"a": 1, "distance": 1}}, None),
    ({"columns": {"clip_score": 1}}, "higher_is is harder, but with these weights a higher value is easier or better"),
    ({"columns": {"a": 1}, "higher_is": "better"}, "a higher value is harder or noisier"),
    ({"columns": {"clip_score": 1}, "higher_is": "better"}, None),
    ({"columns": {"clip_score": 0, "a": 1}}, None),
]  # fmt: skip
OTHERS = [
    {"fuse": {"columns": {"b": 1, "a": 1}, "per": "label", "name": "why"}},
    {"fuse": {"columns": {"one": 1, "b": 1}, "name": "two", "higher_is": "noisier"}},
    {"fuse": {"columns": {"a": 1}, "name": "one"}},
    {"color": {"prior": "a", "conditional": "b"}},
    "clip_score",
]


def recipe(data, out, *families, **changes):
    glob, file = data
    source = {"path": glob, "uid": "id", "label": "label"}
    score = [*families, {"file": file}]
    return parse_recipe(recipe_values(glob, out, source=source, score=score, **changes))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    pl.DataFrame({"uid": UIDS, **columns()}, strict=False).write_parquet(folder / "mine.parquet")
    glob = write_shards(folder / "shards", planted(N), shards=2, extra={"label": LABELS})
    return glob, str(folder / "mine.parquet")


class Finished:
    """A run up to the scores: its tables, what was noted of each, and what was logged."""

    def __init__(self, path):
        self.path = path
        self.log = "".join(log.read_text() for log in files_below(path / "logs"))

    def table(self, name):
        return pl.read_parquet(self.path / f"3_scores/{name}/part-*").sort("uid")

    def facts(self, name):
        return json.loads((self.path / f"3_scores/{name}/_done.json").read_text())["facts"]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    families = [
        {"fuse": {"columns": weights, "scale": scale, "per": per, "name": name}}
        for name, weights, scale, per in FUSIONS
    ]
    odd = [{"fuse": {**settings, "name": f"odd-{number}"}} for number, (settings, _) in enumerate(ODD)]
    runner.run(recipe(data, path, *families, *odd, *OTHERS), until="score")
    return Finished(path)


@pytest.mark.parametrize(("name", "weights", "scale", "per"), FUSIONS, ids=[name for name, *_ in FUSIONS])
def test_by_definition(finished, name, weights, scale, per):
    found = finished.table(name)
    assert found.schema == {"uid": pl.String, name: pl.Float32, f"{name}_status": pl.String}
    assigned = pl.read_parquet(finished.path / "2_concepts/assignments/part-*").sort("uid")
    group = {None: [0] * N, "concept": assigned["concept"].to_list(), "label": LABELS}[per]
    want = fused(columns() | {"distance": assigned["distance"].to_list()}, weights, group, scale)
    assert [value is None for value in found[name]] == [value is None for value in want]
    known = [i for i in range(N) if want[i] is not None]
    np.testing.assert_allclose(found[name].to_numpy()[known], [want[i] for i in known], atol=1e-6)
    assert all((status == "ok") == (want[i] is not None) for i, status in enumerate(found[f"{name}_status"]))


def test_why_there_is_no_score(finished):
    status = finished.table("why")["why_status"].to_list()
    assert [status[i] for i in (1, 4, 6, 7, 11)] == ["ok", "missing", "nonfinite", "missing", "no_label"]
    assert finished.facts("why")["scored"] == status.count("ok")


@pytest.mark.parametrize("number", range(len(ODD)))
def test_columns_that_work_against_each_other_are_told(finished, number):
    warning = ODD[number][1]
    told = finished.facts(f"odd-{number}")["warnings"]
    assert [warning in text for text in told] == ([] if warning is None else [True])
    assert (f"score: odd-{number}: " in finished.log) == (warning is not None)


def test_fused_columns_can_be_fused(finished):
    assert finished.table("two")["two"].null_count() == 3


def test_color_is_the_difference(finished):
    found = finished.table("color")
    assert found.schema == {"uid": pl.String, "color": pl.Float32, "color_status": pl.String}
    given = columns()
    for i, (_, value, status) in enumerate(found.rows()):
        a, b = given["a"][i], given["b"][i]
        if i in (4, 6, 7):
            assert (value, status) == (None, "nonfinite" if i == 6 else "missing")
        else:
            assert value == pytest.approx(a - b, abs=1e-5)
            assert status == "ok"
    assert finished.facts("color")["scored"] == N - 3


# --- what changes the run -------------------------------------------------------------------------------------


@pytest.fixture
def copied(finished, tmp_path):
    """Return a copy of the run with nothing scored yet."""
    return again(finished.path, tmp_path / "run")


def scored(values, name):
    runner.run(values, until="score")
    return pl.read_parquet(f"{values.run}/3_scores/{name}/part-*").sort("uid")


@pytest.mark.long
def test_order_shards_workers_and_memory_change_nothing(data, tmp_path):
    fuse = {"fuse": {"columns": {"a": 1, "b": 1, "distance": 1}, "per": "label"}}
    want = scored(recipe(data, tmp_path / "one", fuse), "fused")
    other = {"fuse": {"columns": {"distance": 1, "b": 1, "a": 1}, "per": "label"}}
    order = np.random.default_rng(1).permutation(N)
    glob = write_shards(tmp_path / "in", planted(N), shards=5, order=order, extra={"label": LABELS})
    assert scored(recipe((glob, data[1]), tmp_path / "two", other), "fused").equals(want)
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


def test_too_many_rows_for_memory(data, copied, monkeypatch):
    from curate.scores import fuse

    monkeypatch.setattr(fuse, "_ROW_BYTES", 10**9)
    with pytest.raises(
        RunError, match=r"score: fused needs 50.0 GB for 50 samples; memory 2GB fits 1: raise memory"
    ):
        scored(recipe(data, copied, {"fuse": {"columns": {"a": 1}}}), "fused")


def test_only_what_it_reads_makes_it_new(data, copied):
    fuse = {"fuse": {"columns": {"a": 1}}}
    scored(recipe(data, copied, fuse), "fused")
    before = tables(copied)
    marker = copied / "3_scores/fused/_done.json"
    fingerprint = marker.stat().st_mtime_ns
    scored(recipe(data, copied, fuse, "clip_score"), "fused")
    assert marker.stat().st_mtime_ns == fingerprint
    assert all("clip_score" in name for name in changed(before, tables(copied)))
    scored(recipe(data, copied, {"fuse": {"columns": {"a": -1}}}), "fused")
    assert marker.stat().st_mtime_ns != fingerprint
