"""Shards of img2dataset in folders of files, as a `base.Reader`."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError
from curate.io.found import counting
from curate.io.names import printable
from curate.sources import references
from curate.sources.addresses import Take, uncounted
from curate.sources.base import Columns, Rows, Shard
from curate.sources.columns import images_of
from curate.sources.folder.tree import image_ends
from curate.sources.img2dataset.shards import listed, tell, told_by
from curate.sources.parquet import ParquetReader
from curate.sources.rows import Found, followed, rows_of
from curate.sources.text.encoding import decoded

__all__ = ["FilesReader"]

IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
BLOCK_ROWS = 1024
KEPT = 4


@dataclass(frozen=True)
class Folder:
    """A shard in files: its Parquet file, how many rows that has, {key: image}, and images it does not know."""

    told: Shard | None
    n_told: int
    images: Mapping[str, str]
    others: Sequence[str]
    captions: frozenset[str]


_FOLDERS: OrderedDict[tuple[str, str, int], Folder] = OrderedDict()


@dataclass(frozen=True)
class FilesReader:
    """Shards in folders of files: the rows of the Parquet file, then images it does not know; see `base.Reader`."""

    columns: Columns

    def count(self, shard: Shard) -> int:
        """Return the number of addresses and of other images."""
        folder = _folder(shard)
        return folder.n_told + len(folder.others)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the image and the columns of the Parquet file, which tells more than the JSON files do."""
        folder = _folder(shard)
        if folder.told is None:
            return pa.schema([IMAGE, ("key", pa.string()), ("caption", pa.string())])
        told = ParquetReader(Columns()).schema(folder.told)
        if IMAGE.name in told.names:
            raise SourceError(f"{folder.told.url}: a column is called {IMAGE.name!r}; rename it")
        return pa.schema([IMAGE, *told])

    def vector_length(self, shard: Shard) -> int | None:
        """Return None: there are no vectors."""
        return None

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        folder = _folder(shard)
        stop = self.count(shard) if stop is None else stop
        told = self._told(shard, folder, batch_bytes, start, min(stop, folder.n_told))
        for rows in chain(told, self._others(shard, folder, max(start, folder.n_told), stop)):
            if images:
                yield from followed(rows, partial(_read, shard), batch_bytes)
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
        folder, schema = _folder(shard), self.schema(shard)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        cut = int(np.searchsorted(rows, folder.n_told))
        tables: Iterator[pa.Table] = iter(())
        if folder.told is not None and cut:
            tables = ParquetReader(Columns()).read_rows(folder.told, rows[:cut], batch_bytes=batch_bytes)
        others = [folder.others[row - folder.n_told] for row in rows[cut:].tolist()]
        for table in chain(tables, _other_tables(shard, folder, others)):
            keys = images_of(table, "key")[1]
            refs = [folder.images.get(key or "") for key in keys]
            plain = rows_of(
                pa.table({"image": pa.array(refs, pa.string())}), Columns(image="image"), shard, 0
            )
            pieces = followed(plain, partial(_read, shard), batch_bytes)
            for piece in pieces if IMAGE.name in schema.names else [plain]:
                yield _completed(table.slice(int(piece.row[0]), len(piece)), piece, schema)

    def _told(self, shard: Shard, folder: Folder, batch_bytes: int, start: int, stop: int) -> Iterator[Rows]:
        """Yield the rows of the Parquet file."""
        if folder.told is None or start >= stop:
            return
        told = tell(folder.told, start, stop)
        inner = ParquetReader(replace(self.columns, image="key"))
        for rows in inner.batches(folder.told, images=False, batch_bytes=batch_bytes, start=start, stop=stop):
            some = list(islice(told, len(rows)))
            refs = [folder.images.get(one.key or "") for one in some]
            lost = ("missing_image", "the folder has no image with this key, though the download succeeded")
            verdicts = [
                lost if one.verdict[0] == "ok" and ref is None else one.verdict
                for one, ref in zip(some, refs, strict=True)
            ]
            yield replace(
                rows,
                image_ref=[
                    one.ref if ref is None or v[0] != "ok" else _placed(shard, ref)
                    for one, ref, v in zip(some, refs, verdicts, strict=True)
                ],
                outcome=[outcome for outcome, _ in verdicts],
                reason=[reason for _, reason in verdicts],
            )

    def _others(self, shard: Shard, folder: Folder, start: int, stop: int) -> Iterator[Rows]:
        """Yield rows of images that the Parquet file does not know."""
        first = start
        for table in _other_tables(
            shard, folder, folder.others[start - folder.n_told : stop - folder.n_told]
        ):
            refs = [_placed(shard, folder.images[key]) for key in table.column("key").to_pylist()]
            table = table.append_column("image", pa.array(refs, pa.string()))
            names = (*self.columns.captions, self.columns.label, self.columns.uid)
            for name in dict.fromkeys(names):
                if name is not None and name not in table.column_names:
                    table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
            yield rows_of(table, replace(self.columns, image="image"), shard, first)
            first += table.num_rows


