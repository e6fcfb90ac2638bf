"""What people decided about rows, as one selection takes it: a table beside its decisions, and what it does to rows.

A row that somebody wants is kept whatever a condition, a list, a copy or a near-duplicate says; one that nobody wants
reaches no selection; one that is no duplicate competes like any other. A copy has no decision of its own: who
keeps it keeps the sample that stands for it, unless somebody dropped that one.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.execution.context import Context, log
from curate.io import storage
from curate.overrides.store import CHOOSING, Overrides
from curate.runs.folder import RunFolder

__all__ = [
    "OVERRIDDEN",
    "Overridden",
    "decided_since",
    "judged",
    "overridden_of",
    "read_overrides",
    "with_overrides",
]

#: The table below the decisions that were made with it: whoever reads a whole folder takes nothing that begins with `_`.
OVERRIDDEN = "_overrides/overrides.parquet"
#: decided : keep, drop or null. lifted : whether it is no duplicate.
_TABLE = pa.schema([("uid", pa.string()), ("decided", pa.string()), ("lifted", pa.bool_())])
_EXAMPLES = 3
#: Marks for each uid that is looked up, so that one in so many others meets one by chance; no more than 16 MB of them.
_MARKS_PER_ROW, _MOST_BITS = 32, 24


@dataclass(frozen=True)
class Overridden:
    """What people decided, as it is when a selection begins. table : uid, decided, lifted, a row for each uid."""

    table: pl.DataFrame
    fingerprint: str

    def write(self, context: Context, path: Path, fingerprint: str) -> dict[str, Any]:
        """Write the table for use by parts; return what is to be noted of it.

        Warns of uids that are not in the run, and of unusable rows that are to be kept.
        """
        known, frames = _Known.of(self.table), []
        for part in context.parts:
            samples = storage.read_frame(
                context.run.part(context.run.samples, part.name), ["uid", "outcome", "copy_of"]
            )
            frames.append(samples[known.find(samples["uid"])[0]])
        rows = self.table.join(pl.concat(frames).unique("uid"), on="uid", how="left", maintain_order="left")
        kept = pl.col("decided") == "keep"
        unusable = rows.filter(kept & (pl.col("outcome") != "ok"))["uid"]
        unknown = rows.filter(pl.col("outcome").is_null())["uid"]
        for what, uids in (
            ("are not in the run", unknown),
            ("are to be kept and cannot be: they are unusable", unusable),
        ):
            if len(uids):
                such = ", ".join(uids.sort().head(_EXAMPLES))
                log.warning("overrides: %s samples %s, such as %s", f"{len(uids):,}", what, such)
        stand_ins = rows.filter(kept & pl.col("copy_of").is_not_null()).select(
            pl.col("copy_of").alias("uid"), "decided", pl.lit(False).alias("lifted")
        )
        table = (
            pl.concat([self.table, stand_ins]).unique("uid", keep="first", maintain_order=True).sort("uid")
        )
        storage.write_parquet(path, table.to_arrow().cast(_TABLE), _TABLE, fingerprint)
        counts = dict(self.table["decided"].drop_nulls().value_counts().iter_rows())
        return {
            "keep": counts.get("keep", 0), "drop": counts.get("drop", 0),
            "not_duplicate": int(self.table["lifted"].sum()), "unknown": len(unknown), "unusable": len(unusable),
            "fingerprint": self.fingerprint,
        }  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """A table of what people decided, in which uids are looked up: few of many are in it.

    marks : (2^m,), True at the last m bits of the hash of each uid of the table. Most uids that are not in it meet no
    mark, and are compared with none.
    """

    table: pl.DataFrame
    marks: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, table: pl.DataFrame) -> Self:
        marks = np.zeros(1 << min(_MOST_BITS, (_MARKS_PER_ROW * len(table)).bit_length()), np.bool_)
        known = cls(table, marks)
        marks[known._places(table["uid"])] = True
        return known

    def _places(self, uids: pl.Series) -> npt.NDArray[np.uint64]:
        places: npt.NDArray[np.uint64] = uids.hash().to_numpy() & np.uint64(len(self.marks) - 1)
        return places

    def find(self, uids: pl.Series) -> tuple[npt.NDArray[np.int64], pl.DataFrame]:
        """Return at which of `uids` something was decided, in order, and the row of the table of each of them."""
        perhaps = np.flatnonzero(self.marks[self._places(uids)])
        rows = pl.DataFrame({"uid": uids[perhaps], "at": perhaps})
        found = rows.join(self.table, on="uid", maintain_order="left")
        return found["at"].to_numpy(), found.drop("at")


def _known(path: Path) -> _Known:
    """Return the table at a path; a process reads it once."""
    facts = storage.ensure_local(path).stat()
    return _read_once(path, facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=1)
def _read_once(path: Path, *identity: int) -> _Known:
    return _Known.of(storage.read_frame(path))


def read_overrides(overrides: Overrides) -> Overridden | None:
    """Return what people decided about a run that decides what is kept; None if it is nothing."""
    fingerprint = overrides.fingerprint(CHOOSING)
    if fingerprint is None:
        return None
    held = overrides.current().filter(pl.col("what").is_in(CHOOSING))
    lifted = pl.col("what") == "not_duplicate"
    table = held.group_by("uid").agg(
        pl.col("what").filter(~lifted).first().alias("decided"), lifted.any().alias("lifted")
    )
    return Overridden(table.sort("uid"), fingerprint)


def overridden_of(run: RunFolder) -> Path | None:
    """Return the table that the decisions of a run were made with; None if nobody decided anything."""
    path = run.decisions / OVERRIDDEN
    return path if path.exists() else None


def decided_since(run: RunFolder) -> bool:
    """Return True if people decided something else than what the decisions of a run were made with."""
    noted = (run.marker(run.decisions) or {}).get("facts", {}).get("overrides", {})
    return bool(Overrides(run).fingerprint(CHOOSING) != noted.get("fingerprint"))


def judged(run: RunFolder, part: str, frame: pl.DataFrame, path: Path | None) -> pl.DataFrame:
    """Return usable rows of a part beside `duplicate_of` and `override` (keep, drop or null), as people have it.

    frame : the usable rows, with the columns of the filter. path : of the table of what people decided.
    """
    found = pl.DataFrame(storage.read_table(run.part(run.duplicates, part), ["uid", "duplicate_of"]))
    found = found.filter(pl.col("duplicate_of").is_not_null())
    frame = frame.join(found, on="uid", how="left", maintain_order="left", validate="1:1")
    if path is None:
        return frame.with_columns(pl.lit(None, pl.String).alias("override"))
    return _with_known(frame, _known(path))


def with_overrides(frame: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    """Return rows as people decided about them.

    Parameters
    ----------
    frame : polars.DataFrame
        uid, filter_reason (null: it passes), pinned and duplicate_of (null: it is no near-duplicate), among others.
    decided : polars.DataFrame
        uid, decided (keep, drop or null) and lifted.

    Returns
    -------
    polars.DataFrame
        The rows in their order, with what people decided in `override`. A kept row passes, is pinned, and is no duplicate;
        a dropped one is neither pinned nor a duplicate.

    Examples
    --------
    >>> rows = {"uid": ["a", "b"], "filter_reason": ["excluded", None], "pinned": [False, False], "duplicate_of": [None, "a"]}
    >>> people = pl.DataFrame({"uid": ["a", "b"], "decided": ["keep", None], "lifted": [False, True]})
    >>> with_overrides(pl.DataFrame(rows, schema_overrides={"duplicate_of": pl.String}), people).rows()
    [('a', None, True, None, 'keep'), ('b', None, False, None, None)]
    """
    return _with_known(frame, _Known.of(decided))


def _with_known(frame: pl.DataFrame, known: _Known) -> pl.DataFrame:
    at, found = known.find(frame["uid"])
    kept, dropped, lifted = (np.zeros(len(frame), np.bool_) for _ in range(3))
    kept[at] = found["decided"].eq_missing("keep")
    dropped[at] = found["decided"].eq_missing("drop")
    lifted[at] = found["lifted"]
    keep, drop, single = pl.Series(kept), pl.Series(dropped), pl.Series(kept | dropped | lifted)
    return frame.with_columns(
        filter_reason=pl.when(~keep).then("filter_reason"),
        pinned=(pl.col("pinned") | keep) & ~drop,
        duplicate_of=pl.when(~single).then("duplicate_of"),
        override=pl.when(keep).then(pl.lit("keep")).when(drop).then(pl.lit("drop")),
    )
