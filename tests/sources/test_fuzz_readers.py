"""Files that nobody wrote as they are: whatever stands in them, readers and decoders say so in errors of their own."""

import contextlib
import gzip
import io
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow.orc import write_table as write_orc

from curate.embedding.decode import Preprocess, decode
from curate.embedding.user_vectors import open_vectors
from curate.errors import CurateError
from curate.schema import OUTCOMES
from curate.sources.base import Columns
from curate.sources.registry import FORMATS, format_of

PREPROCESS = Preprocess((16, 16))
#: Values that lengths, offsets and counts break at.
EDGES = [
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\0" * 4,
    b"\x01\0\0\0",
    b"\n",
    b'"',
    b"{",
]


def picture(kind="PNG", size=(8, 6)):
    out = io.BytesIO()
    Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)).save(out, kind)
    return out.getvalue()


def parquet():
    """A shard with most of the types that a column may have."""
    image = [{"bytes": picture(), "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    columns = {
        "image": pa.array(image, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "caption": pa.array(["a", None, "ü"]),
        "texts": pa.array([["a"], [], None]),
        "label": pa.array(["x", "y", "x"]).dictionary_encode(),
        "embedding": pa.array([[1.0, 2.0], [3.0], None], pa.list_(pa.float32())),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2)
    return out.getvalue()


def arrow(stream=False):
    """The first columns of `parquet` in two batches, as a file or a stream."""
    table = pq.read_table(io.BytesIO(parquet()))
    out = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


def orc():
    out = io.BytesIO()
    write_orc(pq.read_table(io.BytesIO(parquet())).drop_columns("label"), out)
    return out.getvalue()


def tar(packed=False):
    """Two samples of a WebDataset, and a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in {
            "a.png": picture(),
            "a.txt": b"a",
            "b.png": picture(),
            "b.json": b'{"caption": 1}',
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return gzip.compress(out.getvalue(), mtime=0) if packed else out.getvalue()


LINES = b'{"image": "a.png", "caption": "a", "label": 1}\n{"image": "../b.png", "caption": null}\n{}\n'
COCO = b'{"info": {}, "images": [{"id": 1, "file_name": "a.png"}, {"id": 2}], "annotations": [{"image_id": 1, "caption": "a"}, 3, {"image_id": 2, "caption": "b"}]}'
TABLE = b'image,caption,label\na.png,"a, b",1\n../b.png,,2\n'

#: A small valid file by the end of its name; formats of several files have a test of their own.
SEEDS = {
    ".arrow": arrow(), ".ipc": arrow(stream=True), ".orc": orc(),
    ".parquet": parquet(), ".tar": tar(), ".tar.gz": tar(packed=True), ".tgz": tar(packed=True),
    ".json": COCO, ".jsonl": LINES, ".ndjson": LINES, ".csv": TABLE, ".tsv": TABLE.replace(b",", b"\t"),
}  # fmt: skip
ENDS = [(name, end) for name in FORMATS for end in format_of(name).extensions if end in SEEDS]
ENDS += [("json", ".json")]  # found by what stands in it


@st.composite
def damaged(draw, data):
    """Return `data` with a few stretches overwritten, left out, put in twice, or cut off."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(["overwrite", "insert", "drop", "double", "cut", "flip"]))
        piece = draw(st.sampled_from(EDGES) | st.binary(min_size=1, max_size=12))
        stop = place + draw(st.integers(1, 64))
        if what == "overwrite":
            data = data[:place] + piece + data[place + len(piece) :]
        elif what == "insert":
            data = data[:place] + piece + data[place:]
        elif what == "drop":
            data = data[:place] + data[stop:]
        elif what == "double":
            data = data[:stop] + data[place:]
        elif what == "cut":
            data = data[:place]
        elif place < len(data):
            data = data[:place] + bytes([data[place] ^ 1 << stop % 8]) + data[place + 1 :]
    return data


def fuzz(examples):
    """Run a test on so many examples; the same ones each time, so that a failure is not a matter of luck."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=slow
    )


def read_all(kind, path):
    """Read a file as a run would: find, columns, count, samples, whole rows; raises CurateError where it cannot be."""
    for shard in kind.find(str(path)):
        every = kind.reader(Columns(), False)
        schema = every.schema(shard)
        columns = kind.columns(schema)
        for chosen in (
            columns,
            replace(columns, vector="embedding") if "embedding" in schema.names else columns,
        ):
            reader = kind.reader(chosen, False)
            n_rows = reader.count(shard)
            rows = [batch for batch in reader.batches(shard, images=True, batch_bytes=1 << 20)]
            assert [int(row) for batch in rows for row in batch.row] == list(range(n_rows))
            for batch in rows:
                check(batch)
        wanted = np.arange(min(n_rows, 2), dtype=np.int64)
        tables = list(every.read_rows(shard, wanted, batch_bytes=1 << 20))
        assert sum(table.num_rows for table in tables) == len(wanted)


def check(batch):
    """Every row has an outcome that there is, a reason where it is not ok, and no bytes of another file."""
    assert set(batch.outcome) <= set(OUTCOMES)
    assert all(
        (outcome == "ok") == (why is None) for outcome, why in zip(batch.outcome, batch.reason, strict=True)
    )
    assert all(image is None or b"SECRET" not in image for image in batch.image)


def tried(name, end, data):
    """Return "read" for a file that can be read, "refused" for one that an error of ours explains; no other gets out."""
    with TemporaryDirectory() as folder:
        Path(folder, "secret").write_bytes(b"SECRET")
        Path(folder, "in").mkdir()
        Path(folder, "in/a.png").write_bytes(picture())
        path = Path(folder, f"in/0{end}")
        path.write_bytes(data)
        try:
            read_all(format_of(name), path)
        except CurateError:
            return "refused"
        return "read"


@pytest.mark.parametrize(("name", "end"), ENDS)
def test_the_seeds_are_read_whole(name, end, tmp_path):
    kind = format_of(name)
    (tmp_path / f"0{end}").write_bytes(SEEDS[end])
    [shard] = kind.find(str(tmp_path / f"0{end}"))
    reader = kind.reader(kind.columns(kind.reader(Columns(), False).schema(shard)), False)
    rows = [row for batch in reader.batches(shard, images=True, batch_bytes=1 << 20) for row in batch.row]
    assert len(rows) == reader.count(shard) >= 2


@pytest.mark.parametrize(("name", "end"), ENDS)
def test_damaged_files_are_explained(name, end):
    seen = set()

    @fuzz(120)
    @given(damaged(SEEDS[end]))
    def run(data):
        seen.add(tried(name, end, data))

    run()
    assert "refused" in seen


@pytest.mark.long
@pytest.mark.parametrize(("name", "end"), ENDS)
def test_damaged_files_are_explained_long(name, end):
    seen = set()

    @fuzz(10_000)
    @given(damaged(SEEDS[end]) | st.binary(max_size=2000))
    def run(data):
        seen.add(tried(name, end, data))

    run()
    assert "refused" in seen


def decoded(data):
    """Return the outcome of an image; none for want of memory, which is the pool's to handle: it replaces the worker."""
    try:
        row = decode(data, PREPROCESS, max_pixels=100_000)
    except MemoryError:
        return None
    assert row.outcome in ("ok", "broken_image", "too_large", "unsupported_format")
    assert (row.outcome == "ok") == (row.array is not None) == (row.reason is None)
    return row.outcome


KINDS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "QOI", "AVIF"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_images_are_explained(kind):
    seed, seen = image_seed(kind), set()

    @fuzz(40)
    @given(damaged(seed))
    def run(data):
        seen.add(decoded(data))

    run()
    assert "broken_image" in seen


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_images_are_explained_long(kind):
    seed, seen = image_seed(kind), set()

    @fuzz(10_000)
    @given(damaged(seed))
    def run(data):
        seen.add(decoded(data))

    run()
    assert "broken_image" in seen


def image_seed(kind):
    try:
        return picture(kind, (24, 20))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")


def npy(values=None):
    out = io.BytesIO()
    np.save(out, np.ones((5, 4), np.float16) if values is None else values, allow_pickle=True)
    return out.getvalue()


@fuzz(150)
@given(damaged(npy()) | damaged(npy(np.array([[{"a": 1}]], object))) | st.binary(max_size=300))
def test_damaged_vector_files_are_explained(data):
    with TemporaryDirectory() as folder:
        path = Path(folder, "v.npy")
        path.write_bytes(data)
        with contextlib.suppress(CurateError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of headers written by Python 2
            rows = open_vectors(str(path))
            assert rows.read(0, rows.count()).shape == (rows.count(), rows.dim)
