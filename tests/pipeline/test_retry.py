"""A retry reads and embeds only what failed, and the run is then that of the repaired data."""

import contextlib
import importlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import open_run
from curate.analysis.summary import galleries
from curate.embedding import decode_pool
from curate.embedding.store import EmbeddingPart
from curate.pipeline.stages import embed_task
from curate.recipe.loading import load_recipe
from curate.sources import references
from tests.fixtures.calls import curate
from tests.fixtures.folders import files_below, tables

GOOD, FAILED, USAGE, UNUSABLE = 0, 1, 2, 3
ROWS = 14
#: Rows whose images are not there or broken at first; 3 and 4 are neighbours, 9 is in the second shard.
LATER = {1: None, 3: b"no picture yet", 4: None, 9: None}
#: Rows that never get better: nothing there, a refused path, a null.
NEVER = {6: "nowhere.png", 11: "../secret.png", 12: None}


pytestmark = pytest.mark.usefixtures("no_flush", "decoding_here")


@pytest.fixture(scope="module")
def first(no_flush, decoding_here, tmp_path_factory):
    """A folder with a source and a run in which some rows failed."""
    folder = tmp_path_factory.mktemp("first")
    with contextlib.chdir(folder):
        source()
        assert filtered("run").code == GOOD
        assert filtered("run").code == GOOD
    return folder


@pytest.fixture(autouse=True)
def in_folder(first, tmp_path, monkeypatch):
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def picture(seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def source(folder="in"):
    """Write two shards of paths, beside the images of all rows but `LATER` and `NEVER`."""
    Path(folder, "images").mkdir(parents=True)
    paths = [NEVER.get(row, f"images/{row}.png") for row in range(ROWS)]
    for row in range(ROWS):
        data = LATER.get(row, picture(row))
        if row not in NEVER and data is not None:
            Path(folder, f"images/{row}.png").write_bytes(data)
    captions = [None if row == 4 else f"caption {row}" for row in range(ROWS)]
    table = pa.table({"image_path": paths, "caption": captions})
    pq.write_table(table.slice(0, 8), f"{folder}/a.parquet", row_group_size=3)
    pq.write_table(table.slice(8), f"{folder}/b.parquet")


def put_right(folder="in", rows=tuple(LATER)):
    for row in rows:
        Path(folder, f"images/{row}.png").write_bytes(picture(row))


def filtered(out, folder="in"):
    more = ["--set", "limits.unusable=90%", "--set", "cluster.concepts=3", "--set", "dedup.exact=true"]
    return curate(
        "filter",
        f"{folder}/*.parquet",
        "--out",
        out,
        "--keep",
        "0.5",
        "--model",
        "tiny",
        "--workers",
        "1",
        *more,
    )


def samples(out):
    return pl.read_parquet(f"{out}/0_samples/part-*.parquet").sort("shard", "row")


def vectors(out):
    """Return the stored bytes of both vectors of every sample by uid."""
    found = {}
    for file in Path(out, "1_embeddings").glob("*.arrow"):
        part = EmbeddingPart(file)
        places = np.arange(len(part))
        both = zip(part.uids(), part.take("image", places), part.take("text", places), strict=True)
        found |= {uid: image.tobytes() + text.tobytes() for uid, image, text in both}
    return found


def watched(monkeypatch):
    """Note which paths are followed, and how many images are decoded."""
    followed, decoded = [], []
    follow, decode = references.follow, decode_pool.DecodePool.map

    def noting(reference, *args, **kwargs):
        followed.append(reference)
        return follow(reference, *args, **kwargs)

    def counting(self, batches):
        def counted():
            for tag, images in batches:
                decoded.extend(images)
                yield tag, images

        return decode(self, counted())

    monkeypatch.setattr(
        galleries, "thumbnails", lambda context, wanted, **_: {}
    )  # the report reads images too
    monkeypatch.setattr(references, "follow", noting)
    monkeypatch.setattr(decode_pool.DecodePool, "map", counting)
    return followed, decoded


def test_only_failed_rows_are_tried_and_the_run_follows(monkeypatch):
    before, old, concepts = (
        samples("run"),
        vectors("run"),
        pl.read_parquet("run/2_concepts/centroids.parquet"),
    )
    put_right()
    followed, decoded = watched(monkeypatch)
    said = curate("retry", "run", "--json")
    assert said.code == GOOD
    tried = {(row["before"], row["now"]): row["rows"] for row in json.loads(said.out)["tried"]}
    assert tried == {
        ("missing_image", "ok"): 3,
        ("broken_image", "ok"): 1,
        ("missing_image", "missing_image"): 1,
    }
    assert sorted(followed) == sorted([*(f"images/{row}.png" for row in LATER), "nowhere.png"])
    assert len(decoded) == len(LATER) + 1
    after, new = samples("run"), vectors("run")
    assert after["uid"].equals(before["uid"])
    rows = list(LATER)
    assert after[rows, "outcome"].to_list() == ["ok"] * len(rows)
    others = [row for row in range(ROWS) if row not in LATER]
    assert after[others].equals(before[others])
    assert {uid: new[uid] for uid in old} == old, "vectors keep their bytes"
    assert set(new) - set(old) == set(after[rows, "uid"])
    assert pl.read_parquet("run/2_concepts/centroids.parquet").equals(concepts), "concepts stay fitted"
    counts = open_run("run").manifest()["counts"]
    assert counts["unusable"] == {"missing_image": 2, "refused_path": 1}
    assert len(open_run("run").scores()) == ROWS - 3
    assert curate("verify", "run").code == GOOD


def test_a_run_after_a_retry_has_nothing_to_do_and_equals_a_fresh_one():
    put_right()
    assert curate("retry", "run").code == GOOD
    assert "nothing to do" in filtered("run").err
    assert filtered("fresh").code == GOOD
    assert samples("run").equals(samples("fresh"))
    assert vectors("run") == vectors("fresh")
    uids = [EmbeddingPart(file).uids() for file in files_below("run/1_embeddings") if file.suffix == ".arrow"]
    assert uids == [
        EmbeddingPart(file).uids() for file in files_below("fresh/1_embeddings") if file.suffix == ".arrow"
    ]


def test_without_a_fix_nothing_changes():
    before = tables("run")
    said = curate("retry", "run")
    assert said.code == GOOD
    assert "fail as before; nothing changed" in said.err
    assert tables("run") == before
    put_right(rows=[1])
    assert curate("retry", "run", "--quiet").code == GOOD
    put_right()
    said = curate("retry", "run")
    assert said.code == GOOD
    assert "4 rows tried, 3 of them can be used now" in said.err
    assert "nothing to do" in filtered("run").err


@pytest.mark.long
def test_vectors_of_a_part_of_several_batches(monkeypatch):
    # All are imported before one is changed: what is imported later would keep the small number for good.
    names = ("embedding.store", "pipeline.failed_rows", "scores.pair.order", "scores.tables.by_rows")
    holders = [importlib.import_module(f"curate.{name}") for name in names]
    with monkeypatch.context() as patch:
        for holder in holders:
            patch.setattr(holder, "BATCH_ROWS", 3)
        assert filtered("small").code == GOOD
        old = vectors("small")
        put_right()
        assert curate("retry", "small").code == GOOD
        new = vectors("small")
    assert {uid: new[uid] for uid in old} == old
    assert len(new) == ROWS - len(NEVER)
    assert curate("retry", "run").code == GOOD
    assert vectors("run") == new


def test_a_retry_that_was_cut_off_is_made_good(monkeypatch):
    put_right()

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            embed_task, "write_samples", fail
        )  # vectors of the first part are new, its samples are not
        with pytest.raises(KeyboardInterrupt):
            pipeline_retry("run")
    assert curate("retry", "run").code == GOOD
    assert samples("run")[list(LATER), "outcome"].to_list() == ["ok"] * len(LATER)
    assert open_run("run").manifest()["counts"]["unusable"] == {"missing_image": 2, "refused_path": 1}
    assert "nothing to do" in filtered("run").err
    assert curate("verify", "run").code == GOOD


