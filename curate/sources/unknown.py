"""Inputs of no format that is read: what they are, by name or by how they begin, and the nearest way to read them."""

import codecs
import json
import re
from collections.abc import Sequence

from curate.errors import SourceError, UsageError
from curate.io import filesystem, paths
from curate.io.filesystem import StorageOptions
from curate.sources.text.encoding import decoded

__all__ = ["COCO", "advice", "format_by_content", "inner_list", "refusal", "what_it_is"]

_PASS = "and pass that to curate.filter in Python"
_VECTORS = (
    "vectors in .npy files are given with embed.files (--vectors); the source then names the rows, or pass numpy.load(path) to "
    "curate.filter in Python"
)
_PDF = "save what is data in it as a table (CSV), or its images as files (pdfimages -all FILE.pdf images/x), and name their folder"
_PAGE = (
    "the address or download is that of a page, not of data (of a login, an error, or about the file): take that of the file itself "
    "(on a hub /resolve/ in place of /blob/, or hf://datasets/NAME/FILE)"
)
_FRAMES = "take frames out of it (ffmpeg -i FILE -vf fps=1 frames/%05d.jpg), and name their folder"
_SOUND = "curate works on images and captions; its transcripts can be given as CSV, with source.image=null"
_HDF = f"load it (h5py), make a list of PIL images of its images, or an array of its vectors, {_PASS}"
_UNPICKLE = (
    f"load it where you trust it (pickle), {_PASS}: it takes frames, arrays, Arrow tables and lists of images"
)
_TABLE = f"load a table of it (pandas.read_sql('select * from NAME', sqlite3.connect('FILE'))) {_PASS}"
_TORCH = ("tensors of PyTorch", f"load it (torch.load), make an array of its vectors {_PASS}")
_RECORDS = f"read the encoded images out of it, make a list of PIL images of them {_PASS}"
_RECIPE = "a recipe is run by curate run FILE; data are read as JSON or CSV"
_UNPACK = "unpack it, and name what comes out"
_RAW = ("a raw photo of a camera", "make JPEGs of them (darktable-cli, or dcraw -e), and name their folder")
_VOLUME = ("a medical volume", f"load it (nibabel), make a list of PIL images of its slices {_PASS}")
#: What files that end so are, and what to do with them.
_KINDS = {
    ".zip": ("a ZIP archive", "unzip it, and name the folder (a folder of images is read)"),
    ".7z": ("a 7z archive", "unpack it, and name the folder (a folder of images is read)"),
    ".rar": ("a RAR archive", "unpack it, and name the folder (a folder of images is read)"),
    ".zst": ("a Zstandard file", "unpack it (zstd -d), and name what comes out"),
    ".tar.bz2": ("a compressed tar", "unpack it (tar -xf), and name the folder"),
    ".tar.xz": ("a compressed tar", "unpack it (tar -xf), and name the folder"),
    ".nii": _VOLUME, ".nii.gz": _VOLUME,
    "-ubyte": ("an array in the form of MNIST", f"load it (torchvision.datasets.MNIST, or datasets) {_PASS}"),
    "-ubyte.gz": ("an array in the form of MNIST", f"load it (torchvision.datasets.MNIST, or datasets) {_PASS}"),
    ".bz2": ("a compressed file", _UNPACK), ".xz": ("a compressed file", _UNPACK), ".gz": ("a compressed file", _UNPACK),
    ".npy": ("a NumPy array", _VECTORS),
    ".npz": (
        "arrays of NumPy", f"load its arrays (numpy.load), make a list of PIL images of those that are images {_PASS}",
    ),
    ".h5": ("an HDF5 file", _HDF), ".hdf5": ("an HDF5 file", _HDF),
    ".mat": ("a MATLAB file", f"load it (scipy.io.loadmat), make a list of PIL images of its images {_PASS}"),
    ".pkl": ("a pickle", _UNPICKLE), ".pickle": ("a pickle", _UNPICKLE),
    ".pt": _TORCH, ".pth": _TORCH, ".ckpt": _TORCH,
    ".safetensors": (
        "tensors in safetensors", f"load it (safetensors.numpy.load_file), take its array of vectors {_PASS}",
    ),
    ".json": ("JSON", "a JSON file is read where the path names it: a list of objects, JSON lines, or COCO"),
    ".docx": ("a Word document", "save what is data in it as a table (CSV)"),
    ".doc": ("a Word document", "save what is data in it as a table (CSV)"),
    ".pdf": ("a PDF", _PDF),
    ".txt": ("text", "a list of images or captions is read as CSV, with the names of the columns in the first line"),
    ".xlsx": ("an Excel workbook", "save it as CSV (Excel: Save As; pandas: pandas.read_excel(file).to_csv('table.csv'))"),
    ".xls": ("an Excel workbook", "save it as CSV (Excel: Save As; pandas: pandas.read_excel(file).to_csv('table.csv'))"),
    ".tfrecord": ("TensorFlow records", f"{_RECORDS} (tensorflow: tf.data.TFRecordDataset)"),
    ".rec": ("MXNet records", f"{_RECORDS} (mxnet.recordio)"),
    ".mdb": ("an LMDB file", f"{_RECORDS} (lmdb.open(FOLDER, readonly=True))"),
    ".lmdb": ("an LMDB file", f"{_RECORDS} (lmdb.open(FOLDER, readonly=True))"),
    ".beton": ("an FFCV data set", "it holds images prepared for training; name the data that it was made of"),
    ".zarr": ("Zarr arrays", f"load its arrays (zarr.open), make a list of PIL images of those that are images {_PASS}"),
    ".sqlite": ("an SQLite database", _TABLE), ".sqlite3": ("an SQLite database", _TABLE), ".db": ("a database", _TABLE),
    ".duckdb": (
        "a DuckDB database", "write a table of it (duckdb FILE \"copy NAME to 'table.parquet'\"), and name that",
    ),
    ".svg": ("a drawing", "make images of them (rsvg-convert -o x.png x.svg), and name their folder"),
    ".cr2": _RAW, ".cr3": _RAW, ".nef": _RAW, ".arw": _RAW, ".dng": _RAW, ".raf": _RAW, ".orf": _RAW, ".rw2": _RAW,
    ".dcm": ("a DICOM image", f"load it (pydicom), make a list of PIL images {_PASS}"),
    ".yaml": ("YAML", _RECIPE), ".yml": ("YAML", _RECIPE),
    ".xml": ("XML", "name the folder of the images it tells of; their labels or captions can be given as CSV"),
    ".avro": ("Avro", f"load it with polars.read_avro {_PASS}"),
    ".lance": ("a Lance data set", f"load it with lance.dataset(path).to_table() {_PASS}"),
    ".mp4": ("video", _FRAMES), ".mov": ("video", _FRAMES), ".mkv": ("video", _FRAMES), ".avi": ("video", _FRAMES),
    ".webm": ("video", _FRAMES), ".wav": ("sound", _SOUND), ".mp3": ("sound", _SOUND), ".flac": ("sound", _SOUND),
    ".html": ("a web page", _PAGE),
    ".lfs": ("a Git LFS pointer, not the file", "fetch the file itself (git lfs pull)"),
}  # fmt: skip
_OTHERWISE = f"convert it to one of them, or load it (with datasets, pandas or polars) {_PASS}"
#: How files of formats that are read begin, and of others: (bytes, format or the end that stands for it).
_BEGINS = (
    (b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"ORC", "orc"), (b"\x89HDF", ".h5"), (b"PK\3\4", ".zip"),
    (b"\x93NUMPY", ".npy"), (b"SQLite format 3", ".sqlite"), (b"(\xb5/\xfd", ".zst"), (b"7z\xbc\xaf", ".7z"),
    (b"Rar!", ".rar"), (b"Obj\1", ".avro"), (b"\xff\xff\xff\xff", "arrow"), (b"%PDF", ".pdf"),
    (b"\x80\2", ".pkl"), (b"\x80\3", ".pkl"), (b"\x80\4", ".pkl"), (b"\x80\5", ".pkl"), (b"BZh", ".bz2"),
    (b"\xfd7zXZ", ".xz"), (b"\x1f\x8b", ".gz"), (b"MATLAB", ".mat"),
    (b"version https://git-lfs", ".lfs"),
)  # fmt: skip
#: What ZIP files of programs begin with: (in the first bytes, the end that stands for it), the surest first.
_PACKED = (
    (re.compile(rb"PK\x03\x04.{26}[^/]+/(data\.pkl|byteorder|\.format_version)", re.DOTALL), ".pt"),
    (re.compile(rb"PK\x03\x04.*?xl/", re.DOTALL), ".xlsx"),
    (re.compile(rb"PK\x03\x04.*?word/", re.DOTALL), ".docx"),
    (re.compile(rb"PK\x03\x04.{26}[^/]+\.npy", re.DOTALL), ".npz"),
)
_SAFETENSORS = re.compile(rb'.{7}\x00\{\s*"[^"]+"\s*:\s*\{', re.DOTALL)
_HEAD_BYTES = 4096
#: Marks of the encodings of Unicode.
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_INNER = re.compile(rb'"([^"\\]+)"\s*:\s*\[\s*\{')
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
    text = decoded(head)[0].encode().lstrip() if head.startswith(_MARKS) else head.lstrip()
    if text.startswith((b"[", b"{")):
        return "jsonl" if text.startswith(b"{") and _one_line(text) else "json"
    if re.match(rb"<!doctype html|<html", text, re.IGNORECASE):
        return ".html"
    if head[4:8] == b"ftyp" and head[8:12] in (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V "):
        return ".mp4"
    if _is_header(text):
        return "csv"
    if _SAFETENSORS.match(head):
        return ".safetensors"
    packed = next((what for begin, what in _PACKED if begin.match(head)), None)
    return packed or next((what for begin, what in _BEGINS if head.startswith(begin)), None)


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
    """Return the error for a file of no format: what it is, what is read, and the nearest way."""
    known = _kind(name) is not None
    what = f"looks like {looks_like}, " if looks_like and not known else ""
    kind = _kind(name if known else looks_like or name)
    said = f"{what}{kind[0]}, " if kind else what
    nearest = kind[1] if kind else _OTHERWISE
    return UsageError(f"{name}: {said}not a format that curate reads ({', '.join(formats)}); {nearest}")


def _kind(name: str) -> tuple[str, str] | None:
    """Return what a file that ends so is, and the nearest way to read it; ``x.tfrecord-00000-of-00010`` ends in .tfrecord."""
    plain = paths.unnumbered(name.lower())
    return next((kind for end, kind in _KINDS.items() if plain.endswith(end)), None)


def what_it_is(url: str, options: StorageOptions = None) -> str:
    """Return what a file is that is not what its name says, and what to do, to follow a sentence; empty if nobody knows."""
    like = format_by_content(url, options)
    if like is None:
        return ""
    kind = _kind(like)
    if kind is None:
        return f": it looks like {like}; give it that ending, or name it with source.format"
    return f": it is {kind[0]}; {kind[1]}"


def inner_list(url: str, options: StorageOptions = None) -> str | None:
    """Return the key under which a JSON object holds a list of objects, by how the file begins; None if none is seen."""
    try:
        with filesystem.open_binary(url, options) as file:
            found = _INNER.search(file.read(_HEAD_BYTES))
    except SourceError:
        return None
    return None if found is None else found[1].decode("utf-8", "replace")


def advice(said: str, formats: Sequence[str], inside: str | None = None) -> UsageError:
    """Return the error for a folder without a file of any format.

    said : what it holds, after its name and a colon. inside : what a file in it, whose name has no end, begins like.
    """
    held = [kind for end, kind in _KINDS.items() if f" {end}," in f"{said},"]
    by_name = _kind(said.partition(": ")[0].rstrip("/"))
    if inside in formats:
        nearest = (
            f"files without an ending look like {inside}, and are read where a pattern names them (FOLDER/*)"
        )
    elif kind := next(iter(held), None) or by_name or (inside and _kind(inside)):
        nearest = kind[1]
    elif said.endswith("no files"):
        nearest = "put images or data files into it, or name another folder"
    else:
        nearest = _OTHERWISE
    return UsageError(f"{said}; curate reads {', '.join(formats)}; {nearest}")
