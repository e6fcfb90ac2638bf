import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.sources import registry
from curate.sources.arrays.datacomp import FORMAT, columns, find
from curate.sources.base import Columns
from curate.sources.registry import ShardReader
from tests.fixtures.builders import planted, recipe_values

BIG = 1 << 24


def metadata(folder, sizes=(6, 4), save=np.savez_compressed, dtype=np.float16):
    """Write DataComp metadata; return its arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(sizes)
    arrays = {
        name: planted(total, seed=i).astype(dtype)
        for i, name in enumerate(("b32_img", "b32_txt", "l14_img", "l14_txt"))
    }
    start = 0
    for number, size in enumerate(sizes):
        names = range(start, start + size)
        table = {
            "uid": [f"{i:032x}" for i in names],
            "url": [f"http://example.com/{i}.jpg" for i in names],
            "text": [f"picture {i}" for i in names],
            "original_width": [i + 100 for i in names],
            "clip_l14_similarity_score": [i / 10 for i in names],
        }
        pq.write_table(pa.table(table), folder / f"{number:05d}.parquet")
        save(folder / f"{number:05d}.npz", **{name: x[start : start + size] for name, x in arrays.items()})
        start += size
    return arrays


def read(shard, batch_bytes=BIG, **span):
    roles = Columns(image="url", caption="text", uid="uid", vector="l14_img", text_vector="l14_txt")
    return list(FORMAT.reader(roles, False).batches(shard, images=False, batch_bytes=batch_bytes, **span))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_vectors_are_chosen_by_name_and_aligned(tmp_path, save, dtype):
    arrays = metadata(tmp_path, save=save, dtype=dtype)
    shards = find(str(tmp_path))
    assert [shard.name for shard in shards] == ["00000.parquet", "00001.parquet"]
    for batch_bytes in (1, BIG):
        batches = [batch for shard in shards for batch in read(shard, batch_bytes)]
        for name, field in (("l14_img", "vector"), ("l14_txt", "text_vector")):
            found = np.concatenate([getattr(batch, field) for batch in batches])
            np.testing.assert_array_equal(found, arrays[name].astype(np.float32))
        assert [uid for batch in batches for uid in batch.uid] == [f"{i:032x}" for i in range(10)]
    (part,) = read(shards[1], start=1, stop=3)
    np.testing.assert_array_equal(part.vector, arrays["l14_img"][7:9].astype(np.float32))


def test_the_column_uid_is_the_uid_unless_another_is_named(tmp_path):
    metadata(tmp_path)
    schema = ShardReader().schema(find(str(tmp_path))[0])
    found = columns(schema, vector="l14_img")
    assert (found.uid, found.image, found.caption) == ("uid", "url", "text")
    assert columns(schema, uid="original_width").uid == "original_width"
    with pytest.raises(UsageError, match=r"no column 'h14_img'.* l14_img"):
        columns(schema, vector="h14_img")


def test_folders_are_recognised(tmp_path):
    metadata(tmp_path / "a")
    assert registry.detect([str(tmp_path / "a")]) == "datacomp"
    assert registry.detect([str(tmp_path / "a" / "*.parquet")]) == "parquet"


def test_writers_see_every_array_as_a_column(tmp_path):
    arrays = metadata(tmp_path)
    shard = find(str(tmp_path))[0]
    table = pa.concat_tables(ShardReader().read_rows(shard, np.array([1, 2, 5]), batch_bytes=1))
    assert table.schema == ShardReader().schema(shard)
    assert table["original_width"].to_pylist() == [101, 102, 105]
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.array(table[name].to_pylist(), np.float16), array[[1, 2, 5]])


def count(folder):
    roles = Columns(vector="l14_img", text_vector="l14_txt")
    return [FORMAT.reader(roles, False).count(shard) for shard in find(str(folder))]


def test_archives_that_do_not_fit_are_explained(tmp_path):
    x = metadata(tmp_path)["l14_img"]
    assert count(tmp_path) == [6, 4]
    path = tmp_path / "00001.npz"
    for wrong, said in (
        ({"l14_img": x[:3]}, r"00001\.npz: array 'l14_img' has 3 vectors, but .*00001\.parquet has 4 rows"),
        ({"l14_img": x[:4, None]}, r"array 'l14_img': .*found \(4, 1, 16\).* x\.squeeze\(1\)"),
        (
            {"l14_img": x[:4], "l14_txt": x[:4, :8]},
            "'l14_txt': vectors of 8 numbers, but those of .*'l14_img' have 16",
        ),
        ({"l14_img": np.array([{}] * 4, object)}, "never loaded"),
        ({"uid": x[:4]}, "has a column 'uid' too"),
    ):
        np.savez(path, **wrong)
        with pytest.raises(SourceError, match=said):
            count(tmp_path)
    path.unlink()
    with pytest.raises(SourceError, match=r"00001\.npz: no such file; .*00001\.parquet needs its vectors"):
        count(tmp_path)
    metadata(tmp_path)
    (tmp_path / "00000.parquet").unlink()
    with pytest.raises(SourceError, match=r"00000\.npz: has no \.parquet file beside it \(1 such\)"):
        find(str(tmp_path))


def test_a_change_of_the_archive_is_seen(tmp_path):
    metadata(tmp_path)
    shard = find(str(tmp_path))[0]
    before = registry.format_of(shard.format).fingerprint(shard)
    registry.check_unchanged(shard)
    np.savez(tmp_path / "00000.npz", l14_img=np.zeros((6, 16), np.float32))
    assert registry.format_of(shard.format).fingerprint(shard) != before
    with pytest.raises(SourceError, match="changed since it was read"):
        registry.check_unchanged(shard)


def test_a_run_keeps_uids_scores_and_arrays(tmp_path, caplog):
    arrays = metadata(tmp_path / "in", sizes=(25, 15))
    embed = {"column": "l14_img", "text_column": "l14_txt"}
    values = recipe_values("", tmp_path / "run", embed=embed, filter=["clip_score > -1"])
    runner.run(parse_recipe(values | {"source": {"path": str(tmp_path / "in")}}))
    assert "median length" not in caplog.text
    written = pq.read_table(next((tmp_path / "run" / "6_filtered").glob("*.parquet")))
    assert written.num_rows == 12
    assert written.schema.names[-4:] == list(arrays)
    for row in written.to_pylist():
        assert row["l14_txt"] == arrays["l14_txt"][int(row["uid"], 16)].tolist()
