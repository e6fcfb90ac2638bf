"""Vectors in archives, tensors and Parquet files: the same rows as the array they were made of, or one line."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.embedding.user_vectors import open_vectors
from curate.embedding.vector_files import ENDINGS
from curate.errors import EmbeddingError, RecipeError
from curate.recipe import build
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import recipe_values

ROWS = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
IDS = [f"s{row:03}" for row in range(500)]


def lists(rows, kind):
    return pa.array(rows.tolist(), kind)


def save_npz(path, rows, **others):
    np.savez(path, vectors=rows, **others)


def save_packed(path, rows):
    np.savez_compressed(path, rows, ids=np.array(IDS))


def save_tensor(path, rows):
    torch.save(torch.from_numpy(rows), path)


def save_tensors(path, rows):
    torch.save({"ids": IDS, "norm": torch.ones(3), "vectors": torch.from_numpy(rows)}, path)


def save_lists(path, rows, **others):
    table = pa.table({"note": ["x"] * len(rows), "emb": lists(rows, pa.list_(pa.float32())), **others})
    pq.write_table(table, path, row_group_size=70)


def save_fixed(path, rows):
    columns = {"id": IDS[: len(rows)], "emb": lists(rows.astype(np.float64), pa.list_(pa.float64(), 6))}
    pq.write_table(pa.table(columns), path, row_group_size=130)


KINDS = [
    ("a.npz", save_npz), ("b.npz", save_packed), ("a.pt", save_tensor), ("b.PTH", save_tensors),
    ("a.parquet", save_lists), ("b.pq", save_fixed),
]  # fmt: skip


@pytest.mark.parametrize(("name", "save"), KINDS)
def test_rows_are_those_of_the_array(tmp_path, name, save):
    path = tmp_path / name
    save(path, ROWS)
    given = open_vectors([str(path)], uid="id")
    assert (given.count(), given.dim) == (500, 6)
    for start, stop in ((0, 7), (7, 7), (7, 300), (300, 500), (20, 21), (499, 500), (0, 500)):
        np.testing.assert_array_equal(given.read(start, stop), ROWS[start:stop])
    assert given.has_uids == (name == "b.pq")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_and_layout(tmp_path, kind):
    tensor = torch.from_numpy(ROWS).to(kind)
    torch.save({"t": tensor.T.contiguous().T.requires_grad_()}, tmp_path / "a.pt")
    np.testing.assert_array_equal(
        open_vectors([str(tmp_path / "a.pt")]).read(3, 9), tensor[3:9].float().numpy()
    )


def test_one_of_several_is_taken_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", x=ROWS, y=-ROWS, ids=np.array(IDS))
    torch.save({"x": torch.from_numpy(ROWS), "y": torch.from_numpy(-ROWS)}, tmp_path / "a.pt")
    save_lists(tmp_path / "a.parquet", ROWS, y=lists(-ROWS, pa.list_(pa.float32())))
    for end, several in (("npz", "x, y"), ("pt", "x, y"), ("parquet", "emb, y")):
        path = [str(tmp_path / f"a.{end}")]
        np.testing.assert_array_equal(open_vectors(path, array="y").read(5, 8), -ROWS[5:8])
        with pytest.raises(EmbeddingError, match=f"{several}; name one with embed.array"):
            open_vectors(path)
        with pytest.raises(EmbeddingError, match=f"embed.array 'z' is not among its .*: {several}"):
            open_vectors(path, array="z")


def test_a_row_without_a_vector_is_that_row_alone(tmp_path):
    rows = [[1.0, 2.0], None, [3.0], [4.0, 5.0]]
    pq.write_table(pa.table({"emb": pa.array(rows, pa.list_(pa.float32()))}), tmp_path / "a.parquet")
    got = open_vectors([str(tmp_path / "a.parquet")]).read(0, 4)
    np.testing.assert_array_equal(got, [[1, 2], [np.nan] * 2, [np.nan] * 2, [4, 5]])


class Evil:
    def __reduce__(self):
        return (print, ("loaded",))


@pytest.mark.parametrize(
    ("name", "save", "said"),
    [
        ("a.npz", lambda path: np.savez(path, x=ROWS.astype(int)), "array 'x': must hold float16"),
        ("a.npz", lambda path: np.savez(path, x=np.asfortranarray(ROWS)), "column by column"),
        ("a.npz", lambda path: path.write_bytes(b"nothing"), "damaged or of another kind"),
        ("a.pt", lambda path: torch.save(Evil(), path), "cannot be read as tensors alone"),
        ("a.pt", lambda path: torch.save([1], path), "tensors of two axes: none; it must hold one"),
        ("a.pt", lambda path: torch.save(torch.ones(3), path), r"found torch.float32 of shape \(3,\)"),
        ("a.pt", lambda path: torch.save(torch.ones(3, 2, dtype=torch.int64), path), "found torch.int64"),
        ("a.pt", lambda path: path.write_bytes(b""), "cannot be read as tensors alone"),
        ("a.parquet", lambda path: pq.write_table(pa.table({"a": [1]}), path), "lists of floats: none"),
        ("a.parquet", lambda path: path.write_bytes(b"PAR1"), "cannot be read as Parquet"),
        (
            "a.h5",
            lambda path: path.write_bytes(b"x"),
            r"read from .npy, .npz, .*: save the array with numpy.save",
        ),
        ("a.csv", lambda path: path.write_text("1,2"), "write the numbers as a list column in Parquet"),
        ("a.pkl", lambda path: path.write_bytes(b"x"), "a pickle is never loaded"),
    ],
)
def test_what_holds_no_vectors_is_one_line_that_says_what_to_do(tmp_path, capsys, name, save, said):
    save(tmp_path / name)
    with pytest.raises(EmbeddingError, match=said) as caught:
        open_vectors([str(tmp_path / name)])
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_recipe_names_files_and_arrays():
    assert build.ENDINGS == ENDINGS
    for vectors in ("x.npz", "x.pt", "x.PARQUET", "a/b", "x.csv"):
        base = {"run": "r", "source": "x"}
        assert build.filter_recipe(base, keep=0.5, vectors=vectors).embed.files == vectors
    with pytest.raises(
        RecipeError, match="takes array, the name of one in a file of several, beside files only"
    ):
        parse_recipe(recipe_values("x", "run", embed={"column": "a", "array": "b"}))
    dumped = parse_recipe(recipe_values("x", "run", embed={"files": "a.npz", "array": "b"})).to_yaml()
    assert re.search(r"array: b", dumped)
    assert "array" not in parse_recipe(recipe_values("x", "run", embed={"files": "a.npz"})).to_yaml()
