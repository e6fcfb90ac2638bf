"""What a file was when it was written: its size, time and hash, so that damage is noticed before it is used.

A finished stage keeps these records in its marker. While a stage is not finished, every part of it (and every
scratch file) has its record beside it, in a hidden file: its sidecar. A file with the recorded size and time is
trusted; any other is read, and if its bytes are not the recorded ones it is removed, so that it is made anew.
"""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from curate.errors import RunError
from curate.io.records import SIDECAR_SUFFIX, verified, with_checksum
from curate.io.remote import cache

__all__ = [
    "Record",
    "drop_sidecars",
    "hash_file",
    "note",
    "read",
    "record_of",
    "records_below",
    "remove_damaged",
    "verify",
    "verify_below",
    "verify_or_remove",
    "with_version",
    "write",
]

#: `bytes`, `mtime_ns` and `hash` of a file; scratch has no hash, and is made anew when its time is another. A file of
#: a run at a URL has the `version` of its object, and neither time nor hash where it is not on this machine.
Record: TypeAlias = Mapping[str, Any]
log = logging.getLogger("curate")


def hash_file(path: Path) -> str:
    """Return the blake2b-128 hash of a file's bytes."""
    state = hashlib.blake2b(digest_size=16)
    with (path if cache.copy_at(path.parent.absolute()) is None else cache.ensure_local(path)).open(
        "rb"
    ) as file:
        while block := file.read(8 << 20):
            state.update(block)
    return state.hexdigest()


def record_of(path: Path, *, hashed: bool = True) -> Record:
    """Return the record of a file as it is now."""
    facts = path.stat()
    noted = None if cache.copy_at(path.parent.absolute()) is None else cache.state_of(path)
    if noted is not None and not noted[1]:
        return {"bytes": noted[0].size, "version": noted[0].version}
    record: dict[str, Any] = {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    record |= {} if noted is None else {"version": noted[0].version}
    return record | ({"hash": hash_file(path)} if hashed else {})


def with_version(path: Path, record: Record) -> Record:
    """Return the record of a file with the version that it has at the URL of its run."""
    noted = cache.state_of(path)
    return record if noted is None else {**record, "version": noted[0].version}


def verify(path: Path, record: Record) -> Record | None:
    """Return the record of a file that is what `record` says, with its time as it is now; None if it is not.

    Only a file with another time (one that was copied, or written to) is read; at a URL, one of another version.
    """
    try:
        now = record_of(path, hashed=False)
    except OSError:
        return None
    if now["bytes"] != record.get("bytes"):
        return None
    sign = "version" if "version" in now and "version" in record else "mtime_ns"
    if sign in now and now[sign] == record.get(sign):
        return record if "version" not in now else {**record, "version": now["version"]}
    known = record.get("hash")
    if known is None and "version" in now:  # made by a cluster and copied since: whole, as every object is
        return now
    return None if known is None or hash_file(path) != known else {**now, "hash": known}


def _sidecar(path: Path) -> Path:
    return path.with_name(f".{path.name}{SIDECAR_SUFFIX}")


def write(path: Path, record: Record) -> None:
    """Put the record of `path` in its sidecar. It is not flushed: a file without one is trusted as before."""
    sidecar = _sidecar(path)
    partial = sidecar.with_name(f"{sidecar.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.write_text(json.dumps(with_checksum(record)), encoding="utf-8")
        partial.replace(sidecar)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def note(new: Path, path: Path, *, hashed: bool = True) -> Record:
    """Put the record of the file `new` in the sidecar of `path`, before it gets that name, so that none is without."""
    record = record_of(new, hashed=hashed)
    write(path, record)
    return record


def read(path: Path) -> Record | None:
    """Return the record in the sidecar of a file; None if it has none, or one that is damaged."""
    try:
        found = verified(json.loads(_sidecar(path).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def records_below(folder: Path) -> dict[str, Record]:
    """Return the records of the files below a folder, from their sidecars where they have one; hidden ones are left out.

    Raises RunError for a file that changed after it was written.
    """
    files = (file for file in sorted(folder.rglob("*")) if not file.name.startswith((".", "_")))
    return {str(file.relative_to(folder)): _record_now(file) for file in files if file.is_file()}


def _record_now(file: Path) -> Record:
    known = read(file)
    if known is None or "hash" not in known:
        return record_of(file)
    now = verify(file, known)
    if now is None:
        raise RunError(f"{file}: its bytes changed after it was written; run again to make it anew")
    return now


def verify_below(folder: Path, records: Mapping[str, Record]) -> dict[str, Record | None]:
    """Return the records of files of a folder as they are now, None for those that are gone or were damaged.

    Side effect: removes what is damaged.
    """
    found = {name: verify(folder / name, record) for name, record in records.items()}
    for name, now in found.items():
        if now is None:
            remove_damaged(folder / name)
    return found


def verify_or_remove(path: Path) -> bool:
    """Return True if a file is there and is what its sidecar (if any) says. Side effect: removes a damaged file."""
    if not path.is_file():
        return False
    record = read(path)
    if record is None:
        return True
    now = verify(path, record)
    if now is None:
        remove_damaged(path, warn="hash" in record)  # scratch was copied, perhaps, and costs little
        return False
    if now != record:
        write(path, now)
    return True


def remove_damaged(path: Path, *, warn: bool = True) -> None:
    """Remove a damaged file, with a warning."""
    if path.exists():
        if warn:
            log.warning("%s is not what was written there (damaged, or changed since); it is made anew", path)
        cache.remove_remote(path)
        path.unlink()


def drop_sidecars(path: Path) -> None:
    """Remove the sidecar of a file, or all sidecars below a folder."""
    if not path.is_dir():
        _sidecar(path).unlink(missing_ok=True)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            if name.startswith(".") and name.endswith(SIDECAR_SUFFIX):
                Path(folder, name).unlink()
