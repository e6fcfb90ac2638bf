"""Read tars forwards: one member after the other as its header tells, nothing extracted, nothing followed.

Python's tarfile is not used: it takes the memory that any header asks for, stops at the first damaged header
without a word, and does not say whether the tar was whole. Here every oddity has a name. Only the headers of a
plain tar are read unless the bytes of a member are asked for; a gzip is read once from front to end.
"""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from curate.errors import SourceError
from curate.io import filesystem
from curate.io.names import printable
from curate.sources.base import Shard

__all__ = ["AFTER_END", "DAMAGED", "DIRECTORY", "FILE", "Member", "Tar", "opened"]

BLOCK = 512
ZEROS = bytes(BLOCK)
CHUNK = 1 << 20
#: More is no file name, however it is written.
MAX_NAME_BYTES = 4096
#: Extended headers (long names, PAX) of more bytes are skipped, and what they belong to is not used.
MAX_EXTENSION_BYTES = 1 << 20

FILE = "a file"
DIRECTORY = "a directory"
DAMAGED = "damaged"
AFTER_END = "after the end mark of the tar"

#: What members are by type flag; those with any other flag are regarded as special files with data.
KINDS = {
    b"0": FILE, b"\0": FILE, b"7": FILE, b"1": "a hard link", b"2": "a symbolic link", b"3": "a device",
    b"4": "a device", b"5": DIRECTORY, b"6": "a pipe", b"S": "a sparse file",
}  # fmt: skip
#: Flags of members without data, whatever size their header gives.
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
LONG_NAME, LONG_LINK, GLOBAL = b"L", b"K", b"g"
#: Flags of headers that tell of the next member; the last two are PAX.
EXTENSIONS = (LONG_NAME, LONG_LINK, GLOBAL, b"x", b"X")
#: Sizes with more digits are no sizes.
MAX_DIGITS = 18

COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x9d": "compress"}


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar: kind is `FILE`, or says what else it is; its data begin at byte `offset`."""

    name: str
    kind: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Header:
    """One block of 512 bytes that is a header."""

    name: bytes
    flag: bytes
    size: int
    extended: bool


@contextlib.contextmanager
def opened(shard: Shard) -> Iterator["Tar"]:
    """Open a tar, plain or gzip by its first bytes; raises SourceError where it is neither."""
    with filesystem.open_binary(shard.url, shard.storage_options) as file:
        with filesystem.explained(shard.url, shard.storage_options):
            head = file.read(6)
            file.seek(0)
        if not head:
            raise SourceError(f"{shard.url}: the file is empty (0 bytes)")
        for magic, name in COMPRESSED.items():
            if head.startswith(magic):
                raise SourceError(
                    f"{shard.url}: compressed with {name}; curate reads plain tars and gzip: recompress it"
                )
        yield Tar(file, shard, compressed=head.startswith(b"\x1f\x8b"))


class Tar:
    """The members of an open tar, in one pass: iterate over it, and `read` the member that came last.

    cut : after the pass, where the tar ends too early; None if it is whole.
    """

    def __init__(self, file: BinaryIO, shard: Shard, *, compressed: bool) -> None:
        self.cut: str | None = None
        self._shard = shard
        self._gzip = gzip.GzipFile(fileobj=file) if compressed else None
        self._file = file
        self._position = 0
        with self._explained():
            self._total = None if compressed else file.seek(0, 2)
            file.seek(0)

    def __iter__(self) -> Iterator[Member]:
        """Yield every member, also of tars that were joined; what is no tar any more has kind `DAMAGED`."""
        offset, ended, told = 0, False, _Told()
        while len(block := self._at(offset, BLOCK)) == BLOCK:
            if block == ZEROS:
                ended, offset = True, offset + BLOCK
                continue
            header = _parse(block)
            if header is None:
                start, offset = offset, self._next_header(offset)
                yield Member("", AFTER_END if ended else DAMAGED, start, offset - start)
                continue
            start = self._data_start(header, offset)
            size = told.size if told.size is not None else header.size
            if header.flag in EXTENSIONS:
                size = header.size
                told.add(header.flag, size, self._at(start, min(size, MAX_EXTENSION_BYTES)))
            else:
                size = 0 if header.flag in WITHOUT_DATA else size
                yield self._checked(told.member(header, start, size))
                told = _Told()
            ended, offset = False, start + -(-size // BLOCK) * BLOCK
        if ended and self.cut:
            yield Member("", AFTER_END, offset, 0)
            self.cut = None
        elif not ended:
            end = self._position if self._total is None else self._total
            self.cut = self.cut or f"the file ends at byte {end:,} without the end mark of a tar"

    def read(self, member: Member) -> bytes | None:
        """Return the bytes of the member that came last, or None where the file ends before they do."""
        if self._total is not None and member.offset + member.size > self._total:
            return None
        data = self._at(member.offset, member.size)
        return data if len(data) == member.size else None

    def _checked(self, member: Member) -> Member:
        """Return a member, noting it where a plain tar ends inside it; in a gzip, reading on will tell."""
        if self._total is not None and member.offset + member.size > self._total:
            self.cut = f"the file ends at byte {self._total:,}, within {member.name!r}"
        return member

    def _data_start(self, header: _Header, offset: int) -> int:
        """Return where the data of a member begin: behind its header, and the maps of a sparse file."""
        offset, more = offset + BLOCK, header.extended
        while more:
            block = self._at(offset, BLOCK)
            offset, more = offset + BLOCK, len(block) == BLOCK and block[504] != 0
        return offset

    def _next_header(self, offset: int) -> int:
        """Return where the next header is behind a damaged one, or the end; SourceError in other files."""
        if offset == 0:
            raise SourceError(f"{self._shard.url}: not a tar file")
        while len(block := self._at(offset := offset + BLOCK, BLOCK)) == BLOCK:
            if block[257:262] == b"ustar" and _parse(block) is not None:
                break
        return offset

    def _at(self, offset: int, size: int) -> bytes:
        """Return the bytes from `offset` on, fewer where the file ends; in a gzip, `offset` only grows."""
        try:
            if self._gzip is not None:
                return self._inflated(self._gzip, offset, size)
            if self._total is not None and offset >= self._total:
                return b""
            if self._position != offset:
                self._file.seek(offset)
            data = self._file.read(size)
        except Exception:
            with self._explained():  # entered only here: it would cost more than reading a header
                raise
        self._position = offset + len(data)
        return data

    def _inflated(self, stream: gzip.GzipFile, offset: int, size: int) -> bytes:
        """Return bytes of a gzip; where it is broken, `cut` says so and there are no more."""
        pieces: list[bytes] = []
        end = offset + size
        try:
            while self.cut is None and self._position < end:
                skipping = self._position < offset
                data = stream.read(min((offset if skipping else end) - self._position, CHUNK))
                if not data:
                    break
                self._position += len(data)
                pieces += [] if skipping else [data]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.cut = f"the gzip is broken after byte {self._position:,} of what it holds: {error}"
        return b"".join(pieces)

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return filesystem.explained(self._shard.url, self._shard.storage_options)


class _Told:
    """What the extended headers before a member say of it."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.size: int | None = None
        self.fault: str | None = None

    def add(self, flag: bytes, size: int, data: bytes) -> None:
        """Take in one extended header with these data (cut at MAX_EXTENSION_BYTES)."""
        if flag in (GLOBAL, LONG_LINK):
            return  # comments, owners and link targets: nothing that a sample needs
        if size > MAX_EXTENSION_BYTES:
            self.fault = f"a member with an extended header of {size:,} bytes"
        elif flag == LONG_NAME:
            self.name = data.split(b"\0")[0]
        else:
            self._add_pax(dict(_pax_records(data)))

    def _add_pax(self, records: dict[bytes, bytes]) -> None:
        self.name = records.get(b"path", self.name)
        if any(key.startswith(b"GNU.sparse.") for key in records):
            self.fault = "a sparse file"
        size = records.get(b"size")
        if size is None:
            return
        if size.isdigit() and len(size) <= MAX_DIGITS:
            self.size = int(size)
        else:
            self.fault = f"a member of size {size[:20].decode('utf-8', 'backslashreplace')!r}"

    def member(self, header: _Header, start: int, size: int) -> Member:
        """Return the member that `header` begins."""
        name = header.name if self.name is None else self.name
        kind = self.fault or KINDS.get(header.flag, "a special file")
        if len(name) > MAX_NAME_BYTES:
            kind, name = f"a member with a name of {len(name):,} bytes", name[:100]
        text = printable(name.decode("utf-8", "surrogateescape"))
        return Member(text, DIRECTORY if kind == FILE and text.endswith("/") else kind, start, size)


def _parse(block: bytes) -> _Header | None:
    """Return the header in a block, or None where its sum or a number in it is wrong."""
    said, size = _number(block[148:156]), _number(block[124:136])
    plain = sum(block) - sum(block[148:156]) + 8 * 32
    if said is None or size is None or (said != plain and said != _signed_sum(block)):
        return None
    name, flag = block[:100].split(b"\0", 1)[0], block[156:157]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return _Header(name, flag, size, flag == b"S" and block[482] != 0)


def _signed_sum(block: bytes) -> int:
    """Return the sum of a header as old programs made it, of signed bytes."""
    counted = block[:148] + b" " * 8 + block[156:]
    return sum(byte - 256 if byte > 127 else byte for byte in counted)


def _number(field: bytes) -> int | None:
    """Return a number of a header: octal digits, or (first bit set) binary; None if it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    return int(digits or b"0", 8) if not digits.strip(b"01234567") else None


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of the records ``length key=value``; stops at the first that is none."""
    place = 0
    while (space := data.find(b" ", place, place + MAX_DIGITS)) > 0:
        digits = data[place:space]
        end = place + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or end > len(data) or not equals:
            return
        yield key, value
        place = end
