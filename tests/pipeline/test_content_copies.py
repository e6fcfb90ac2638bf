"""Exact copies by content where images are named by paths: against a brute-force search, and in whole runs."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate import schema
from curate.execution.context import Context, Part
from curate.execution.engines.local import LocalEngine
from curate.filtering.uid_lists import Lists, hashes
from curate.io import storage
from curate.pipeline.stages import content_copies, embed
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from curate.sources.base import Columns, Shard
from tests.fixtures.calls import curate

# --- the search, by brute force ---------------------------------------------------------------------------------


def context_of(folder, parts, exact):
    recipe = parse_recipe(
        {"run": str(folder), "source": {"path": "x"}, "select": {"keep": 1}, "memory": "1GB"}
        | {"dedup": {"exact": exact}}
    )
    made = tuple(
        Part(f"p{i}", i, Shard(f"s{i}", f"s{i}", "train", 1, "v"), Columns(), 0, len(rows), 0, f"{i}")
        for i, rows in enumerate(parts)
    )
    run = RunFolder(folder)
    for part, rows in zip(made, parts, strict=True):
        frame = pl.DataFrame(rows, schema=NAMES, orient="row")
        columns = {name: frame[name].to_list() for name in NAMES if name in schema.SAMPLES.names}
        table = pa.table(
            [pa.array(columns.get(f.name, [None] * len(rows)), f.type) for f in schema.SAMPLES],
            schema=schema.SAMPLES,
        )
        storage.write_parquet(run.part(run.samples, part.name), table, schema.SAMPLES, "samples")
    run.mark(run.embeddings, "embedded", {"named_images": 1})
    return Context(recipe, run, LocalEngine(1), made)


NAMES = ["uid", "outcome", "copy_of", "content_hash", "image_hash", "caption_hash", "label", "list"]


def lists_of(folder, rows):
    files = {}
    for name in ("pin", "exclude"):
        files[name] = folder / f"{name}.npy"
        np.save(files[name], np.sort(hashes([row[0] for row in rows if row[-1] == name])))
    return Lists(files["pin"], files["exclude"])


def brute_force(rows, exact):
    """The uid that each usable row is a copy of, by looking at all other rows."""

    def content(row):
        _, _, _, hashed, image, caption, label, _ = row
        if exact == "image":
            return hashed or image
        return hashed and (hashed, caption, label)

    usable = [row for row in rows if row[1] == "ok" and row[2] is None]
    found = {}
    for row in usable:
        equal = [o for o in usable if content(o) == content(row) and content(o) and o[-1] != "exclude"]
        pinned = [other for other in equal if other[-1] == "pin"]
        first = (pinned or equal or [row])[0]
        if row[-1] is None and content(row) and first is not row:
            found[row[0]] = first[0]
    return found


ROW = st.tuples(
    st.sampled_from(["ok", "ok", "ok", "broken_image"]),
    st.sampled_from([None, None, None, "other"]),
    st.sampled_from([None, "h1", "h2", "h3"]),
    st.sampled_from([None, "h1", "i1"]),
    st.sampled_from([None, "c"]),
    st.sampled_from([None, "l"]),
    st.sampled_from([None, None, None, "pin", "exclude"]),
)


@given(
    st.lists(st.lists(ROW, max_size=7), min_size=1, max_size=3),
    st.sampled_from([True, "image"]),
    st.sampled_from([700, 10**9]),
)
@settings(max_examples=40, deadline=None)
def test_copies_of_content_by_brute_force(tmp_path_factory, drawn, exact, memory):
    folder, number = tmp_path_factory.mktemp("content"), iter(range(1000))
    parts = [[(f"u{next(number)}", *row) for row in part] for part in drawn]
    rows = [row for part in parts for row in part]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_sync", lambda path: None)
        patch.setattr(Context, "task_memory", property(lambda self: memory))
        context = context_of(folder, parts, exact)
        copies = content_copies.find(context, lists_of(folder, rows), folder / "scratch", "made from")
    found = {}
    for index, part in enumerate(parts):
        usable = [row[0] for row in part if row[1] == "ok" and row[2] is None]
        found |= {usable[place]: uid for place, uid in copies.of(index).items()}
    assert found == brute_force(rows, exact)


# --- whole runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def in_folder(no_flush, decoding_here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def folder_of_images(folder, seeds, captions=None):
    Path(folder).mkdir()
    for name, seed in seeds.items():
        Path(folder, f"{name}.png").write_bytes(b"no picture" if seed is None else picture(seed))
        if captions is not None:
            Path(folder, f"{name}.txt").write_text(captions[name])


def filtered(source, *more, out="run", **how):
    told = ["filter", source, "--out", out, "--model", "tiny", "--keep", "1.0", "--at-most", "--workers", "1"]
    done = curate(*told, "--set", "limits.unusable=90%", *more, **how)
    assert done.code == 0, done
    return done


def decisions(out="run"):
    """Return reason and what it is a copy of, by the name of the image (without the folder and the ending)."""
    names = pl.read_parquet(f"{out}/0_samples/part-*.parquet")
    found = pl.read_parquet(f"{out}/5_decisions/part-*.parquet").join(
        names.select("uid", "occurrence", "shard", "row", "key"), on=["uid", "occurrence", "shard", "row"]
    )
    keys = {row["uid"]: Path(row["key"]).stem for row in found.iter_rows(named=True)}
    return {
        Path(row["key"]).stem: (row["reason"], keys.get(row["duplicate_of"]))
        for row in found.iter_rows(named=True)
    }


KEPT = ("kept", None)


def test_copies_in_a_folder_grow_are_retried_and_explained(in_folder):
    """Equal bytes and captions are one sample; a broken file that becomes a copy, and a new first one, are found."""
    words = dict.fromkeys("bcdef", "a word") | {"d": "another"}
    folder_of_images("in", {"b": 1, "c": 1, "d": 1, "e": 2, "f": None}, words)
    done = filtered("in")
    found = decisions()
    assert found["f"] == ("unusable:broken_image", None)
    assert {name: found[name] for name in "bcde"} == {
        "b": KEPT, "c": ("exact_duplicate", "b"), "d": KEPT, "e": KEPT
    }  # fmt: skip
    assert "1 samples are exact copies" in done.err
    assert "dropped: exact_duplicate" in done.out + done.err
    assert "(b.png)" in curate("explain", "run", "c.png").out
    assert curate("verify", "run").code == 0
    counts = json.loads(Path("run/manifest.json").read_text())["counts"]
    assert counts["dropped"] == {"exact_duplicate": 1}
    assert (counts["rows"], counts["kept"], counts["unusable"]) == (5, 3, {"broken_image": 1})
    filtered("in", "--set", "dedup.exact=image")
    assert decisions()["d"] == ("exact_duplicate", "b")
    before = {path.name: path.stat().st_mtime_ns for path in Path("run/1_embeddings").glob("*.arrow")}
    filtered("in")
    assert before == {path.name: path.stat().st_mtime_ns for path in Path("run/1_embeddings").glob("*.arrow")}
    assert decisions() == found
    Path("in/f.png").write_bytes(picture(2))
    Path("in/a.png").write_bytes(picture(1))
    Path("in/a.txt").write_text("a word")
    filtered("in")
    assert decisions() == {
        "a": KEPT, "b": ("exact_duplicate", "a"), "c": ("exact_duplicate", "a"), "d": KEPT, "e": KEPT,
        "f": ("exact_duplicate", "e"),
    }  # fmt: skip
    assert curate("verify", "run").code == 0


@pytest.mark.long
def test_copies_by_path_in_tables_over_shards_and_beside_bytes(in_folder):
    """Images by path in two Parquet files and inline in a third: one content, whatever it is called."""
    folder_of_images("in", {"a": 1, "b": 2, "c": 1})
    pq.write_table(pa.table({"image_path": ["a.png", "a.png", "b.png"]}), "in/0.parquet")
    pq.write_table(pa.table({"image_path": ["c.png", "nowhere.png"]}), "in/1.parquet")
    filtered("in/*.parquet")
    reasons = pl.read_parquet("run/5_decisions/part-*.parquet").sort("shard", "row")
    assert reasons["reason"].to_list() == [
        "kept", "exact_duplicate", "kept", "exact_duplicate", "unusable:missing_image"
    ]  # fmt: skip
    assert reasons["duplicate_of"].to_list() == [None, reasons["uid"][0], None, reasons["uid"][0], None]
    # What a run says does not depend on how many work at it, and one without copies has no row of this kind.
    filtered("in/*.parquet", "--workers", "2", out="again")
    again = pl.read_parquet("again/5_decisions/part-*.parquet").sort("shard", "row")
    assert again.equals(reasons)


@pytest.mark.long
def test_images_read_before_content_was_noted_are_said(in_folder, monkeypatch):
    """A part made before keeps its vectors: what its images hold is unknown, which the run says."""
    folder_of_images("in", {"a": 1, "b": 1})
    pq.write_table(pa.table({"image_path": ["a.png"]}), "in/0.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(embed, "content_hashes", lambda images: [None] * len(images))
        filtered("in/*.parquet")
    pq.write_table(pa.table({"image_path": ["b.png"]}), "in/1.parquet")
    done = filtered("in/*.parquet")
    assert "1 images were read before their content was noted" in done.err
    hashed = pl.read_parquet("run/0_samples/part-*.parquet").sort("shard", "row")["content_hash"]
    assert hashed.is_null().to_list() == [True, False]
    filtered("in/*.parquet", out="new")
    assert decisions("new") == {"a": KEPT, "b": ("exact_duplicate", "a")}


def test_tables_made_before_have_nulls_in_later_columns(tmp_path):
    names = [name for name in schema.SAMPLES.names if name != "content_hash"]
    before = pa.schema([schema.SAMPLES.field(name) for name in names])
    table = pa.table([pa.array(["u"] if f.name == "uid" else [None], f.type) for f in before], schema=before)
    path = tmp_path / "part-a.parquet"
    storage.write_parquet(path, table, before, "made from")
    whole = schema.complete(table, schema.SAMPLES)
    assert whole.schema == schema.SAMPLES and whole["content_hash"].null_count == 1
    assert schema.complete(whole, schema.SAMPLES) is whole
    embed._complete(path)
    assert storage.read_table(path).equals(whole)
    assert storage.stored_fingerprint(path) == "made from"


@pytest.mark.parametrize(
    ("said", "means"), [("sample", True), (True, True), ("image", "image"), (False, False)]
)
def test_what_exact_may_be(said, means):
    recipe = parse_recipe(
        {"run": "r", "source": {"path": "x"}, "select": {"keep": 1}, "dedup": {"exact": said}}
    )
    assert recipe.dedup.exact is means or recipe.dedup.exact == means
