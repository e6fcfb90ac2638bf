"""Write which samples are kept as a list: DataComp subset files, plain text (of uids or names), Parquet."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import UsageError
from curate.io.storage import atomic
from curate.weighting.concept import offset, repeats

__all__ = ["UIDS", "write_npy", "write_parquet", "write_text"]

#: Columns of a list as Parquet.
UIDS = pa.schema([("uid", pa.string()), ("weight", pa.float32())])
#: uids of DataComp: 32 hexadecimal digits, as two numbers.
_HALVES = np.dtype("u8,u8")
_HEX = re.compile(r"[0-9a-f]{32}")

Kept = Iterable[tuple[Sequence[str], npt.NDArray[np.float32]]]
Counts = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64] | None]


def write_npy(path: Path, kept: Kept, seed: int, counts: Counts | None = None) -> int:
    """Write a DataComp subset file: the sorted uids, each as often as its weight says; return its length.

    kept : (uids, (n,) weights), block by block. counts : returns how often each row is named, given the weights, where these
    are whole numbers (`Weigher.counts`). Other weights become repeats by systematic resampling in the order
    of the uids (`weighting.concept.repeats`, its offset from `seed`), so that the list is as long as
    there are kept rows with a weight. Raises UsageError for uids that are not 32 hexadecimal digits.
    """
    halves, weights = [np.empty(0, _HALVES)], [np.empty(0, np.float32)]
    refused, example = 0, ""
    for uids, weight in kept:
        bad = [uid for uid in uids if not _HEX.fullmatch(uid)]
        refused, example = refused + len(bad), example or next(iter(bad), "")
        if not refused:
            halves.append(np.frombuffer(bytes.fromhex("".join(uids)), ">u8,>u8").astype(_HALVES))
            weights.append(weight)
    if refused:
        raise UsageError(
            f"{path}: DataComp lists hold uids of 32 hexadecimal digits (0-9, a-f); {refused:,} kept uids are "
            f"others, such as {example!r}; use --format txt or uids"
        )
    found, weight = np.concatenate(halves), np.concatenate(weights)
    order = np.lexsort((found["f1"], found["f0"]))
    times = counts and counts(weight[order])
    listed = np.repeat(found[order], repeats(weight[order], offset(seed)) if times is None else times)
    with atomic(path) as partial, partial.open("wb") as file:
        np.save(file, listed)
    return len(listed)


def write_text(path: Path, lines: Iterable[Sequence[str]], what: str = "uid", other: str = "uids") -> int:
    """Write one uid (or what else it is) a line, in the order of the source; return how many.

    other : the format that holds any text. Raises UsageError for one that is no line of its own.
    """
    count = 0
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for some in lines:
            torn = next(
                (one for one in some if one != one.strip() or not one or len(one.splitlines()) > 1), None
            )
            if torn is not None:
                raise UsageError(
                    f"{path}: a list of text cannot hold the {what} {torn!r} (blank, or line breaks or spaces at "
                    f"its ends); use --format {other}"
                )
            file.writelines(f"{one}\n" for one in some)
            count += len(some)
    return count


def write_parquet(path: Path, kept: Kept) -> int:
    """Write a table of uid and weight, in the order of the source; return how many rows."""
    count = 0
    with atomic(path) as partial, pq.ParquetWriter(str(partial), UIDS, compression="zstd") as writer:
        for uids, weight in kept:
            writer.write_table(pa.table([pa.array(uids, pa.string()), pa.array(weight)], schema=UIDS))
            count += len(uids)
    return count
