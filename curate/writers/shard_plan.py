"""Which kept rows go into which output file: planned before the first byte is written, whatever the format."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import UsageError
from curate.sources.base import Shard

__all__ = ["KeptRows", "OutputFile", "Piece", "Slice", "filled", "pieces", "plan"]


@dataclass(frozen=True)
class KeptRows:
    """The rows of one source shard that are to be written.

    rows : (n,) int64, ascending positions in the shard. sizes : (n,) int64, the stored bytes of each:
    image bytes plus caption length, before compression. extra : n rows of columns to add, or None.
    """

    shard: Shard
    rows: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    extra: pa.Table | None = None


@dataclass(frozen=True)
class Slice:
    """The kept rows `start` to `stop` (places among the kept rows, not in the file) of one shard, and their bytes."""

    shard: str
    start: int
    stop: int
    size: int = field(default=0, compare=False)


@dataclass(frozen=True)
class OutputFile:
    """One file to write and the kept rows that go into it, in order."""

    name: str
    split: str
    slices: tuple[Slice, ...]

    @property
    def n_rows(self) -> int:
        """The number of rows the file will hold."""
        return sum(part.stop - part.start for part in self.slices)

    @property
    def n_bytes(self) -> int:
        """The bytes of its rows as they are stored, before compression."""
        return sum(part.size for part in self.slices)


@dataclass(frozen=True)
class Piece:
    """Rows of one shard, with the values of the columns to add."""

    shard: Shard
    rows: npt.NDArray[np.int64]
    extra: pa.Table | None = None


@dataclass
class _OpenFile:
    """A file that the plan is still filling."""

    size: int = 0
    slices: list[Slice] = field(default_factory=list)


def plan(kept: Iterable[KeptRows], max_shard_size: int, *, empty: bool = False) -> list[OutputFile]:
    """Return the Parquet files to write: rows keep the order of shards and rows, splits stay apart.

    As `filled`. Without kept rows there is no file, or with `empty` one that holds the schema only.

    >>> rows = np.arange(3)
    >>> shard = Shard("train.parquet", "train.parquet", "train", 0, "")
    >>> [file.name for file in plan([KeptRows(shard, rows, np.array([5, 5, 5]))], 10)]
    ['train-00000-of-00002.parquet', 'train-00001-of-00002.parquet']
    """
    splits = filled(kept, max_shard_size)
    if not splits and empty:
        splits["train"] = [()]
    return [
        OutputFile(f"{split}-{number:05d}-of-{len(files):05d}.parquet", split, slices)
        for split, files in splits.items()
        for number, slices in enumerate(files)
    ]


def filled(kept: Iterable[KeptRows], max_shard_size: int) -> dict[str, list[tuple[Slice, ...]]]:
    """Return what each file of each split holds.

    A file takes rows until the next would bring the sum of their sizes above `max_shard_size` (sizes
    are uncompressed; files on disk are mostly smaller), and holds at least one row.
    """
    if max_shard_size < 1:
        raise UsageError(f"write.max_shard_size must be at least 1 byte, got {max_shard_size}")
    splits: dict[str, list[_OpenFile]] = {}
    for item in kept:
        if len(item.rows) != len(item.sizes):
            raise ValueError(f"{item.shard.name}: {len(item.rows)} rows but {len(item.sizes)} sizes")
        if len(item.rows):
            _fill(splits.setdefault(item.shard.split, [_OpenFile()]), item, max_shard_size)
    return {split: [tuple(file.slices) for file in files] for split, files in splits.items()}


def pieces(
    files: Iterable[OutputFile], load: Callable[[str], KeptRows]
) -> Iterator[tuple[OutputFile, tuple[Piece, ...]]]:
    """Yield every file with its rows; `load` gives the kept rows of a shard by name, one shard at a time."""
    held: KeptRows | None = None
    for file in files:
        found = []
        for part in file.slices:
            if held is None or held.shard.name != part.shard:
                held = load(part.shard)
            place = slice(part.start, part.stop)
            taken = pa.array(np.arange(part.start, part.stop))
            found.append(
                Piece(
                    held.shard,
                    held.rows[place].copy(),
                    None if held.extra is None else held.extra.take(taken),
                )
            )
        yield file, tuple(found)


def _fill(files: list[_OpenFile], item: KeptRows, limit: int) -> None:
    """Put the rows of one shard into the last of `files`, and into new ones as it gets full."""
    ends = np.cumsum(np.maximum(item.sizes, 0), dtype=np.int64)
    start, before = 0, 0
    while start < len(ends):
        file = files[-1]
        stop = int(np.searchsorted(ends, before + limit - file.size, side="right"))
        if not file.slices:
            stop = max(stop, start + 1)
        if stop <= start:
            files.append(_OpenFile())
            continue
        size = int(ends[stop - 1]) - before
        file.slices.append(Slice(item.shard.name, start, stop, size))
        file.size += size
        start, before = stop, int(ends[stop - 1])
