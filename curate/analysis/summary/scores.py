"""Quantiles and histograms of every score, and which part of the samples is kept along it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.analysis.summary.tables import beside, facts, part_names, score_folders, table
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["QUANTILES", "score_facts"]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
#: Quantiles between the ends are over at most about this many samples, spread evenly; ends and numbers are exact.
SAMPLE = 1_000_000
BINS = 16

Floats = npt.NDArray[np.float64]


@dataclass
class _Column:
    """One score, collected part by part."""

    n: int = 0
    missing: int = 0
    low: float = np.inf
    high: float = -np.inf
    values: list[Floats] = field(default_factory=list)
    kept: list[npt.NDArray[np.bool_]] = field(default_factory=list)


def score_facts(run: RunFolder) -> list[dict[str, Any]]:
    """Return one row per score, the distance first: n, missing, quantiles (p00 to p100), and two lists of `BINS`.

    histogram : samples in equal steps from the least value to the largest. kept : the part of them that is kept,
    None where there are none; the list is None before there are decisions.
    """
    usable = facts(run, run.embeddings).get("usable", 0)
    step = max(1, -(-usable // SAMPLE))
    columns: dict[str, _Column] = {}
    for part in part_names(run, run.concepts):
        kept = _kept(run, part)
        for name, values in _scores(run, part):
            _add(columns.setdefault(name, _Column()), values, kept, step)
    return [_row(name, column) for name, column in columns.items()]


def _kept(run: RunFolder, part: str) -> npt.NDArray[np.bool_] | None:
    frame = beside(run, part, [], ["keep"], usable=True)
    return frame["decided_keep"].to_numpy() if "decided_keep" in frame.columns else None


def _scores(run: RunFolder, part: str) -> Iterator[tuple[str, "pl.Series"]]:
    yield "distance", table(run, run.assignments, part, ["distance"])["distance"]
    for folder in score_folders(run):
        path = run.part(run.scores(folder), part)
        if not path.exists():  # a family of an earlier state of the source
            continue
        for column in _floats(path):
            yield column.name, column


def _floats(path: Any) -> "list[pl.Series]":  # noqa: ANN401
    import polars as pl

    from curate.io import storage

    frame = pl.DataFrame(storage.read_table(path))
    return [column for column in frame.get_columns() if column.dtype.is_float()]


def _add(column: _Column, series: "pl.Series", kept: npt.NDArray[np.bool_] | None, step: int) -> None:
    values = series.to_numpy().astype(np.float64)
    known = np.isfinite(values)
    column.n += int(known.sum())
    column.missing += int((~known).sum())
    column.low = min(column.low, float(values[known].min(initial=np.inf)))
    column.high = max(column.high, float(values[known].max(initial=-np.inf)))
    chosen = np.flatnonzero(known)[::step]
    column.values.append(values[chosen])
    if kept is not None:
        column.kept.append(kept[chosen])


def _row(name: str, column: _Column) -> dict[str, Any]:
    values = np.concatenate(column.values)
    found: dict[str, Any] = {"score": name, "n": column.n, "missing": column.missing}
    for q in QUANTILES:
        exact = {0.0: column.low, 1.0: column.high}.get(q)
        between = float(np.quantile(values, q, method="nearest")) if len(values) and exact is None else exact
        found[f"p{round(100 * q):02d}"] = between if len(values) else None
    histogram, kept = _histograms(values, column)
    return found | {"histogram": histogram, "kept": kept}


def _histograms(values: Floats, column: _Column) -> tuple[list[int], list[float | None] | None]:
    if len(values) == 0:
        return [], None
    edges = np.linspace(column.low, max(column.high, np.nextafter(column.low, np.inf)), BINS + 1)
    counts = np.histogram(values, edges)[0]
    if not column.kept:
        return counts.tolist(), None
    kept = np.histogram(values[np.concatenate(column.kept)], edges)[0]
    shares = [k / n if n else None for k, n in zip(kept.tolist(), counts.tolist(), strict=True)]
    return counts.tolist(), shares
