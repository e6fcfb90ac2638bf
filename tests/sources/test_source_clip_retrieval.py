import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.sources import registry
from curate.sources.arrays.clip_retrieval import FORMAT, find
from curate.sources.base import Columns
from curate.sources.registry import ShardReader
from tests.fixtures.builders import planted, recipe_values

BIG = 1 << 24
EMBED = {"column": "img_emb", "text_column": "text_emb"}


def put(root, name, write):
    """Write one file below a folder or a memory:// URL."""
    with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
        write(file)


def folder(root, sizes=(5, 3), dim=16, text=True, caption=True):
    """Write a clip-retrieval folder; return its image and text vectors."""
    total = sum(sizes)
    image, words = planted(total, dim=dim), planted(total, dim=dim, seed=9)
    start = 0
    for number, size in enumerate(sizes):
        here = slice(start, start + size)
        put(root, f"img_emb/img_emb_{number}.npy", lambda f, h=here: np.save(f, image[h]))
        if text:
            put(root, f"text_emb/text_emb_{number}.npy", lambda f, h=here: np.save(f, words[h]))
        names = range(start, start + size)
        columns = {"image_path": [f"/data/{i}.jpg" for i in names]}
        if caption:
            columns["caption"] = [f"picture {i}" for i in names]
        put(root, f"metadata/metadata_{number}.parquet", lambda f, c=columns: pq.write_table(pa.table(c), f))
        start += size
    return image, words


def read(shard, batch_bytes=BIG, **span):
    columns = Columns(image="image_path", caption="caption", vector="img_emb", text_vector="text_emb")
    return list(FORMAT.reader(columns, False).batches(shard, images=True, batch_bytes=batch_bytes, **span))


@pytest.mark.parametrize("where", ["local", "memory"])
def test_metadata_are_the_rows_and_both_vectors_are_theirs(tmp_path, where):
    root = str(tmp_path) if where == "local" else "memory://clip-rows"
    image, words = folder(root)
    shards = find(root)
    assert [shard.name for shard in shards] == ["metadata/metadata_0.parquet", "metadata/metadata_1.parquet"]
    for batch_bytes in (1, 200, BIG):
        batches = [batch for shard in shards for batch in read(shard, batch_bytes)]
        np.testing.assert_array_equal(np.concatenate([b.vector for b in batches]), image.astype(np.float32))
        np.testing.assert_array_equal(
            np.concatenate([b.text_vector for b in batches]), words.astype(np.float32)
        )
        refs = [ref for batch in batches for ref in batch.image_ref]
        assert refs == [f"/data/{i}.jpg" for i in range(8)]  # named, never opened
        assert {outcome for batch in batches for outcome in batch.outcome} == {"ok"}
    assert len(read(shards[0], batch_bytes=1)) == 5
    (part,) = read(shards[0], start=2, stop=4)
    assert part.row.tolist() == [2, 3]
    np.testing.assert_array_equal(part.vector, image[2:4].astype(np.float32))


def test_writers_see_the_vectors_as_columns(tmp_path):
    image, words = folder(tmp_path)
    shard = find(str(tmp_path))[1]
    reader = ShardReader()
    assert reader.schema(shard).names == ["image_path", "caption", "img_emb", "text_emb"]
    table = pa.concat_tables(reader.read_rows(shard, np.array([0, 2]), batch_bytes=1))
    assert table.schema == reader.schema(shard)
    np.testing.assert_array_equal(np.array(table["img_emb"].to_pylist(), np.float16), image[[5, 7]])
    np.testing.assert_array_equal(np.array(table["text_emb"].to_pylist(), np.float16), words[[5, 7]])


def test_folders_are_recognised(tmp_path):
    folder(tmp_path / "a")
    assert registry.detect([str(tmp_path / "a")]) == "clip_retrieval"
    assert registry.detect([str(tmp_path)]) == "clip_retrieval"
    assert registry.detect([str(tmp_path / "a" / "metadata")]) == "parquet"


def test_several_folders_are_one_source(tmp_path):
    folder(tmp_path / "a")
    folder(tmp_path / "b", sizes=(2,))
    names = [shard.name for shard in find(str(tmp_path))]
    assert names == [
        "a/metadata/metadata_0.parquet",
        "a/metadata/metadata_1.parquet",
        "b/metadata/metadata_0.parquet",
    ]


