"""`curate verify` finds every kind of damage, and says which file breaks which rule."""

import json
import shutil

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.analysis.verify.verify import check_run, verify_run
from curate.errors import RunError
from curate.io import storage
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with near-duplicates, copies, filtered and unusable rows."""
    folder = tmp_path_factory.mktemp("verify")
    vectors = planted(200, copies=6, near=20)
    vectors[150] = 0  # of no direction: unusable
    glob = write_shards(folder / "in", vectors, shards=2, extra={"note2": [str(i) for i in range(200)]})
    values = recipe_values(glob, folder / "run", filter=["distance < 0.6"], dedup={"epsilon": 0.01})
    values["limits"] = {"unusable": 0.1}
    runner.run(parse_recipe(values))
    return RunFolder(folder / "run")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run to be damaged."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def remark(run, folder):
    """Let the mark of a stage say what its files are now: then it is the laws that must find what is wrong."""
    mark = run.marker(folder)
    run.mark(folder, mark["fingerprint"], mark["facts"])


def rewrite(run, stage, path, **columns):
    """Change columns of a table, as if it had been made so."""
    frame = pl.DataFrame(storage.read_table(path)).with_columns(**columns)
    table = storage.read_table(path)
    changed = frame.to_arrow().cast(table.schema)
    storage.write_parquet(path, changed, table.schema, storage.stored_fingerprint(path))
    remark(run, stage)


def first(folder):
    return min(folder.glob("part-*"))


def said(run):
    """Return what verify says, with the run's folder left out."""
    return [line.replace(f"{run.path}/", "") for line in check_run(run.path).violations]


def at(row, value, column):
    """Return `column` with another value at one row."""
    return pl.when(pl.int_range(pl.len()) == row).then(value).otherwise(pl.col(column))


def test_every_table_is_read_as_a_folder_or_by_a_glob(finished):
    rows = {"0_samples": 200, "4_duplicates": None, "5_decisions": 200, "2_concepts/assignments": None,
            "3_scores/clip_score": None, "3_scores/filter": None}  # fmt: skip
    for name, known in rows.items():
        folder = finished.path / name
        parts = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("part-*"))])
        assert known in (None, len(parts))
        assert pl.read_parquet(f"{folder}/*.parquet").equals(parts)
        assert pl.from_arrow(pq.read_table(folder)).equals(parts)  # what pandas does
        found = duckdb.sql(f"select * from '{folder}/*.parquet'").pl()
        assert found.sort(found.columns).equals(parts.sort(parts.columns))


def test_a_run_that_is_well(finished):
    found = check_run(finished.path)
    assert found.violations == []
    counts = storage.read_json(finished.manifest)["counts"]
    assert found.rows == counts["rows"] == 200
    assert set(counts["dropped"]) == {
        "exact_duplicate",
        "filter:distance < 0.6",
        "near_duplicate",
        "over_budget",
    }
    assert counts["unusable"] == {"bad_vector": 1}, "the run has rows of every kind"
    assert verify_run(finished.path) == {"files": found.files, "rows": 200, "changed": []}


# --- files ------------------------------------------------------------------------------------------------

FILES = [
    "0_samples", "1_embeddings", "2_concepts/assignments", "2_concepts", "3_scores/clip_score",
    "3_scores/filter", "4_duplicates", "5_decisions", "6_filtered", "7_report", ".work/keys",
]  # fmt: skip


DAMAGE = {
    "its bytes are not those recorded": lambda whole: whole[:50] + bytes([whole[50] ^ 1]) + whole[51:],
    "its size must be": lambda whole: whole[:-1],
    "missing": None,
}


@pytest.mark.parametrize("rule", DAMAGE)
def test_a_flipped_bit_a_cut_and_a_lost_file(run, rule):
    """One file of every folder is damaged, and all are named."""
    names = []
    for folder in FILES:
        path = min(f for f in (run.path / folder).iterdir() if f.is_file() and f.name[0] not in "._")
        names.append(str(path.relative_to(run.path)))
        if DAMAGE[rule] is None:
            path.unlink()
        else:
            path.write_bytes(DAMAGE[rule](path.read_bytes()))
    lines = said(run)
    assert sorted(line.partition(": ")[0] for line in lines) == sorted(names)
    assert all(line.partition(": ")[2].startswith(rule) for line in lines), lines


def test_a_stranger_and_a_torn_mark(run):
    (run.decisions / "part-x.parquet").write_bytes(b"?")
    assert said(run) == ["5_decisions/part-x.parquet: not among the files recorded in _done.json; remove it"]
    (run.report / "_done.json").write_text("{")
    assert "7_report/_done.json: not readable as a mark; remove it and run the recipe again" in said(run)


