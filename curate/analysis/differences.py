"""Adding up what is different between two runs, from rows of both side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from curate.hashing import hash_uids

__all__ = ["CHANGED", "COLUMNS", "Tally"]

#: What is compared of a row besides its scores.
COLUMNS = {"keep": pa.bool_(), "reason": pa.string(), "concept": pa.int32(), "weight": pa.float32()}

#: The table of rows that differ. change : the first that applies of new, gone, kept_to_dropped, dropped_to_kept,
#: reason, concept (where concepts are comparable), weight.
CHANGED = pa.schema(
    [("uid", pa.string()), ("occurrence", pa.int32()), ("change", pa.string())]
    + [(f"{name}_{when}", kind) for name, kind in COLUMNS.items() for when in ("before", "after")]
)

#: What can become of a row.
_CHANGES = (
    "still_kept", "still_dropped", "kept_to_dropped", "dropped_to_kept",
    "new_kept", "new_dropped", "gone_kept", "gone_dropped",
)  # fmt: skip


@dataclass
class _Numbers:
    """Two columns of numbers: rows with both, how many of them differ, by how much; rows with one alone."""

    rows: int = 0
    changed: int = 0
    total: float = 0.0
    largest: float = 0.0
    gained: int = 0
    lost: int = 0

    def add(self, before: pl.Series, after: pl.Series) -> None:
        """Add up some rows. What is not finite counts as absent."""
        here, there = (one.is_finite().fill_null(value=False) for one in (before, after))
        off = (after - before).filter(here & there).abs()
        self.rows += len(off)
        self.changed += int((off > 0).sum())
        self.total += float(off.sum())
        self.largest = max(self.largest, float(off.max() or 0.0))  # type: ignore[arg-type]
        self.gained += int((there & ~here).sum())
        self.lost += int((here & ~there).sum())

    def said(self) -> dict[str, Any]:
        """Return the numbers by name."""
        mean = self.total / self.rows if self.rows else None
        return {
            "rows": self.rows, "changed": self.changed, "mean_difference": mean,
            "largest_difference": self.largest if self.rows else None, "gained": self.gained, "lost": self.lost,
        }  # fmt: skip


class Tally:
    """Counts over blocks of joined rows: columns of before, and those of after with the suffix `_after`.

    `there` and `there_after` say which run has the row. scores : columns of numbers. comparable : whether a concept
    means the same in both runs.
    """

    def __init__(self, scores: Sequence[str], *, comparable: bool) -> None:
        self.comparable = comparable
        self.changes: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.sizes: Counter[tuple[int, str]] = Counter()
        self.moved = 0
        self.weights = _Numbers()
        self.scores = {name: _Numbers() for name in scores}

    def add(self, rows: pl.DataFrame) -> pa.Table:
        """Count rows; return those that differ (columns as in `CHANGED`)."""
        rows = rows.with_columns(became=_became())
        self.changes.update(dict(rows["became"].value_counts().iter_rows()))
        both = rows.filter("there", "there_after")
        told = (
            both.filter(pl.col("reason") != pl.col("reason_after")).group_by("reason", "reason_after").len()
        )
        self.reasons.update({(before, after): count for before, after, count in told.iter_rows()})
        if self.comparable:
            self._add_concepts(rows, both)
        kept = both.filter("keep", "keep_after")
        self.weights.add(kept["weight"].cast(pl.Float64), kept["weight_after"].cast(pl.Float64))
        for name, numbers in self.scores.items():
            numbers.add(both[name], both[f"{name}_after"])
        return _changed(rows, ("reason", *(("concept",) if self.comparable else ()), "weight"))

    def _add_concepts(self, rows: pl.DataFrame, both: pl.DataFrame) -> None:
        self.moved += both.filter(pl.col("concept").ne_missing(pl.col("concept_after"))).height
        for when, suffix in (("before", ""), ("after", "_after")):
            some = rows.filter(pl.col(f"concept{suffix}").is_not_null())
            sizes = some.group_by(f"concept{suffix}").agg(pl.len(), pl.col(f"keep{suffix}").sum())
            for concept, size, kept in sizes.iter_rows():
                self.sizes[concept, f"rows_{when}"] += size
                self.sizes[concept, f"kept_{when}"] += kept

    def result(self, listed: int) -> dict[str, Any]:
        """Return everything by name, as `curate.analysis.diff.diff_runs` says. listed : how many concepts."""
        n = {name: self.changes[name] for name in _CHANGES}
        new, gone = n["new_kept"] + n["new_dropped"], n["gone_kept"] + n["gone_dropped"]
        both, stayed = sum(n.values()) - new - gone, n["still_kept"]
        reasons = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        concepts: dict[str, Any] = {"comparable": self.comparable}
        if self.comparable:
            concepts |= {"changed": self.moved, "sizes": self._sizes()[:listed]}
        return {
            "rows": {"a": both + gone, "b": both + new, "both": both, "new": new, "gone": gone},
            "kept": {
                "a": stayed + n["kept_to_dropped"] + n["gone_kept"],
                "b": stayed + n["dropped_to_kept"] + n["new_kept"],
            },
            "changes": n,
            "reasons": [{"before": x, "after": y, "rows": count} for (x, y), count in reasons],
            "concepts": concepts,
            "weights": self.weights.said(),
            "scores": [{"score": name, **numbers.said()} for name, numbers in self.scores.items()],
        }

    def _sizes(self) -> list[dict[str, int]]:
        """Return the concepts whose rows changed in number, those that changed most first."""
        names = ("rows_before", "rows_after", "kept_before", "kept_after")
        ids = sorted({concept for concept, _ in self.sizes})
        rows = [{"concept": one, **{name: self.sizes[one, name] for name in names}} for one in ids]
        rows = [row for row in rows if row["rows_before"] != row["rows_after"]]
        return sorted(rows, key=lambda row: -abs(row["rows_after"] - row["rows_before"]))


def _became() -> pl.Expr:
    """Return what became of a row: one of `_CHANGES`."""
    here, there = pl.col("there"), pl.col("there_after")
    kept, stays = pl.col("keep"), pl.col("keep_after")
    return (
        pl.when(~here & stays).then(pl.lit("new_kept"))
        .when(~here).then(pl.lit("new_dropped"))
        .when(~there & kept).then(pl.lit("gone_kept"))
        .when(~there).then(pl.lit("gone_dropped"))
        .when(kept & stays).then(pl.lit("still_kept"))
        .when(kept).then(pl.lit("kept_to_dropped"))
        .when(stays).then(pl.lit("dropped_to_kept"))
        .otherwise(pl.lit("still_dropped"))
    )  # fmt: skip


def _changed(rows: pl.DataFrame, compared: Sequence[str]) -> pa.Table:
    """Return the rows that differ in any of some columns, or are in one run alone, by the hash of their uid."""
    became = pl.col("became")
    other = [pl.when(pl.col(one).ne_missing(pl.col(f"{one}_after"))).then(pl.lit(one)) for one in compared]
    rows = rows.with_columns(
        change=pl.when(became.str.contains("^(new|gone)_")).then(became.str.extract("^(new|gone)_"))
        .when(became.str.contains("_to_")).then(became)
        .otherwise(pl.coalesce(other))
    ).filter(pl.col("change").is_not_null())  # fmt: skip
    order = pl.Series("order", hash_uids(rows["uid"].to_list(), "bucket"), pl.UInt64)
    rows = rows.with_columns(order).sort("order", "uid", "occurrence")
    rows = rows.rename({name: f"{name}_before" for name in COLUMNS})
    return rows.select(CHANGED.names).to_arrow().cast(CHANGED)
