"""Files of a run on a local disk: a final name means complete.

Everything is written under ``.<name>.partial-<random>`` beside its place, flushed to the disk, and
renamed. A part carries the fingerprint of what made it in its own schema metadata, so that a part left
by an interrupted run can be told from a stale one without any other record; and its checksum lies beside it
(`checksums`), so that a damaged one can be told from a whole one.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import RunError
from curate.hashing import digest
from curate.io import checksums
from curate.io.checksums import hash_file
from curate.io.holding import require_held
from curate.io.records import verified, with_checksum
from curate.io.remote import cache
from curate.io.remote.cache import copy_at, ensure_all_local, ensure_local
from curate.io.remote.working_copy import COPY_FOLDER
from curate.schema import check

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "atomic",
    "atomic_folder",
    "clear_partials",
    "compact",
    "ensure_all_local",
    "ensure_local",
    "explained",
    "explained_below",
    "fingerprint",
    "hash_file",
    "keep",
    "map_ipc",
    "read_frame",
    "read_json",
    "read_table",
    "remove",
    "replace_folder",
    "stored_facts",
    "stored_fingerprint",
    "write_ipc",
    "write_json",
    "write_parquet",
    "write_record",
]

PARTIAL = ".partial-"
FINGERPRINT_KEY = b"curate.fingerprint"
FACTS_KEY = "curate.facts"
ROW_GROUP = 65_536
HINTS = {
    errno.ENOSPC: "the disk is full; free some space and run again, finished parts are kept",
    errno.EDQUOT: "the quota is used up; free some space and run again, finished parts are kept",
    errno.EFBIG: "the file would be larger than the system allows (ulimit -f); raise that and run again",
    errno.EACCES: "no permission to write here",
    errno.EPERM: "no permission to write here",
    errno.EROFS: "the disk is read-only; choose another folder with --out",
}


def fingerprint(*parts: object) -> str:
    """Return 32 hex digits that stand for `parts` (anything JSON can say, in canonical form)."""
    return digest(json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into one line that names it, a RunError."""
    try:
        yield
    except OSError as error:
        other = error.filename if _is_elsewhere(error.filename, path) else None
        raise RunError(f"cannot write {path}: {_reason(error)}{f' ({other})' if other else ''}") from error


