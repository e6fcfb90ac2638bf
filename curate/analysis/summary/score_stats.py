"""Quantiles, histograms, cuts and correlations of the scores: ends and numbers are exact, the rest is of a sample."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.analysis.summary.scan import PLAIN
from curate.recipe import Recipe, ScoreFilter
from curate.report.model import Score

__all__ = [
    "BINS",
    "MAX_CORRELATED",
    "QUANTILES",
    "ScoreStats",
    "correlation",
    "cut_rules",
    "score_stats",
    "shown_scores",
]

#: Quantiles of every score, and what the page calls them.
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
#: Steps of a histogram in the terminal, and on the page.
BINS, PAGE_BINS = 16, 48
#: Columns beyond these are left out of the histograms of the page, and of the correlations.
MAX_SCORES, MAX_CORRELATED = 60, 30
CORRELATED_ROWS = 20_000
_COMPARISON = re.compile(r"\s*\"?(\w+)\"?\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreStats:
    """One score of a run.

    n, missing : samples with and without it, exact. quantiles : by `QUANTILES`, the nearest of the sample, the ends
    exact; None where there are none. values : (s,) those of the sample, keep : (s,) whether each is kept, None
    before there are decisions.
    """

    name: str
    n: int
    missing: int
    quantiles: Mapping[str, float | None]
    values: Floats
    keep: npt.NDArray[np.bool_] | None

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value; there must be one."""
        return float(self.quantiles["min"] or 0.0), float(self.quantiles["max"] or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: score, n, missing, quantiles (p00 to p100), and two lists of `BINS`.

        histogram : values of the sample in equal steps from the least to the largest. kept : the part of them that
        is kept, None where there are none; the list is None before there are decisions.
        """
        quantiles = {f"p{round(100 * q):02d}": self.quantiles[name] for name, q in QUANTILES.items()}
        found = {"score": self.name, "n": self.n, "missing": self.missing, **quantiles}
        if len(self.values) == 0:
            return {**found, "histogram": [], "kept": None}
        low, high = self.ends
        edges = np.linspace(low, max(high, np.nextafter(low, np.inf)), BINS + 1)
        counts = np.histogram(self.values, edges)[0].tolist()
        if self.keep is None:
            return {**found, "histogram": counts, "kept": None}
        kept = np.histogram(self.values[self.keep], edges)[0].tolist()
        return {
            **found,
            "histogram": counts,
            "kept": [k / n if n else None for k, n in zip(kept, counts, strict=True)],
        }


def score_stats(sample: pl.DataFrame, totals: pl.DataFrame) -> list[ScoreStats]:
    """Return every score of a run, in the order of `totals`. sample, totals : as `scan.Scan` has them."""
    return [_stats(sample, *row) for row in totals.iter_rows()]


def _stats(
    sample: pl.DataFrame, name: str, n: int, missing: int, low: float | None, high: float | None
) -> ScoreStats:
    known = sample.filter(pl.col(name).is_not_null())
    values = known[name].to_numpy().astype(np.float64)
    ends = {"min": low, "max": high}
    quantiles = {
        label: ends[label] if label in ends else float(np.quantile(values, q, method="nearest")) if len(values) else low
        for label, q in QUANTILES.items()
    }  # fmt: skip
    keep = known["keep"].to_numpy() if "keep" in known.columns else None
    return ScoreStats(name=name, n=n, missing=missing, quantiles=quantiles, values=values, keep=keep)


def cut_rules(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Return the rules that cut one score: (reason of the rows that fail, "" for the selection; column)."""
    rules = [
        (f"filter:{one}", one.by) for one in recipe.filter if isinstance(one, ScoreFilter) and one.per is None
    ]
    if recipe.select.keeps_stretch and recipe.select.score_column is not None:
        rules.append(("", recipe.select.score_column))
    return tuple(rules)


def shown_scores(
    stats: Sequence[ScoreStats],
    step: int,
    recipe: Recipe,
    ends: pl.DataFrame,
    means: Mapping[str, str | None],
) -> list[Score]:
    """Return what the page says of every score. step : the sample has one row of so many. ends : as a scan has them."""
    return [
        _shown(one, step, _cuts(recipe, ends, one.name), means.get(one.name)) for one in stats[:MAX_SCORES]
    ]


def _shown(one: ScoreStats, step: int, cuts: Sequence[tuple[float, str]], means: str | None) -> Score:
    if len(one.values) == 0 or one.keep is None:
        return Score(name=one.name, means=means, quantiles=one.quantiles, n=one.n, missing=one.missing)
    low, high = one.ends
    edges = np.linspace(low, high if high > low else low + max(abs(low), 1.0) * 1e-3, PAGE_BINS + 1)
    kept, dropped = (np.histogram(one.values[rows], edges)[0] * step for rows in (one.keep, ~one.keep))
    return Score(
        name=one.name, means=means, quantiles=one.quantiles, n=one.n, missing=one.missing, edges=edges.tolist(),
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
    names = [name for name in sample.columns if name not in PLAIN and sample[name].n_unique() > 2]
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