def _folder(shard: Shard) -> Folder:
    """Return what a shard in files holds; of the last few it is remembered."""
    place = (shard.url, shard.version, shard.rules)
    if place not in _FOLDERS:
        with counting():  # it was counted when it was found
            names = listed(shard.url, shard.storage_options)
        images = {
            _key(name): name for name in sorted(names) if name.lower().endswith(image_ends(shard.rules))
        }
        told = told_by(shard)
        others = dict.fromkeys(images)
        for one in tell(told) if told else ():
            others.pop(one.key or "", None)
        n_told = ParquetReader(Columns()).count(told) if told else 0
        captions = frozenset(printable(name) for name in names if name.endswith(".txt"))
        _FOLDERS[place] = Folder(told, n_told, images, list(others), captions)
        while len(_FOLDERS) > KEPT:
            _FOLDERS.popitem(last=False)
    return _FOLDERS[place]


def _key(name: str) -> str:
    return printable(os.path.splitext(name)[0])  # noqa: PTH122  (a name, not a path)


def _placed(shard: Shard, name: str) -> str:
    """Return the path that stands for an image: below the folder that holds the shards."""
    return f"{shard.name}/{printable(name)}"


def _read(shard: Shard, ref: str, *, take: Take = uncounted) -> Found:
    return references.follow(
        ref.removeprefix(f"{shard.name}/"),
        f"{shard.url}shard",
        shard.storage_options,
        access=shard.access.of_folder(shard.url.rstrip("/")),
        take=take,
    )


def _other_tables(shard: Shard, folder: Folder, keys: Sequence[str]) -> Iterator[pa.Table]:
    """Yield key and caption of images that the Parquet file does not know."""
    for start in range(0, len(keys), BLOCK_ROWS):
        some = list(keys[start : start + BLOCK_ROWS])
        captions = [
            _caption(shard, f"{key}.txt") if f"{key}.txt" in folder.captions else None for key in some
        ]
        yield pa.table({"key": pa.array(some, pa.string()), "caption": pa.array(captions, pa.string())})


def _caption(shard: Shard, name: str) -> str | None:
    data = _read(shard, name)[0]
    return None if data is None else decoded(data)[0].strip()


def _completed(part: pa.Table, rows: Rows, schema: pa.Schema) -> pa.Table:
    """Return `part` with the images and in the order of the schema; columns it lacks are null."""
    images = [{"bytes": data, "path": ref} for data, ref in zip(rows.image, rows.image_ref, strict=True)]
    columns = []
    for one in schema:
        if one.name == IMAGE.name:
            columns.append(pa.array(images, IMAGE.type))
        elif one.name in part.column_names:
            columns.append(part.column(one.name).cast(one.type))
        else:
            columns.append(pa.nulls(len(rows), one.type))
    return pa.table(columns, schema=schema)