def count(root):
    return [
        FORMAT.reader(Columns(vector="img_emb", text_vector="text_emb"), False).count(s)
        for s in find(str(root))
    ]


def test_files_that_do_not_fit_together_are_named(tmp_path):
    image, _ = folder(tmp_path)
    assert count(tmp_path) == [5, 3]
    path = tmp_path / "img_emb" / "img_emb_1.npy"
    np.save(path, image[:4])
    with pytest.raises(
        SourceError, match=r"img_emb_1\.npy has 4 vectors, but .*metadata_1\.parquet has 3 rows"
    ):
        count(tmp_path)
    np.save(path, image[5:, None])
    with pytest.raises(SourceError, match=r"img_emb_1\.npy: .*save x\.squeeze\(1\)"):
        count(tmp_path)
    np.save(path, image[5:, :8])
    with pytest.raises(
        SourceError, match=r"text_emb_1\.npy: vectors of 16 numbers, but those of .*img_emb_1\.npy have 8"
    ):
        count(tmp_path)
    path.unlink()
    with pytest.raises(
        SourceError, match=r"img_emb_1\.npy: no such file; .*metadata_1\.parquet needs its vectors"
    ):
        count(tmp_path)


def test_vectors_without_metadata_are_not_forgotten(tmp_path):
    folder(tmp_path)
    (tmp_path / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(SourceError, match=r"img_emb_1\.npy: has no metadata \(1 such"):
        find(str(tmp_path))
    assert len(find(str(tmp_path / "metadata" / "metadata_0.parquet"))) == 1


def test_what_is_no_such_folder_is_a_usage_error(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(
        UsageError, match=r"x\.parquet is no metadata of clip-retrieval: a clip-retrieval folder has"
    ):
        find(str(tmp_path))
    folder(tmp_path / "b")
    pq.write_table(
        pa.table({"image_path": ["a"] * 5, "img_emb": [1] * 5}),
        tmp_path / "b" / "metadata" / "metadata_0.parquet",
    )
    with pytest.raises(SourceError, match="has a column 'img_emb' too"):
        count(tmp_path / "b" / "metadata" / "metadata_0.parquet")


@pytest.mark.parametrize(
    "file", ["metadata/metadata_0.parquet", "img_emb/img_emb_0.npy", "text_emb/text_emb_0.npy"]
)
def test_a_change_of_any_file_is_seen(tmp_path, file):
    folder(tmp_path)
    shard = find(str(tmp_path))[0]
    before = registry.format_of(shard.format).fingerprint(shard)
    registry.check_unchanged(shard)
    path = tmp_path / file
    path.write_bytes(path.read_bytes() + b" ")
    assert registry.format_of(shard.format).fingerprint(shard) != before
    with pytest.raises(SourceError, match="it or a file beside it changed since it was read"):
        registry.check_unchanged(shard)


def test_one_bad_vector_costs_one_row_and_a_run_adds_up(tmp_path):
    image, _ = folder(tmp_path / "in", sizes=(30, 20))
    image[7, 2] = np.nan
    np.save(tmp_path / "in" / "img_emb" / "img_emb_0.npy", image[:30])
    values = recipe_values(str(tmp_path / "in"), tmp_path / "run", embed=EMBED, dedup={"epsilon": "none"})
    runner.run(parse_recipe(values | {"source": {"path": str(tmp_path / "in")}}))
    samples = [
        row for f in (tmp_path / "run" / "0_samples").glob("part-*") for row in pq.read_table(f).to_pylist()
    ]
    assert len(samples) == 50
    bad = [(row["key"], row["outcome"], row["reason"]) for row in samples if row["outcome"] != "ok"]
    assert bad == [("/data/7.jpg", "bad_vector", "the vector is not finite")]
    written = pq.read_table(next((tmp_path / "run" / "6_filtered").glob("*.parquet")))
    assert written.num_rows == 15  # 30 % of 49
    for row in written.to_pylist():
        number = int(row["image_path"].removeprefix("/data/").removesuffix(".jpg"))
        assert row["img_emb"] == image[number].tolist()


def test_image_vectors_alone_are_enough(tmp_path):
    folder(tmp_path, text=False, caption=False)
    assert ShardReader().schema(find(str(tmp_path))[0]).names == ["image_path", "img_emb"]
