"""A file of JSON lines that several processes append to, and that is whole after any crash.

Each line begins with a checksum of what follows it in the line. Who appends holds the file (``flock``), writes its lines
at once and flushes them to the disk before it lets go. A last line that a crash tore has no newline and counts as never
written; who appends next takes it away. Readers need no lock: they take the lines that are whole.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from curate.io import storage

__all__ = ["Journal"]

_HEAD = b'{"check":"'


class Journal:
    """The entries of a journal, as far as they were read; `entries` reads on from there.

    damaged : how many whole lines are not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget_what_was_read()

    def _forget_what_was_read(self) -> None:
        self._file: tuple[int, int] | None = None
        self._end = 0
        self._entries: list[dict[str, Any]] = []
        self.damaged = 0

    def entries(self) -> list[dict[str, Any]]:
        """Return all whole entries, in the order in which they were appended; only new lines are read."""
        try:
            with storage.ensure_local(self.path).open("rb") as file:
                self._read_on(file.fileno())
        except FileNotFoundError:
            self._forget_what_was_read()
        return self._entries

    def _read_on(self, descriptor: int) -> None:
        facts = os.fstat(descriptor)
        if self._file != (facts.st_dev, facts.st_ino) or facts.st_size < self._end:
            self._forget_what_was_read()
            self._file = (facts.st_dev, facts.st_ino)
        text = os.pread(descriptor, facts.st_size - self._end, self._end)
        whole = text[: text.rfind(b"\n") + 1]
        self._end += len(whole)
        for line in whole.split(b"\n"):
            entry = _entry(line)
            if entry is not None:
                self._entries.append(entry)
            elif line:
                self.damaged += 1

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Append entries, in this order and next to each other; they are on the disk when this returns.

        Raises RunError where the file cannot be written; nothing was appended then.
        """
        with self.held() as descriptor:
            self.append_held(descriptor, entries)

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Hold the file, so that nobody else appends; gives what `append_held` takes."""
        with storage.explained(self.path):
            descriptor = _opened(self.path)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def append_held(self, descriptor: int, entries: Iterable[Mapping[str, Any]]) -> None:
        """Append entries to the file that is held: see `append`."""
        size = _without_torn_line(descriptor)
        try:
            view = memoryview(b"".join(map(_line, entries)))
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        storage.keep(self.path)

    def replace(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write the file anew with these entries alone; who appends meanwhile waits for it."""
        with self.held(), storage.atomic(self.path) as partial:
            partial.write_bytes(b"".join(map(_line, entries)))


def _opened(path: Path) -> int:
    """Return the descriptor of a file that nobody else holds now; the file is made if it is not there."""
    while True:
        new = not path.exists()
        if not new:
            storage.ensure_local(path)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if new:
                _sync_folder(path.parent)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # removed meanwhile
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another file has the name now


def _without_torn_line(descriptor: int) -> int:
    """Take away what stands behind the last newline of a file; return how long it is now."""
    size = end = os.fstat(descriptor).st_size
    while end:
        block = os.pread(descriptor, min(end, 4096), end - min(end, 4096))
        newline = block.rfind(b"\n")
        if newline >= 0:
            end += newline + 1 - len(block)
            break
        end -= len(block)
    if end < size:
        os.ftruncate(descriptor, end)
    return end


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(entry: Mapping[str, Any]) -> bytes:
    said = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")[1:]
    return _HEAD + xxhash.xxh3_64_hexdigest(said).encode() + b'",' + said + b"\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None if it is not as it was written."""
    head, said = line[: len(_HEAD) + 16], line[len(_HEAD) + 18 :]
    if head != _HEAD + xxhash.xxh3_64_hexdigest(said).encode():
        return None
    found = json.loads(b"{" + said)
    return found if isinstance(found, dict) else None
