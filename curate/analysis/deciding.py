"""Deciding about rows of a run: what the run says of them is noted beside, and a uid that it has not is refused."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from curate.analysis.explain import opened
from curate.analysis.row_lookup import uids_of_names
from curate.errors import UsageError
from curate.overrides.formats import argilla, fiftyone, label_studio, tables
from curate.overrides.formats.entry import Entry
from curate.overrides.store import KINDS, Decision, Overrides
from curate.runs.run import StoredRun

__all__ = ["FORMATS", "Which", "decide", "export_decisions", "import_decisions", "sheet", "uids_named"]

#: Which rows a file lists: those that somebody decided about, those kept, those dropped, or all.
Which = Literal["decided", "kept", "dropped", "all"]

#: How decisions are written for another tool, and read back, by the name of the format.
FORMATS: Mapping[
    str, tuple[Callable[[Path, pl.DataFrame], None], Callable[[Path], list[Entry]]]
] = {
    "csv": (tables.write_csv, tables.read_csv),
    "parquet": (tables.write_parquet, tables.read_parquet),
    "fiftyone": (fiftyone.write, fiftyone.read),
    "label-studio": (label_studio.write, label_studio.read),
    "argilla": (argilla.write, argilla.read),
}  # fmt: skip
#: Formats whose files show samples to look at, and so list them all by default.
SHOWS_SAMPLES = ("fiftyone", "label-studio", "argilla")
_EXAMPLES = 3


def decide(run: StoredRun, entries: Iterable[Entry], by: str | None = None) -> str | None:
    """Write down decisions about rows of a run as one action.

    Parameters
    ----------
    run : StoredRun
        A run that is decided.
    entries : iterable of Entry
        What is decided.
    by : str, optional
        Who decides; the name of the user by default.

    Returns
    -------
    str or None
        The name of the action; None if there was nothing to write.

    Raises
    ------
    UsageError
        For a uid that the run has not, or a decision that there is not.
    """
    asked = list(entries)
    known = _known(run, [one.uid for one in asked])
    if missing := [one for one in asked if one.uid not in known]:
        such = ", ".join(sorted({one.uid for one in missing})[:_EXAMPLES])
        raise UsageError(
            f"{len(missing):,} of {len(asked):,} samples are not in {run.folder.where}, such as {such}"
        )
    return Overrides(run.folder, by).decide(_decision(one, known[one.uid]) for one in asked)


def uids_named(run: StoredRun, names: Iterable[str]) -> dict[str, str]:
    """Return the uid of each sample that is named by its uid, file name, path or key.

    Parameters
    ----------
    run : StoredRun
        A run that is decided.
    names : iterable of str
        What samples are called.

    Raises
    ------
    UsageError
        For a name that no sample has, or that several have.
    """
    asked = list(dict.fromkeys(names))
    found = {uid: uid for uid in _known(run, asked)}
    if len(found) < len(asked):
        found |= uids_of_names(opened(run.folder.where), [name for name in asked if name not in found])
    if missing := [name for name in asked if name not in found]:
        raise UsageError(
            f"{len(missing):,} of {len(asked):,} samples are not in {run.folder.where}, such as "
            f"{', '.join(sorted(missing)[:_EXAMPLES])}; name them by uid, file name, path or key"
        )
    return found


def _known(run: StoredRun, uids: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Return what the run says of samples: label, reason and duplicate_of, by uid."""
    wanted = pl.col("uid").is_in(pl.Series(uids, dtype=pl.String).implode()) & (pl.col("occurrence") == 0)
    samples = run.samples(lazy=True).filter(wanted).select("uid", "label")
    decided = run.decisions(lazy=True).filter(wanted).select("uid", "reason", "duplicate_of")
    rows = samples.collect().join(decided.collect(), on="uid", how="left").to_dicts()
    return {str(row["uid"]): row for row in rows}


