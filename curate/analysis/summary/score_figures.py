"""Quantiles, histograms, cuts and correlations of the scores, from an even sample of the rows."""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.recipe import Recipe, ScoreFilter
from curate.report.model import Score

__all__ = ["MAX_CORRELATED", "QUANTILES", "correlation", "cut_rules", "scores"]

QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
BINS = 48
#: Columns beyond these are left out of the histograms, and of the correlations.
MAX_SCORES, MAX_CORRELATED = 60, 30
CORRELATED_ROWS = 20_000
#: Columns of the sample that are no scores.
_OTHERS = ("keep", "competing", "weight")
_COMPARISON = re.compile(r"\s*\"?(\w+)\"?\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*")


def cut_rules(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Return the rules that cut one score: (reason of the rows that fail, "" for the selection; column)."""
    rules = [
        (f"filter:{one}", one.by) for one in recipe.filter if isinstance(one, ScoreFilter) and one.per is None
    ]
    if recipe.select.keeps_stretch and recipe.select.score_column is not None:
        rules.append(("", recipe.select.score_column))
    return tuple(rules)


def scores(
    sample: pl.DataFrame, step: int, recipe: Recipe, ends: pl.DataFrame, means: Mapping[str, str | None]
) -> list[Score]:
    """Return what is known of every score. sample : one row of `step`. ends : as `look` found them."""
    names = [name for name in sample.columns if name not in _OTHERS][:MAX_SCORES]
    return [_score(sample, name, step, _cuts(recipe, ends, name), means.get(name)) for name in names]


def _score(
    sample: pl.DataFrame, name: str, step: int, cuts: Sequence[tuple[float, str]], means: str | None
) -> Score:
    known = sample.select(name, "keep").drop_nulls()
    column = known[name]
    quantiles = {label: column.quantile(q, "nearest") for label, q in QUANTILES.items()}
    n, missing = len(known) * step, (len(sample) - len(known)) * step
    if len(known) == 0:
        return Score(name=name, means=means, quantiles=quantiles, n=n, missing=missing)
    values = column.to_numpy().astype(np.float64)
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + max(abs(low), 1.0) * 1e-3, BINS + 1)
    keep = known["keep"].to_numpy()
    kept, dropped = (np.histogram(values[rows], edges)[0] * step for rows in (keep, ~keep))
    return Score(
        name=name, means=means, quantiles=quantiles, n=n, missing=missing, edges=edges.tolist(),
        kept=kept.tolist(), dropped=dropped.tolist(), cuts=cuts,
    )  # fmt: skip


def _cuts(recipe: Recipe, ends: pl.DataFrame, name: str) -> list[tuple[float, str]]:
    """Return where rules cut a score: the number in a condition, else where the rows that passed end."""
    found = []
    for one in recipe.filter:
        said = _COMPARISON.fullmatch(str(one)) if isinstance(one, str) else None
        if said is not None and said[1] == name:
            found.append((float(said[3]), f"filter {one}"))
    for rule, column, low, high, failed_low, failed_high in ends.iter_rows():
        if column != name or None in (low, high, failed_low, failed_high):
            continue
        what = rule.replace(":", " ", 1) or f"select {recipe.select.method}"
        if failed_low < low:
            found.append((low, what))
        if failed_high > high:
            found.append((high, what))
    return found


def correlation(sample: pl.DataFrame) -> tuple[list[str], list[list[float | None]]]:
    """Return Spearman correlations of all scores, over the rows that have both; None where there is none."""
    names = [name for name in sample.columns if name not in _OTHERS and sample[name].n_unique() > 2]
    names = names[:MAX_CORRELATED]
    rows = sample.gather_every(max(1, math.ceil(len(sample) / CORRELATED_ROWS))) if len(sample) else sample
    ranks = {name: _ranks(rows[name]) for name in names}
    square: list[list[float | None]] = [[None] * len(names) for _ in names]
    for i, one in enumerate(names):
        for j, other in enumerate(names[: i + 1]):
            square[i][j] = square[j][i] = _correlated(ranks[one], ranks[other])
    return names, square


def _ranks(column: pl.Series) -> npt.NDArray[np.float64]:
    return column.rank("average").cast(pl.Float64).to_numpy()


def _correlated(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3:
        return None
    x, y = a[both] - a[both].mean(), b[both] - b[both].mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return None if size == 0 else round(max(-1.0, min(1.0, float(x @ y) / size)), 3)
