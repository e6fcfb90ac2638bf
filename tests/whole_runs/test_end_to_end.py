"""The shipped sample through the shipped CLIP: what was planted must be found, and nothing else matters.

One run is shared by most tests; two more look at another number of workers and another shard split.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curate
from curate.analysis.verify.verify import decisions_digest, verify_run
from curate.api.sample import sample_path
from curate.cli.demo import recipe_path, what_was_found
from curate.pipeline import runner
from curate.recipe.loading import load_recipe

pytestmark = pytest.mark.timeout(300)


def run_sample(out, *overrides):
    recipe = load_recipe(recipe_path(), [f"run={out}", f"source.path={sample_path()}/*.parquet", *overrides])
    return runner.run(recipe)


@pytest.fixture(scope="module")
def truth():
    columns = ["id", "exact_duplicate_of", "near_duplicate_of", "wrong_caption", "broken"]
    frames = [pl.read_parquet(path, columns=columns) for path in sorted(sample_path().glob("*.parquet"))]
    return pl.concat(frames)


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "run"
    outcome = run_sample(out, "workers=1")
    return out, outcome


@pytest.fixture(scope="module")
def decided(sample_run, truth):
    """Decisions beside the ground truth; rows of both are in the order of shards and rows."""
    decisions = curate.open_run(sample_run[0]).decisions().sort("shard", "row")
    assert len(decisions) == len(truth)
    return decisions.hstack(truth)


def table_hashes(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in sorted(out.glob("[0-6]_*"))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".arrow")
    }


def test_rows_add_up_and_the_number_kept_is_exact(sample_run, truth):
    counts = sample_run[1].manifest["counts"]
    unusable = sum(counts["unusable"].values())
    assert counts["rows"] == len(truth) == counts["kept"] + sum(counts["dropped"].values()) + unusable
    assert counts["kept"] == round(0.3 * (len(truth) - unusable))
    assert json.loads((sample_run[0] / "7_report" / "summary.json").read_text()).items() >= counts.items()
    assert verify_run(sample_run[0])["rows"] == len(truth)


def test_the_demo_says_what_was_found(sample_run, decided):
    first, second, third = what_was_found(curate.open_run(sample_run[0]))
    copies, near, broken = (
        decided.filter(pl.col("reason").str.contains(word)).height
        for word in ("^exact_duplicate", "^near_duplicate", "^unusable")
    )
    assert copies and near and broken
    assert first == (
        f"found {copies} exact copies, {near} near-duplicates and {broken} unusable images among 2,000 pairs"
    )
    concepts = curate.open_run(sample_run[0]).concepts().sort("complexity")
    shares = [f"{row['kept'] / row['n_eligible']:.0%}" for row in concepts.to_dicts()]
    assert f"most complex keeps {shares[-1]} " in second and second.endswith(f"the simplest {shares[0]}")
    lowest = curate.open_run(sample_run[0]).scores()["clip_score"].min()
    assert f"(clip_score {lowest:.2f})" in third and len(third) < 170


def test_broken_images_are_all_reported(decided):
    assert decided.filter("broken")["reason"].str.starts_with("unusable:").all()
    assert decided.filter(pl.col("reason").str.starts_with("unusable:"))["broken"].all()


def test_every_planted_copy_is_dropped(decided):
    planted = decided.filter(pl.col("exact_duplicate_of").is_not_null())
    dropped = decided.filter(pl.col("reason") == "exact_duplicate")
    assert len(planted) >= 50
    # Copies are one sample: of original and copy one stays, whichever comes first.
    family = planted.with_columns(original=pl.col("exact_duplicate_of"))["original"]
    members = decided.filter(
        pl.col("id").is_in(family.implode()) | pl.col("exact_duplicate_of").is_not_null()
    )
    assert (
        members.group_by("uid").agg((pl.col("reason") != "exact_duplicate").sum())["reason"].to_list()
        == [1] * members["uid"].n_unique()
    )
    assert len(dropped) == len(planted)


def test_planted_near_duplicates_are_dropped_and_little_else(decided):
    by_id = {row["id"]: row for row in decided.iter_rows(named=True)}

    def family(row):
        while row["near_duplicate_of"] or row["exact_duplicate_of"]:
            row = by_id[row["near_duplicate_of"] or row["exact_duplicate_of"]]
        return row["id"]

    planted = [row for row in by_id.values() if row["near_duplicate_of"] is not None]
    standing = {}
    for row in by_id.values():
        if row["reason"] in ("kept", "over_budget"):
            standing.setdefault(family(row), []).append(row["id"])
    missed = [row["id"] for row in planted if len(standing.get(family(row), [])) > 1]
    assert len(planted) >= 100
    assert len(missed) <= 0.05 * len(planted)
    by_uid = {row["uid"]: row for row in by_id.values() if row["reason"] != "exact_duplicate"}
    dropped = [row for row in by_id.values() if row["reason"] == "near_duplicate"]
    wrong = [row["id"] for row in dropped if family(row) != family(by_uid[row["duplicate_of"]])]
    assert len(wrong) <= 0.01 * len(dropped), wrong


def test_wrong_captions_have_the_lower_clip_scores(sample_run, decided):
    scores = curate.open_run(sample_run[0]).scores().select("uid", "clip_score").drop_nulls()
    frame = decided.filter(~pl.col("broken")).join(scores, on="uid")
    wrong = frame.filter("wrong_caption")["clip_score"].to_numpy()
    right = frame.filter(~pl.col("wrong_caption"))["clip_score"].to_numpy()
    assert (wrong[:, None] < right[None, :]).mean() > 0.9


def test_output_opens_in_datasets_with_the_same_features(sample_run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    load = {"cache_dir": str(tmp_path), "split": "train"}
    before = datasets.load_dataset("parquet", data_files=str(sample_path() / "*.parquet"), **load)
    after = datasets.load_dataset("parquet", data_files=str(sample_run[0] / "6_filtered/*.parquet"), **load)
    features = dict(after.features)
    assert features.pop("clip_score") == datasets.Value("float32")
    assert features == dict(before.features)
    assert list(after.features)[:-1] == list(before.features)
    originals = {
        row["id"]: row
        for path in sorted(sample_path().glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }
    for path in (sample_run[0] / "6_filtered").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            row.pop("clip_score")
            assert row == originals[row["id"]]


@pytest.mark.long
def test_two_workers_write_the_same_bytes(sample_run, tmp_path):
    run_sample(tmp_path / "run", "workers=2")
    assert table_hashes(tmp_path / "run") == table_hashes(sample_run[0])


@pytest.mark.long
def test_shuffled_rows_in_another_split_get_the_same_decisions(sample_run, tmp_path):
    table = pa.concat_tables([pq.read_table(path) for path in sorted(sample_path().glob("*.parquet"))])
    shuffled = table.take(np.random.default_rng(7).permutation(table.num_rows))
    (tmp_path / "in").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(table.num_rows), 3)):
        pq.write_table(shuffled.take(rows), tmp_path / "in" / f"train-{number:05d}-of-00003.parquet")
    run_sample(tmp_path / "run", f"source.path={tmp_path}/in/*.parquet")
    assert decisions_digest(tmp_path / "run") == decisions_digest(sample_run[0])


@pytest.mark.long
def test_real_data_needs_no_other_change_than_the_path(shared_data, tmp_path):
    for name in ("noto_emoji", "clothing"):
        source: Path = shared_data / name
        outcome = run_sample(tmp_path / name, f"source.path={source}/*.parquet", "source.limit=300")
        assert outcome.manifest["counts"]["kept"] == 90
