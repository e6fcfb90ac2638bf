"""Vectors in files that are no plain `.npy`: members of `.npz`, tensors of `.pt`, columns of lists in Parquet.

Each is opened as an `Opened`: shape, and rows [start, stop) as float32 or as they stand. Blocks are asked for in
ascending order; going back costs to begin anew. No file is loaded whole, and no pickle is loaded.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import EmbeddingError, SourceError
from curate.io.filesystem import is_remote, local_path, open_binary
from curate.sources.arrays.npy import npz_arrays, opened
from curate.sources.arrow_types import is_list, is_text, plain_type
from curate.sources.columns import uids_of
from curate.sources.vector_columns import FLOATS, from_column

__all__ = ["ENDINGS", "OPENERS", "Opened", "kinds_said"]

BATCH_BYTES = 16_000_000


class Opened(Protocol):
    """Rows of one file."""

    @property
    def path(self) -> str:
        """Where it is."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, numbers)."""

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows [start, stop)."""

    def uids(self, start: int, stop: int) -> list[str] | None:
        """Return the uids beside the vectors of rows [start, stop); None where there are none."""


class _Npz:
    """An array of an `.npz` archive."""

    def __init__(self, path: str, array: str | None, uid: str | None, options: Mapping[str, Any]) -> None:
        try:
            found = npz_arrays(path, options, only=array, skip=array is None)
            found = found or npz_arrays(path, options, skip=True)
        except SourceError as error:
            raise EmbeddingError(str(error)) from error
        name = _chosen(path, array, list(found), "arrays of vectors")
        self.path, self._array = path, found[name]
        self.shape = self._array.shape
        self._stack = contextlib.ExitStack()
        self._stream: Any = None

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows [start, stop)."""
        if self._stream is None:
            self._stream = self._stack.enter_context(opened(self._array))
        try:
            return np.asarray(self._stream.read(start, stop))
        except SourceError as error:
            raise EmbeddingError(str(error)) from error

    def uids(self, start: int, stop: int) -> None:
        """Return None: arrays have no uids."""

    def __del__(self) -> None:
        """Close the archive."""
        if hasattr(self, "_stack"):
            self._stack.close()


