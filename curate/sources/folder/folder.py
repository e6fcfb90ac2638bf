"""Folders of images: labels are the names of sub-folders, captions stand in side files or a metadata file.

The label of an image is the name of the folder it lies in, below the folder that was named; ``train``, ``test``,
``val`` and ``validation`` at the top are splits. ``cat.txt`` or ``cat.caption`` beside ``cat.jpg`` is its caption.
A ``metadata.csv``, ``.jsonl`` or ``.parquet`` as Hugging Face has it describes the images in and below its folder:
each of its rows is a sample (also where the image is missing), with all its columns; its captions and labels come
before side files and folders. Images it does not name (which Hugging Face leaves out) are samples too, after the
others and without its columns. Identity is the path, caption and label.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError, UsageError
from curate.hashing import digest
from curate.io import filesystem
from curate.io.filesystem import StorageOptions
from curate.io.names import original, printable
from curate.sources import parquet, references
from curate.sources.addresses import Take, UrlAccess
from curate.sources.base import RULES, Columns, Reader, Rows, Shard
from curate.sources.captions import encoded_as, taken
from curate.sources.columns import LATER_CAPTION_NAMES, guess_columns, images_of
from curate.sources.folder.tree import (
    METADATA,
    Content,
    Place,
    content,
    find_shards,
    fresh,
    image_ends,
    place_of,
    roots,
)
from curate.sources.format import Format
from curate.sources.rows import PARALLEL_READS, Found, followed, rows_of
from curate.sources.text import delimited, jsonl
from curate.sources.text.encoding import decoded

__all__ = ["FORMAT", "FolderReader", "described_rows", "find"]

IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
FILE_NAME = "file_name"
#: The formats that a metadata file may have.
METADATA_FORMATS = {one.name: one for one in (delimited.FORMAT, jsonl.FORMAT, parquet.FORMAT)}
#: Columns that a folder gives where no metadata file does.
OWN = ("caption", "label")
BLOCK_ROWS = 1024
FEATURES = {"string": "string", "int64": "int64", "double": "float64", "bool": "bool"}


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the shards of the folders that `path` names, in the order of their names, which begin with `prefix`.

    Raises UsageError where there is no image, or a folder lies in another one that was named.
    """
    folders = roots(path, storage_options)
    above = max((filesystem.parent(one) for one in folders), key=len) if len(folders) > 1 else None
    while above is not None and not all(one.startswith(f"{above}/") for one in folders):
        above = filesystem.parent(above)
    found: list[Shard] = []
    for root in folders:
        inner = "" if above is None else f"{printable(root[len(above) + 1 :])}/"
        found += find_shards(root, storage_options, prefix + inner, source)
    for one in folders:
        if any(other.startswith(f"{one}/") for other in folders):
            raise UsageError(
                f"{one}: another folder that source.path names lies in this one; name only one of them"
            )
    if not found:
        raise UsageError(f"{', '.join(folders)}: no image below this folder ({' '.join(image_ends(RULES))})")
    return sorted(found, key=lambda shard: shard.name.encode())


@dataclass(frozen=True)
class Described:
    """The metadata file of a shard as a shard of its own, its schema, and how many rows it has."""

    shard: Shard
    schema: pa.Schema
    n_rows: int


@dataclass(frozen=True)
class Held:
    """All rows of a shard: those of its metadata file, if it has one, then `images` that it does not name."""

    place: Place
    content: Content
    described: Described | None
    images: Sequence[str]

    @property
    def n_described(self) -> int:
        """The number of rows in the metadata file."""
        return 0 if self.described is None else self.described.n_rows


_HELD: OrderedDict[tuple[str, str], Held] = OrderedDict()
KEPT_HELD = 4


