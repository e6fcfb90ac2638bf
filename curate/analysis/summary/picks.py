"""Samples that a report shows: which lists there are, and the first of each, found part by part."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from curate.hashing import tie
from curate.scores.triage import QUADRANTS

__all__ = [
    "LIMITS",
    "NO_CONCEPT",
    "PICKS",
    "ReportRequest",
    "candidates",
    "first_of",
    "of_picks",
    "while_joining",
    "without_typical",
    "without_vectors",
]

#: How many samples of each list are looked for: per concept, or (the last ones) in the whole run.
LIMITS = {
    "typical": 3,
    "hardest_kept": 12,
    "easiest_dropped": 12,
    "kept_drawn": 12,
    "dropped_drawn": 12,
    "farthest": 12,
    "most_typical": 12,
    "duplicates": 6,
    "near_cut": 12,
    "drawn": 12,
    "mislabelled": 48,
    "lowest": 12,
    "copies": 12,
    "unusable": 12,
    **{f"quadrant:{name}": 12 for name in QUADRANTS},
}
#: The concept of lists over the whole run.
NO_CONCEPT = -1
_NOWHERE = pl.lit(NO_CONCEPT, pl.Int32)
PICKS = {
    "list": pl.String, "concept": pl.Int32, "order": pl.Float64, "value": pl.Float64, "uid": pl.String,
    "part": pl.Int32, "row": pl.Int64, "shard": pl.String, "caption": pl.String, "label": pl.String,
    "reason": pl.String, "other": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class ReportRequest:
    """Which samples and rules a report shows.

    listed : concepts of the table, notable : those with a gallery. limits : samples in each list, by its name.
    hardness : a score and the factor that makes larger values harder. doubt : the column of predicted labels, a
    score, and the factor that makes larger values more doubtful. ends : of each rule its reason ("" for the
    selection) and the score it cuts. drawn : whether chance decides what is kept, so that nothing is hard or easy. lowest : a
    score of which the lowest samples are shown.
    """

    listed: tuple[int, ...]
    notable: tuple[int, ...]
    hardness: tuple[str, int]
    doubt: tuple[str, str, int] | None
    ends: tuple[tuple[str, str], ...]
    seed: int
    drawn: bool = False
    lowest: str | None = None
    limits: Mapping[str, int] = field(default_factory=lambda: dict(LIMITS))


def while_joining(limits: Mapping[str, int]) -> dict[str, int]:
    """Return how many samples of each list are kept until all parts are known: typical ones leave the easiest later."""
    more = limits.get("most_typical", 0)
    return {name: n + more if name == "easiest_dropped" else n for name, n in limits.items()}


def without_typical(picks: pl.DataFrame) -> pl.DataFrame:
    """Leave out of the easiest that were dropped those that stand among the most typical: no picture twice."""
    typical = picks.filter(list="most_typical").select("concept", "uid", list=pl.lit("easiest_dropped"))
    return picks.join(typical, on=["list", "concept", "uid"], how="anti", maintain_order="left")


def of_picks(shown: pl.DataFrame, picks: pl.DataFrame) -> pl.DataFrame:
    """Return what is told of picked samples, each once."""
    return shown.unique("uid", keep="first", maintain_order=True).join(picks, on="uid", how="semi")


def first_of(picks: pl.DataFrame, limits: Mapping[str, int]) -> pl.DataFrame:
    """Return the first samples of every list."""
    if picks.is_empty():
        return picks
    ordered = picks.sort("list", "concept", "order", "uid", "part", "row")
    limit = pl.col("list").replace_strict(dict(limits), return_dtype=pl.Int64)
    return ordered.filter(pl.int_range(pl.len()).over("list", "concept") < limit)


def candidates(frame: pl.DataFrame, shown: ReportRequest) -> pl.DataFrame:
    """Return the candidates of every list: `order` says which come first, `value` what is told of them."""
    column, factor = shown.hardness
    hard = (pl.col(column) * factor).cast(pl.Float64)
    distance = pl.col("distance").cast(pl.Float64)
    duplicates = frame.filter(pl.col("reason") == "near_duplicate")
    listed = frame.filter(pl.col("competing") & pl.col("concept").is_in(shown.listed))
    notable = frame.filter(pl.col("concept").is_in(shown.notable))
    competing, kept = notable.filter("competing"), notable.filter("keep")
    dropped = notable.filter(pl.col("competing") & ~pl.col("keep"))
    chosen = [
        _listed(listed, "typical", distance, distance),
        _listed(competing, "most_typical", distance, distance),
    ]
    if shown.drawn:
        chosen += [
            _listed(_drawn(kept, shown.seed), "kept_drawn", pl.col("tie"), distance),
            _listed(_drawn(dropped, shown.seed), "dropped_drawn", pl.col("tie"), distance),
            _listed(competing, "farthest", -distance, distance),
        ]
    else:
        chosen += [
            _listed(kept, "hardest_kept", -hard, pl.col(column)),
            _listed(dropped, "easiest_dropped", hard, pl.col(column)),
        ]
    alike = pl.col("similarity").cast(pl.Float64)
    twins = duplicates.filter(pl.col("concept").is_in(shown.notable))
    other = pl.col("duplicate_of")
    chosen.append(_listed(twins, "duplicates", alike, alike, other))
    if "near_cut" in shown.limits:
        everywhere = _drawn(duplicates, shown.seed).with_columns(concept=_NOWHERE)
        chosen.append(_listed(everywhere, "near_cut", alike, alike, other))
        chosen.append(_listed(everywhere, "drawn", pl.col("tie"), alike, other))
        if shown.doubt is not None:
            predicted, score, sign = shown.doubt
            against = frame.filter(pl.col(predicted) != pl.col("label"))
            against = against.with_columns(concept=_NOWHERE)
            order = -(pl.col(score) * sign).cast(pl.Float64)
            chosen.append(_listed(against, "mislabelled", order, pl.col(score), pl.col(predicted)))
        if shown.lowest is not None and shown.lowest in frame.columns:
            fit = pl.col(shown.lowest).cast(pl.Float64)
            chosen.append(_listed(frame.with_columns(concept=_NOWHERE), "lowest", fit, fit))
        if "eu_quadrant" in frame.columns:
            chosen += _of_quadrants(frame, shown.seed)
    return pl.concat(chosen)


def _drawn(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Add a column by whose order rows are drawn."""
    return frame.with_columns(pl.Series("tie", tie(frame["uid"].to_list(), seed).astype(float), pl.Float64))


