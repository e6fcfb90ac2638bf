"""Inputs of no format: one line that says what is read, and the nearest way on."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from curate.errors import UsageError
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.sources.registry import FORMATS


def packed(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names or ["a.png"]:
            archive.writestr(name, b"x")
    return out.getvalue()


def tensors():
    header = b'{"emb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    return struct.pack("<Q", len(header)) + header + b"\0" * 4


def arrays():
    out = io.BytesIO()
    np.savez(out, images=np.zeros((2, 4, 4, 3), np.uint8))
    return out.getvalue()


FILES = {
    "notes.txt": (b"hello", "read as CSV"),
    "letter.docx": (packed(), "as a table"),
    "images.zip": (packed(), "unzip it, and name the folder"),
    "packed": (packed(), r"looks like \.zip, .*unzip it"),
    "arrays.npz": (arrays(), r"numpy\.load.*curate\.filter"),
    "arrays.h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, r"h5py.*curate\.filter"),
    "data": (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, r"looks like \.h5, .*h5py"),
    "vectors.npy": (b"\x93NUMPY", r"embed\.files"),
    "table.xlsx": (packed(), "save it as CSV"),
    "weights.pth": (packed("weights/data.pkl"), r"torch\.load"),
    "weights": (packed("weights/data.pkl"), r"looks like \.pt, .*torch\.load"),
    "book": (packed("[Content_Types].xml", "xl/workbook.xml"), r"looks like \.xlsx, .*save it as CSV"),
    "vectors.safetensors": (tensors(), r"safetensors\.numpy\.load_file"),
    "vectors": (tensors(), r"looks like \.safetensors, .*load_file"),
    "batch_1": (pickle.dumps({"data": 1}), r"looks like \.pkl, .*where you trust it"),
    "train.tfrecord-00000-of-00002": (b"\1\2\3", "TFRecordDataset"),
    "train-images-idx3-ubyte": (b"\0\0\x08\x03", "MNIST"),
    "tables.duckdb": (b"\1\2\3DUCK", "copy NAME to"),
    "photos.tar.xz": (b"\xfd7zXZ", "tar -xf"),
    "IMG_0001.CR2": (b"II*\0", "make JPEGs"),
    "drawing.svg": (b"<svg/>", "rsvg-convert"),
    "recipe.yaml": (b"run: x\n", "curate run FILE"),
    "what.ever": (b"\1\2\3", r"load it \(with datasets"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("glob", [False, True])
def test_a_file_of_no_format_is_refused_with_a_way_on(tmp_path, name, glob):
    data, message = FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        UsageError,
        match=rf"{message}" if "looks" in message else rf"not a format that curate reads \(.*{message}",
    ) as error:
        find_shards(Source(path=str(tmp_path / ("*" if glob else name))))
    assert all(form in str(error.value) for form in FORMATS)
    assert "Parquet file" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "it holds no files; curate reads parquet, jsonl"),
        (["a/b/c.txt", "d.txt"], r"it holds 2 \.txt; curate reads .*as CSV"),
        (["a.docx", ".hidden.parquet"], r"it holds 1 \.docx; .*as a table"),
        (
            ["x.tfrecord-00000-of-00002", "x.tfrecord-00001-of-00002"],
            r"it holds 2 \.tfrecord; .*TFRecordDataset",
        ),
        (["data.mdb", "lock.mdb"], r"it holds 2 \.mdb; .*lmdb\.open"),
    ],
)
def test_a_folder_without_data(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        find_shards(Source(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("folder", "name", "data", "message"),
    [
        ("cifar", "data_batch_1", pickle.dumps({}), r"1 \(no extension\); .*where you trust it"),
        ("shards", "0001", b"PAR1PAR1", r"look like parquet, and are read where a pattern names them"),
        ("images.zarr", ".zgroup", b"{}", r"zarr\.open"),
    ],
)
def test_a_folder_of_files_whose_names_say_nothing(tmp_path, folder, name, data, message):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        find_shards(Source(path=str(tmp_path / folder)))


@pytest.mark.parametrize("path", ["images.example.com/x.parquet", "www.example.museum/watch?v=1"])
def test_an_address_without_its_scheme(path):
    with pytest.raises(UsageError, match=r"an address begins with its scheme: https://(images|www)\."):
        find_shards(Source(path=path))


def test_a_glob_that_takes_more_than_the_data(tmp_path):
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "a.csv").write_text("image,caption\nx.png,a\n")
    with pytest.raises(
        UsageError, match=r"README\.md: matched beside files of format csv, .*such as \*\.csv"
    ):
        find_shards(Source(path=f"{tmp_path}/*"))


def test_a_file_without_an_end_is_known_by_its_beginning(tmp_path):
    (tmp_path / "0123abc").write_text('{"image": "a.png"}\n')
    [shard] = find_shards(Source(path=str(tmp_path / "0123abc")))
    assert shard.format == "jsonl"


@pytest.mark.parametrize(
    ("typo", "message"),
    [
        ("photoz", r"photoz: no such file or folder; did you mean .*/photos\?"),
        ("photos/train.parquett", r"did you mean .*/photos/train\.parquet\?"),
        ("fotografien/x/y.parquet", r"no such file or folder \(.* has no fotografien\)"),
    ],
)
def test_a_typo_in_a_path(tmp_path, typo, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/train.parquet").touch()
    with pytest.raises(UsageError, match=message):
        find_shards(Source(path=typo))