@dataclass(frozen=True)
class FolderReader:
    """Reads the images of a folder; see `base.Reader`."""

    columns: Columns
    allow_url: UrlAccess | bool = False

    def count(self, shard: Shard) -> int:
        """Return the number of rows: those of the metadata file and the images it does not name."""
        held = _held(shard)
        return held.n_described + len(held.images)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the columns: the image, its caption and label where there are any, the metadata or file name."""
        held = _held(shard)
        if held.described is None:
            rest = [pa.field(FILE_NAME, pa.string())]
        else:
            rest = list(held.described.schema)
        fields = [IMAGE, *(pa.field(name, pa.string()) for name in _own(held)), *rest]
        return pa.schema(fields, _features(fields))

    def vector_length(self, shard: Shard) -> int | None:
        """Return None; raises UsageError where vectors are to come from a column."""
        if self.columns.vector is not None:
            raise UsageError(
                f"{shard.url}: embed.column {self.columns.vector!r}: a folder of images has no vectors"
            )
        return None

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        held = _held(shard)
        stop = self.count(shard) if stop is None else stop
        cut = held.n_described
        described = self._described(shard, held, batch_bytes, start, min(stop, cut))
        for rows in chain(described, self._found(shard, held, max(start, cut), stop)):
            if images:
                yield from followed(rows, partial(self._read, shard, held.place), batch_bytes)
            else:
                yield rows

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions) with all columns (or those named), and images where asked."""
        held, schema = _held(shard), self.schema(shard)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        cut = int(np.searchsorted(rows, held.n_described))
        tables: list[Iterator[tuple[list[str | None], pa.Table]]] = []
        if held.described is not None and cut:
            tables.append(_described_tables(held, held.described, rows[:cut], batch_bytes))
        images = [held.images[row - held.n_described] for row in rows[cut:].tolist()]
        tables.append(self._found_tables(shard, held, images))
        for refs, table in chain.from_iterable(tables):
            only_refs = pa.table({"image": pa.array(refs, pa.string())})
            plain = rows_of(only_refs, Columns(image="image"), shard, 0, allow_url=self.allow_url)
            pieces = followed(plain, partial(self._read, shard, held.place), batch_bytes)
            for piece in pieces if IMAGE.name in schema.names else [plain]:
                _check_read(shard, piece)
                part = table.slice(int(piece.row[0]), len(piece))
                yield _completed(part, piece, schema)

    def _described(self, shard: Shard, held: Held, batch_bytes: int, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows of the metadata file, with what folders and side files add."""
        if held.described is None or start >= stop:
            return
        own = _own(held)
        names = held.described.schema.names
        given = [name for name in self.columns.captions if name in names]
        roles = replace(
            self.columns,
            image=self.columns.image if self.columns.image in names else FILE_NAME,
            caption=given[0] if given else None,
            caption_more=tuple(given[1:]),
            label=self.columns.label if self.columns.label in names else None,
        )
        reader = _reader(held.described.shard, roles, self.allow_url)
        for rows in reader.batches(
            held.described.shard, images=False, batch_bytes=batch_bytes, start=start, stop=stop
        ):
            refs = [_placed(held.place, *row) for row in zip(rows.image_ref, rows.outcome, strict=True)]
            keys = [None if o == "bad_row" else ref for ref, o in zip(refs, rows.outcome, strict=True)]
            rows = replace(rows, image_ref=refs, key=keys)
            inside = [original((ref or "").removeprefix(held.place.prefix)) for ref in refs]
            if "caption" in own and "caption" in self.columns.captions:
                rows = self._with_sides(rows, *_captions(shard, held, inside))
            if "label" in own and self.columns.label == "label":
                labels = [_label(held.place, path) for path in inside]
                labels = [one if o == "ok" else None for one, o in zip(labels, rows.outcome, strict=True)]
                rows = replace(rows, label=labels)
            yield rows

    def _with_sides(self, rows: Rows, sides: Sequence[str | None], notes: Sequence[tuple[str, ...]]) -> Rows:
        """Return rows whose captions are those of side files and those of the metadata file, as the rule says."""
        swap = self.columns.caption != "caption"
        pairs = zip(sides, rows.caption, strict=True)
        found = [taken((b, a) if swap else (a, b), self.columns.caption_take) for a, b in pairs]
        rows = _noted(replace(rows, caption=[text for text, _ in found]), [said for _, said in found])
        return _noted(rows, notes)

    def _found(self, shard: Shard, held: Held, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows of images that no metadata file names."""
        first, own = held.n_described, _own(held)
        for row in range(start, stop, BLOCK_ROWS):
            images = held.images[row - first : min(row + BLOCK_ROWS, stop) - first]
            refs, table = next(self._found_tables(shard, held, images))
            table = table.append_column("image", pa.array(refs, pa.string()))
            for name in dict.fromkeys((*self.columns.captions, self.columns.label, self.columns.uid)):
                if name is not None and name not in table.column_names:
                    table = table.append_column(name, pa.nulls(len(images), pa.string()))
            roles = replace(self.columns, image="image", vector=None)
            found = rows_of(table, roles, shard, row, allow_url=self.allow_url)
            yield _noted(found, _captions(shard, held, images)[1] if "caption" in own else ())

    def _found_tables(
        self, shard: Shard, held: Held, images: Sequence[str]
    ) -> Iterator[tuple[list[str | None], pa.Table]]:
        """Yield (paths as they stand for the images, the columns a folder gives) of `images`."""
        own = _own(held)
        for start in range(0, len(images), BLOCK_ROWS):
            some = images[start : start + BLOCK_ROWS]
            names = [printable(path) for path in some]
            if held.described is not None:
                names = [name.removeprefix(printable(held.place.folder)) for name in names]
            columns = {FILE_NAME: pa.array(names, pa.string())}
            if "caption" in own:
                columns["caption"] = pa.array(_captions(shard, held, some)[0], pa.string())
            if "label" in own:
                columns["label"] = pa.array([_label(held.place, path) for path in some], pa.string())
            yield [held.place.prefix + printable(path) for path in some], pa.table(columns)

    def _read(self, shard: Shard, place: Place, ref: str, *, take: Take) -> Found:
        return references.follow(
            ref.removeprefix(place.prefix),
            place.inside_root,
            shard.storage_options,
            allow_url=self.allow_url,
            access=shard.access.of_folder(place.root),
            take=take,
        )


def _reader(shard: Shard, columns: Columns, allow_url: UrlAccess | bool) -> Reader:
    return METADATA_FORMATS[shard.format].reader(columns, allow_url)


def _held(shard: Shard) -> Held:
    """Return the rows of a shard; those of the last few shards are remembered."""
    key = (shard.url, shard.version)
    if key not in _HELD:
        _HELD[key] = _hold(shard)
        while len(_HELD) > KEPT_HELD:
            _HELD.popitem(last=False)
    return _HELD[key]


def _hold(shard: Shard) -> Held:
    place, inside = place_of(shard), content(shard)
    if inside.metadata is None:
        return Held(place, inside, None, inside.images)
    entry = inside.entries[inside.metadata]
    name = inside.metadata.rpartition("/")[2]
    file = replace(
        shard,
        url=f"{place.root}/{inside.metadata}",
        version=entry.version,
        size=entry.size,
        format=METADATA[name],
        rules=1,
    )
    schema = _reader(file, Columns(), False).schema(file)
    if FILE_NAME not in schema.names:
        raise SourceError(f"{file.url}: no column {FILE_NAME!r}; there are {', '.join(schema.names)}")
    if IMAGE.name in schema.names:
        raise SourceError(f"{file.url}: a column is called 'image', as the images themselves are; rename it")
    reader = _reader(file, Columns(image=FILE_NAME), False)
    left = dict.fromkeys(inside.images)
    for rows in reader.batches(file, images=False, batch_bytes=1 << 24):
        for ref in rows.image_ref:
            left.pop(str(PurePosixPath(place.folder, original(ref or ""))), None)
    return Held(place, inside, Described(file, schema, reader.count(file)), list(left))


def _own(held: Held) -> list[str]:
    """Return the columns that the folder gives: what side files and sub-folders hold and the metadata does not."""
    found = Columns()
    if held.described is not None:
        found = guess_columns(held.described.schema, image=None, ids_only=True)
    later = found.caption is None or found.caption in LATER_CAPTION_NAMES  # a title is none beside a caption
    own = ["caption"] if held.content.captions and later else []
    labels = any(_label(held.place, path) is not None for path in held.content.images)
    return own + (["label"] if labels and found.label is None else [])


def _label(place: Place, path: str) -> str | None:
    """Return the name of the folder that an image lies in, if it is a label."""
    parts = path.split("/")[:-1] if place.labelled else []
    if place.rest.rpartition("/")[2] in METADATA:
        parts = parts[place.folder.count("/") :]
    return printable(parts[-1]) if parts else None


def _placed(place: Place, ref: str | None, outcome: str) -> str | None:
    """Return the path that a metadata file gives as a path that stands for the image in the whole source."""
    return (
        place.prefix + printable(place.folder) + ref if ref and outcome == "ok" and "://" not in ref else ref
    )


def _captions(
    shard: Shard, held: Held, images: Sequence[str]
) -> tuple[list[str | None], list[tuple[str, ...]]]:
    """Return what the side files of `images` say, and the notes on their encoding."""
    sides = [held.content.captions.get(image) for image in images]

    def read(side: str | None) -> tuple[str | None, str | None]:
        if side is None:
            return None, None
        data, _, _ = references.follow(
            printable(side),
            held.place.inside_root,
            shard.storage_options,
            access=shard.access.of_folder(held.place.root),
        )
        text, encoding = (None, None) if data is None else decoded(data)
        return (None if text is None else text.strip()), encoding

    if not any(sides):
        return [None] * len(images), [()] * len(images)
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        found = list(pool.map(read, sides))
    notes = [tuple(map(encoded_as, filter(None, [encoding]))) for _, encoding in found]
    return [text for text, _ in found], notes


def _noted(rows: Rows, notes: Sequence[tuple[str, ...]]) -> Rows:
    """Return rows with further notes, one entry per row (or none at all)."""
    before = rows.notes or [()] * len(rows)
    return replace(rows, notes=[old + new for old, new in zip(before, notes, strict=True)]) if notes else rows


def _described_tables(
    held: Held, described: Described, rows: npt.NDArray[np.int64], batch_bytes: int
) -> Iterator[tuple[list[str | None], pa.Table]]:
    reader = _reader(described.shard, Columns(), False)
    own = _own(held)
    for table in reader.read_rows(described.shard, rows, batch_bytes=batch_bytes):
        _, names = images_of(table, FILE_NAME)
        folder = held.place.prefix + printable(held.place.folder)
        refs = [None if name is None else folder + name for name in names]
        inside = [original((ref or "").removeprefix(held.place.prefix)) for ref in refs]
        if "caption" in own:
            table = table.append_column(
                "caption", pa.array(_captions(described.shard, held, inside)[0], pa.string())
            )
        if "label" in own:
            table = table.append_column(
                "label", pa.array([_label(held.place, p) for p in inside], pa.string())
            )
        yield refs, table


def described_rows(
    shard: Shard, rows: npt.NDArray[np.int64], *, batch_bytes: int
) -> tuple[str, pa.Schema, Iterator[pa.Table]] | None:
    """Return (path in the source, schema, rows) of the metadata file of a shard; None where it has none.

    rows : ascending positions in the shard; those of images that the file does not name are left out.
    """
    held = _held(shard)
    if held.described is None:
        return None
    reader = _reader(held.described.shard, Columns(), False)
    wanted = rows[: int(np.searchsorted(rows, held.n_described))]
    tables = reader.read_rows(held.described.shard, wanted, batch_bytes=batch_bytes)
    return held.place.prefix + held.place.rest, held.described.schema, tables


def _check_read(shard: Shard, rows: Rows) -> None:
    """Raise SourceError where a file system failed: an image that is there must not be written as missing."""
    for ref, reason in zip(rows.image_ref, rows.reason, strict=True):
        if filesystem.is_remote(shard.url) and (reason or "").startswith("cannot be read"):
            raise SourceError(f"{shard.url}: {ref}: {reason}")


def _completed(part: pa.Table, rows: Rows, schema: pa.Schema) -> pa.Table:
    """Return `part` with the images and in the order of the schema; columns it lacks are null."""
    images = [
        None if d is None and p is None else {"bytes": d, "path": p}
        for d, p in zip(rows.image, rows.image_ref, strict=True)
    ]
    columns: list[Any] = []
    for one in schema:
        if one.name == IMAGE.name:
            columns.append(pa.array(images, IMAGE.type))
        elif one.name in part.column_names:
            columns.append(part.column(one.name).cast(one.type))
        else:
            columns.append(pa.nulls(len(rows), one.type))
    return pa.table(columns, schema=schema)


def _features(fields: Sequence[pa.Field]) -> dict[bytes, bytes] | None:
    """Return the Hugging Face features of the columns, so that images are read as images; None if one has none."""
    features: dict[str, object] = {"image": {"_type": "Image"}}
    for one in fields[1:]:
        if str(one.type) not in FEATURES:
            return None
        features[one.name] = {"dtype": FEATURES[str(one.type)], "_type": "Value"}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def columns_of(schema: pa.Schema, **roles: Any) -> Columns:  # noqa: ANN401  (the keywords of guess_columns)
    """Return which column holds what; a shard without side files or sub-folders may lack what others have."""
    gone = {role: None for role in OWN if roles.get(role) == role and role not in schema.names}
    return guess_columns(schema, **{**roles, **gone})


def recognises(names: Sequence[str]) -> bool:
    """Return True if files of these names are a folder of images: images, and beside them at most metadata files."""
    rest = [name for name in names if not name.lower().endswith(image_ends(RULES))]
    return len(rest) < len(names) and all(name.rpartition("/")[2] in METADATA for name in rest)


def check_unchanged(shard: Shard) -> None:
    """Raise SourceError unless the files of a shard are those it was found with."""
    fresh(shard)


FORMAT = Format(
    "folder",
    image_ends(RULES),
    find,
    lambda columns, allow_url: FolderReader(columns, allow_url),
    columns=columns_of,
    recognises=recognises,
    fingerprint=lambda shard: digest(shard.name, shard.version),
    check_unchanged=check_unchanged,
    changed_at=lambda shard: "",  # its version is that of every file in it
    images_beside=lambda shard: (place_of(shard).prefix, place_of(shard).inside_root),
    untyped=lambda shard, schema: schema.names if shard.url.endswith(".csv") else (),
    what="images; labels from sub-folders, captions from `x.txt` beside `x.jpg`, or `metadata.csv`, `.jsonl`, `.parquet`",
    rows="images",
)
