"""Every row gets the vector that belongs to it, whatever the names of the files, or nothing at all."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import EmbeddingError
from curate.pipeline.stages import read, read_task
from curate.recipe.loading import parse_recipe
from curate.sources.arrays.pairing import paired
from tests.fixtures.builders import recipe_values

NAMES = ["s{}", "s-{:02}", "{:04}", "train-{:05}-of-00013", "a/s_{}", "s{:03}-v2-d512", "2024/part.{:03}"]


@pytest.mark.parametrize("shard", NAMES)
@pytest.mark.parametrize("file", NAMES)
def test_numbers_pair_however_they_are_padded_and_listed(shard, file):
    rng = np.random.default_rng(len(shard) * 100 + len(file))
    numbers = rng.permutation([*range(9), 11, 12, 100])  # with gaps
    other = rng.permutation(numbers)
    found = paired([f"{shard.format(n)}.jsonl.gz" for n in numbers], [f"{file.format(n)}.npy" for n in other])
    assert [other[place] for place in found] == list(numbers)


@pytest.mark.parametrize(
    ("shards", "files", "expected"),
    [
        (["cats.parquet", "dogs.parquet"], ["dogs.npy", "cats.npy"], [1, 0]),
        (["x/cats.parquet", "x/dogs.parquet"], ["emb_dogs.npy", "emb_cats.npy"], [1, 0]),
        (["train-0.tar", "val-0.tar", "train-1.tar"], ["train_1.npy", "train_0.npy", "val_0.npy"], [1, 2, 0]),
        (["2023/0.parquet", "2024/0.parquet"], ["2024/0.npy", "2023/0.npy"], [1, 0]),
        (["a-1.parquet", "a_1.parquet"], ["a_1.npy", "a-1.npy"], [1, 0]),  # the same words: whole names tell
        (["a.parquet", "b.parquet"], ["1.npy", "2.npy"], None),  # names that say nothing of each other
        (["a.parquet"], ["b.npy"], None),
        (["0.parquet", "1.parquet"], ["0.npy", "1.npy", "2.npy"], None),
        ([], [], None),
    ],
)
def test_words_pair_too_and_nothing_is_guessed(shards, files, expected):
    assert paired(shards, files) == expected


@pytest.mark.parametrize(
    ("shards", "files", "alone", "rest"),
    [
        (["d-0", "d-1", "d-3"], ["e-0", "e-1", "e-2"], "d-3", "e-2"),
        (["d-0", "d-1"], ["e-1", "e-2"], "d-0", "e-2"),
        (["d-0", "d-1"], ["e-7", "e-8"], "d-0", "e-7"),
        (["cats", "dogs"], ["cats", "fish"], "dogs", "fish"),
    ],
)
def test_names_that_contradict_each_other_are_refused(shards, files, alone, rest):
    said = f"{alone} has no file of vectors, and {rest} belongs to no shard"
    with pytest.raises(EmbeddingError, match=said):
        paired(shards, files)


# files and their rows


def data(folder, shards, vectors):
    """Write shards, {name: uids}, and vectors, {name: numbers of their rows}: the vector of row n is (n, 1)."""
    for name, uids in shards.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": pa.array(uids, pa.string())}), folder / name)
    for name, numbers in vectors.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.array([[n, 1] for n in numbers], np.float32).reshape(-1, 2))


def found_parts(folder, files="*.npy", **source):
    """Return the recipe, and the parts with their files of vectors."""
    files = str(folder / files) if isinstance(files, str) else [str(folder / file) for file in files]
    settings = {"path": str(folder / "**/*.parquet"), "uid": "id"} | source
    recipe = parse_recipe(recipe_values("", folder / "run", embed={"files": files}) | {"source": settings})
    return recipe, read.find_parts(recipe, folder / "cache" / "shards.json", hashed=False)[0]


def vector_of_each(folder, files="*.npy", **source):
    """Return the number in the vector that each uid would get."""
    recipe, parts = found_parts(folder, files, **source)
    found = {}
    for part in parts:
        for rows, given in read_task.read_batches(part, recipe.source[0], batch_bytes=1 << 20, images=False):
            found |= dict(zip(rows.uid, given[:, 0].tolist(), strict=True))
    return found


def numbered(n, rows=3):
    return {i: [f"{i}-{row}" for row in range(rows + i % 2)] for i in range(n)}


def numbers(i, uids):
    return [100 * i + row for row in range(len(uids))]


@pytest.mark.parametrize("shard", ["data-{}.parquet", "data-{:03}.parquet"])
@pytest.mark.parametrize("file", ["emb-{}.npy", "emb-{:04}.npy"])
def test_every_row_gets_its_own_vector(tmp_path, shard, file, monkeypatch):
    rows = numbered(12)
    data(
        tmp_path,
        {shard.format(i): uids for i, uids in rows.items()},
        {file.format(i): numbers(i, uids) for i, uids in rows.items()},
    )
    (tmp_path / ".emb-0.npy").write_bytes(b"hidden")
    expected = {f"{i}-{row}": 100 * i + row for i, uids in rows.items() for row in range(len(uids))}
    assert vector_of_each(tmp_path) == expected
    assert vector_of_each(tmp_path, [file.format(i) for i in (*range(6, 12), *range(6))]) == expected
    monkeypatch.setattr(read, "PART_ROWS", 2)  # several parts of a shard
    assert vector_of_each(tmp_path) == expected


def test_one_file_too_short_and_one_too_long_are_no_match_though_the_total_is_right(tmp_path):
    data(
        tmp_path,
        {"0.parquet": ["a", "b"], "1.parquet": ["c", "d", "e"]},
        {"0.npy": [0, 1, 2], "1.npy": [3, 4]},
    )
    with pytest.raises(EmbeddingError, match=r"0\.npy has 3 vectors, but .*0\.parquet, .* has 2 rows"):
        vector_of_each(tmp_path)


def test_a_limit_leaves_out_shards_but_moves_no_vector(tmp_path):
    rows = numbered(4)
    data(
        tmp_path,
        {f"d{i}.parquet": uids for i, uids in rows.items()},
        {f"e{i}.npy": numbers(i, uids) for i, uids in rows.items()},
    )
    assert vector_of_each(tmp_path, limit=4) == {"0-0": 0, "0-1": 1, "0-2": 2, "1-0": 100}


def test_a_shard_that_cannot_be_read_takes_its_vectors_with_it(tmp_path):
    rows = numbered(3)
    data(
        tmp_path,
        {f"d{i}.parquet": uids for i, uids in rows.items()},
        {f"e{i}.npy": numbers(i, uids) for i, uids in rows.items()},
    )
    (tmp_path / "d1.parquet").write_bytes(b"no Parquet file")
    assert vector_of_each(tmp_path) == {"0-0": 0, "0-1": 1, "0-2": 2, "2-0": 200, "2-1": 201, "2-2": 202}
    for i in range(3):
        (tmp_path / f"e{i}.npy").unlink()
    data(tmp_path, {}, {"all.npy": range(10)})
    with pytest.raises(
        EmbeddingError, match=r"d1\.parquet was not read, so where .*d2\.parquet begin is not kn"
    ):
        vector_of_each(tmp_path)


def test_files_follow_one_another_as_the_rows_do(tmp_path, monkeypatch):
    uids = [f"{row:02}" for row in range(30)]
    data(
        tmp_path,
        {"a.parquet": uids[:17], "b.parquet": uids[17:17], "c.parquet": uids[17:]},
        {
            f"chunk_{i}.npy": range(start, min(start + 3, 30))
            for i, start in enumerate([*range(0, 30, 3), 30])
        },
    )
    expected = {uid: row for row, uid in enumerate(uids)}
    assert vector_of_each(tmp_path) == expected  # chunk_10 comes last
    monkeypatch.setattr(read, "PART_ROWS", 4)
    assert vector_of_each(tmp_path) == expected
    assert vector_of_each(tmp_path, [f"chunk_{i}.npy" for i in range(11)]) == expected
    with pytest.raises(
        EmbeddingError, match=r"lists .*chunk_1\.npy before .*chunk_0\.npy, and by their names"
    ):
        vector_of_each(tmp_path, ["chunk_1.npy", "chunk_0.npy", *(f"chunk_{i}.npy" for i in range(2, 11))])
    np.save(tmp_path / "chunk_11.npy", np.ones((1, 2), np.float32))
    with pytest.raises(EmbeddingError, match=r"chunk_\*\.npy has 31 vectors, but source .* has 30 rows"):
        vector_of_each(tmp_path, "chunk_*.npy")


def test_one_file_beside_shards_of_no_sure_order_is_refused(tmp_path):
    rows = numbered(11)
    data(tmp_path, {f"d{i}.parquet": uids for i, uids in rows.items()}, {"all.npy": range(38)})
    said = r"the shards have no sure order: d10\.parquet comes before d2\.parquet as text, and after it by number"
    with pytest.raises(EmbeddingError, match=said):
        vector_of_each(tmp_path)
    data(tmp_path, {}, {f"{name}.npy": [0, 1, 2] for name in "abcdefghijk"})
    (tmp_path / "all.npy").unlink()
    with pytest.raises(EmbeddingError, match="no sure order"):
        vector_of_each(tmp_path)


def test_vectors_of_several_lengths_are_named_once_and_counts_are_remembered(tmp_path, monkeypatch):
    data(tmp_path, {"0.parquet": ["a"], "1.parquet": ["b"]}, {"0.npy": [0], "1.npy": [1]})
    assert vector_of_each(tmp_path) == {"a": 0, "b": 1}
    name = "curate.pipeline.stages.given_vectors.open_vectors"
    monkeypatch.setattr(name, lambda files, **how: pytest.fail("opened"))
    assert len(found_parts(tmp_path)[1]) == 2
    monkeypatch.undo()
    np.save(tmp_path / "1.npy", np.ones((1, 3), np.float16))
    with pytest.raises(EmbeddingError, match=r"1\.npy: vectors have 3 numbers, those of .*0\.npy 2"):
        vector_of_each(tmp_path)


def test_a_file_of_vectors_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    data(tmp_path, {"0.parquet": ["a", "b"]}, {"0.npy": [0, 1]})
    whole = read_task.reader_of

    def disturbed(*args):
        np.save(tmp_path / "0.npy", np.full((2, 2), 7, np.float32))
        return whole(*args)

    monkeypatch.setattr(read_task, "reader_of", disturbed)
    with pytest.raises(EmbeddingError, match=re.escape("0.npy: the file changed since the source was read")):
        vector_of_each(tmp_path)


def parquet_vectors(folder, name, uids, numbers):
    table = {"id": pa.array(uids, pa.string()), "v": pa.array([[float(n), 1.0] for n in numbers])}
    pq.write_table(pa.table(table), folder / name)


def test_uids_beside_vectors_are_compared_row_by_row(tmp_path):
    (tmp_path / "in").mkdir()
    rows = numbered(11)
    data(tmp_path / "in", {f"d{i}.parquet": uids for i, uids in rows.items()}, {})
    order = [uid for name in sorted(rows, key=str) for uid in rows[name]]
    parquet_vectors(tmp_path, "all.pq", order, range(len(order)))
    source = {"path": str(tmp_path / "in" / "*.parquet")}
    assert vector_of_each(tmp_path, "all.pq", **source) == {uid: n for n, uid in enumerate(order)}
    order[4], order[5] = order[5], order[4]
    parquet_vectors(tmp_path, "all.pq", order, range(len(order)))
    said = r"all\.pq: row 4 is the vector of '1-2', but the row of .*d1\.parquet .* is '1-1'; sort the vectors as"
    with pytest.raises(EmbeddingError, match=said):
        vector_of_each(tmp_path, "all.pq", **source)