def test_all_are_named_and_the_command_fails(run):
    paths = [first(run.samples), first(run.decisions), first(run.embeddings)]
    for path in paths:
        path.write_bytes(b"x")
    told = curate("verify", run.path)
    assert told.code == 1
    assert [line.partition(": ")[0] for line in told.out.splitlines()] == sorted(map(str, paths))
    assert told.error == f"{run.path}: 3 things are wrong, each named above"
    told = curate("verify", run.path, "--json")
    assert len(json.loads(told.out)["violations"]) == 3
    assert told.code == 1
    with pytest.raises(RunError, match=r"\(and 2 more violations\)"):
        verify_run(run.path)


# --- laws -------------------------------------------------------------------------------------------------


def kept_row(run):
    """Return the part with a kept row, and its position."""
    path = first(run.decisions)
    return path, pl.read_parquet(path)["keep"].arg_max()


def shuffled(path):
    return pl.read_parquet(path).height - 1 - pl.int_range(pl.len())


LAWS = {
    "outcome": (
        "samples", {"outcome": at(0, pl.lit("fine"), "outcome")}, "outcome must be one of those in"),
    "samples in another order": (
        "samples", {"uid": pl.col("uid").reverse()}, "uid must be that of 0_samples, in that order"),
    "unusable": (
        "decisions", {"reason": at(0, pl.lit("unusable:x"), "reason"), "keep": at(0, pl.lit(False), "keep"),
                      "weight": at(0, pl.lit(0.0, pl.Float32), "weight")}, "unusable rows must be those that are not ok"),
    "copies": (
        "decisions", {"reason": pl.col("reason").replace("over_budget", "exact_duplicate")},
        "exact_duplicate must be the rows with copy_of"),
    "near": (
        "decisions", {"reason": pl.col("reason").replace("over_budget", "near_duplicate")},
        "a near_duplicate must be one in 4_duplicates"),
    "keep": (
        "decisions", {"keep": ~pl.col("keep")}, "keep must be true for the reasons kept, pinned, spared, kept:override alone"),
    "weight of a dropped row": (
        "decisions", {"weight": pl.lit(1.0, pl.Float32)}, "weight must be 0 where a row is not kept"),
    "weight below 0": (
        "decisions", {"weight": -pl.col("weight")}, "weight must be null or a number from 0"),
    "concept of a decision": (
        "decisions", {"concept": pl.lit(99, pl.Int32)}, "concept must be from 0 to 7"),
    "twice": (
        "decisions", {"uid": pl.lit("s000000")}, "a uid and occurrence must be there once"),
    "duplicate of nothing": (
        "decisions", {"duplicate_of": at(0, pl.lit("nobody"), "duplicate_of")},
        "duplicate_of must be a uid of the run"),
    "assigned concept": (
        "assignments", {"concept": pl.col("concept") - 1}, "concept must be from 0 to 7"),
    "assigned order": (
        "assignments", {"uid": pl.col("uid").reverse()}, "must have one row per usable sample of 0_samples"),
    "distance": (
        "assignments", {"distance": pl.lit(3.0, pl.Float32)}, "distance must be from 0 to 2"),
    "moved": (
        "assignments", {"concept": pl.lit(0, pl.Int32)}, "n_assigned must be the rows in 2_concepts/assignments"),
    "score order": (
        "clip_score", {"uid": pl.col("uid").reverse()}, "must have one row per usable sample of 0_samples"),
    "score": (
        "clip_score", {"clip_score": pl.lit(np.nan, pl.Float32)}, "clip_score must be finite or null"),
    "filter": (
        "filter", {"filter_reason": pl.lit("filter:x")}, "a row that 3_scores/filter does not let pass"),
    "pinned": (
        "filter", {"pinned": pl.lit(True)}, "a pinned row must pass"),
    "similarity": (
        "duplicates", {"similarity": pl.lit(1.5, pl.Float32)}, "similarity must be from -1 to 1"),
    "itself": (
        "duplicates", {"duplicate_of": pl.col("uid")}, "a row must not be a duplicate of itself"),
    "compared": (
        "duplicates", {"duplicate_of": pl.lit("s000150")}, "duplicate_of must be a compared row of the same concept"),
    "compared rows": (
        "duplicates", {"uid": pl.lit("elsewhere")}, "must hold usable rows of this part"),
}  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
def test_a_law_that_is_broken_is_named(run, law):
    folder, columns, rule = LAWS[law]
    where = {"filter": run.scores("filter"), "clip_score": run.scores("clip_score")}
    where = where.get(folder) or getattr(run, folder)
    rewrite(run, run.concepts if folder == "assignments" else where, first(where), **columns)
    lines = said(run)
    assert any(rule in line for line in lines), lines
    assert all(line.startswith(tuple("0123456m")) for line in lines), "each names a file or folder"


