import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from curate import open_run as view_of
from curate.errors import RunError, UsageError
from curate.io import publish
from curate.pipeline import runner
from curate.pipeline.export import export_recipe, export_run
from curate.pipeline.stages.write import WriteShards
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from curate.runs.run import open_run
from curate.writers.dataset_card import CardFacts, card, published_recipe, size_category
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.folders import changed, leftovers, tables
from tests.fixtures.tars import encoded, members

N = 90
HF = {"info": {"features": {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    "id": {"_type": "Value", "dtype": "string"},
    "emb": {"_type": "List", "feature": {"_type": "Value", "dtype": "float32"}},
}}}  # fmt: skip


def write_source(folder, *, simple=False):
    """Images with labels and vectors, as Hugging Face stores them, in two splits."""
    vectors = planted(N, copies=5)
    images = [{"bytes": encoded("PNG", (i, i, 1)), "path": f"{i}.png"} for i in range(N)]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array([i % 2 for i in range(N)], pa.int64()),
            "id": [f"{i:032x}" for i in range(N)],
            "emb": pa.array([*vectors.astype(np.float32).tolist()[:-1], None], pa.list_(pa.float32())),
        }
    ).replace_schema_metadata({"huggingface": json.dumps(HF)})
    folder.mkdir()
    pq.write_table(table.slice(0, 60), folder / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(60), folder / "test-00000-of-00001.parquet")
    return table, str(folder / "*.parquet")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run on the source: (run, table of the source)."""
    folder = tmp_path_factory.mktemp("export")
    table, glob = write_source(folder / "in")
    values = recipe_values(
        glob, folder / "run", select={"method": "random", "keep": 0.4}, weight={"method": "concept"},
        write={"dropped": str(folder / "dropped"), "columns": ["weight"]},
    )  # fmt: skip
    values |= {"source": {"path": glob, "uid": "id"}, "embed": {"column": "emb"}}
    runner.run(parse_recipe(values))
    return folder / "run", table


def kept_of(run):
    return open_run(run).decisions().filter("keep")


def test_shards_are_those_of_the_run(done, tmp_path):
    run, _ = done
    said = curate("export", run, "--format", "parquet", "--out", tmp_path / "out")
    assert (said.code, said.out) == (0, f"{tmp_path / 'out'}\n")
    names = sorted(path.name for path in (run / "6_filtered").iterdir() if path.name != "_done.json")
    assert names == ["README.md", "test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (run / "6_filtered" / name).read_bytes()


@pytest.mark.filterwarnings("ignore")  # of datasets and what it imports
def test_load_dataset_reads_the_folder_with_its_card(done, tmp_path):
    datasets = pytest.importorskip("datasets")
    run, table = done
    loaded = datasets.load_dataset(str(run / "6_filtered"), cache_dir=str(tmp_path / "cache"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in (run / "6_filtered").glob("*.parquet"):
        (bare / path.name).symlink_to(path)
    without = datasets.load_dataset(str(bare), cache_dir=str(tmp_path / "cache2"))
    assert {name: part.features for name, part in loaded.items()} == {
        n: p.features for n, p in without.items()
    }
    rows = {uid: row for row, uid in enumerate(table["id"].to_pylist())}
    kept = kept_of(run)
    assert sum(part.num_rows for part in loaded.values()) == len(kept)
    for part in loaded.values():
        assert isinstance(part.features["label"], datasets.ClassLabel)
        plain = part.cast_column("image", datasets.Image(decode=False))
        for one in plain:
            source = table.slice(rows[one["id"]], 1).to_pylist()[0]
            assert one["image"]["bytes"] == source["image"]["bytes"] and one["label"] == source["label"]


@pytest.mark.filterwarnings("ignore")  # of datasets and what it imports
def test_a_card_of_simple_columns_declares_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    glob = write_shards(tmp_path / "in", planted(30), extra={"n": list(range(30)), "b": [b"x"] * 30})
    table = pq.read_table(tmp_path / "in").drop(["embedding"])
    schema = table.schema.with_metadata({"huggingface": json.dumps(
        {"info": {"features": {"id": {"_type": "Value", "dtype": "string"}}}})})  # fmt: skip
    folder = tmp_path / "out"
    folder.mkdir()
    pq.write_table(table.cast(schema), folder / "train-00000-of-00001.parquet")
    counts = {"rows": 40, "kept": 30, "dropped": {"filter:a|b": 10}, "unusable": {}}
    text = card(
        CardFacts({"train": ("train-*.parquet", 30, 700)}, schema, counts, {"a": "```"}, {"source": glob})
    )
    (folder / "README.md").write_text(text)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    declared = datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "cache")).info
    assert loaded.features == declared.features and set(declared.features) == {"note", "id", "n", "b"}
    assert declared.splits["train"].num_examples == 30
    assert "num_bytes: 700" in text  # without it, the splits are ignored with a warning
    assert "| dropped: filter:a\\|b | 10 |" in text and "````yaml" in text


def test_a_card_says_nothing_it_does_not_know():
    counts = {"rows": 0, "kept": 0, "dropped": {}, "unusable": {}}
    nested = pa.schema([("x", pa.list_(pa.int8()))])
    assert "features" not in card(CardFacts({"train": ("t-*", 0, 0)}, nested, counts, {}))
    assert "configs" not in card(CardFacts({"my split": ("t-*", 0, 0)}, nested, counts, {}))
    assert size_category(999) == "n<1K" and size_category(10**12) == "n>1T"
    recipe = {
        "run": "r",
        "memory": 1,
        "source": [{"path": "p", "storage_options": {"key": "s"}}],
        "write": {"path": "w"},
    }
    assert published_recipe(recipe) == {"source": [{"path": "p"}], "embed": {}, "write": {}}


def test_dropped_rows_have_their_reason(done):
    run, table = done
    frame = pl.concat(pl.read_parquet(path) for path in sorted((run.parent / "dropped").glob("*.parquet")))
    decisions = open_run(run).decisions().filter(~pl.col("keep"))
    assert dict(frame.select("id", "reason").rows()) == dict(decisions.select("uid", "reason").rows())
    assert set(frame["reason"]) == {"near_duplicate", "over_budget", "unusable:bad_vector"}
    assert len(frame) == N - len(kept_of(run))
    rows = {row["id"]: row for row in table.to_pylist()}
    assert all(row["image"] == rows[row["id"]]["image"] for row in frame.to_dicts())


def test_tars_hold_every_kept_row(done, tmp_path):
    run, table = done
    flags = ["--columns", "uid,weight", "--weight-groups", "2", "--json"]
    said = curate("export", run, "--format", "webdataset", "--out", tmp_path / "out", *flags)
    kept = kept_of(run)
    assert said.code == 0, said.err
    assert json.loads(said.out)["rows"] == len(kept)
    weights, rows = dict(kept.select("uid", "weight").rows()), {row["id"]: row for row in table.to_pylist()}
    found = {}
    for path in sorted((tmp_path / "out").rglob("*.tar")):
        got = members(path)
        for name in [one for one in got if one.endswith(".json")]:
            about = json.loads(got[name])
            assert got[name.replace(".json", ".png")] == rows[about["id"]]["image"]["bytes"]
            found[about["uid"]] = about["weight"]
            assert about["label_name"] == ["cat", "dog"][about["label"]]
            assert json.loads(path.with_name(f"{path.stem}_stats.json").read_text())["count"] > 0
    assert found == pytest.approx(weights)


def test_classes_go_by_their_names(done):
    """What Hugging Face calls the classes is what people see; tables keep the numbers."""
    run = view_of(done[0])
    groups = {row["group"]: row["rows"] for row in run.summary()["groups"]["label"]}
    samples = run.samples().filter(pl.col("copy_of").is_null() & (pl.col("outcome") == "ok"))
    codes = dict(samples["label"].value_counts().rows())
    assert groups == {"cat": codes["0"], "dog": codes["1"]}
    uid = samples["uid"][0]
    assert run.explain(uid)["sample"]["label"] == ["cat", "dog"][int(samples["label"][0])]
    assert set(run.search(uid=uid, top=8)["label"]) <= {"cat", "dog"}
    page = (done[0] / "7_report/report.html").read_text()
    assert '"cat"' in page and '"dog"' in page


def test_a_license_and_tags_on_the_card(done, tmp_path):
    flags = ["--set", "write.card={license: mit, tags: [photos, small]}", "--out", tmp_path / "README.md"]
    assert curate("export", done[0], "--format", "card", *flags).code == 0
    _, header, _ = (tmp_path / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(header)
    assert (found["license"], found["tags"]) == ("mit", ["photos", "small"])
    kept = kept_of(done[0])
    sizes = open_run(done[0]).samples().join(kept.select("shard", "row"), on=["shard", "row"])
    assert sum(one["num_bytes"] for one in found["dataset_info"]["splits"]) == sizes[
        "bytes"
    ].sum() + 16 * len(kept)
    plain = recipe_values("x", "r")
    assert WriteShards.inputs(_Stage(parse_recipe(plain)))[0].keys() == {
        "format", "max_shard_size", "columns", "weight_groups",
    }  # fmt: skip
    more = parse_recipe({**plain, "write": {"card": {"license": "mit"}}})
    assert WriteShards.inputs(_Stage(more))[0]["card"] == {"license": "mit", "tags": ()}


class _Stage:
    """What the inputs of the stage are made of."""

    _decisions, _labels = "d", ()

    def __init__(self, recipe):
        self.recipe = recipe


def test_lists_of_a_run_go_back_in(done, tmp_path):
    run, _ = done
    kept = kept_of(run)
    for form in ("npy", "txt", "uids"):
        assert curate("export", run, "--format", form, "--out", tmp_path / f"list.{form}").code == 0
    listed = (tmp_path / "list.txt").read_text().split()
    assert sorted(listed) == kept["uid"].sort().to_list()
    frame = pl.read_parquet(tmp_path / "list.uids")
    assert dict(frame.rows()) == dict(kept.select("uid", "weight").rows())
    subset = np.load(tmp_path / "list.npy")
    assert len(subset) == len(kept) and {f"{a:016x}{b:016x}" for a, b in subset.tolist()} <= set(listed)
    assert len(np.unique(subset)) < len(subset), "weights are repeats"


def test_places_of_this_machine_may_be_urls(done, tmp_path):
    run, _ = done
    found = view_of(f"file://{run.resolve()}")
    assert found.kept()["uid"].to_list() == kept_of(run)["uid"].to_list()
    for form, name in (("txt", "kept.txt"), ("parquet", "kept")):
        found.export(form, f"file://{tmp_path}/{name}", progress=False)
        assert (tmp_path / name).exists(), form


def test_export_leaves_the_run_as_it_is_and_follows_its_decisions(tmp_path):
    _, glob = write_source(tmp_path / "in")
    values = recipe_values(glob, tmp_path / "run", select={"method": "random", "count": 20})
    values |= {"source": {"path": glob, "uid": "id"}, "embed": {"column": "emb"}}
    runner.run(parse_recipe(values))
    repeats = {"method": "soft_cap", "by": "distance", "temperature": 0.1, "draws": 40}
    runner.run(
        parse_recipe(values | {"select": {"method": "random", "count": 7}, "weight": repeats}), until="select"
    )
    before = tables(tmp_path / "run")
    out = tmp_path / "out"
    done = export_run(export_recipe(tmp_path / "run"), "parquet", out)
    assert (done.rows, done.files, done.target) == (7, 2, out)
    assert set(pl.read_parquet(out / "*.parquet")["id"]) == set(kept_of(tmp_path / "run")["uid"])
    assert export_run(export_recipe(tmp_path / "run"), "npy", tmp_path / "list.npy").rows == 40
    listed, times = np.unique(np.load(tmp_path / "list.npy"), return_counts=True)
    drawn = {f"{a:016x}{b:016x}": n for (a, b), n in zip(listed.tolist(), times.tolist(), strict=True)}
    for uid, weight in kept_of(tmp_path / "run").select("uid", "weight").rows():
        assert drawn.get(uid, 0) == pytest.approx(weight * 40 / 7), "as often as it was drawn"
    assert changed(before, tables(tmp_path / "run")) == [] and leftovers(tmp_path) == []
    assert "7 of 90 rows" in (out / "README.md").read_text()


def test_only_exports_are_replaced(done, tmp_path):
    run, _ = done
    call = lambda form, out: curate("export", run, "--format", form, "--out", out)
    assert call("parquet", tmp_path / "out").code == 0
    assert call("webdataset", tmp_path / "out").code == 0
    assert not list((tmp_path / "out").glob("*.parquet"))
    (tmp_path / "out/mine.txt").write_text("x")
    said = call("parquet", tmp_path / "out")
    assert said.code == 2 and "holds other files (mine.txt)" in said.error
    assert list((tmp_path / "out").rglob("*.tar"))
    assert call("txt", tmp_path / "list.txt").code == 0 and call("txt", tmp_path / "list.txt").code == 0
    (tmp_path / "list.txt").write_text("changed by hand")
    said = call("txt", tmp_path / "list.txt")
    assert said.code == 2 and "is there already and not from an export" in said.error
    assert (tmp_path / "list.txt").read_text() == "changed by hand"
    for form, out, why in [
        ("txt", tmp_path / "out", "is a folder"), ("parquet", tmp_path / "list.txt", "is a file"),
        ("npz", tmp_path / "new", "must be one of parquet, webdataset"),
    ]:  # fmt: skip
        said = call(form, out)
        assert said.code == 2 and why in said.error


def test_unfinished_runs_and_wrong_flags(done, tmp_path):
    run, _ = done
    assert curate("export", tmp_path, "--format", "txt", "--out", tmp_path / "a").code == 2
    said = curate("export", run, "--format", "parquet", "--columns", "wieght", "--out", tmp_path / "a")
    assert said.code == 2 and "no column 'wieght'" in said.error
    said = curate("export", run, "--format", "parquet", "--columns", "label", "--out", tmp_path / "a")
    assert said.code == 2
    _, glob = write_source(tmp_path / "in")
    values = recipe_values(glob, tmp_path / "run") | {
        "source": {"path": glob, "uid": "id"},
        "embed": {"column": "emb"},
    }
    runner.run(parse_recipe(values), until="cluster")
    said = curate("export", tmp_path / "run", "--format", "txt", "--out", tmp_path / "a")
    assert said.code == 1 and "5_decisions is not there yet" in said.error
    assert not (tmp_path / "a").exists()


def test_decisions_that_change_meanwhile_are_told(done, tmp_path, monkeypatch):
    run, _ = done
    recipe = export_recipe(run)
    monkeypatch.setattr(RunFolder, "marker", lambda self, folder: {"fingerprint": "other", "facts": {}})
    monkeypatch.setattr(RunFolder, "fingerprint", lambda self, folder: "before")
    with pytest.raises(RunError, match="decisions changed during the export"):
        export_run(recipe, "uids", tmp_path / "list")


def test_a_reason_column_of_the_source_is_not_hidden(tmp_path):
    glob = write_shards(tmp_path / "in", planted(30), extra={"reason": ["r"] * 30})
    values = recipe_values(glob, tmp_path / "run", write={"dropped": str(tmp_path / "dropped")})
    with pytest.raises(UsageError, match=r"write.dropped: .* has a column 'reason' of its own"):
        runner.run(parse_recipe(values))


def test_a_copy_follows_the_format(tmp_path):
    to = publish.Place("write.path", str(tmp_path / "to"), tmp_path / "scratch")
    (tmp_path / "old").mkdir()
    publish.copy_folder(to, tmp_path / "old", "s0")
    (tmp_path / "a/train").mkdir(parents=True)
    (tmp_path / "a/train/00000.tar").write_bytes(b"1")
    (tmp_path / "a/_done.json").write_text("{}")
    publish.copy_folder(to, tmp_path / "a", "s1")
    assert publish.files_in(tmp_path / "to") == {"train/00000.tar"}
    (tmp_path / "b").mkdir()
    (tmp_path / "b/0.parquet").write_bytes(b"2")
    publish.copy_folder(to, tmp_path / "b", "s2")
    assert publish.files_in(tmp_path / "to") == {"0.parquet"} and publish.is_current(to, "s2")
    assert not (tmp_path / "to/train").exists(), "a folder that holds nothing any more goes"
    (tmp_path / "to/0.parquet").unlink()
    assert not publish.is_current(to, "s2")
