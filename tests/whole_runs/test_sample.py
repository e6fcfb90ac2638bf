"""The sample: reproducible, small, and its truth columns true."""

import io
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data/sample"
sys.path.insert(0, str(ROOT / "data"))

import make_sample
import scenes


@pytest.fixture(scope="module")
def table():
    return pa.concat_tables(pq.read_table(file) for file in sorted(SAMPLE.glob("*.parquet")))


@pytest.fixture(scope="module")
def rows(table):
    return table.to_pylist()


@pytest.fixture(scope="module")
def by_id(rows):
    return {row["id"]: row for row in rows}


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)


def decodes(data):
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
        pixels(data)
    except (OSError, SyntaxError):
        return False
    return True


@pytest.mark.long
def test_the_script_makes_the_committed_rows_again(table):
    """Pixels may differ by a little where another libjpeg encodes; everything else must be the same."""
    made = make_sample.to_table(make_sample.make_rows())
    assert made.schema.equals(table.schema, check_metadata=True)
    assert made.drop_columns("image").equals(table.drop_columns("image"))
    for new, old, broken in zip(made["image"], table["image"], table["broken"], strict=True):
        new, old = new.as_py(), old.as_py()
        assert new["path"] == old["path"]
        if new["bytes"] != old["bytes"] and not broken.as_py():
            assert np.abs(pixels(new["bytes"]) - pixels(old["bytes"])).mean() < 3


def test_files_are_few_small_and_named_as_the_hub_names_them():
    files = sorted(SAMPLE.glob("*"))
    assert [f.name for f in files] == [f"train-{i:05d}-of-00004.parquet" for i in range(4)]
    assert sum(f.stat().st_size for f in files) <= 6_000_000


def test_counts(rows):
    assert len(rows) == len({row["id"] for row in rows}) == 2000
    count = {column: sum(bool(row[column]) for row in rows) for column in (
        "exact_duplicate_of", "near_duplicate_of", "wrong_caption", "broken")}  # fmt: skip
    assert count == {"exact_duplicate_of": 60, "near_duplicate_of": 120, "wrong_caption": 60, "broken": 8}
    assert sorted(str(row["caption"]) for row in rows if not row["caption"]) == [""] * 3 + ["None"] * 3


def test_few_concepts_have_many_rows_and_many_have_few(rows):
    sizes = sorted(Counter(row["concept"] for row in rows).values(), reverse=True)
    assert len(sizes) == 24
    assert sizes[0] > 20 * sizes[-1]
    assert sum(sizes[:5]) > sum(sizes[5:])


def test_labels_name_the_concept(table, rows):
    import json

    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    assert tuple(names) == scenes.NAMES
    assert all(names[row["label"]] == row["concept"] for row in rows)


def test_exact_copies_have_everything_but_the_id_from_an_original_in_another_shard(rows, by_id):
    shard = {row["id"]: i // 500 for i, row in enumerate(rows)}
    for row in rows:
        if row["exact_duplicate_of"] is not None:
            original = by_id[row["exact_duplicate_of"]]
            assert original["exact_duplicate_of"] is None
            assert shard[row["id"]] != shard[original["id"]]
            assert all(row[c] == original[c] for c in row if c not in ("id", "exact_duplicate_of"))


def test_no_bytes_are_shared_except_by_planted_copies(rows):
    distinct = [row["image"]["bytes"] for row in rows if row["exact_duplicate_of"] is None]
    assert len(distinct) == len(set(distinct))


def test_near_copies_have_other_bytes_but_nearly_the_same_pixels(rows, by_id):
    for row in rows:
        if row["near_duplicate_of"] is not None:
            original = by_id[row["near_duplicate_of"]]
            assert row["image"]["bytes"] != original["image"]["bytes"]
            assert (original["near_duplicate_of"], row["label"]) == (None, original["label"])
            small = [np.asarray(Image.open(io.BytesIO(r["image"]["bytes"])).convert("RGB").resize((16, 16)), float)
                     for r in (row, original)]  # fmt: skip
            assert np.abs(small[0] - small[1]).mean() < 12


def test_only_the_broken_do_not_decode(rows):
    assert [row["id"] for row in rows if not decodes(row["image"]["bytes"])] == [
        row["id"] for row in rows if row["broken"]
    ]


def test_wrong_captions_speak_of_another_concept(rows):
    def speaks_of(row):
        return (
            row["concept"] in row["caption"]
            or (scenes.CONCEPTS[row["concept"]].plural or "-") in row["caption"]
        )

    said = [row for row in rows if row["caption"]]
    assert all(speaks_of(row) for row in said if not row["wrong_caption"])
    assert not any(speaks_of(row) for row in said if row["wrong_caption"])


def test_unusual_modes_are_there(rows):
    modes, turned = Counter(), 0
    for row in rows:
        if not row["broken"]:
            image = Image.open(io.BytesIO(row["image"]["bytes"]))
            modes[image.mode] += 1
            turned += image.getexif().get(0x0112) == 6
    assert modes.keys() >= {"RGB", "RGBA", "P", "L", "CMYK"}
    assert turned >= 9


def test_the_datasets_library_reads_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(str(file) for file in SAMPLE.glob("*.parquet"))
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == 2000
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["label"].int2str(0) == scenes.NAMES[0]
    first = next(i for i, broken in enumerate(loaded["broken"]) if not broken)
    assert isinstance(loaded[first]["image"], Image.Image)


def test_scenes_depend_on_concept_and_seed_alone():
    first = scenes.scene("balloon", 3)
    assert first.image.tobytes() == scenes.scene("balloon", 3).image.tobytes()
    assert first.facts == scenes.scene("balloon", 3).facts
    assert first.image.tobytes() != scenes.scene("balloon", 4).image.tobytes()
    assert set(scenes.reword(first, 1)) >= set(first.facts[0])


def test_sizes_of_concepts_add_up():
    for total, concepts in ((0, 3), (1, 3), (1812, 24)):
        sizes = make_sample.concept_sizes(total, concepts)
        assert (sum(sizes), len(sizes)) == (total, concepts)
        assert sizes == sorted(sizes, reverse=True)
