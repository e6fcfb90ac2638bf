"""Inputs of no format that is read: what they are, by name or by how they begin, and the nearest way to read them."""

import json
import re
from collections.abc import Sequence

from curate.errors import SourceError, UsageError
from curate.io import filesystem
from curate.io.filesystem import StorageOptions

__all__ = ["COCO", "advice", "format_by_content", "refusal"]

_PASS = "and pass that to curate.filter in Python"
#: What to do with files that end so.
_WAYS = {
    ".zip": "unzip it, and name the folder (a folder of images is read)",
    ".7z": "unpack it, and name the folder (a folder of images is read)",
    ".rar": "unpack it, and name the folder (a folder of images is read)",
    ".zst": "unpack it (zstd -d), and name what comes out",
    ".npy": "vectors in .npy files are given with embed.files (--vectors); the source then names the rows, or pass "
    "numpy.load(path) to curate.filter in Python",
    ".npz": f"load its arrays (numpy.load), make a list of PIL images of those that are images {_PASS}",
    ".h5": f"load it (h5py), make a list of PIL images of its images, or an array of its vectors, {_PASS}",
    ".hdf5": f"load it (h5py), make a list of PIL images of its images, or an array of its vectors, {_PASS}",
    ".mat": f"load it (scipy.io.loadmat), make a list of PIL images of its images {_PASS}",
    ".pkl": f"load it where you trust it (pickle), {_PASS}: it takes frames, arrays, Arrow tables and lists of images",
    ".pickle": f"load it where you trust it (pickle), {_PASS}: it takes frames, arrays, Arrow tables and lists of images",
    ".pt": f"load it (torch.load), make an array of its vectors {_PASS}",
    ".json": "a JSON file is read where the path names it: a list of objects, JSON lines, or COCO",
    ".docx": "save what is data in it as a table (CSV)", ".doc": "save what is data in it as a table (CSV)",
    ".pdf": "save what is data in it as a table (CSV), or its images as files",
    ".txt": "a list of images or captions is read as CSV, with the names of the columns in the first line",
    ".xlsx": "save it as CSV",
    ".xls": "save it as CSV",
    ".tfrecord": f"load it with datasets or tensorflow {_PASS}",
    ".mdb": f"load it with lmdb {_PASS}",
    ".sqlite": f"load the table with polars or pandas {_PASS}",
    ".db": f"load the table with polars or pandas {_PASS}",
    ".avro": f"load it with polars.read_avro {_PASS}",
    ".lance": f"load it with lance.dataset(path).to_table() {_PASS}",
}  # fmt: skip
_OTHERWISE = f"convert it to one of them, or load it (with datasets, pandas or polars) {_PASS}"
#: How files of formats that are read begin, and of others: (bytes, format or the end that stands for it).
_BEGINS = (
    (b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"ORC", "orc"), (b"\x89HDF", ".h5"), (b"PK\3\4", ".zip"),
    (b"\x93NUMPY", ".npy"), (b"SQLite format 3", ".sqlite"), (b"(\xb5/\xfd", ".zst"), (b"7z\xbc\xaf", ".7z"),
    (b"Rar!", ".rar"), (b"Obj\1", ".avro"), (b"\xff\xff\xff\xff", "arrow"),
)  # fmt: skip
_HEAD_BYTES = 4096
#: How a file in the form of COCO begins.
COCO = re.compile(rb'\{\s*"(info|images|annotations|licenses|categories|type)"\s*:')
IMAGE_COLUMNS = ("image", "image_name", "filepath", "file_name", "filename", "path", "image_path", "url")
CAPTION_COLUMNS = ("caption", "comment", "text", "title", "caption_text")


def format_by_content(url: str, options: StorageOptions = None) -> str | None:
    """Return the format that a file begins like, an end such as ``.zip`` for one not read, None for anything else."""
    try:
        with filesystem.open_binary(url, options) as file:
            head = file.read(_HEAD_BYTES)
    except SourceError:
        return None
    if head[257:262] == b"ustar":
        return "webdataset"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"[", b"{")):
        return "jsonl" if text.startswith(b"{") and _one_line(text) else "json"
    if _is_header(text):
        return "csv"
    return next((what for begin, what in _BEGINS if head.startswith(begin)), None)


def _one_line(text: bytes) -> bool:
    """Return True if the first line holds a whole object: JSON lines, or may: the line goes on."""
    line, end, _ = text.partition(b"\n")
    try:
        found = json.loads(line.decode("utf-8", "replace"))
        return isinstance(found, dict) and not isinstance(found.get("images"), list)
    except ValueError:
        return not end and not COCO.match(line)


def _is_header(text: bytes) -> bool:
    """Return True if a text begins with names of columns: those that images or captions usually have."""
    line = text.partition(b"\n")[0].decode("utf-8", "replace").strip().lower()
    names = {name.strip(" \"'") for name in re.split(r"[,;\t]", line)}
    return len(names) > 1 and bool(names & set(IMAGE_COLUMNS)) and bool(names & set(CAPTION_COLUMNS))


def refusal(name: str, formats: Sequence[str], looks_like: str | None = None) -> UsageError:
    """Return the error for a file of no format: what is read, and the nearest way."""
    known = name.lower().endswith(tuple(_WAYS))
    what = f"looks like {looks_like}, " if looks_like and not known else ""
    nearest = way(name if known else looks_like or name)
    return UsageError(f"{name}: {what}not a format that curate reads ({', '.join(formats)}); {nearest}")


def way(name: str) -> str:
    """Return the nearest way to read a file that ends so."""
    return next((way for end, way in _WAYS.items() if name.lower().endswith(end)), _OTHERWISE)


def advice(said: str, formats: Sequence[str]) -> UsageError:
    """Return the error for a folder without a file of any format; said : what it holds."""
    held = [end for end in _WAYS if f" {end}," in f"{said},"]
    nearest = "" if said.endswith("no files") else f"; {way(held[0]) if held else _OTHERWISE}"
    return UsageError(f"{said}; curate reads {', '.join(formats)}{nearest}")