def _decision(one: Entry, known: Mapping[str, str | None]) -> Decision:
    """Return a decision with what the run says now."""
    if KINDS.get(one.what) == "label":
        return Decision(one.uid, one.what, known["label"], one.label)
    if one.what == "not_duplicate":
        return Decision(one.uid, one.what, known["duplicate_of"])
    return Decision(one.uid, one.what, known["reason"], {"keep": "kept", "drop": "dropped"}.get(one.what))


def sheet(run: StoredRun, which: Which = "decided") -> pl.DataFrame:
    """Return samples with what was decided about them, to be shown or edited elsewhere.

    Parameters
    ----------
    run : StoredRun
        A run that is decided.
    which : str
        Which rows: those that somebody decided about, those kept, those dropped, or all.

    Returns
    -------
    polars.DataFrame
        The columns of `Overrides.current`, then key, shard, row, caption, label, keep, reason, duplicate_of and concept.
        A sample has a row for each thing decided, or one where nothing was.
    """
    if which not in (choices := ("decided", "kept", "dropped", "all")):
        raise UsageError(f"rows must be one of {', '.join(choices)}, got {which!r}")
    held = Overrides(run.folder).current()
    first = pl.col("occurrence") == 0
    samples = run.samples(lazy=True).filter(first).select("uid", "key", "shard", "row", "caption", "label")
    decisions = run.decisions(lazy=True).filter(first)
    decisions = decisions.select("uid", "keep", "reason", "duplicate_of", "concept")
    if which == "decided":
        samples = samples.filter(pl.col("uid").is_in(held["uid"].implode()))
    elif which != "all":
        decisions = decisions.filter(pl.col("keep") == (which == "kept"))
    rows = samples.join(decisions, on="uid", how="inner", maintain_order="left").collect()
    found = rows.join(held, on="uid", how="left", maintain_order="left_right")
    return found.select(*held.columns, *(name for name in rows.columns if name != "uid"))


def export_decisions(run: StoredRun, path: Path, form: str, which: Which | None = None) -> int:
    """Write samples and what was decided about them for another tool; return how many rows there are.

    Parameters
    ----------
    run : StoredRun
        A run that is decided.
    path : Path
        The file to write; it is replaced.
    form : str
        One of `FORMATS`.
    which : str, optional
        Which rows; in the formats that show samples all by default, else those decided about.

    Raises
    ------
    UsageError
        For another format.
    """
    write, _ = _format(form)
    rows = sheet(run, which or ("all" if form in SHOWS_SAMPLES else "decided"))
    write(path, rows)
    return len(rows)


def import_decisions(run: StoredRun, path: Path, form: str, by: str | None = None) -> int:
    """Take the decisions of a file that differ from what holds, as one action; return how many there are.

    Parameters
    ----------
    run : StoredRun
        A run that is decided.
    path : Path
        What `export_decisions` wrote, edited by hand or in the other tool.
    form : str
        One of `FORMATS`.
    by : str, optional
        Who decided; the name of the user by default.

    Raises
    ------
    UsageError
        For a row that makes no sense, by its number, or a sample that the run has not; nothing is taken then.
    """
    _, read = _format(form)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file to import")
    held = {key: (one.what, one.after) for key, (one, _) in Overrides(run.folder).holding().items()}
    asked = read(path)
    new = [one for one in asked if _differs(one, held)]
    decide(run, new, by)
    return len(new)


def _differs(one: Entry, held: Mapping[tuple[str, str], tuple[str, str | None]]) -> bool:
    if one.what == "reset":
        return any((one.uid, thing) in held for thing in set(KINDS.values()))
    what, after = held.get((one.uid, KINDS[one.what]), (None, None))
    return what != one.what or (one.what == "wrong_label" and after != one.label)


def _format(name: str) -> tuple[Callable[[Path, pl.DataFrame], None], Callable[[Path], list[Entry]]]:
    if name not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]
