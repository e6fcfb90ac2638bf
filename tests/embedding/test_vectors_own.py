import re

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from curate.embedding.user_vectors import open_vectors
from curate.errors import EmbeddingError, UsageError
from curate.sources.vector_columns import from_column, why_unusable

FLOATS = [pa.float16(), pa.float32(), pa.float64()]
LISTS = [lambda t: pa.list_(t), lambda t: pa.large_list(t), lambda t: pa.list_(t, 4)]


def column(rows, kind):
    if pa.types.is_float16(kind.value_type):
        rows = [None if r is None else [None if v is None else np.float16(v) for v in r] for r in rows]
    return pa.array(rows, kind)


@pytest.mark.parametrize("number", FLOATS, ids=str)
@pytest.mark.parametrize("make", LISTS, ids=["list", "large_list", "fixed_size_list"])
def test_every_list_type_gives_the_same_rows(number, make):
    rows = [
        [1, 2, 3, 4],
        None,
        [0.5, 0, None, 1],
        [0, 0, 0, 0],
        [1, np.nan, 0, 0],
        [-np.inf, 0, 0, 0],
        [5, 6, 7, 8],
    ]
    array = column(rows, make(number))
    for given in (array, pa.chunked_array([array[:3], array[3:]]), pa.concat_arrays([array[:1], array])[1:]):
        vectors, usable, reasons = from_column(given, name="emb")
        assert vectors.dtype == np.float32
        assert usable.tolist() == [True, False, False, False, False, False, True]
        assert vectors[usable].tolist() == [rows[0], rows[6]]
        assert np.isnan(vectors[~usable]).all()
        assert reasons == [
            None,
            "the vector is null",
            "the vector has a null in it",
            "the vector is zero",
            "the vector is not finite",
            "the vector is not finite",
            None,
        ]


def test_slices_see_their_own_rows():
    rows = np.arange(1, 41, dtype=np.float32).reshape(10, 4)
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), 4)):
        array = pa.array(rows.tolist(), kind)
        np.testing.assert_array_equal(from_column(array[3:8], name="emb")[0], rows[3:8])
        np.testing.assert_array_equal(from_column(array.take(pa.array([7, 0])), name="emb")[0], rows[[7, 0]])


def test_wrong_lengths_are_judged_by_the_first_or_the_declared():
    array = pa.array([[], [1.0, 2.0], [1.0], [3.0, 4.0], [1.0, 2.0, 3.0]])
    vectors, usable, reasons = from_column(array, name="emb")
    assert vectors.shape == (5, 2)
    assert usable.tolist() == [False, True, False, True, False]
    assert reasons[0] == "the vector has 0 numbers, expected 2"
    assert reasons[2] == "the vector has 1 number, expected 2"
    vectors, usable, _ = from_column(array, name="emb", dim=3)
    assert vectors.shape == (5, 3)
    assert usable.tolist() == [False] * 4 + [True]
    vectors, usable, _ = from_column(pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), name="emb", dim=5)
    assert (vectors.shape, usable.tolist()) == ((1, 5), [False])


def test_doubles_beyond_float32_are_not_finite():
    _, usable, reasons = from_column(pa.array([[1e300, 0.0], [1e-300, 0.0], [1.0, 1e-300]]), name="emb")
    assert usable.tolist() == [False, False, True]
    assert reasons[:2] == ["the vector is not finite", "the vector is zero"]


def test_columns_without_rows_or_without_values():
    for array in (pa.array([], pa.list_(pa.float32())), pa.chunked_array([], pa.list_(pa.float32()))):
        vectors, usable, reasons = from_column(array, name="emb")
        assert (vectors.shape, len(usable), reasons) == ((0, 0), 0, [])
    vectors, usable, _ = from_column(pa.array([None, []], pa.list_(pa.float32())), name="emb")
    assert (len(vectors), usable.tolist()) == (2, [False, False])
    assert from_column(pa.array([], pa.list_(pa.float16(), 8)), name="emb")[0].shape == (0, 8)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.float32(),
        pa.list_(pa.int8()),
        pa.list_(pa.string()),
        pa.list_(pa.list_(pa.float32())),
        pa.null(),
    ],
)
def test_other_types_are_an_error_that_names_column_and_type(kind):
    with pytest.raises(
        EmbeddingError,
        match=re.escape(f"column 'emb' must hold lists of float16, float32 or float64, found {kind}"),
    ):
        from_column(pa.nulls(2, kind), name="emb")


