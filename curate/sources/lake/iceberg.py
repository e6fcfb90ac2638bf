"""Iceberg tables: the data files of the current snapshot without deleted rows, read with pyiceberg.

The newest file ``metadata/*.metadata.json`` is the table, or the one that ``version-hint.text`` names. Columns are
found in the files by their field ids, so that a renamed column keeps its values. Position deletes and deletion vectors
(format version 3) say by position which rows are gone; equality deletes and data files other than Parquet are refused by name.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import CurateError, SourceError
from curate.hashing import digest
from curate.io import filesystem
from curate.io.filesystem import StorageOptions
from curate.sources import parquet
from curate.sources.base import Columns, Shard
from curate.sources.format import Format
from curate.sources.lake.live_files import NONE_DELETED, LiveFile, Snapshot, TableKind, TableReader
from curate.sources.lake.recognition import refuse

__all__ = ["FORMAT"]

#: What to do with a table that pyiceberg cannot read either.
_REWRITE = (
    "rewrite it without them (Spark: CALL system.rewrite_data_files(table => '...', options => map('delete-file-threshold', '1'))), or "
    "write a snapshot as Parquet with Spark or Trino, and name that"
)
_NUMBER = re.compile(r"v?(\d+)")
BATCH_BYTES = 16_000_000


def snapshot(root: str, options: StorageOptions, version: str | None) -> Snapshot:
    """Return an Iceberg table; version : the name of its metadata file, the newest by default."""
    name = version or newest(root, options)
    try:
        table, tasks = _planned(root, name, options)
        schema = pa.schema(table.schema().as_arrow())
    except ImportError:
        raise refuse("iceberg", root) from None
    except CurateError:
        raise
    except Exception as error:  # noqa: BLE001  (pyiceberg has errors of many kinds; each becomes one line)
        said = filesystem.masked(filesystem.cause(error), options)
        if "equality deletes" in said:
            raise refuse(
                "iceberg", root, "it has equality deletes, which pyiceberg cannot apply", way=_REWRITE
            ) from None
        raise SourceError(f"{root}/metadata/{name}: this Iceberg table cannot be read: {said}") from None
    live: dict[str, LiveFile] = {}
    deletes: dict[str, _Deletes] = {}
    for task in tasks:
        file = task.file
        rest = _rest(file.file_path, table.location(), root)
        _check_parquet(root, file)
        for one in task.delete_files:
            _check_parquet(root, one, ("PARQUET", "PUFFIN"))
        named = sorted(one.file_path for one in task.delete_files)
        urls = tuple(f"{root}/{_rest(one, table.location(), root)}" for one in named)
        deletes[rest] = _Deletes(file.file_path, urls)
        live[rest] = LiveFile(
            rest, f"{root}/{rest}", _constants(table, file), digest(*named) if named else ""
        )
    ids = {one.name: one.field_id for one in table.schema().fields}
    return Snapshot(root, name, schema, live, lambda one: _positions(deletes[one.rest], options), ids)


def newest(root: str, options: StorageOptions) -> str:
    """Return the name of the metadata file that is the table now."""
    folder = f"{root}/metadata"
    with filesystem.explained(folder, options):
        fs, path = filesystem.filesystem(folder, options)
        names = [name for name in filesystem.listing(fs, path) if name.endswith(".metadata.json")]
    with (
        contextlib.suppress(SourceError),
        filesystem.open_binary(f"{folder}/version-hint.text", options) as file,
    ):
        hint = file.read(1000).decode("utf-8", "replace").strip()
        for name in (hint, f"v{hint}.metadata.json", f"{hint}.metadata.json"):
            if name in names:
                return name
    return max(names, key=lambda name: (_number(name), name))


def _number(name: str) -> int:
    found = _NUMBER.match(name)
    return int(found[1]) if found else -1


def _planned(root: str, name: str, options: StorageOptions) -> tuple[Any, list[Any]]:
    """Return the table of a metadata file, and its live data files with what is deleted from them."""
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.io import FileIO, InputFile
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import StaticTable

    class Input(InputFile):
        """A file of the table, wherever the table was moved to since it was written."""

        def __len__(self) -> int:
            with self.open() as file:
                return int(file.seek(0, 2))

        def exists(self) -> bool:
            return True

        def open(self, seekable: bool = True) -> Any:  # noqa: ANN401  (a binary file)
            rest = _rest(self.location, files.base, root)
            return filesystem.open_binary(f"{root}/{rest}", options)

    class Files(FileIO):
        """Opens the files of the table with the options of the source, and writes none."""

        base = root

        def new_input(self, location: str) -> Input:
            return Input(location)

        def new_output(self, location: str) -> Any:  # noqa: ANN401
            raise OSError("a source is never written")

        def delete(self, location: Any) -> None:  # noqa: ANN401
            raise OSError("a source is never written")

    files = Files()
    place = f"{root}/metadata/{name}"
    metadata = FromInputFile.table_metadata(Input(place))
    files.base = metadata.location
    table = StaticTable(("table",), metadata, place, files, NoopCatalog("table"))
    return table, list(table.scan().plan_files())


def _rest(location: str, base: str, root: str) -> str:
    """Return the path of a file below the table; base : where the table says it lies."""
    for start in (base, root):
        plain, folder = _bare(location), _bare(start).rstrip("/") + "/"
        if plain.startswith(folder) and ".." not in plain.split("/"):
            return plain.removeprefix(folder)
    raise refuse("iceberg", root, f"it lists {location}, which does not lie in its folder")


def _bare(url: str) -> str:
    """Return a url without its scheme: s3 and s3a, or a path and file://, are one place."""
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:/*", "/", url)


def _check_parquet(root: str, file: Any, read: Sequence[str] = ("PARQUET",)) -> None:  # noqa: ANN401  (of pyiceberg)
    """Raise UsageError for a file that is not of a kind that is read."""
    kind = str(getattr(file.file_format, "value", file.file_format)).upper()
    if kind not in read:
        raise refuse("iceberg", root, f"it has {kind} files, which curate cannot read")


def _constants(table: Any, file: Any) -> dict[str, object]:  # noqa: ANN401  (of pyiceberg)
    """Return columns whose value a partition gives as it stands: files that were added from outside may lack them."""
    spec = table.specs()[file.spec_id]
    found = {}
    for place, field in enumerate(spec.fields):
        if str(field.transform) == "identity":
            value = file.partition[place]
            kind = table.schema().find_field(field.source_id)
            if isinstance(value, int) and str(kind.field_type) in (
                "date",
                "time",
                "timestamp",
                "timestamptz",
            ):
                continue  # stands in the file too, as a date
            found[kind.name] = value
    return found


@dataclass(frozen=True)
class _Deletes:
    """The files that say which rows of a data file are deleted; path : what they call that file."""

    path: str
    urls: tuple[str, ...]


def _positions(deletes: _Deletes, options: StorageOptions) -> npt.NDArray[np.int64]:
    """Return the positions of deleted rows, ascending, each once."""
    found = [NONE_DELETED]
    for url in deletes.urls:
        if url.lower().endswith(".puffin"):
            found.append(_vector(url, deletes.path, options))
            continue
        shard = Shard(url, url, "", 0, "", storage_options=options or {})
        rows = parquet.ParquetReader(Columns()).count(shard)
        for _, table in parquet.scan(shard, ["file_path", "pos"], 0, rows, BATCH_BYTES):
            own = pc.equal(table.column("file_path").cast(pa.string()), deletes.path)
            found.append(table.filter(own).column("pos").to_numpy().astype(np.int64))
    return np.unique(np.concatenate(found))


def _vector(url: str, path: str, options: StorageOptions) -> npt.NDArray[np.int64]:
    """Return the positions in the deletion vectors of a Puffin file for the data file of this path."""
    from pyiceberg.table.puffin import PuffinFile

    with filesystem.open_binary(url, options) as file:
        data = file.read()
    try:
        puffin = PuffinFile(data)
        try:
            from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
        except ImportError:  # before pyiceberg 0.12
            vectors = puffin.to_vector()
        else:
            vectors = {
                one.referenced_data_file: one.to_vector() for one in deletion_vectors_from_puffin_file(puffin)
            }
        mine = vectors.get(path)
        return NONE_DELETED if mine is None else mine.to_numpy().astype(np.int64)
    except Exception as error:  # noqa: BLE001  (as above)
        raise SourceError(
            f"{url}: this file of deletion vectors cannot be read: {filesystem.cause(error)}"
        ) from None


KIND = TableKind("iceberg", snapshot)

FORMAT = Format(
    "iceberg",
    (),
    KIND.find,
    lambda columns, allow_url: TableReader(KIND, columns, allow_url),
    fingerprint=KIND.fingerprint,
    check_unchanged=KIND.check_unchanged,
    what="the live files of an Iceberg table, without deleted rows (`curate[iceberg]`); Hudi and Lance are refused by name",
    rows="live rows",
)
