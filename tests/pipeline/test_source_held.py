"""What a run says of a shard is bound to the bytes that were read: of another file under its name nothing stays."""

import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError
from curate.pipeline import runner
from curate.pipeline.stages import embed, read, read_task
from curate.recipe.loading import parse_recipe
from curate.runs.forgotten import Forgotten
from curate.sources import registry
from curate.sources.parquet import ParquetReader
from tests.fixtures.builders import planted, recipe_values, write_shards


def put(path, content, times):
    """Let another file take the place of `path`, with the times that one had."""
    new = path.with_name("new")
    new.write_bytes(content)
    os.utime(new, ns=times)
    new.replace(path)


def reversed_rows(path):
    """Return the bytes of a Parquet file with the rows of `path` in the opposite order."""
    table, sink = pq.read_table(path), pa.BufferOutputStream()
    pq.write_table(table.take(np.arange(len(table))[::-1]), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def source(tmp_path):
    glob = write_shards(tmp_path / "in", planted(40), shards=2)
    changes = {"cluster": {"concepts": 2}, "limits": {"bad_shards": 1}}
    recipe = parse_recipe(recipe_values(glob, tmp_path / "run", **changes))
    return recipe, sorted((tmp_path / "in").iterdir())[1], tmp_path / "run"


def vectors(run):
    """Return the vector of each uid as the run holds it."""
    tables = [pa.ipc.open_file(file).read_all() for file in sorted((run / "1_embeddings").glob("*.arrow"))]
    table = pa.concat_tables(tables)
    return dict(zip(table["uid"].to_pylist(), map(tuple, table["image"].to_pylist()), strict=True))


def expected():
    """Return the vectors that `source` wrote, scaled to length 1, by uid."""
    rows = planted(40).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return {f"s{row:06d}": pytest.approx(vector, abs=2e-3) for row, vector in enumerate(rows)}


def test_a_shard_gone_while_it_was_read_is_read_by_the_next_run(source, monkeypatch):
    recipe, shard, run = source
    away = shard.with_name("away")
    with monkeypatch.context() as patch:
        patch.setattr(read.Read, "prepare", lambda stage: shard.replace(away))
        runner.run(recipe, until="embed")
    assert len(vectors(run)) == 20
    away.replace(shard)
    assert runner.run(recipe, until="embed").worked == ("read", "embed")
    assert vectors(run) == expected()
    assert runner.run(recipe, until="embed").worked == ()


def test_a_shard_that_stays_damaged_is_left_alone_until_it_is_mended(source):
    recipe, shard, run = source
    good = shard.read_bytes()
    column = pq.ParquetFile(shard).metadata.row_group(0).column(2)  # the ids
    start = column.dictionary_page_offset or column.data_page_offset
    bad = bytearray(good)
    bad[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    shard.write_bytes(bad)
    runner.run(recipe, until="embed")
    assert len(vectors(run)) == 20
    assert runner.run(recipe, until="embed").worked == ()
    with runner.opened(recipe) as context:  # what `curate score` asks for
        assert len(runner.require_done(context, "cluster").parts) == 1
    shard.write_bytes(good)
    assert runner.run(recipe, until="embed").worked == ("read", "embed")
    assert vectors(run) == expected()


@pytest.mark.parametrize("stage", [read.Read, embed.Embed])
def test_another_file_in_the_place_of_a_shard_leaves_nothing_behind(source, monkeypatch, stage):
    recipe, shard, run = source
    recipe = recipe.model_copy(update={"limits": recipe.limits.model_copy(update={"bad_shards": 0})})
    right, was = shard.read_bytes(), shard.stat()
    other = reversed_rows(shard)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "prepare", lambda one: put(shard, other, (0, 0)))
        with pytest.raises(
            SourceError, match=rf"{shard.name}: the file changed since it was read .*; run again"
        ):
            runner.run(recipe, until="embed")
    put(shard, right, (was.st_atime_ns, was.st_mtime_ns))
    runner.run(recipe, until="embed")
    assert vectors(run) == expected()
    samples = pl.read_parquet(run / "0_samples" / "part-*.parquet").sort("shard", "row")
    assert samples["uid"].to_list() == sorted(expected())


def test_another_file_that_was_there_only_while_rows_were_read_is_noticed(source, monkeypatch):
    recipe, shard, run = source
    part = read.find_parts(recipe, run.parent / "cache.json")[0][1]
    other, right, was = reversed_rows(shard), shard.read_bytes(), shard.stat()
    times = (was.st_atime_ns, was.st_mtime_ns)
    whole = ParquetReader.batches

    def disturbed(reader, *args, **how):
        put(shard, other.ljust(was.st_size), times)
        rows = list(whole(reader, *args, **how))
        put(shard, right, times)
        yield from rows

    monkeypatch.setattr(ParquetReader, "batches", disturbed)
    given = []
    with pytest.raises(SourceError, match="was written to or replaced while it was being read; run again"):
        for rows, _ in read_task.read_batches(part, recipe.source[0], batch_bytes=1 << 10, images=True):
            given += list(rows.row)
    assert part.stop - 1 not in given  # who counts rows never has all of them
    assert read_task.fails(
        read_task.ReadTask(part, recipe.source[0], run, "", 1 << 20, Forgotten("", frozenset()))
    )


def clip_retrieval(folder):
    for name in ("metadata", "img_emb", "text_emb"):
        (folder / name).mkdir()
    pq.write_table(pa.table({"caption": ["a", "b"]}), folder / "metadata" / "metadata_0.parquet")
    for name in ("img_emb", "text_emb"):
        np.save(folder / name / f"{name}_0.npy", planted(2))
    return folder / "text_emb" / "text_emb_0.npy"


def datacomp(folder):
    pq.write_table(pa.table({"uid": ["a", "b"], "url": ["x", "y"]}), folder / "0.parquet")
    np.savez(folder / "0.npz", l14_img=planted(2))
    return folder / "0.npz"


def plain(folder):
    pq.write_table(pa.table({"id": ["a", "b"], "emb": planted(2).tolist()}), folder / "0.parquet")
    return folder / "0.parquet"


@pytest.mark.parametrize(
    ("name", "make"), [("clip_retrieval", clip_retrieval), ("datacomp", datacomp), ("parquet", plain)]
)
def test_any_file_of_a_shard_with_other_bytes_at_its_old_time_is_noticed(tmp_path, name, make):
    path = make(tmp_path)
    found = registry.format_of(name).find(str(tmp_path))[0]
    shard = registry.hashed(found)
    since = registry.check_unchanged(shard)
    assert registry.hashed(found, (shard.version, shard.content, shard.changed)) == shard

    path.with_name("link").hardlink_to(path)  # another time of change, the same bytes
    path.with_name("link").unlink()
    registry.check_unchanged(shard)
    with pytest.raises(SourceError, match="while it was being read"):
        registry.check_unchanged(shard, since)

    was, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    put(path, bytes(content), (was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(SourceError, match="since it was read, though its time is the same; run again"):
        registry.check_unchanged(shard)
    again = registry.hashed(found, (shard.version, shard.content, shard.changed))
    assert again.content != shard.content


def test_a_shard_that_is_written_to_while_it_is_hashed_is_no_shard_yet(tmp_path, monkeypatch):
    path = plain(tmp_path)
    (found,) = registry.format_of("parquet").find(str(tmp_path))
    form = registry.format_of("parquet")
    content = path.read_bytes()

    def slow(shard):
        put(path, content, (1, 1))
        return "0" * 32

    monkeypatch.setattr(registry, "format_of", lambda name: type(form)(**vars(form) | {"fingerprint": slow}))
    with pytest.raises(SourceError, match=r"0\.parquet: the file changed since it was read"):
        registry.hashed(found)


def test_a_source_copied_to_another_place_is_that_source(source, tmp_path):
    recipe, shard, _ = source
    runner.run(recipe, until="embed")
    shutil.copytree(shard.parent, tmp_path / "copy")
    for file in (tmp_path / "copy").iterdir():
        (shard.parent / file.name).unlink()
        file.replace(shard.parent / file.name)  # other times, the same bytes
    assert runner.run(recipe, until="embed").worked == ()
    assert runner.run(recipe, until="cluster").worked == ("cluster",)


def numbers(folder, value):
    """Write what a run takes beside its source, all of a value: scores, a list, clusters, a reference set."""
    ids = [f"s{number:06d}" for number in range(40)]
    pl.DataFrame({"uid": ids, "mine": [float(value + n) for n in range(40)]}).write_parquet(
        folder / "mine.parquet"
    )
    (folder / "only.txt").write_text("\n".join(ids[value:]) + "\n")
    rows = np.array([[name, "0", "0.5", str((n + value) % 3)] for n, name in enumerate(ids)])
    np.save(folder / "clusters.npy", rows)
    np.save(folder / "reference.npy", planted(8 + value, seed=value))


@pytest.mark.parametrize(
    ("what", "module", "read"),
    [
        ({"score": [{"file": "mine.parquet"}]}, "curate.scores.external.parts", "join"),
        ({"only": ["only.txt"]}, "curate.filtering.uid_lists", "_sorted"),
        ({"cluster": {"given": ["clusters.npy"]}}, "curate.pipeline.stages.user_clusters", "_read"),
        ({"score": [{"normsim": {"target": "reference.npy"}}]}, "curate.pipeline.references", "_given"),
    ],
    ids=["scores", "list", "clusters", "reference"],
)
def test_what_lies_beside_a_source_and_changes_while_it_is_read_is_said(
    tmp_path, monkeypatch, what, module, read
):
    """Nothing that was made of either is trusted: the next run is what a new one is."""
    monkeypatch.chdir(tmp_path)
    numbers(tmp_path, 0)
    glob = write_shards(tmp_path / "in", planted(40), shards=2)
    recipe = parse_recipe(recipe_values(glob, tmp_path / "run", **what))
    real = getattr(importlib.import_module(module), read)

    def and_then_changed(*arguments, **more):
        found = real(*arguments, **more)
        numbers(tmp_path, 1)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{read}", and_then_changed)
        with pytest.raises(
            SourceError, match=r"replaced while (it was|they were) being read; run again"
        ) as error:
            runner.run(recipe, until="select")
    assert "\n" not in str(error.value)
    fresh = parse_recipe(recipe_values(glob, tmp_path / "fresh", **what))
    for one in (recipe, fresh):
        runner.run(one, until="select")
    for table in ("2_concepts/assignments", "3_scores/*", "5_decisions"):
        found, expected = (
            [pl.read_parquet(path) for path in sorted(Path(one.run).glob(f"{table}/part-*.parquet"))]
            for one in (recipe, fresh)
        )
        assert len(found) == len(expected) and all(a.equals(b) for a, b in zip(found, expected, strict=True))