class _Torch:
    """A tensor, or one of a dictionary of tensors, as `torch.save` writes them; it is mapped."""

    def __init__(self, path: str, array: str | None, uid: str | None, options: Mapping[str, Any]) -> None:
        import torch

        if is_remote(path):
            raise EmbeddingError(f"{path}: a .pt file must be on this machine; copy it, or save it as .npy")
        try:
            held = torch.load(local_path(path), map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises errors of many kinds for what it cannot read
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise EmbeddingError(
                f"{path}: cannot be read as tensors alone: {said}; save the tensor itself with torch.save, or "
                "numpy.save(x.numpy())"
            ) from error
        if not isinstance(held, torch.Tensor):
            tensors = held if isinstance(held, Mapping) else {}
            good = [
                str(name) for name, one in tensors.items() if isinstance(one, torch.Tensor) and one.ndim == 2
            ]
            held = tensors[_chosen(path, array, good, "tensors of two axes")]
        if (
            held.ndim != 2
            or not held.is_floating_point()
            or held.layout != torch.strided
            or not held.shape[1]
        ):
            raise EmbeddingError(
                f"{path}: must be a dense tensor of floats of shape (rows, numbers), found {held.dtype} of shape "
                f"{tuple(held.shape)}"
            )
        self.path, self._rows = path, held.detach()
        self.shape = (int(held.shape[0]), int(held.shape[1]))

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows [start, stop) as float32."""
        return np.asarray(self._rows[start:stop].float().numpy())

    def uids(self, start: int, stop: int) -> None:
        """Return None: tensors have no uids."""


class _Parquet:
    """A column of lists in a Parquet file, with the column of uids where it has one."""

    def __init__(self, path: str, array: str | None, uid: str | None, options: Mapping[str, Any]) -> None:
        self.path = path
        self._handle = open_binary(path, options)
        with self._explained():
            self._file = pq.ParquetFile(self._handle)
            kinds = {one.name: plain_type(one.type) for one in self._file.schema_arrow}
        lists = [name for name, kind in kinds.items() if is_list(kind) and kind.value_type in FLOATS]
        self._column = _chosen(path, array, lists, "columns of lists of floats")
        known = kinds.get(uid or "")
        self._uid = uid if known is not None and (is_text(known) or pa.types.is_integer(known)) else None
        self._ends = np.cumsum(
            [0, *(self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups))]
        )
        self.shape = (int(self._file.metadata.num_rows), self._length(kinds[self._column]))
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._held, self._at = self._empty(), -1  # nothing is read yet

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows [start, stop) as float32, NaN where there is no vector of the length."""
        table = self._rows(start, stop)
        return from_column(table[self._column], name=self._column, dim=self.shape[1])[0]

    def uids(self, start: int, stop: int) -> list[str] | None:
        """Return the uids of rows [start, stop); None where there is no such column."""
        if self._uid is None:
            return None
        found = uids_of(self._rows(start, stop), self._uid, start, self.path)
        return None if found is None else list(found)

    def _length(self, kind: pa.DataType) -> int:
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        with self._explained():
            for batch in self._file.iter_batches(1024, columns=[self._column]):
                for one in batch.column(0):
                    if one.is_valid and len(one.values):
                        return len(one.values)
        return 1  # no vector in any row

    def _empty(self) -> pa.Table:
        return pa.schema([self._file.schema_arrow.field(name) for name in self._names()]).empty_table()

    def _names(self) -> list[str]:
        return [self._column, *([self._uid] if self._uid is not None else [])]

    def _rows(self, start: int, stop: int) -> pa.Table:
        """Return the rows [start, stop); what was read before `start` is let go."""
        if start < self._at or start > self._at + len(self._held):
            group = max(0, int(np.searchsorted(self._ends, start, side="right")) - 1)
            step = max(1, min(8192, BATCH_BYTES // (8 * self.shape[1])))
            groups = list(range(group, self._file.num_row_groups))
            self._batches = self._file.iter_batches(step, row_groups=groups, columns=self._names())
            self._held, self._at = self._empty(), int(self._ends[min(group, len(self._ends) - 1)])
        with self._explained():
            while self._at + len(self._held) < stop:
                more = pa.Table.from_batches([next(self._batches)])
                gone = min(max(start - self._at, 0), len(self._held))
                self._held = pa.concat_tables([self._held.slice(gone), more.select(self._names())])
                self._at += gone
        return self._held.slice(start - self._at, stop - start)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, StopIteration) as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise EmbeddingError(f"{self.path}: cannot be read as Parquet: {said}") from error

    def __del__(self) -> None:
        """Close the file."""
        if hasattr(self, "_handle"):
            self._handle.close()


def _chosen(path: str, wanted: str | None, have: list[str], what: str) -> str:
    """Return the name of the array to take: the one asked for, or the only one."""
    if wanted is not None and wanted in have:
        return wanted
    if wanted is None and len(have) == 1:
        return have[0]
    listed = ", ".join(have) or "none"
    if wanted is not None:
        raise EmbeddingError(f"{path}: embed.array {wanted!r} is not among its {what}: {listed}")
    rule = "name one with embed.array" if have else "it must hold one, of shape (rows, numbers)"
    raise EmbeddingError(f"{path}: {what}: {listed}; {rule}")


#: What opens a file that ends so.
OPENERS: Mapping[str, Callable[[str, str | None, str | None, Mapping[str, Any]], Opened]] = {
    ".npz": _Npz,
    ".pt": _Torch,
    ".pth": _Torch,
    ".parquet": _Parquet,
    ".pq": _Parquet,
}
#: The ends of files that hold vectors, those first that a folder is searched for first.
ENDINGS = (".npy", *OPENERS)


def kinds_said(path: str) -> str:
    """Return what a message says of a file of another kind."""
    end = Path(path).suffix.lower()
    how = {
        ".csv": "write the numbers as a list column in Parquet", ".h5": "save the array with numpy.save",
        ".pkl": "save the array with numpy.save; a pickle is never loaded",
        ".safetensors": "save the tensor with numpy.save(x.numpy())",
        ".jsonl": "write the numbers as a list column in Parquet", ".arrow": "write it as Parquet",
        ".feather": "write it as Parquet",
    }.get(end, "save the array with numpy.save")  # fmt: skip
    return f"no file of vectors, which are read from {', '.join(ENDINGS)}: {how}"