@contextlib.contextmanager
def explained_below(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses anywhere below `folder` into one line, a RunError; other errors pass."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename
        if error.errno not in HINTS or not isinstance(name, str) or folder not in Path(name).parents:
            raise
        raise RunError(f"cannot write {name}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return HINTS.get(error.errno or 0, error.strerror or str(error))


def _is_elsewhere(name: object, path: Path) -> bool:
    """Return True if an error is about a file that is neither `path` nor beside it (a source, say)."""
    return isinstance(name, str) and Path(name) != path and Path(name).parent not in (path, path.parent)


def _local(path: Path) -> Path:
    """Return a path whose file can be read. Files of a run on this machine are there already."""
    return path if copy_at(path.parent.absolute()) is None else ensure_local(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic(path: Path, *, checksum: bool = False, hashed: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it and rename it to `path`.

    checksum : write its record beside it, for `checksums.verify_or_remove`. hashed : False for scratch, whose hash is
    not worth its time: its record has size and time only.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _sync(partial)
            require_held(path)
            record = checksums.note(partial, path, hashed=hashed) if checksum else None
            if record is None:
                checksums.drop_sidecars(path)
            noted = None if copy_at(path.parent.absolute()) is None else cache.send(partial, path)
            partial.replace(path)
            if noted is not None:
                noted()
                if record is not None:
                    checksums.write(path, checksums.with_version(path, record))
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a new folder; on success it takes the place of the folder `path`, whole.

    What stood there before is gone afterwards; if anything fails it stays as it was.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}")
    with explained(path):
        try:
            partial.mkdir(parents=True)
            yield partial
            for file in partial.iterdir():
                _sync(file)
            _sync(partial)
            replace_folder(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Let the folder `new` take the place of the folder `path`; if that fails, the old one is there again.

    At a URL there is no such step: if it fails there, what was there has no mark any more and is made anew.
    """
    old = path.with_name(f".{path.name}{PARTIAL}{secrets.token_hex(4)}")
    store = cache.store_of(path)
    require_held(path)
    with explained(path):
        noted = None if store is None else store.move(new, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(old)
        try:
            new.replace(path)
        except BaseException:
            if old.exists():
                old.replace(path)
            raise
        if noted is not None:
            noted()
        _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there; at the URL of a run first."""
    require_held(path)
    cache.remove_remote(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def keep(path: Path) -> None:
    """Send a file that was written in place (a log) to the URL of its run, if it has one."""
    store = cache.store_of(path)
    if store is not None:
        store.keep(path)


def clear_partials(folder: Path) -> None:
    """Remove what an interrupted run left half-written below `folder`."""
    for path in list(folder.rglob(f".*{PARTIAL}*")):
        if COPY_FOLDER not in path.parts:
            remove(path)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # names that are not UTF-8 are lone surrogates, which JSON says with a backslash too
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_record(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Write what a run has to remember, with a checksum of what it says: see `read_json`."""
    write_json(path, with_checksum(value))


def read_json(path: Path) -> Any:  # noqa: ANN401  (JSON may hold anything)
    """Return the JSON in `path`; None if it is not there, torn, or not what its checksum (if any) says."""
    try:
        return verified(json.loads(_local(path).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _with_fingerprint(schema: pa.Schema, fingerprint: str) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), FINGERPRINT_KEY: fingerprint.encode()})


def write_parquet(
    path: Path,
    tables: pa.Table | Iterable[pa.Table],
    schema: pa.Schema,
    fingerprint: str,
    *,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write a table of a run: zstd, row groups of a fixed size, fingerprinted with how it was made.

    tables : one table, or several in order, each with the columns of `schema`. facts : what `stored_facts` returns;
    it is looked at when the rows are written, so that those who make them may fill it.
    """
    stamped = _with_fingerprint(schema, fingerprint)
    with (
        atomic(path, checksum=True) as partial,
        pq.ParquetWriter(partial, stamped, compression="zstd") as writer,
    ):
        for table in _in_row_groups([tables] if isinstance(tables, pa.Table) else tables, schema):
            writer.write_table(table.cast(stamped), row_group_size=ROW_GROUP)
        if facts:
            writer.add_key_value_metadata({FACTS_KEY: json.dumps(facts, sort_keys=True)})


def stored_facts(path: Path) -> dict[str, Any]:
    """Return the facts that a table of a run was written with; nothing where there are none."""
    found = (pq.read_metadata(ensure_local(path)).metadata or {}).get(FACTS_KEY.encode(), b"{}")
    return dict(json.loads(found))


def _in_row_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Cut tables anew into full row groups, so that the bytes written do not depend on how they came."""
    rest = schema.empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, check(table, schema, "internal table")])
        while rest.num_rows >= ROW_GROUP:
            yield rest.slice(0, ROW_GROUP).combine_chunks()
            rest = rest.slice(ROW_GROUP)
    yield rest.combine_chunks()


def write_ipc(
    path: Path,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    fingerprint: str,
    *,
    scratch: bool = False,
) -> None:
    """Write record batches as an uncompressed Arrow IPC file, which maps into NumPy without a copy."""
    stamped = _with_fingerprint(schema, fingerprint)
    with (
        atomic(path, checksum=True, hashed=not scratch) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, stamped) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(stamped.metadata))


def map_ipc(path: Path) -> pa.ipc.RecordBatchFileReader:
    """Open an Arrow IPC file as a memory map; raises RunError where it is not whole."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(_local(path)), "r"))
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: not a whole Arrow file ({error}); remove it and run again") from error


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet table of a run (or some of its columns), without its metadata; raises RunError where it is not whole."""
    try:
        # Not `pq.read_table`, which sets up a scan of a data set: most tables of a run are small.
        with pq.ParquetFile(_local(path)) as file:
            table = file.read(columns)
        return (table if columns is None else table.select(columns)).replace_schema_metadata(None)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: not a whole Parquet table ({error}); remove it and run again") from error


def read_frame(
    path: Path, columns: Sequence[str] | None = None, perhaps: Sequence[str] = ()
) -> "pl.DataFrame":
    """Read a Parquet table of a run (or some of its columns) with Polars: in a third of the time where it has many texts.

    perhaps : which of the columns it may lack.
    """
    import polars as pl
    from polars import selectors

    must = [name for name in columns or () if name not in perhaps]
    asked = (
        pl.all()
        if columns is None
        else selectors.by_name(*must) | selectors.by_name(*perhaps, require_all=False)
    )
    try:
        frame = pl.scan_parquet(_local(path), glob=False).select(asked).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: not a whole Parquet table ({error}); remove it and run again") from error
    return frame if columns is None else frame.select(name for name in columns if name in frame.columns)


def compact(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Return some rows of a larger table by themselves: rows that were filtered hold on to all texts that they were among."""
    import polars as pl

    texts = [name for name, kind in frame.schema.items() if kind in (pl.String, pl.Binary)]
    oldest = pl.CompatLevel.oldest()
    return frame.with_columns(
        pl.Series(name, frame[name].to_arrow(compat_level=oldest), frame.schema[name]) for name in texts
    )


def stored_fingerprint(path: Path) -> str | None:
    """Return the fingerprint a part was fingerprinted with; None if it is absent, torn or not fingerprinted."""
    try:
        if path.suffix == ".arrow":
            metadata: Mapping[bytes, bytes] | None = map_ipc(path).schema.metadata
        else:
            metadata = pq.read_schema(_local(path)).metadata
    except (OSError, pa.ArrowInvalid, RunError):
        return None
    return (metadata or {}).get(FINGERPRINT_KEY, b"").decode() or None