def test_tensor_columns_are_lists():
    rows = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    array = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [3]), pa.array(rows.tolist(), pa.list_(pa.float32(), 3))
    )
    np.testing.assert_array_equal(from_column(array, name="emb")[0], rows)


def test_why_unusable_of_nothing():
    assert why_unusable(np.empty((0, 3), np.float32)) == []


# .npy files


def save(folder, *arrays):
    for i, array in enumerate(arrays):
        np.save(folder / f"part-{i}.npy", array)
    return str(folder / "*.npy")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_files_are_read_as_one_array(tmp_path, dtype):
    whole = np.random.default_rng(0).standard_normal((23, 5)).astype(dtype)
    files = open_vectors(save(tmp_path, whole[:7], whole[7:7], whole[7:8], whole[8:]))
    assert (files.count(), files.dim) == (23, 5)
    for start, stop in ((0, 23), (0, 0), (3, 9), (7, 8), (8, 23), (22, 23), (23, 23)):
        block = files.read(start, stop)
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, whole[start:stop].astype(np.float32))
    for start, stop in ((0, 24), (-1, 2), (5, 4)):
        with pytest.raises(EmbeddingError, match=f"rows {start} to {stop} asked of 23 vectors"):
            files.read(start, stop)


def test_order_is_by_name_for_patterns_and_as_given_for_lists(tmp_path):
    pattern = save(tmp_path, *(np.full((1, 2), i, np.float32) for i in range(3)))
    assert open_vectors(pattern).read(0, 3)[:, 0].tolist() == [0, 1, 2]
    listed = [str(tmp_path / f"part-{i}.npy") for i in (2, 0)]
    assert open_vectors(listed).read(0, 2)[:, 0].tolist() == [2, 0]


def test_other_stores_fetch_the_rows_asked_for():
    whole = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    store = fsspec.filesystem("memory")
    for i, part in enumerate((whole[:4], whole[4:])):
        with store.open(f"/own-vectors/{i}.npy", "wb") as file:
            np.save(file, part)
    files = open_vectors("memory://own-vectors/*.npy")
    np.testing.assert_array_equal(files.read(0, 9), whole)
    np.testing.assert_array_equal(files.read(3, 6), whole[3:6])


def test_local_files_are_mapped(tmp_path, monkeypatch):
    pattern = save(tmp_path, np.ones((4, 3), np.float32))
    modes = []
    real = np.load
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: modes.append(kwargs) or real(*args, **kwargs))
    open_vectors(pattern).read(1, 3)
    assert modes == [{"mmap_mode": "r", "allow_pickle": False}]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 1, 4), np.float32), r"must have the shape \(rows, numbers\), found \(3, 1, 4\)"),
        (np.zeros(3, np.float32), r"found \(3,\)"),
        (np.zeros((3, 0), np.float32), r"found \(3, 0\)"),
        (np.zeros((3, 4), np.int32), r"must hold float16, float32 or float64, found int32 of shape \(3, 4\)"),
        (np.zeros((3, 4), np.complex64), "found complex64"),
        (np.array([[{}, 1]], object), "found object"),
        (np.asfortranarray(np.zeros((3, 4), np.float32)), r"shape \(3, 4\) is stored column by column"),
    ],
)
def test_files_of_another_shape_or_type_are_named(tmp_path, array, said):
    pattern = save(tmp_path, array)
    with pytest.raises(EmbeddingError, match=rf"part-0\.npy: .*{said}"):
        open_vectors(pattern)


def test_files_that_do_not_belong_together_or_are_damaged(tmp_path):
    pattern = save(tmp_path, np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32))
    with pytest.raises(
        EmbeddingError, match=r"part-1\.npy: vectors have 5 numbers, those of .*part-0\.npy 4"
    ):
        open_vectors(pattern)
    (tmp_path / "part-1.npy").write_bytes((tmp_path / "part-0.npy").read_bytes()[:-1])
    with pytest.raises(EmbeddingError, match=r"part-1\.npy: truncated: 159 bytes, shape \(2, 4\) needs 160"):
        open_vectors(pattern)
    for content in (b"", b"hello world", b"PK\x03\x04", b"\x93NUMPY\x01\x00"):
        (tmp_path / "part-1.npy").write_bytes(content)
        with pytest.raises(EmbeddingError, match=r"part-1\.npy: not a \.npy file"):
            open_vectors(pattern)


def test_what_matches_nothing_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="matches no file"):
        open_vectors(str(tmp_path / "*.npy"))
    with pytest.raises(UsageError, match="the list is empty"):
        open_vectors([])
    with pytest.raises(UsageError, match="does not exist"):
        open_vectors([str(tmp_path / "a.npy")])