def without_vectors(rows: pl.DataFrame, part: int, shown: ReportRequest) -> pl.DataFrame:
    """Return a draw of the exact copies, and of the rows that could not be read, with what was wrong."""
    copied, broken = rows.filter(reason="exact_duplicate"), rows.filter(pl.col("outcome") != "ok")
    named = {"concept": _NOWHERE, "part": pl.lit(part, pl.Int32)}
    copied, broken = (_drawn(some, shown.seed).with_columns(**named) for some in (copied, broken))
    none = pl.lit(None, pl.Float64)
    return pl.concat(
        [
            _listed(copied, "copies", pl.col("tie"), none, pl.col("copy_of")),
            _listed(broken, "unusable", pl.col("tie"), none, pl.col("detail")),
        ]
    )


def _of_quadrants(frame: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
    """Return a draw of samples of each quadrant of error and uncertainty."""
    rows = _drawn(frame, seed).with_columns(concept=_NOWHERE)
    none = pl.lit(None, pl.Float64)
    return [
        _listed(rows.filter(eu_quadrant=name), f"quadrant:{name}", pl.col("tie"), none) for name in QUADRANTS
    ]


def _listed(
    frame: pl.DataFrame, name: str, order: pl.Expr, value: pl.Expr, other: pl.Expr | None = None
) -> pl.DataFrame:
    return frame.filter(order.is_not_null()).select(
        pl.lit(name).alias("list"), "concept", order.alias("order"), value.cast(pl.Float64).alias("value"),
        "uid", "part", "row", "shard", "caption", "label", "reason",
        (pl.lit(None, pl.String) if other is None else other).alias("other"),
    )  # fmt: skip
