"""Family `fuse`: one column out of several, by their ranks (or ranges) over all samples, or in each group."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.execution.context import Context, usable
from curate.io import storage
from curate.recipe import Fuse, Recipe
from curate.scores.base import FamilyStage, Output, embedding_parts, require_memory, table
from curate.scores.columns import Direction, hardest_is_largest
from curate.scores.fuse import fuse
from curate.scores.registry import folders_for, require_score, score_columns
from curate.scores.stored import read_part

__all__ = ["STAGE"]

#: What ranking needs of a row (measured with 3,000,000 rows), and each of its columns.
_ROW_BYTES, _CELL_BYTES = 160, 8

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """What is fused, over all samples: columns, groups (-1: none), and why a row lacks a score, as codes."""

    columns: dict[str, Floats]
    group: npt.NDArray[np.int32] | None
    status: npt.NDArray[np.int16]
    names: list[str]


def _table(settings: Fuse) -> pa.Schema:
    return table({settings.name: pa.float32()}, f"{settings.name}_status")


def _check(recipe: Recipe, settings: Fuse) -> None:
    for name in settings.columns:
        require_score(recipe, name, f"score: fuse.columns of {settings.name}")


def _inputs(context: Context, settings: Fuse) -> list[object]:
    run = context.run
    scored = [run.fingerprint(run.scores(folder)) for folder in folders_for(context.recipe, settings.needs)]
    grouped = settings.per == "concept" or "distance" in settings.needs
    return [*scored, run.fingerprint(run.concepts) if grouped else None]


def _compute(context: Context, settings: Fuse, output: Output) -> dict[str, Any]:
    # The order of a sum decides its last bits: that of the names, not of the recipe.
    weights = {name: weight for name, weight in sorted(settings.columns.items()) if weight}
    rows = sum(map(len, embedding_parts(context)))
    require_memory(context, f"score: {settings.name}", rows, _ROW_BYTES + _CELL_BYTES * len(weights))
    given = _read(context, settings, list(weights))
    known = np.ones(rows, np.bool_) if given.group is None else given.group >= 0
    fused = np.full(rows, np.nan, np.float32)
    fused[known] = fuse(
        [values[known] for values in given.columns.values()], list(weights.values()), settings.scale,
        group=None if given.group is None else given.group[known],
    )  # fmt: skip
    _write(output, settings.name, fused, given)
    return {"scored": int(np.isfinite(fused).sum()), "warnings": _warnings(context.recipe, settings, weights)}


def _read(context: Context, settings: Fuse, names: list[str]) -> Given:
    known = score_columns(context.recipe)
    where = {name: known[name] for name in names}
    columns: dict[str, list[Floats]] = {name: [np.empty(0, np.float32)] for name in names}
    codes: dict[str, int] = {"ok": 0}
    labels: dict[str, int] = {}
    status, groups = [np.empty(0, np.int16)], [np.empty(0, np.int32)]
    for part in context.parts:
        values, why = read_part(context.run, part.name, where)
        for name in names:
            columns[name].append(values[name])
        if settings.per is not None:
            group = _groups(context, part.name, settings.per, labels)
            why = why.zip_with(pl.Series(group >= 0), pl.Series(["no_label"] * len(group), dtype=pl.String))
            groups.append(group)
        status.append(_coded(why, codes).astype(np.int16))
    return Given(
        {name: np.concatenate(pieces) for name, pieces in columns.items()},
        None if settings.per is None else np.concatenate(groups),
        np.concatenate(status),
        list(codes),
    )


def _groups(context: Context, part: str, per: str, labels: dict[str, int]) -> npt.NDArray[np.int32]:
    """Return the concept of each row, or a code of its label, -1 where it has none."""
    if per == "concept":
        path = context.run.part(context.run.assignments, part)
        concept: npt.NDArray[np.int32] = storage.read_table(path, ["concept"])["concept"].to_numpy()
        return concept
    label = usable(context.run, part)["label"]
    return _coded(label, labels)


def _coded(names: pl.Series, codes: dict[str, int]) -> npt.NDArray[np.int32]:
    """Return the code of each name, -1 for null; new names get the next ones. Which code it is decides nothing."""
    for name in names.drop_nulls().unique().sort():
        codes.setdefault(name, len(codes))
    if not codes:
        return np.full(len(names), -1, np.int32)
    known = pl.Series(list(codes), dtype=pl.String)
    found = names.replace_strict(
        known, pl.Series(list(codes.values()), dtype=pl.Int32), return_dtype=pl.Int32
    )
    numbers: npt.NDArray[np.int32] = found.fill_null(-1).to_numpy()
    return numbers


def _write(output: Output, name: str, fused: Floats, given: Given) -> None:
    start = 0
    for part, embeddings in zip(output.context.parts, embedding_parts(output.context), strict=True):
        rows = slice(start, start + len(embeddings))
        status = [given.names[code] for code in given.status[rows].tolist()]
        output.write(part, {name: fused[rows], f"{name}_status": status})
        start = rows.stop


def _warnings(recipe: Recipe, settings: Fuse, weights: Mapping[str, float]) -> list[str]:
    """Return what is odd about the weights: columns that work against each other, or against `higher_is`."""
    known = score_columns(recipe)
    means: dict[str, Direction] = {name: known[name].higher_is or "harder" for name in weights}
    for sign in (1, -1):
        same = [name for name, weight in weights.items() if weight * sign > 0]
        harder = [name for name in same if hardest_is_largest(means[name])]
        easier = [name for name in same if not hardest_is_largest(means[name])]
        if harder and easier:
            return [
                (
                    f"{harder[0]} (higher is {means[harder[0]]}) and {easier[0]} (higher is {means[easier[0]]}) have "
                    "weights of the same sign and work against each other; give one of them a negative weight"
                )
            ]
    up = {hardest_is_largest(means[name]) == (weight > 0) for name, weight in weights.items()}
    if up == {not hardest_is_largest(settings.higher_is)}:
        turned = "easier or better" if hardest_is_largest(settings.higher_is) else "harder or noisier"
        return [f"higher_is is {settings.higher_is}, but with these weights a higher value is {turned}"]
    return []


STAGE = FamilyStage(
    table=_table, compute=_compute, inputs=_inputs, check=_check,
    directions=lambda settings: {settings.name: settings.higher_is},
)  # fmt: skip
