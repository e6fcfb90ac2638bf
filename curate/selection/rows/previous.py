"""What was shipped before: the rows that the decisions before these kept, which `select.shipped` puts ahead of new ones.

They are held as sorted 128-bit hashes in `.work/shipped`, one file named after the decisions they are from. It is
written before these decisions are replaced, and stays: a stage that has to be made again is made from the same rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curate import schema
from curate.errors import UsageError
from curate.execution import exchange
from curate.execution.context import Context, reuse_or_remove
from curate.filtering.uid_lists import Hashes, hashes, listed
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.runs.run import open_run
from curate.scores.base import require_memory

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = ["Shipped", "check_recipe", "flips", "for_stage"]

ROW_BYTES = 150  # a uid, its hash, and what sorting needs
_HASH = pa.schema([("hash", pa.binary(16))])


@dataclass(frozen=True)
class Shipped:
    """Rows kept before. before : stands for the decisions that kept them, "" if there are none.

    path : file of their sorted hashes; copies : of the rows that now stand for one of them. None: no row.
    """

    before: str
    path: Path | None = None
    copies: Path | None = None

    def ahead(self, uids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which uids were shipped, or stand for a copy that was, (n,)."""
        return self.has(uids) | listed(self.copies, uids)

    def has(self, uids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which uids were shipped themselves, (n,)."""
        return listed(self.path, uids)


@dataclass(frozen=True)
class SpreadTask:
    """One table of decisions whose kept uids go to buckets of hashes."""

    decisions: Path
    buckets: int
    out: Path
    fingerprint: str


def check_recipe(recipe: "Recipe") -> None:
    """Raise UsageError where rows cannot go ahead, and for a run that has no decisions."""
    select = recipe.select
    if not select.shipped:
        return
    if not select.ranks_ahead:
        raise UsageError(
            f"select.shipped does not go with method {select.method}, in whose order no row can go ahead of others; "
            "take another method"
        )
    if recipe.weight is not None and recipe.weight.needs_odds:
        raise UsageError(
            "weight.method inverse needs the probability of each row to be kept, which has no closed form where "
            "shipped rows go ahead; set select.shipped to false or take another weight"
        )
    other = _other(recipe)
    if other is not None and other.marker(other.decisions) is None:
        raise UsageError(f"select.shipped: {other.path} has no decisions; finish that run first")


def _other(recipe: "Recipe") -> RunFolder | None:
    """Return the run whose decisions count, if it is not the recipe's own."""
    path = recipe.select.shipped
    if isinstance(path, bool):
        return None
    try:
        found = open_run(path).folder
    except UsageError as error:
        raise UsageError(f"select.shipped: {error}") from None
    return None if found.path.resolve() == Path(recipe.run).resolve() else found


def for_stage(context: Context, folder: Path, fingerprint: str) -> tuple[str, Shipped | None]:
    """Return a stage's fingerprint with what was shipped before in it, and these rows; as it is and None if it is off.

    folder : of the stage, whose mark notes in `shipped_before` what it was made from. Where nothing else changed,
    that still holds: a run that is repeated does not take its own decisions for those before.
    """
    if not context.recipe.select.shipped:
        return fingerprint, None
    run, other = context.run, _other(context.recipe)
    mark = run.marker(folder)
    noted = (mark or {}).get("facts", {}).get("shipped_before")
    again = other is None and mark is not None and mark["fingerprint"] == _fingerprint(fingerprint, noted)
    if again and (noted == "" or _file(context, str(noted)).exists()):
        return str(mark["fingerprint"]) if mark else fingerprint, _shipped(context, str(noted))
    before = _before(context, other or run)
    return _fingerprint(fingerprint, before), _shipped(context, before)


def _fingerprint(fingerprint: str, before: object) -> str:
    return storage.fingerprint(fingerprint, "shipped", before)


def _file(context: Context, before: str) -> Path:
    return context.run.work / "shipped" / f"{before}.npy"


def _before(context: Context, run: RunFolder) -> str:
    """Return what stands for the decisions of a run now, and see that their kept rows are written."""
    mark = run.marker(run.decisions)
    if mark is None:  # they were lost: what they were made from is what is known
        left = sorted((context.run.work / "shipped").glob("*.npy"))
        return left[0].stem if left else ""
    before = str(mark["fingerprint"])
    path = _file(context, before)
    if not path.exists():
        for old in path.parent.glob("*.npy"):
            storage.remove(old)
        _write(context, run, path)
    return before


def _shipped(context: Context, before: str) -> Shipped:
    path = _file(context, before)
    if before == "" or not _rows(path):
        return Shipped(before)
    return Shipped(before, path, _copies(context, Shipped(before, path)))


def _rows(path: Path) -> int:
    """Return how many hashes a file holds."""
    with storage.ensure_local(path).open("rb") as file:
        np.lib.format.read_magic(file)
        return int(np.lib.format.read_array_header_1_0(file)[0][0])


# --- from decisions to sorted hashes -----------------------------------------------------------------------


def _write(context: Context, run: RunFolder, out: Path) -> None:
    """Write the hashes of all kept uids in order, one bucket in memory at a time."""
    tables = sorted(run.decisions.glob("part-*.parquet"))
    rows = sum(pq.read_metadata(storage.ensure_local(table)).num_rows for table in tables)
    buckets = min(1 << 16, max(1, -(-rows * ROW_BYTES // context.task_memory)))
    scratch = out.with_name("buckets")
    tasks = [
        SpreadTask(table, buckets, scratch / f"{table.stem}.arrow", storage.fingerprint(out.stem, buckets))
        for table in tables
    ]
    todo = [task for task in tasks if not reuse_or_remove(task.out, task.fingerprint)]
    context.map("select", "parts", _spread, todo)
    files = [task.out for task in tasks]
    kept = sum(storage.map_ipc(file).get_batch(b).num_rows for file in files for b in range(buckets))
    with storage.atomic(out) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|S16", "fortran_order": False, "shape": (kept,)}
        )
        for bucket in range(buckets):
            found = exchange.gather(files, bucket)["hash"].to_pylist() if files else []
            file.write(np.sort(np.array(found, "S16")).tobytes())
    storage.remove(scratch)


def _spread(task: SpreadTask) -> None:
    frame = pl.DataFrame(storage.read_table(task.decisions, ["uid", "keep"])).filter("keep")
    found = hashes(frame["uid"].to_list())
    # The first two bytes as a number: buckets of hashes in order, which are then one sorted whole.
    head = np.frombuffer(found.tobytes(), np.uint8).reshape(-1, 16)[:, :2].astype(np.int64)
    bucket = ((head[:, 0] * 256 + head[:, 1]) * task.buckets) >> 16
    # By its buffer: NumPy drops zeros at the end of a value.
    column = pa.Array.from_buffers(pa.binary(16), len(found), [None, pa.py_buffer(found.tobytes())])
    table = pa.table([column], schema=_HASH)
    exchange.scatter(task.out, bucket, task.buckets, table.take, _HASH, task.fingerprint)


def _copies(context: Context, shipped: Shipped) -> Path | None:
    """Write the hashes of rows that stand for an exact copy that was shipped; None if there is none.

    Which of several copies stands for all may be another one than before, when more of them came.
    """
    found: list[Hashes] = []
    for part in context.parts:
        path = context.run.part(context.run.samples, part.name)
        judged = context.run.part(context.run.scores("filter"), part.name)
        named = schema.complete(storage.read_table(judged), schema.FILTER).select(["uid", "same_content_as"])
        frame = pl.concat(
            [
                pl.DataFrame(storage.read_table(path, ["uid", "copy_of"])),
                pl.DataFrame(named.rename_columns(["uid", "copy_of"])),
            ]
        )
        frame = frame.filter(pl.col("copy_of").is_not_null() & (pl.col("copy_of") != pl.col("uid")))
        of_shipped = frame.filter(pl.Series(shipped.has(frame["uid"].to_list()), dtype=pl.Boolean))
        found.append(hashes(of_shipped["copy_of"].unique().to_list()))
        require_memory(context, "select.shipped: copies of shipped rows", sum(map(len, found)), ROW_BYTES)
    every = np.unique(np.concatenate([np.empty(0, "S16"), *found]))
    if not len(every):
        return None
    out = context.run.work / "shipped" / "copies.arrays"
    with storage.atomic(out) as partial, partial.open("wb") as file:
        np.save(file, every)
    return out


# --- what became of them -----------------------------------------------------------------------------------


def flips(context: Context, decisions: Path, shipped: Shipped) -> dict[str, int]:
    """Return what became of the shipped rows, by the decisions in a folder.

    rows : that were shipped. kept : again. flipped : dropped now, over_budget : of these by the budget. gone : no
    longer in the source.
    """
    rows = _rows(shipped.path) if shipped.path else 0
    kept = flipped = over_budget = 0
    for part in context.parts if rows else ():
        columns = ["uid", "occurrence", "keep", "reason"]
        frame = pl.DataFrame(storage.read_table(context.run.part(decisions, part.name), columns))
        frame = frame.filter(pl.Series(shipped.has(frame["uid"].to_list())) & (pl.col("occurrence") == 0))
        kept += int(frame["keep"].sum())
        flipped += int((~frame["keep"]).sum())
        over_budget += int((frame["reason"] == "over_budget").sum())
    return {
        "rows": rows, "kept": kept, "flipped": flipped, "over_budget": over_budget, "gone": rows - kept - flipped
    }  # fmt: skip
