"""What people decided about rows, as one selection takes it: a table beside its decisions, and what it does to rows.

A row that somebody wants is kept whatever a condition, a list, a copy or a near-duplicate says; one that nobody wants
reaches no selection; one that is no duplicate competes like any other. A copy has no decision of its own: who
keeps it keeps the sample that stands for it, unless somebody dropped that one. A row whose label somebody called right, or
put right, is no noise by a score of labels.
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
from curate.scores import SCORES

__all__ = [
    "OVERRIDDEN",
    "VOUCHED",
    "Known",
    "Overridden",
    "decided_since",
    "goes_by_labels",
    "judged",
    "overridden_of",
    "read_overrides",
    "with_overrides",
]

#: The table below the decisions that were made with it: whoever reads a whole folder takes nothing that begins with `_`.
OVERRIDDEN = "_overrides/overrides.parquet"
#: decided : keep, drop or null. lifted : whether it is no duplicate.
_TABLE = pa.schema([("uid", pa.string()), ("decided", pa.string()), ("lifted", pa.bool_())])
#: A further column where a selection goes by how wrong labels are: whether somebody said which label is right.
VOUCHED = "label:vouched"
#: The families of scores that say so.
_OF_LABELS = ("heads", "pixels", "noise")
_EXAMPLES = 3
#: Marks for each uid that is looked up, so that one in so many others meets one by chance; no more than 16 MB of them.
_MARKS_PER_ROW, _MOST_BITS = 32, 24


@dataclass(frozen=True)
class Overridden:
    """What people decided, as it is when a selection begins.

    table : uid, decided, lifted, and perhaps `VOUCHED`, a row for each uid.
    """

    table: pl.DataFrame
    fingerprint: str

    def write(self, context: Context, path: Path, fingerprint: str) -> dict[str, Any]:
        """Write the table for use by parts; return what is to be noted of it.

        Warns of uids that are not in the run, and of unusable rows that are to be kept.
        """
        known, frames = Known.of(self.table), []
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
        stand_ins = rows.filter(kept & pl.col("copy_of").is_not_null())
        table = _with_stand_ins(self.table, stand_ins.select("decided", uid="copy_of"))
        kind = _TABLE.append(pa.field(VOUCHED, pa.bool_())) if VOUCHED in table.columns else _TABLE
        storage.write_parquet(path, table.to_arrow().cast(kind), kind, fingerprint)
        counts = dict(self.table["decided"].drop_nulls().value_counts().iter_rows())
        return {
            "keep": counts.get("keep", 0), "drop": counts.get("drop", 0),
            "not_duplicate": int(self.table["lifted"].sum()), "unknown": len(unknown), "unusable": len(unusable),
            "fingerprint": self.fingerprint,
        }  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A table of what people decided, in which uids are looked up: few of many are in it.

    table : uid, decided (keep, drop or null), lifted, and perhaps `VOUCHED`, a row for each uid. marks : (2^m,), True at the
    last m bits of the hash of each uid of the table. Most uids that are not in it meet no mark, and are compared with none.
    """

    table: pl.DataFrame
    marks: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, table: pl.DataFrame) -> Self:
        """Return a table with its marks."""
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


def _known(path: Path) -> Known:
    """Return the table at a path; a process reads it once."""
    facts = storage.ensure_local(path).stat()
    return _read_once(path, facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=1)
def _read_once(path: Path, *identity: int) -> Known:
    return Known.of(storage.read_frame(path))


def _with_stand_ins(table: pl.DataFrame, stand_ins: pl.DataFrame) -> pl.DataFrame:
    """Return what people decided, and that samples that stand for kept copies are kept, but those that were dropped."""
    flags = [name for name in table.columns if name not in stand_ins.columns]
    both = table.join(stand_ins.unique("uid"), on="uid", how="full", coalesce=True, suffix="_copy")
    return both.select(
        "uid", pl.coalesce("decided", "decided_copy"), *(pl.col(name).fill_null(False) for name in flags)
    ).sort("uid")


