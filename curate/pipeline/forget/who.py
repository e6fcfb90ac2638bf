"""Which samples are to be forgotten: those that are named or meet a condition, and their exact copies."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from curate.errors import UsageError
from curate.execution.context import Context
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.writers.exports.listed_rows import ALWAYS, ListedRows

__all__ = ["PENDING", "Wanted", "find_wanted", "meeting", "pending"]

#: What is being forgotten, below the scratch of a run, until that is done: a crash is gone on from here.
PENDING = "forgetting.json"
_EXAMPLES = 3


@dataclass(frozen=True)
class Wanted:
    """What is to be forgotten.

    uids : of the samples. named : how many of them were asked for; the others are exact copies. marks : uids, names of
    files, and hashes of images, by which what is left of them would be found. known_by : uids and hashes of images, by
    which they are known if they come back. near : near-duplicates of them that stay.
    """

    uids: tuple[str, ...]
    named: int
    marks: tuple[str, ...]
    known_by: tuple[str, ...]
    near: int = 0

    def note(self, run: RunFolder) -> None:
        """Write down what is to be forgotten, for another try after a crash."""
        storage.write_record(run.work / PENDING, asdict(self))

    def joined(self, other: "Wanted") -> "Wanted":
        """Return what both want."""

        def both(one: Sequence[str], two: Sequence[str]) -> tuple[str, ...]:
            return tuple(sorted({*one, *two}))

        return Wanted(
            both(self.uids, other.uids), max(self.named, other.named), both(self.marks, other.marks),
            both(self.known_by, other.known_by), max(self.near, other.near),
        )  # fmt: skip


def pending(run: RunFolder) -> Wanted | None:
    """Return what was begun to be forgotten and is not done; None if there is nothing."""
    found = storage.read_json(run.work / PENDING)
    if not isinstance(found, dict):
        return None
    uids, marks, known_by = (tuple(found[name]) for name in ("uids", "marks", "known_by"))
    return Wanted(uids, found["named"], marks, known_by, found["near"])


def meeting(context: Context, condition: str) -> list[str]:
    """Return the uids of all rows that meet a condition on columns of the source, the samples, decisions or scores."""
    try:
        wanted = pl.sql_expr(condition)
        names = wanted.meta.root_names()
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"--where {condition!r} is no condition: {' '.join(str(error).split())}") from None
    listed = ListedRows(context, "all", tuple(dict.fromkeys(name for name in names if name not in ALWAYS)))
    listed.check("--where")
    try:
        found = [frame.filter(wanted)["uid"] for frame in listed.frames()]
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"--where {condition!r}: {' '.join(str(error).split())}") from None
    return pl.concat(found).unique().to_list() if found else []


def find_wanted(context: Context, uids: Iterable[str]) -> Wanted:
    """Return what is to be forgotten with samples; raise UsageError for a uid that the run has not."""
    asked = pl.Series("uid", sorted(set(uids)), pl.String)
    rows = _rows(context)
    named = pl.col("uid").is_in(asked.implode())
    known = rows.filter(named)
    missing = asked.filter(~asked.is_in(known["uid"].implode()))
    if len(missing):
        such = ", ".join(missing.head(_EXAMPLES))
        raise UsageError(
            f"{len(missing):,} of {len(asked):,} samples are not in {context.run.where}, such as {such}; "
            "name them by uid, file name, path or key"
        )
    identities = ("uid", "copy_of", "content_hash", "image_hash", "same_content_as")
    every = pl.concat([known[name].drop_nulls() for name in identities]).unique()
    found = rows.filter(pl.any_horizontal(pl.col(name).is_in(every.implode()) for name in identities))
    gone = found["uid"].unique()
    inside = pl.col("uid").is_in(gone.implode())
    repeats = rows.filter(pl.col("duplicate_of").is_in(gone.implode()) & ~inside)["uid"]
    repeated = found["duplicate_of"].drop_nulls()
    near = pl.concat([repeats, repeated.filter(~repeated.is_in(gone.implode()))])
    hashes = [found[name].drop_nulls() for name in ("content_hash", "image_hash")]
    known_by = pl.concat([gone, *hashes]).unique().sort()
    marks = pl.concat([known_by, found["key"].drop_nulls()]).unique().sort()
    return Wanted(tuple(gone.sort()), known["uid"].n_unique(), tuple(marks), tuple(known_by), near.n_unique())


def _rows(context: Context) -> pl.DataFrame:
    """Return what identifies every row that is not forgotten yet."""
    run, frames = context.run, []
    for part in context.parts:
        names = ["uid", "copy_of", "image_hash", "content_hash", "key", "outcome"]
        rows = pl.DataFrame(storage.read_table(run.part(run.samples, part.name), names))
        frames.append(_with(run, part.name, rows))
    empty = pl.DataFrame(schema=dict.fromkeys(
        ("uid", "copy_of", "image_hash", "content_hash", "key", "outcome", "duplicate_of", "same_content_as"), pl.String
    ))  # fmt: skip
    return pl.concat([empty, *frames]).filter(pl.col("outcome") != "forgotten")


def _with(run: RunFolder, part: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a part with what they duplicate, as far as that is known."""
    for folder, name in ((run.duplicates, "duplicate_of"), (run.scores("filter"), "same_content_as")):
        path = run.part(folder, part)
        if path.exists():
            found = pl.DataFrame(storage.read_table(path, ["uid", name])).unique("uid")
            rows = rows.join(found, on="uid", how="left", maintain_order="left")
        else:
            rows = rows.with_columns(pl.lit(None, pl.String).alias(name))
    return rows
