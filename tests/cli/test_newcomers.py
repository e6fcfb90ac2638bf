"""What a newcomer may hand to `curate filter` that it does not read: one line says what was found, what is read, the way on."""

import functools
import http.server
import io
import json
import pickle
import re
import threading
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.calls import curate

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
READ = r"curate reads \(?parquet, jsonl, csv, json, folder, img2dataset, webdataset, .*iceberg"


def packed(name):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"x")
    return out.getvalue()


def arrays():
    out = io.BytesIO()
    np.savez(out, foo=np.zeros((3, 4)))
    return out.getvalue()


def table():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": [1], "price": [1.0]}), sink)
    return sink.getvalue().to_pybytes()


#: What there is, by path; what the source is called; what the message says in this order.
INPUTS = {
    "excel": ({"a.xlsx": packed("xl/workbook.xml")}, "a.xlsx", ["an Excel workbook", READ, r"save it as CSV \(Excel: Save As"]),
    "pdfs": ({"in/1.pdf": b"%PDF", "in/2.pdf": b"%PDF"}, "in", [r"it holds 2 \.pdf", READ, "pdfimages"]),
    "hdf5": ({"a.h5": b"\x89HDF\r\n\x1a\n" + bytes(50)}, "a.h5", ["an HDF5 file", READ, r"h5py.*curate\.filter in Python"]),
    "arrays": ({"a.npz": arrays()}, "a.npz", ["arrays of NumPy", READ, r"numpy\.load.*curate\.filter in Python"]),
    "pickle": ({"a.pkl": pickle.dumps([1])}, "a.pkl", ["a pickle", READ, r"where you trust it.*curate\.filter in Python"]),
    "nothing": ({"in/.hidden": b""}, "in", ["it holds no files", READ, "put images or data files into it"]),
    "videos": ({"in/1.mp4": b"x", "in/2.mp4": b"x"}, "in", [r"it holds 2 \.mp4", READ, "ffmpeg"]),
    "lance": ({"in/_versions/1.manifest": b"x", "in/data/0.lance": b"x"}, "in", ["a Lance data set", r"pip install pylance.*curate\.filter"]),
    "zip": ({"a.zip": packed("a.png")}, "a.zip", ["a ZIP archive", READ, "unzip it, and name the folder"]),
    "page": ({"a.html": PAGE}, "http:a.html", ["a web page", READ, "take that of the file itself"]),
    "page called data": ({"a.parquet": PAGE}, "http:a.parquet", ["not a Parquet file: it is a web page", "take that of the file itself"]),
    "pointer": ({"a.parquet": b"version https://git-lfs.github.com/spec/v1\n"}, "a.parquet", ["a Git LFS pointer", "git lfs pull"]),
    "no image": (
        {"a.parquet": table()}, "a.parquet",
        ["no image, caption or vector column found", r"--set source\.image=NAME", r"id \(int64\), price \(double\)"],
    ),
    "an object": (
        {"a.json": json.dumps({"data": [{"image": "a.png"}], "n": 1}).encode()}, "a.json",
        ["no image, caption or vector column found", r"its 'data' is a list of objects: save that alone"],
    ),
    "an object in lines": (
        {"a.json": json.dumps({"data": [{"image": "a.png"}], "n": 1}, indent=1).encode()}, "a.json",
        [r"neither a list of objects nor in the form of COCO", "its 'data' is a list of objects: save that alone"],
    ),
    "a list of lists": ({"a.json": b"[[1], [2]]"}, "a.json", ["none of its 2 elements is a JSON object"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder, and the address it is served at."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", INPUTS)
def test_what_is_not_read_is_one_line_that_helps(tmp_path, served, name):
    files, source, said = INPUTS[name]
    folder = served[0] if source.startswith("http:") else tmp_path
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    source = f"{served[1]}/{source[5:]}" if source.startswith("http:") else tmp_path / source
    found = curate("filter", source, "--keep", "0.5", "--out", tmp_path / "out")
    assert found.code in (1, 2) and found.out == ""
    text = found.error.replace("not a format that curate reads", "curate reads")
    for part in said:
        place = re.search(part, text)
        assert place is not None, f"{part!r} is not in {text!r}"
    assert str(source).rpartition("/")[2] in text
    assert not (tmp_path / "out" / "0_samples").exists()