def pipeline_retry(out):
    from curate.pipeline.retry import retry_run

    return retry_run(load_recipe(f"{out}/recipe.yaml"))


def test_a_run_in_which_all_failed_can_go_on():
    for file in Path("in/images").iterdir():
        file.unlink()
    said = filtered("lost")
    assert said.code == FAILED
    assert said.error.startswith("no usable sample")
    put_right(rows=[row for row in range(ROWS) if row not in NEVER])
    said = curate("retry", "lost")
    assert said.code == GOOD
    assert "to go on: curate run lost/recipe.yaml" in said.err
    assert curate("run", "lost/recipe.yaml").code == GOOD
    assert open_run("lost").manifest()["counts"]["unusable"] == {"missing_image": 2, "refused_path": 1}


def test_a_changed_source_has_to_be_read_first():
    pq.write_table(pq.read_table("in/a.parquet").slice(1), "in/a.parquet")
    said = curate("retry", "run")
    assert said.code == USAGE
    assert "0_samples is not there or not up to date with the source" in said.error
    said = curate("retry", "in")
    assert (said.code, said.error) == (USAGE, "in is not a run folder: it has no recipe.yaml")


def test_the_limit_of_unusable_rows_still_holds():
    said = curate("retry", "run", "--set", "limits.unusable=10%")
    assert said.code == UNUSABLE
    assert "limits.unusable allows 10.0%" in said.error


def test_what_the_machine_could_not_decode_is_tried_again_by_the_next_run(monkeypatch, decoding_here):
    """A killed decoder is not the row's doing: the next run has the samples and vectors of one without the accident.

    Concepts stay as they were fitted, as for rows that come later.
    """
    put_right()
    monkeypatch.setattr(decode_pool.DecodePool, "__init__", decoding_here)  # with workers
    assert filtered("clean").code == GOOD
    clean = samples("clean")
    with monkeypatch.context() as ill:
        killer = (
            "import curate.embedding.decode as d, os, signal; real = d.decode\n"
            f"def decode(data, *a, **k):\n    if data == {picture(7)!r}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return real(data, *a, **k)\n"
            "d.decode = decode"
        )
        ill.setattr(decode_pool, "_ENTRY", f"exec({killer!r}); {decode_pool._ENTRY}")
        assert filtered("ill").code == GOOD
    killed = samples("ill").filter(pl.col("outcome") == "decoder_killed")
    assert killed["row"].to_list() == [7]
    assert filtered("ill").code == GOOD
    assert samples("ill").equals(clean)
    assert vectors("ill") == vectors("clean")
    assert open_run("ill").manifest()["counts"]["unusable"] == {"missing_image": 2, "refused_path": 1}
    before = {path: path.stat().st_mtime_ns for path in files_below("ill/1_embeddings")}
    assert filtered("ill").code == GOOD
    assert before == {path: path.stat().st_mtime_ns for path in files_below("ill/1_embeddings")}