CONCEPTS = {
    "n_eligible": "n_eligible must be what the decisions say",
    "kept": "kept must be what the decisions say",
    "budget": "budgets must add up to the rows kept",
    "target": "the rows kept must be at most the targets, pinned rows and those of floors",
}


@pytest.mark.parametrize("column", CONCEPTS)
def test_budgets(run, column):
    wrong = {"target": pl.lit(0.5)}.get(column, pl.col(column) + 1)
    rewrite(run, run.decisions, run.budgets, **{column: wrong})
    assert any(CONCEPTS[column] in line for line in said(run))


def test_a_budget_that_is_exceeded(run):
    path = run.budgets
    moved = pl.col("budget") + pl.when(pl.col("concept") == 0).then(-1).when(pl.col("concept") == 1).then(
        1
    ).otherwise(0)
    rewrite(run, run.decisions, path, budget=moved)
    assert any("kept must be at most budget" in line for line in said(run))


def test_vectors_that_are_not_of_length_1(run):
    path = first(run.embeddings)
    reader = storage.map_ipc(path)
    batch = reader.get_batch(0)
    flat = batch.column("image").flatten().to_numpy().copy()
    flat[3 * 16 : 4 * 16] *= np.float16(1.01)
    image = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=batch.schema.field("image").type)
    batch = pa.RecordBatch.from_arrays([batch.column("uid"), image], schema=batch.schema)
    storage.write_ipc(path, [batch], batch.schema, storage.stored_fingerprint(path))
    remark(run, run.embeddings)
    [line] = said(run)
    assert line.startswith(f"1_embeddings/{path.name}: image vectors must have length 1; row 3 has 1.0")


def test_a_table_with_another_column(run):
    path = first(run.samples)
    table = storage.read_table(path).rename_columns(
        ["uid" if n == "uid" else "oops" if n == "key" else n for n in storage.read_table(path).column_names]
    )
    storage.write_parquet(path, table, table.schema, storage.stored_fingerprint(path))
    remark(run, run.samples)
    [line] = said(run)
    assert line.startswith(f"0_samples/{path.name}: column 'key' expected at place")


def test_shards_with_fewer_rows_than_are_kept(run):
    path = min(run.filtered.glob("*.parquet"))
    table = pl.read_parquet(path).head(-1).to_arrow()
    storage.write_parquet(path, table, table.schema, "x")
    remark(run, run.filtered)
    [line] = said(run)
    assert line.startswith("6_filtered: must hold the rows that are kept, ")


@pytest.mark.parametrize("change", ["counts", "parts", "reasons", "kept"])
def test_a_manifest_that_says_something_else(run, change):
    manifest = storage.read_json(run.manifest)
    if change == "counts":
        manifest["counts"]["rows"] += 1
        rules = ["rows in must be kept + dropped + unusable", "counts.rows must be the rows of all parts"]
    elif change == "parts":
        manifest["parts"][0]["name"] = "other"
        rules = ["its parts must be those of 5_decisions"]
    elif change == "reasons":
        dropped = manifest["counts"]["dropped"]
        dropped["over_budget"], dropped["near_duplicate"] = (
            dropped["over_budget"] + 1,
            dropped["near_duplicate"] - 1,
        )
        rules = ["the decisions do not match its counts; dropped is"]
    else:
        mark = run.marker(run.decisions)
        run.mark(run.decisions, mark["fingerprint"], mark["facts"] | {"kept": 1})
        rules = ["5_decisions: the decisions do not match its mark; kept is 1, found"]
    storage.write_json(run.manifest, manifest)
    lines = said(run)
    for rule in rules:
        assert any(rule in line for line in lines), lines


def test_a_run_whose_source_grew_is_not_damaged(finished, tmp_path):
    """Stages made anew up to one of them: what is older is about other rows, and left alone."""
    shutil.copytree(finished.path, tmp_path / "run")
    shutil.copytree(finished.path.parent / "in", tmp_path / "in")
    values = recipe_values(str(tmp_path / "in/*.parquet"), tmp_path / "run", filter=["distance < 0.6"])
    values |= {"dedup": {"epsilon": 0.01}, "limits": {"unusable": 0.1}}
    runner.run(parse_recipe(values), force=True)
    write_shards(tmp_path / "more", planted(20, seed=9), shards=1, extra={"note2": ["x"] * 20})
    table = pl.read_parquet(tmp_path / "more/*.parquet").with_columns(id=pl.col("id") + "new")
    table.write_parquet(tmp_path / "in/more.parquet")
    values["source"]["path"] = str(tmp_path / "in/*.parquet")
    for until in ("embed", "filter"):
        runner.run(parse_recipe(values), until=until)
        found = check_run(tmp_path / "run")
        assert found.violations == []
        assert "embed" in found.changed
