"""Arrays made elsewhere, in `.npy` files and members of `.npz` files: checked by their headers, read in blocks.

Nothing here loads a whole array, and nothing loads a pickle. What an array says of itself (shape, type) is held
against the bytes that its file or the directory of its archive declares before a row is read, so that neither a
cut file nor an archive that unpacks to more than its rows passes; memory holds the rows of one block.
"""

import contextlib
import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, SourceError
from curate.io.filesystem import open_binary

__all__ = ["ArrayFile", "RowStream", "npy_array", "npz_arrays", "opened"]

#: Longest header of an array: that of a plain one has about 128 bytes.
MAX_HEADER = 10_000
#: Largest row, so that one row fits into memory whatever a header claims.
MAX_ROW_BYTES = 1 << 20
MAX_MEMBERS = 1_000
BLOCK_BYTES = 1 << 20

_DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError,
)  # fmt: skip


@dataclass(frozen=True)
class ArrayFile:
    """One array of rows in a file: where its numbers begin and what they are.

    member : its name in an `.npz` archive; None for a `.npy` file. shape : (n, d). offset : bytes before the
    first row, in the file or in the unpacked member.
    """

    url: str
    member: str | None
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int
    storage_options: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def where(self) -> str:
        """What to call the array in a message."""
        return _where(self.url, self.member)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.shape[1] * self.dtype.itemsize


