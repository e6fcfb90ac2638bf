"""Several score columns as one: brought to [0, 1], weighted and added."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from curate.errors import CurateError, RecipeError
from curate.linalg import place_between
from curate.scores.base import ColumnName, Score, ScoreColumn, Sources, embedding_parts, require_memory
from curate.scores.columns import Column, Direction, hardest_is_largest
from curate.scores.reliability import ranks

if TYPE_CHECKING:
    import polars as pl

    from curate.execution.context import Context
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["Fuse", "Scale", "fuse", "normalise"]

#: What ranking needs of a row (measured with 3,000,000 rows), and each of its columns.
_ROW_BYTES, _CELL_BYTES = 160, 8

Scale = Literal["rank", "minmax"]

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.floating[Any]]
Groups = npt.NDArray[np.integer[Any]]


class Fuse(Score):
    """One column out of several: a weighted mean of their ranks (or of what min-max makes of them)."""

    measures: ClassVar[str] = "several scores as one, by their ranks"
    cost: ClassVar[str] = "one sort per column, all rows in memory"
    requires: ClassVar[str] = "two or more columns of scores"
    avoid: ClassVar[str] = "where the columns rank alike: one of them says as much"
    place: ClassVar[int] = 8

    family: Literal["fuse"] = "fuse"
    name: ColumnName = "fused"
    columns: Annotated[dict[str, float], Field(min_length=1)]
    scale: Scale = "rank"
    per: Literal["concept", "label"] | None = None
    higher_is: Direction = "harder"

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that are fused."""
        return tuple(self.columns)

    @property
    def row_needs(self) -> tuple[str, ...]:
        """Labels, where they are the groups."""
        return ("label",) if self.per == "label" else ()

    @model_validator(mode="after")
    def _weights(self) -> Self:
        values = self.columns.values()
        if not all(abs(value) < float("inf") for value in values) or not any(values):
            raise ValueError(f"columns must have finite weights, not all 0, got {dict(self.columns)}")
        return self

    def columns_made(self) -> Mapping[str, Column]:
        """Return the fused column."""
        return {self.name: Column(self.higher_is)}

    def check_columns(self, found: Callable[[str, str], ScoreColumn]) -> None:
        """Raise UsageError unless all columns are scores."""
        for name in self.columns:
            found(name, f"score: fuse.columns of {self.name}")

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprints of the tables that are read."""
        run = context.run
        folders = sorted({column.folder for column in columns.values()} - {""})
        grouped = self.per == "concept" or "distance" in self.needs
        scored = [run.fingerprint(run.scores(folder)) for folder in folders]
        return [*scored, run.fingerprint(run.concepts) if grouped else None]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        weights = {name: weight for name, weight in sorted(self.columns.items()) if weight}
        columns = [samples.column("fuse", name) for name in weights]
        group, known = None, np.ones(len(samples), np.bool_)
        if self.per == "label":
            named = ["" if label is None else str(label) for label in samples.require("fuse", "labels")]
            known = np.array([label is not None for label in samples.require("fuse", "labels")], np.bool_)
            group = np.unique(named, return_inverse=True)[1][known]
        elif self.per == "concept":
            group = samples.column("fuse", "concept").astype(np.int64)
        fused = np.full(len(samples), np.nan)
        fused[known] = fuse([one[known] for one in columns], list(weights.values()), self.scale, group=group)
        status = np.where(known, samples.why_missing(list(weights)), "no_label")
        return {self.name: fused}, status.astype(object)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        # The order of a sum decides its last bits: that of the names, not of the recipe.
        weights = {name: weight for name, weight in sorted(self.columns.items()) if weight}
        rows = sum(map(len, embedding_parts(context)))
        require_memory(context, f"score: {self.name}", rows, _ROW_BYTES + _CELL_BYTES * len(weights))
        given = _read(context, self.per, {name: output.columns[name] for name in weights})
        known = np.ones(rows, np.bool_) if given.group is None else given.group >= 0
        fused = np.full(rows, np.nan, np.float32)
        fused[known] = fuse(
            [values[known] for values in given.columns.values()], list(weights.values()), self.scale,
            group=None if given.group is None else given.group[known],
        )  # fmt: skip
        _write(output, self.name, fused, given)
        return {"scored": int(np.isfinite(fused).sum()), "warnings": _warnings(self, output.columns, weights)}


@dataclass(frozen=True)
class Given:
    """What is fused, over all samples: columns, groups (-1: none), and why a row lacks a score, as codes."""

    columns: dict[str, npt.NDArray[np.float32]]
    group: npt.NDArray[np.int32] | None
    status: npt.NDArray[np.int16]
    names: list[str]


def fuse(
    columns: Sequence[Array], weights: Sequence[float], scale: Scale = "rank", *, group: Groups | None = None
) -> Floats:
    """Return the weighted mean of columns that were brought to [0, 1]; (n,) in [0, 1].

    columns : each (n,); weights : one each, finite, not all 0, scaled so that their sizes add up to 1. A
    negative weight turns its column round (1 - value). scale, group : as `normalise`. NaN where a
    column with a weight is not finite: a row without one of its scores has none.
    Raises RecipeError for bad weights, CurateError for columns of several lengths.

    >>> fuse([np.array([1.0, 2.0, 3.0]), np.array([7.0, 7.0, np.nan])], [3, 1])
    array([0.125, 0.5  ,   nan])
    """
    sizes = np.abs(np.asarray(weights, np.float64))
    if len(weights) != len(columns) or not np.isfinite(sizes).all() or not sizes.any():
        raise RecipeError(f"weights must be {len(columns)} finite numbers and not all 0, got {list(weights)}")
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise CurateError(f"columns must be (n,) alike, got {[column.shape for column in columns]}")
    shares = sizes / sizes.max()
    shares /= shares.sum()
    total = np.zeros(len(columns[0]))
    for column, weight, share in zip(columns, weights, shares, strict=True):
        if weight:
            value = normalise(column, scale, group=group)
            total += share * (value if weight > 0 else 1.0 - value)
    return np.clip(total, 0.0, 1.0)


def normalise(values: Array, scale: Scale = "rank", *, group: Groups | None = None) -> Floats:
    """Return values brought to [0, 1] in their order: by their rank or by their range; (n,).

    rank : (rank - 1) / (n - 1) with ties at their average, whatever the distances. minmax : 0 at the
    smallest and 1 at the largest. Equal values all become 0.5. group : (n,) codes, each group by itself.
    What is not finite does not count and becomes NaN.

    >>> normalise(np.array([5.0, 1.0, 2.0, np.inf])), normalise(np.array([5.0, 1.0, 2.0]), "minmax")
    (array([1. , 0. , 0.5,  nan]), array([1.  , 0.  , 0.25]))
    """
    if scale not in ("rank", "minmax"):
        raise RecipeError(f"scale must be rank or minmax, got {scale!r}")
    result = np.full(len(values), np.nan)
    for rows in _groups(values, group):
        part = values[rows].astype(np.float64)
        low, high = part.min(), part.max()
        if low == high:
            result[rows] = 0.5
        elif scale == "rank":
            result[rows] = (ranks(part) - 1) / (len(part) - 1)
        else:
            result[rows] = place_between(part, low, high)
    return result


def _groups(values: Array, group: Groups | None) -> list[npt.NDArray[np.int64]]:
    """Return the rows with finite values of each group; groups without any are left out."""
    if group is not None and group.shape != values.shape:
        raise CurateError(f"group must be {values.shape}, got {group.shape}")
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) == 0:
        return []
    if group is None:
        return [finite]
    order = finite[np.argsort(group[finite], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _read(context: "Context", per: str | None, where: Mapping[str, ScoreColumn]) -> Given:
    """Read the columns of all parts, and the groups in which they are fused."""
    import polars as pl

    from curate.scores.tables.stored import read_part

    names = list(where)
    columns: dict[str, list[npt.NDArray[np.float32]]] = {name: [np.empty(0, np.float32)] for name in names}
    codes: dict[str, int] = {"ok": 0}
    labels: dict[str, int] = {}
    status, groups = [np.empty(0, np.int16)], [np.empty(0, np.int32)]
    for part in context.parts:
        values, why = read_part(context.run, part.name, where)
        for name in names:
            columns[name].append(values[name])
        if per is not None:
            group = _group_codes(context, part.name, per, labels)
            why = why.zip_with(pl.Series(group >= 0), pl.Series(["no_label"] * len(group), dtype=pl.String))
            groups.append(group)
        status.append(_coded(why, codes).astype(np.int16))
    return Given(
        {name: np.concatenate(pieces) for name, pieces in columns.items()},
        None if per is None else np.concatenate(groups),
        np.concatenate(status),
        list(codes),
    )


def _group_codes(context: "Context", part: str, per: str, labels: dict[str, int]) -> npt.NDArray[np.int32]:
    """Return the concept of each row, or a code of its label, -1 where it has none."""
    from curate.execution.context import usable
    from curate.io import storage

    if per == "concept":
        path = context.run.part(context.run.assignments, part)
        concept: npt.NDArray[np.int32] = storage.read_table(path, ["concept"])["concept"].to_numpy()
        return concept
    label = usable(context.run, part)["label"]
    return _coded(label, labels)


def _coded(names: "pl.Series", codes: dict[str, int]) -> npt.NDArray[np.int32]:
    """Return the code of each name, -1 for null; new names get the next ones. Which code it is decides nothing."""
    import polars as pl

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


def _write(output: "Output", name: str, fused: npt.NDArray[np.float32], given: Given) -> None:
    start = 0
    for part, embeddings in zip(output.context.parts, embedding_parts(output.context), strict=True):
        rows = slice(start, start + len(embeddings))
        status = [given.names[code] for code in given.status[rows].tolist()]
        output.write(part, {name: fused[rows], f"{name}_status": status})
        start = rows.stop


def _warnings(score: Fuse, columns: Mapping[str, ScoreColumn], weights: Mapping[str, float]) -> list[str]:
    """Return what is odd about the weights: columns that work against each other, or against `higher_is`."""
    means: dict[str, Direction] = {name: columns[name].higher_is or "harder" for name in weights}
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
    if up == {not hardest_is_largest(score.higher_is)}:
        turned = "easier or better" if hardest_is_largest(score.higher_is) else "harder or noisier"
        return [f"higher_is is {score.higher_is}, but with these weights a higher value is {turned}"]
    return []
