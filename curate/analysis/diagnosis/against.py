"""How well every score of a run tells the rows where a column is true from the others."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.analysis.diagnosis.agreement import auc
from curate.analysis.summary.tables import finished_families
from curate.errors import RunError, UsageError
from curate.execution.context import Context, Part, eligible
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.filtering.source_columns import SourceColumns, as_frame, find_columns
from curate.hashing import hash_uids
from curate.io import storage
from curate.recipe.loading import load_recipe
from curate.runs.run import open_run
from curate.scores.registry import score_columns

__all__ = ["ROWS", "against"]

#: About how many rows are looked at, by the hash of their uid.
ROWS = 200_000
#: Columns of the decisions that say yes or no.
_DECIDED = ("keep", "random_control")


@dataclass(frozen=True)
class _Truth:
    """Where the column is: in the decisions, beside the scores, or in the source (its type there)."""

    column: str
    decided: bool = False
    kind: pl.DataType | None = None


def against(run: str | Path, column: str) -> dict[str, Any]:
    """Return the area under the ROC curve of every score of a run against a column of true and false.

    Parameters
    ----------
    run : str or Path
        A run whose scores are there.
    column : str
        Of the source (``source.NAME`` where the run has a column of that name too), of a score table, or `keep` and
        `random_control` of the decisions. True and false, or 1 and 0; rows without a value are left out.

    Returns
    -------
    dict
        column, rows (looked at: about 200,000, by the hash of the uid), positive (share of true), and scores: score, higher_is,
        n, auc (None where all rows with the score are of one kind), those first that tell most.

    Raises
    ------
    UsageError
        If there is no such column, or it does not say yes or no.
    RunError
        If the run has no scores yet.
    """
    folder = open_run(run).folder
    recipe = load_recipe(folder.recipe, settings={"run": folder.where})
    context = with_parts(Context(recipe, folder, LocalEngine(1)))
    if folder.marker(folder.concepts) is None:
        raise RunError(
            f"{folder.where}: 2_concepts is not there yet; finish the run first: curate run {folder.recipe}"
        )
    families = finished_families(folder)
    meanings = {
        name: one.higher_is for name, one in score_columns(recipe).items()
        if one.higher_is is not None and (not one.folder or one.folder in families)
    }  # fmt: skip
    truth = _find(context, column, families)
    pieces = list(_pieces(context, truth, families, list(meanings)))
    every = pl.concat([frame for frame, _ in pieces]) if pieces else pl.DataFrame()
    positive = np.concatenate([np.empty(0, np.bool_), *(one for _, one in pieces)])
    rows: list[dict[str, Any]] = []
    for name, means in meanings.items() if len(positive) else ():
        values = every[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        value = auc(values, positive)
        known = round(value, 4) if np.isfinite(value) else None
        rows.append({"score": name, "higher_is": means, "n": int(np.isfinite(values).sum()), "auc": known})
    rows.sort(key=lambda row: (row["auc"] is None, -abs((row["auc"] or 0.5) - 0.5), row["score"]))
    share = round(float(positive.mean()), 6) if len(positive) else None
    return {"column": column, "rows": len(positive), "positive": share, "scores": rows}


def _find(context: Context, column: str, families: list[str]) -> _Truth:
    """Return where the column is; UsageError where it is nowhere, or does not say yes or no."""
    run, recipe = context.run, context.recipe
    if column in _DECIDED:
        if run.marker(run.decisions) is None:
            raise RunError(f"{run.where}: 5_decisions is not there yet; finish the run first")
        return _Truth(column, decided=True)
    known = {name: one.kind for name, one in score_columns(recipe).items() if one.folder in families}
    if column in known:
        _require_boolean(column, known[column])
        return _Truth(column)
    found = find_columns((part.shard for part in context.parts), [column], list(known))
    if column not in found.names:
        near = difflib.get_close_matches(column, [*found.names, *known, *_DECIDED], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the source has {', '.join(found.names) or 'none'}"
        raise UsageError(f"--against: there is no column {column!r}; {hint}")
    kind = found.field(column).type
    _require_boolean(column, kind)
    return _Truth(column, kind=as_frame(pa.schema([found.field(column)]).empty_table()).schema[column])


def _require_boolean(column: str, kind: pa.DataType) -> None:
    fine = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not fine:
        raise UsageError(f"--against: column {column!r} must be true or false (or 1 and 0), it is {kind}")


def _pieces(
    context: Context, truth: _Truth, families: list[str], names: list[str]
) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.bool_]]]:
    """Yield the scores of some rows of each part, and what is true of them."""
    limit = np.uint64(min((1 << 64) - 1, (ROWS << 64) // max(1, context.rows)))
    for part in context.parts:
        frame = eligible(context.run, part.name, families)
        if truth.decided:
            frame = _with_decisions(context, part, frame, truth.column)
        some = frame.filter(
            pl.Series(hash_uids(frame["uid"].to_list(), "against") <= limit, dtype=pl.Boolean)
        )
        if some.is_empty():
            continue
        blocks = [some]
        if truth.kind is not None:
            read = SourceColumns(part.shard, {truth.column: truth.kind}, 64_000_000)
            rows = some.drop(truth.column, strict=False)
            blocks = list(read.beside(rows))
        for block in blocks:
            known = block.filter(pl.col(truth.column).is_not_null())
            values = known[truth.column].cast(pl.Float64)
            other = values.filter(~values.is_in([0.0, 1.0]))
            if len(other):
                raise UsageError(
                    f"--against: column {truth.column!r} must be true or false (or 1 and 0), {part.shard.name} has {other[0]:g}"
                )
            yield known.select(names), (values == 1.0).to_numpy()


def _with_decisions(context: Context, part: Part, frame: pl.DataFrame, column: str) -> pl.DataFrame:
    table = storage.read_table(
        context.run.part(context.run.decisions, part.name), ["uid", "occurrence", column]
    )
    decided = pl.DataFrame(table).filter(pl.col("occurrence") == 0).drop("occurrence")
    return frame.join(decided, on="uid", how="left", maintain_order="left")