def read_overrides(overrides: Overrides, *, labels: bool = False) -> Overridden | None:
    """Return what people decided about a run that decides what is kept; None if it is nothing.

    labels : whether labels that they called right, or put right, do.
    """
    fingerprint = _fingerprint(overrides, labels)
    if fingerprint is None:
        return None
    held = overrides.current().filter(pl.col("what").is_in(CHOOSING))
    lifted = pl.col("what") == "not_duplicate"
    table = held.group_by("uid").agg(
        pl.col("what").filter(~lifted).first().alias("decided"), lifted.any().alias("lifted")
    )
    if labels and len(vouched := _vouched(overrides)):
        marked = vouched.to_frame().with_columns(pl.lit(True).alias(VOUCHED))
        table = table.join(marked, on="uid", how="full", coalesce=True)
        table = table.with_columns(pl.col("lifted", VOUCHED).fill_null(False))
    return Overridden(table.sort("uid"), fingerprint)


def _vouched(overrides: Overrides) -> pl.Series:
    """Return the uids of the rows of which somebody said which label is right, sorted."""
    right = pl.col("what") == "right_label"
    put_right = (pl.col("what") == "wrong_label") & pl.col("to").is_not_null()
    return overrides.current().filter(right | put_right)["uid"]


def _fingerprint(overrides: Overrides, labels: bool) -> str | None:
    """Return what stands for the decisions that a selection hangs on; None if there are none."""
    chosen = overrides.fingerprint(CHOOSING)
    vouched = _vouched(overrides).to_list() if labels else []
    return storage.fingerprint("vouched", chosen, vouched) if vouched else chosen


def overridden_of(run: RunFolder) -> Path | None:
    """Return the table that the decisions of a run were made with; None if nobody decided anything."""
    path = run.decisions / OVERRIDDEN
    return path if path.exists() else None


def decided_since(run: RunFolder) -> bool:
    """Return True if people decided something else than what the decisions of a run were made with."""
    facts = (run.marker(run.decisions) or {}).get("facts", {})
    labels = goes_by_labels(facts.get("first", {}).get("noise_by"))
    return bool(_fingerprint(Overrides(run), labels) != facts.get("overrides", {}).get("fingerprint"))


def goes_by_labels(noise_by: str | None) -> bool:
    """Return True if a score says how wrong labels are."""
    known = SCORES.get(noise_by or "")
    return known is not None and known.family in _OF_LABELS


def judged(run: RunFolder, part: str, frame: pl.DataFrame, path: Path | None) -> pl.DataFrame:
    """Return usable rows of a part beside `duplicate_of` and `override` (keep, drop or null), as people have it.

    frame : the usable rows, with the columns of the filter. path : of the table of what people decided.
    """
    found = pl.DataFrame(storage.read_table(run.part(run.duplicates, part), ["uid", "duplicate_of"]))
    found = found.filter(pl.col("duplicate_of").is_not_null())
    frame = frame.join(found, on="uid", how="left", maintain_order="left", validate="1:1")
    if path is None:
        return frame.with_columns(pl.lit(None, pl.String).alias("override"))
    return with_overrides(frame, _known(path))


def with_overrides(frame: pl.DataFrame, known: Known) -> pl.DataFrame:
    """Return rows as people decided about them.

    Parameters
    ----------
    frame : polars.DataFrame
        uid, filter_reason (null: it passes), pinned and duplicate_of (null: it is no near-duplicate), among others.
    known : Known
        What people decided.

    Returns
    -------
    polars.DataFrame
        The rows in their order, with what people decided in `override`. A kept row passes, is pinned, and is no duplicate;
        a dropped one is neither pinned nor a duplicate.

    Examples
    --------
    >>> rows = {"uid": ["a", "b"], "filter_reason": ["excluded", None], "pinned": [False, False], "duplicate_of": [None, "a"]}
    >>> people = pl.DataFrame({"uid": ["a", "b"], "decided": ["keep", None], "lifted": [False, True]})
    >>> with_overrides(pl.DataFrame(rows, schema_overrides={"duplicate_of": pl.String}), Known.of(people)).rows()
    [('a', None, True, None, 'keep'), ('b', None, False, None, None)]
    """
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
        **_vouched_for(len(frame), at, found),
    )


def _vouched_for(rows: int, at: npt.NDArray[np.int64], found: pl.DataFrame) -> dict[str, pl.Series]:
    """Return the column `VOUCHED` of `rows` rows where the table has it. found : of the table, for the rows `at`."""
    if VOUCHED not in found.columns:
        return {}
    vouched = np.zeros(rows, np.bool_)
    vouched[at] = found[VOUCHED]
    return {VOUCHED: pl.Series(vouched)}
