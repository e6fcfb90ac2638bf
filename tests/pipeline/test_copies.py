"""Copies over all shards, against a brute-force search, and what their decisions name."""

import hashlib

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import open_run, schema
from curate.errors import SourceError
from curate.execution.context import Context, Part
from curate.execution.engines.local import LocalEngine
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.stages import copies
from curate.pipeline.stages.read import keys_path
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from curate.sources.base import Columns, Shard
from tests.fixtures.builders import planted, recipe_values, write_shards

SEED = 3


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Flushing to the disk takes most of the time of small runs, and nothing is killed here."""
    monkeypatch.setattr(storage, "_sync", lambda path: None)


def tie_of(uid):
    seed = xxhash.xxh3_64_intdigest(f"{SEED}\x1ftie".encode())
    return xxhash.xxh3_64_intdigest(uid.encode(), seed)


def brute_force(rows, *, named, exact):
    """uid, occurrence and copy_of of each (uid, content), by looking at all rows before and after."""
    result = []
    for at, (uid, content) in enumerate(rows):
        equal = [other for other, (_, its) in enumerate(rows) if its == content]
        if named:
            first = min((rows[other][0] for other in equal), key=lambda u: (tie_of(u), u))
            result.append((uid, 0, first if exact and uid != first else None))
        elif exact:
            result.append((uid, equal.index(at), content if equal.index(at) else None))
        else:
            result.append((f"{uid}#{equal.index(at)}" if equal.index(at) else uid, 0, None))
    return result


def context_of(folder, parts, *, named, exact):
    """A context whose parts hold the given (uid, content) rows, as the read stage leaves them."""
    recipe = parse_recipe(
        {"run": str(folder), "source": {"path": "x"}, "select": {"keep": 1}, "seed": SEED, "memory": "1GB"}
        | {"dedup": {"exact": exact}}
    )
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    made = tuple(
        Part(f"p{i}", i, Shard(f"s{i}", f"s{i}", "train", 1, "v"), Columns(uid="id" if named else None),
             10 * i, 10 * i + len(rows), 0, f"{digest}-{i}")
        for i, rows in enumerate(parts)
    )  # fmt: skip
    context = Context(recipe, RunFolder(folder), LocalEngine(1), made)
    for part, rows in zip(made, parts, strict=True):
        columns = {"uid": [uid for uid, _ in rows], "content": [content for _, content in rows]}
        columns |= {"row": list(range(len(rows))), "bytes": [0] * len(rows), "outcome": ["ok"] * len(rows)}
        table = pa.table(
            [pa.array(columns.get(f.name, [None] * len(rows)), f.type) for f in schema.KEYS],
            schema=schema.KEYS,
        )
        storage.write_parquet(keys_path(context, part), table, schema.KEYS, "keys")
    return context


def found_by(context, *, exact):
    found = copies.find(context)
    result = []
    for part in context.parts:
        keys = pl.DataFrame(storage.read_table(keys_path(context, part)))
        frame = copies.of_part(found, part, keys, exact=exact)
        result += frame.select("uid", "occurrence", "copy_of").rows()
    return result


@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=7), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([700, 10**9]),
)
@settings(max_examples=40, deadline=None)
def test_copies_by_brute_force(tmp_path_factory, contents, named, exact, memory):
    folder = tmp_path_factory.mktemp("copies")
    number = iter(range(1000))
    parts = [[(f"u{next(number)}" if named else c, c) for c in part] for part in contents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "task_memory", property(lambda self: memory))
        context = context_of(folder, parts, named=named, exact=exact)
        expected = brute_force([row for part in parts for row in part], named=named, exact=exact)
        assert found_by(context, exact=exact) == expected
        left = {path.name.partition("-")[0] for path in (folder / ".work" / "copies").glob("[!.]*")}
    assert left == {"found"}


def test_no_part_has_no_copies(tmp_path):
    assert copies.find(context_of(tmp_path, [], named=False, exact=True)).files == ()


def test_going_on_with_other_memory_does_not_mix_buckets(tmp_path, monkeypatch):
    """What one run regrouped into few buckets is of no use to one that needs many."""
    parts = [[(c, c) for c in "abcab"], [(c, c) for c in "bbcde"]]
    context = context_of(tmp_path, parts, named=False, exact=True)

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Context, "task_memory", property(lambda self: 700))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(copies, "_find_copies", stop)
        copies.find(context)
    monkeypatch.setattr(Context, "task_memory", property(lambda self: 2000))
    expected = brute_force([row for part in parts for row in part], named=False, exact=True)
    assert found_by(context, exact=True) == expected


def run_of(tmp_path, vectors, *, ids=None, out="run", shards=3, **changes):
    extra = {} if ids is None else {"id": ids}
    glob = write_shards(tmp_path / "in", vectors, shards=shards, uid=False, extra=extra)
    values = recipe_values(glob, tmp_path / out, **changes)
    values["source"] = {"path": glob, "uid": None if ids is None else "id"}
    runner.run(parse_recipe(values))
    return open_run(tmp_path / out)


def test_uids_given_twice_are_refused_with_file_and_row(tmp_path):
    ids = [f"s{i}" for i in range(90)]
    ids[40] = ids[70] = "s5"
    ids[80] = "s6"
    with pytest.raises(
        SourceError,
        match=r"source\.uid: column 'id' must be unique; 's5' is in .*train-00000-of-00003\.parquet row 5, "
        r".*train-00001-of-00003\.parquet row 10, .*train-00002-of-00003\.parquet row 10, and 1 more uid",
    ):
        run_of(tmp_path, planted(90), ids=ids)
    glob = write_shards(tmp_path / "in", planted(90), uid=False, extra={"id": [f"s{i}" for i in range(90)]})
    values = recipe_values(glob, tmp_path / "run")
    assert runner.run(parse_recipe(values)).manifest["counts"]["rows"] == 90  # put right, it goes on


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("memory", [10**9, 900])
def test_a_copy_names_the_row_that_stands_for_it_in_the_end(tmp_path, monkeypatch, named, memory):
    """Each direction is there as it is, moved a little, and copied several times, in other shards."""
    monkeypatch.setattr(Context, "task_memory", property(lambda self: memory))
    rng = np.random.default_rng(0)
    rows = planted(60, seed=1, dim=24)
    near = rows[:30] + (0.003 * rng.standard_normal((30, 24))).astype(np.float16)
    vectors = np.concatenate([rows, near, rows[:20], near[:20], near[:10], rows[50:]])
    vectors[[40, 41]] = 0  # unusable, and copies of one another
    vectors = vectors[rng.permutation(len(vectors))]
    ids = [f"s{i:03d}" for i in rng.permutation(len(vectors))] if named else None
    run = run_of(tmp_path, vectors, ids=ids, dedup={"epsilon": 0.02}, cluster={"concepts": 2}, select={"keep": 0.2},
                 limits={"unusable": 0.5})  # fmt: skip
    decisions = run.decisions().with_columns(copy_of=run.samples()["copy_of"])
    stood = dict(
        decisions.filter(pl.col("reason") == "near_duplicate").select("uid", "duplicate_of").iter_rows()
    )
    copied = decisions.filter(pl.col("reason") == "exact_duplicate")
    assert len(copied) == 60 and len(stood) >= 25
    expected = [stood.get(uid, uid) for uid in copied["copy_of"]]
    assert copied["duplicate_of"].to_list() == expected
    assert sum(a != b for a, b in zip(expected, copied["copy_of"], strict=True)) >= 10
    final = decisions.filter(pl.col("reason").is_in(["kept", "over_budget"]))["uid"]
    assert set(copied["duplicate_of"]) <= set(final)
    others = decisions.filter(~pl.col("reason").is_in(["exact_duplicate", "near_duplicate"]))
    assert others["duplicate_of"].null_count() == len(others)
