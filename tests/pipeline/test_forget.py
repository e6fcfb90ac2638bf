"""Samples that are forgotten are in no file of a run any more, the run goes on without them, and they do not come back."""

import json
import shutil

import polars as pl
import pyarrow.parquet as pq
import pytest

from curate import open_run
from curate.analysis.verify.verify import check_run
from curate.errors import UsageError
from curate.overrides.store import Decision, Overrides
from curate.pipeline import rescore, runner
from curate.pipeline.export import export_recipe, export_run
from curate.pipeline.forget import forget as module
from curate.pipeline.forget.forget import forget, found
from curate.recipe.loading import load_recipe, parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate as command

N, COPIES, NEAR = 160, 6, 10
#: A sample with an exact copy (of another uid), one with a near-duplicate, and two that are like no other.
GONE = ["s000002", "s000010", "s000050", "s000077"]


@pytest.fixture(scope="module", autouse=True)
def _fast(no_flush):
    """Flush nothing."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with scores, decisions of people, and an export."""
    folder = tmp_path_factory.mktemp("forget")
    labels = [f"l{i % 2}" for i in range(N)]
    labels[N - COPIES :] = labels[:COPIES]
    owners = ["ann" if f"s{i:06d}" in GONE else "bob" for i in range(N)]
    vectors = planted(N, copies=COPIES, near=NEAR)
    glob = write_shards(folder / "in", vectors, extra={"label": labels, "owner": owners})
    values = recipe_values(
        glob, folder / "run", score=[{"heads": {"kind": "linear", "seeds": 2, "epochs": 2, "folds": 2}}],
        limits={"unusable": 0.01},
    )  # fmt: skip
    values["source"] |= {"label": "label"}
    runner.run(parse_recipe(values))
    people = Overrides(open_run(folder / "run").folder, "ann")
    people.decide([Decision("s000050", "keep"), Decision("s000020", "keep")])
    rescore.select_run(rescore.chosen_recipe(folder / "run"), write=True)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, with an export and other files beside."""
    shutil.copytree(made, tmp_path / "all")
    path = tmp_path / "all" / "run"
    text = (path / "recipe.yaml").read_text().replace(str(made), str(tmp_path / "all"))
    (path / "recipe.yaml").write_text(text)
    for name in ("recipe.json", "parts.json", "shards.json"):
        file = path / ".work" / name
        value = json.loads(file.read_text())
        value.pop("checksum", None)
        file.write_text(json.dumps(value.get("list", value)).replace(str(made), str(tmp_path / "all")))
    export_run(export_recipe(path), "uids", tmp_path / "all" / "kept.parquet")
    (tmp_path / "all" / "mine.csv").write_text("uid,what\ns000001,x\ns000010,y\n")
    return open_run(path)


def tables(run):
    """Return what the tables say of the samples that stay: vectors and scores, by uid."""
    vectors = pl.concat([pl.read_ipc(path) for path in sorted(run.folder.embeddings.glob("*.arrow"))])
    return {row["uid"]: row for row in vectors.join(run.scores(), on="uid", how="left").to_dicts()}


def test_a_dry_run_says_what_would_go_and_changes_nothing(run):
    before = {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}
    wanted = found(run.path, GONE)
    assert (len(wanted.uids), wanted.named) == (5, 4)  # s000002 has an exact copy
    assert f"s{N - COPIES + 2:06d}" in wanted.uids
    assert wanted.near >= 1
    assert found(run.path, where="owner = 'ann'") == wanted
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("wrong", [{"uids": ["nobody"]}, {"uids": []}, {"where": "owner ="}, {"where": "owner = 'eve'"}, {"where": "x > 1"}])  # fmt: skip
def test_what_means_no_sample_is_refused(run, wrong):
    said = "^--where: no column 'x'; there are" if wrong.get("where") == "x > 1" else None
    with pytest.raises(UsageError, match=said):
        found(run.path, **wrong)


def named_in(folder, uids):
    """Return the files below a folder whose tables or bytes name one of the uids."""
    hits = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        if path.suffix in (".parquet", ".arrow"):
            frame = pl.read_ipc(path) if path.suffix == ".arrow" else pl.DataFrame(pq.read_table(path))
            texts = frame.select(pl.col(pl.String))
            inside = any(frame[name].is_in(uids).any() for name in texts.columns)
        else:
            inside = any(uid.encode() in path.read_bytes() for uid in uids)
        hits += [str(path)] if inside else []
    return hits


def test_nothing_is_left_others_are_as_before_and_the_run_holds(run, tmp_path):
    before, samples = tables(run), run.samples()
    wanted = found(run.path, GONE)
    done = forget(run.path, wanted, also=[tmp_path / "all" / "mine.csv"], by="carl")
    uids = list(wanted.uids)
    assert named_in(run.folder.path, uids) == []
    after = tables(run)
    assert after == {uid: row for uid, row in before.items() if uid not in uids}
    assert check_run(run.path).violations == []
    decisions = run.decisions()
    assert (decisions["reason"] == "unusable:forgotten").sum() == len(uids) == done.named + done.copies
    counts = run.manifest()["counts"]
    assert (
        counts["rows"]
        == N
        == counts["kept"] + sum(counts["dropped"].values()) + sum(counts["unusable"].values())
    )
    assert counts["unusable"] == {"forgotten": 5}
    places = samples.filter(pl.col("uid").is_in(uids)).select("shard", "row")
    assert run.samples().filter(outcome="forgotten").select("shard", "row").equals(places)
    assert run.overrides.current()["uid"].to_list() == ["s000020"]
    exported = pl.read_parquet(tmp_path / "all" / "kept.parquet")["uid"]
    assert sorted(exported) == sorted(run.kept()["uid"])
    assert (tmp_path / "all" / "mine.csv").read_text() == "uid,what\ns000001,x\n"
    assert {"1_embeddings", "0_samples", "3_scores/heads", "overrides.jsonl"} <= {
        one["where"] for one in done.removed
    }
    source = pl.read_parquet(f"{tmp_path}/all/in/*.parquet")
    assert set(uids) <= set(source["id"])  # the source is never touched


def test_the_run_goes_on_and_the_samples_do_not_come_back_with_a_changed_shard(run, tmp_path):
    wanted = found(run.path, GONE)
    forget(run.path, wanted)
    vectors = {path: path.stat().st_mtime_ns for path in run.folder.embeddings.glob("*.arrow")}
    assert runner.run(load_recipe(run.folder.recipe)).worked == ()
    shard = min((tmp_path / "all" / "in").glob("*.parquet"))
    table = pq.read_table(shard)
    pq.write_table(
        table.append_column("extra", [list(range(len(table)))]), shard
    )  # the same rows in another file
    runner.run(load_recipe(run.folder.recipe))
    assert sum(path.exists() and path.stat().st_mtime_ns == when for path, when in vectors.items()) == 2
    assert named_in(run.folder.path, list(wanted.uids)) == []
    assert run.samples().filter(outcome="forgotten").height == 5
    assert check_run(run.path).violations == []


@pytest.mark.parametrize("place", ["drop_rows", "blank_samples", "fingerprint_anew", "count_assigned"])
def test_a_crash_in_the_middle_is_gone_on_from(run, monkeypatch, place):
    wanted, calls = found(run.path, GONE), []
    real = getattr(module.tables, place)

    def fails(*given, **more):
        calls.append(given)
        if len(calls) == 2 or place in ("fingerprint_anew", "count_assigned"):
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module.tables, place, fails)
        with pytest.raises(KeyboardInterrupt):
            forget(run.path, wanted)
    again = found(run.path, GONE)
    assert set(again.uids) == set(wanted.uids)
    forget(run.path, again)
    assert named_in(run.folder.path, list(wanted.uids)) == []
    assert check_run(run.path).violations == []


def test_the_command_asks_and_says_what_was_removed_where(run):
    dry = json.loads(command("forget", run.path, *GONE, "--dry-run", "--json").out)
    assert (dry["named"], dry["copies"]) == (4, 1)
    done = json.loads(command("forget", run.path, *GONE, "--yes", "--json", "-q").out)
    assert done["named"] == 4 and {"where": "1_embeddings", "what": "rows", "n": 4} in done["removed"]
    assert command("forget", run.path, GONE[0], "--yes").code == 2


def test_a_forgotten_picture_does_not_come_back_as_a_file_of_another_name(tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for i in range(12):
        Image.new("RGB", (32, 32), (20 * i, 255 - 20 * i, 90)).save(tmp_path / "in" / f"{i:02d}.png")
    recipe = parse_recipe({
        "run": str(tmp_path / "run"), "source": {"path": str(tmp_path / "in")}, "embed": {"model": "tiny"}, "score": [],
        "cluster": {"concepts": 2}, "select": {"method": "all"}, "limits": {"unusable": 0}, "workers": 1,
    })  # fmt: skip
    runner.run(recipe)
    run = open_run(tmp_path / "run")
    [gone] = run.samples().filter(key="03.png")["uid"]
    forget(run.path, found(run.path, [gone]))
    (tmp_path / "in" / "03.png").rename(tmp_path / "in" / "new_name.png")
    (tmp_path / "in" / "more").mkdir()
    shutil.copy(tmp_path / "in" / "new_name.png", tmp_path / "in" / "more" / "again.png")
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "in" / "more" / "another.png")
    runner.run(recipe)
    samples = run.samples()
    assert samples["outcome"].value_counts(sort=True).rows() == [("ok", 12), ("forgotten", 2)]
    forgotten = samples.filter(outcome="forgotten")
    assert forgotten.select("key", "image_hash", "content_hash", "caption").null_count().row(0) == (
        2,
        2,
        2,
        2,
    )
    assert forgotten["uid"].str.starts_with("forgotten-").all()
    assert set(run.kept()["uid"]) == set(samples.filter(outcome="ok")["uid"])
    assert check_run(run.path).violations == []