@dataclass
class RowStream:
    """Reads the rows of an open array; forwards is cheap, back may mean to unpack from the beginning."""

    array: ArrayFile
    handle: BinaryIO

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows [start, stop), (stop - start, d), in the byte order of this machine."""
        array = self.array
        wanted = (stop - start) * array.row_bytes
        with _damage(array.where):
            self.handle.seek(array.offset + start * array.row_bytes)
            data = _exactly(self.handle, wanted)
        rows = np.frombuffer(data, array.dtype).reshape(stop - start, array.shape[1])
        return rows.astype(array.dtype.newbyteorder("="), copy=False)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the rows at ascending positions, reading block by block what lies between near ones."""
        taken = np.empty((len(rows), self.array.shape[1]), self.array.dtype.newbyteorder("="))
        step = max(1, BLOCK_BYTES // self.array.row_bytes)
        done = 0
        while done < len(rows):
            first = int(rows[done])
            upto = int(np.searchsorted(rows, first + step))
            block = self.read(first, int(rows[upto - 1]) + 1)
            taken[done:upto] = block[rows[done:upto] - first]
            done = upto
        return taken


def npy_array(
    url: str, storage_options: Mapping[str, object] | None = None, *, text: bool = False
) -> ArrayFile:
    """Return what a `.npy` file holds; raises SourceError unless it is (n, d) of floats (text : of strings).

    The message names the file, what is wrong, and how to save it instead.
    """
    with open_binary(url, storage_options) as handle, _damage(url):
        size = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        shape, dtype, offset = _header(handle, url, text=text)
    _check_size(url, size, offset, shape, dtype)
    return ArrayFile(url, None, shape, dtype, offset, storage_options or {})


def npz_arrays(
    url: str,
    storage_options: Mapping[str, object] | None = None,
    *,
    only: str | None = None,
    skip: bool = False,
) -> dict[str, ArrayFile]:
    """Return the arrays of an `.npz` file by name, as `npy_array`; only headers are unpacked.

    only : the name of the one to take. skip : leave out what is no array of vectors, where there are several.
    Raises SourceError for an archive with too many members, or the same one twice.
    """
    found: dict[str, ArrayFile] = {}
    with open_binary(url, storage_options) as handle, _damage(url), zipfile.ZipFile(handle) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise SourceError(f"{url}: holds {len(members):,} members, at most {MAX_MEMBERS:,} are read")
        for info in members:
            name = info.filename.removesuffix(".npy")
            where = _where(url, name)
            if name in found:
                raise SourceError(f"{where}: the archive holds this array twice")
            if only not in (None, name):
                continue
            try:
                with _damage(where), archive.open(info) as member:
                    shape, dtype, offset = _header(cast(BinaryIO, member), where)
                _check_size(where, info.file_size, offset, shape, dtype)
            except SourceError:
                if skip and len(members) > 1:
                    continue
                raise
            found[name] = ArrayFile(url, info.filename, shape, dtype, offset, storage_options or {})
    return found


@contextlib.contextmanager
def opened(array: ArrayFile) -> Iterator[RowStream]:
    """Open an array for reading its rows."""
    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(open_binary(array.url, array.storage_options))
        if array.member is not None:
            with _damage(array.where):
                archive = stack.enter_context(zipfile.ZipFile(handle))
                handle = cast(
                    BinaryIO, stack.enter_context(contextlib.closing(_Member(archive, array.member)))
                )
        yield RowStream(array, handle)


class _Member:
    """A member of an archive that is read through to where one goes, and from its beginning to go back.

    zipfile compares the checksum once everything was read; from Python 3.12 on it does so no more after it was told to seek.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self._name = archive, name
        self._file, self._at = archive.open(name), 0

    def seek(self, offset: int) -> None:
        if offset < self._at:
            self._file.close()
            self._file, self._at = self._archive.open(self._name), 0
        while self._at < offset and self.read(min(BLOCK_BYTES, offset - self._at)):
            pass

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._at += len(data)
        return data

    def close(self) -> None:
        self._file.close()


def _where(url: str, member: str | None) -> str:
    return url if member is None else f"{url}: array {member.removesuffix('.npy')!r}"


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    """Say in one line which file is damaged."""
    try:
        yield
    except CurateError:
        raise
    except _DAMAGE as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{where}: the file is damaged or of another kind: {said}") from error


def _exactly(handle: BinaryIO, size: int) -> bytes:
    """Return `size` bytes; a file that ends before is an EOFError."""
    pieces, left = [], size
    while left:
        piece = handle.read(left)
        if not piece:
            raise EOFError(f"it ends {left:,} bytes too early")
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _header(
    handle: BinaryIO, where: str, *, text: bool = False
) -> tuple[tuple[int, int], np.dtype[Any], int]:
    """Read (shape, type, where the numbers begin) of an array, and check the first two."""
    head = handle.read(8)
    if head[:1] == b"\x80":
        raise SourceError(
            f"{where}: is a pickle, which is never loaded; save the array itself with numpy.save"
        )
    if head[:6] != np.lib.format.MAGIC_PREFIX or len(head) < 8:
        raise SourceError(f"{where}: not a .npy array")
    field_bytes = 2 if head[6] == 1 else 4
    field_ = _exactly(handle, field_bytes)
    length = int.from_bytes(field_, "little")
    if length > MAX_HEADER:
        raise SourceError(f"{where}: its header claims {length:,} bytes, at most {MAX_HEADER:,} are read")
    header = io.BytesIO(field_ + _exactly(handle, length))
    reads = np.lib.format.read_array_header_1_0 if head[6] == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reads(header)
    if text and 0 in shape:  # an empty cluster: NumPy knows no type of nothing
        return (0, 1), np.dtype("S1"), 8 + field_bytes + length
    _check_type(where, shape, dtype, text=text)
    _check_shape(where, shape)
    if fortran and min(shape) > 1:
        raise SourceError(
            f"{where}: shape {shape} is stored column by column; save numpy.ascontiguousarray(x) instead"
        )
    return (int(shape[0]), int(shape[1])), dtype, 8 + field_bytes + length


def _check_type(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, text: bool) -> None:
    if dtype.hasobject:
        raise SourceError(
            f"{where}: is an array of Python objects (a pickle), which is never loaded; save it as "
            + ("text: x.astype(str)" if text else "numbers: numpy.stack(list(x)).astype('float32')")
        )
    wanted = "text (S or U)" if text else "float16, float32 or float64"
    if dtype.kind not in ("SU" if text else "f") or dtype.itemsize not in (
        (dtype.itemsize,) if text else (2, 4, 8)
    ):
        raise SourceError(f"{where}: must hold {wanted}, found {dtype} of shape {shape}; save x.astype(...)")


def _check_shape(where: str, shape: tuple[int, ...]) -> None:
    if len(shape) == 2 and shape[0] >= 0 and shape[1] > 0:
        return
    said = f"{where}: must have the shape (rows, numbers), found {shape}"
    ones = [axis for axis, size in enumerate(shape) if size == 1 and axis > 0]
    if len(shape) == 3 and len(ones) >= 1:
        raise SourceError(f"{said}: axis {ones[0]} is one too many; save x.squeeze({ones[0]}) instead")
    raise SourceError(f"{said}; save an array with one row per sample")


def _check_size(where: str, size: int, offset: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Hold the bytes there are against what the shape needs; neither is believed alone."""
    if shape[1] * dtype.itemsize > MAX_ROW_BYTES:
        raise SourceError(
            f"{where}: a row of {shape[1]:,} numbers has {shape[1] * dtype.itemsize:,} bytes, "
            f"at most {MAX_ROW_BYTES:,} are read"
        )
    needed = offset + math.prod(shape) * dtype.itemsize
    if size != needed:
        what = "is cut short" if size < needed else "holds more than one array"
        raise SourceError(f"{where}: {what}: it has {size:,} bytes, its shape {shape} needs {needed:,}")
