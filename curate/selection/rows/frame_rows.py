"""The rows of one frame in memory, and the decisions on them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.clustering.dimension import MOST_ROWS, intrinsic_dimension
from curate.clustering.geometry import Geometry, between, centred, centred_distances, mean_vector, with_known
from curate.errors import BudgetError, UsageError
from curate.execution.context import log
from curate.filtering.column_tables import OWN, as_texts
from curate.linalg import load_unit, row_dots
from curate.ordering.shares import n_keep
from curate.scores import SCORES
from curate.scores.columns import Direction, hardest_is_largest
from curate.selection.base import Arranger, Arrays, ByScore, DensitySettings, Selector
from curate.selection.coverage import Covered, Objects
from curate.selection.rows.choose import choose, missing_scores
from curate.selection.rows.first import First, find_first
from curate.selection.rows.objects_in import objects_of_frame, ranks_by
from curate.selection.rows.order import Order, with_order
from curate.selection.rows.run_rows import concept_ranks

__all__ = ["FrameRows", "decide"]

Floats = npt.NDArray[np.float64]

#: What is added to a frame.
_ADDED = ("keep", "reason", "rank", "inclusion_prob")


@dataclass(frozen=True)
class FrameRows:
    """Rows that compete, as one block. frame : their uids, vectors and what their concepts are far from."""

    frame: pl.DataFrame
    columns: Arrays
    concepts: pl.DataFrame
    classes: tuple[str, ...] = ()

    def blocks(self, *columns: str) -> Iterator[Arrays]:
        """Yield columns of all rows."""
        yield {name: self.columns[name] for name in columns}

    @property
    def parents(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The levels of concepts above the finest, where the frame has columns of them: concept_2, concept_3, ..."""
        found: list[npt.NDArray[np.int64]] = []
        below = "concept"
        while (name := f"concept_{len(found) + 2}") in self.frame.columns:
            rows = self.frame.select(*dict.fromkeys(("concept", below, name))).unique()
            pairs = rows.select(below, name).unique()
            whole = (
                rows[name].dtype.is_integer() and not rows[name].null_count() and not (rows[name] < 0).any()
            )
            if not whole or pairs[below].n_unique() < len(pairs):
                raise UsageError(f"select: {name} must be a whole number from 0, one for each {below}")
            above = np.zeros(len(self.concepts), np.int64)
            above[rows["concept"].to_numpy()] = rows[name].to_numpy()
            found.append(above)
            below = name
        return tuple(found)

    def geometry(self, settings: DensitySettings) -> Geometry:
        """Return how the concepts lie: `d_inter` as given, all else from means of vectors where it is not there."""
        intra = self.concepts["d_intra"].to_numpy()
        if not settings.compares_vectors:
            return Geometry(intra, self._d_inter(settings.neighbours))
        unit, concept = self._vectors(), self.columns["concept"]
        there, centres = self._centres(unit)
        sizes, mean, dimension = np.bincount(concept, minlength=len(self.concepts)), None, None
        if settings.subtract_mean:
            distance = 1.0 - row_dots(unit, centres[concept])
            own = self._means(distance)
            mean = mean_vector(centres[there], sizes[there], own[there])
            intra = self._means(centred_distances(unit, centred(centres, mean)[concept], mean))
        inter = np.zeros(len(centres))
        inter[there] = between(centres[there], settings.neighbours, mean)
        if settings.complexity == "dimension":
            dimension = with_known(self._dimensions(unit), sizes)
        return Geometry(intra, inter, dimension)

    def _d_inter(self, neighbours: int) -> Floats:
        if "d_inter" in self.frame.columns:
            given = self.frame.group_by("concept").agg(pl.col("d_inter").cast(pl.Float64).first())
            found = self.concepts.select("concept").join(given, on="concept", how="left")
            return found["d_inter"].fill_null(0.0).to_numpy()
        there, centres = self._centres(self._vectors())
        inter = np.zeros(len(centres))
        inter[there] = between(centres[there], neighbours)
        return inter

    def _centres(
        self, unit: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return which concepts have rows, and the direction of the mean of each, (k, d); zeros for the others."""
        concept = self.columns["concept"]
        centres = np.zeros((len(self.concepts), unit.shape[1]), np.float64)
        np.add.at(centres, concept, unit)
        there = np.flatnonzero(np.bincount(concept, minlength=len(centres)))
        found = np.zeros(centres.shape, np.float32)
        found[there] = load_unit(centres[there].astype(np.float32))
        return there, found

    def _means(self, values: Floats) -> Floats:
        """Return the mean of the values of each concept, (k,), exactly rounded; 0 where it has no row."""
        concept = self.columns["concept"]
        groups = [values[concept == one] for one in range(len(self.concepts))]
        return np.array([math.fsum(group.tolist()) / max(1, len(group)) for group in groups])

    def _dimensions(self, unit: npt.NDArray[np.float32]) -> Floats:
        """Return the intrinsic dimension of each concept, (k,); NaN where it is not known."""
        found = np.full(len(self.concepts), math.nan)
        for one in range(len(found)):
            here = np.flatnonzero(self.columns["concept"] == one)
            few = here[np.argsort(self.columns["tie"][here], kind="stable")[:MOST_ROWS]]
            found[one] = intrinsic_dimension(unit[few].astype(np.float64))
        return found

    def _vectors(self) -> npt.NDArray[np.float32]:
        _require(self.frame, "vector")
        rows = self.frame["vector"].to_list()
        widths = sorted({0 if row is None else len(row) for row in rows})
        if len(widths) > 1 or widths == [0]:
            raise UsageError(f"select: vectors must be there and of one length; there are lengths {widths}")
        return load_unit(np.array(rows, np.float32).reshape(len(rows), *(widths or [1])))

    def rearranged(self, arranger: Arranger) -> Self:
        """Return the rows ranked anew: in each concept by the order that comparing its vectors gives."""
        unit, concept = self._vectors(), self.columns["concept"]
        rows = pl.DataFrame({name: values for name, values in self.columns.items() if name != "rank"})
        rows = rows.with_columns(self.frame["uid"])
        before, rank = self.columns["rank"], np.zeros(len(concept), np.int32)
        key = self.columns["key"].copy()
        for one in np.unique(concept).tolist():
            here = np.flatnonzero(concept == one)
            first = np.zeros(len(here), np.bool_)
            rank[here], key[here] = concept_ranks(rows[here], unit[here], before[here], arranger, first)
        return replace(self, columns=self.columns | {"rank": rank, "key": key})

    @property
    def has_shipped(self) -> bool:
        """Whether keys say which rows go ahead because they were kept before."""
        return False

    def objects(self) -> Objects:
        """Return the objects in the rows, from the column `objects`."""
        return objects_of_frame(self.frame)

    def placed(self, key: npt.NDArray[np.uint64], covered: Covered) -> Self:
        """Return the rows ranked anew by other keys (n,)."""
        given = pl.DataFrame({name: self.columns[name] for name in ("concept", "pinned", "tie", "rank")})
        return replace(self, columns=self.columns | {"key": key, "rank": ranks_by(given, key)})


def decide(
    frame: pl.DataFrame, select: Selector, seed: int, higher_is: Mapping[str, Direction]
) -> pl.DataFrame:
    """Return a frame with the decision on each row; see `curate.api.select.select`."""
    rows = _with_defaults(frame, select)
    has_all = pl.all_horizontal(pl.lit(True), *(pl.col(name).is_not_null() for name in select.required))
    competes = rows.select(has_all | pl.col("pinned")).to_series()
    competing = rows.filter(competes)
    wanted = _wanted(select, len(rows), len(competing))
    if int(competing["pinned"].sum()) > wanted:
        raise BudgetError(f"{wanted:,} rows asked for, but {competing['pinned'].sum():,} are pinned")
    source, ranks, noise, first = _source(competing, select, seed, higher_is, wanted)
    wanted -= first.n_cut if select.keeps_all else 0
    chosen = choose(source, select, wanted)
    if first.n_floor and (select.drawn or chosen.n_null):
        chosen = replace(chosen, choice=replace(chosen.choice, known=False))
    if said := missing_scores(select, chosen.n_null, len(competing), chosen.kept_null):
        log.warning(said)
    keep, probability, cut = (np.zeros(len(noise), kind) for kind in (np.bool_, np.float64, np.bool_))
    keep[~noise], probability[~noise], cut[~noise] = chosen.choice.of(chosen.rows.columns)
    pinned = competing["pinned"].to_numpy()
    dropped = np.where(
        noise, f"cutoff:{select.noise_by}", np.where(cut, f"cutoff:{select.cut_by}", "over_budget")
    )
    reason = np.where(keep, np.where(pinned, "pinned", "kept"), dropped)
    ranks[~noise] = chosen.rows.columns["rank"]
    found = pl.DataFrame({"position": np.flatnonzero(competes.to_numpy())}).with_columns(
        pl.Series("keep", keep), pl.Series("reason", reason.tolist(), pl.String),
        pl.Series("rank", ranks, pl.Int32),
        pl.Series("inclusion_prob", probability, pl.Float64).fill_nan(None),
    )  # fmt: skip
    added = pl.DataFrame({"position": np.arange(len(rows))}).join(
        found, on="position", how="left", maintain_order="left"
    )
    added = added.with_columns(pl.col("keep").fill_null(False), pl.col("reason").fill_null("no_score:null"))
    return frame.drop(_ADDED, strict=False).hstack(added.select(_ADDED))


def _with_defaults(frame: pl.DataFrame, select: Selector) -> pl.DataFrame:
    """Return the rows with the columns that have defaults, and scores that are not finite as null."""
    _require(frame, *select.columns)
    scores = [*select.columns]
    if select.drop_noise is not None:
        if select.drop_noise == "auto":
            raise UsageError(
                "select: drop_noise auto counts the errors that the heads of a run find; give a share or none here"
            )
        if select.noise_by is None:
            raise UsageError(
                "select: drop_noise needs noise_by, the column that says how likely a row is noise"
            )
        scores.append(select.noise_by)
        _require(frame, select.noise_by)
    floor = select.floor_column
    if floor is not None and select.takes_what_is_there and floor not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.String).alias(floor))
    _require(frame, *([select.group_column] if select.group_column else []), *([floor] if floor else []))
    if not isinstance(select, ByScore) and select.preference in ("hardest", "easiest"):
        _require(frame, "distance")
    number = pl.int_range(pl.len(), dtype=pl.Int64)
    rows = frame.with_columns(
        (pl.col("uid") if "uid" in frame.columns else number).cast(pl.String).alias("uid"),
        (pl.col("concept") if "concept" in frame.columns else pl.lit(0)).cast(pl.Int32).alias("concept"),
        (pl.col("pinned") if "pinned" in frame.columns else pl.lit(False)).cast(pl.Boolean).alias("pinned"),
    )
    rows = rows.with_columns(
        pl.when(pl.col(name).cast(pl.Float64).is_finite()).then(pl.col(name)).alias(name)
        for name in dict.fromkeys(scores)
    )
    if rows["uid"].null_count() or rows["uid"].n_unique() < len(rows):
        raise UsageError("select: uids must be there and unique")
    if rows["concept"].null_count() or (rows["concept"] < 0).any():
        raise UsageError("select: concepts must be whole numbers from 0")
    return rows


def _require(frame: pl.DataFrame, *columns: str) -> None:
    """Raise UsageError for a column that is not there."""
    missing = next((name for name in columns if name not in frame.columns), None)
    if missing is not None:
        raise UsageError(f"select: no column {missing!r}; there are {', '.join(frame.columns) or 'none'}")


def _source(
    rows: pl.DataFrame, select: Selector, seed: int, higher_is: Mapping[str, Direction], wanted: int
) -> tuple[FrameRows, npt.NDArray[np.int32], npt.NDArray[np.bool_], First]:
    """Return the rows that compete, in the order of the method; ranks in the concepts, and which rows went as noise."""
    rows = rows.with_columns(
        as_texts(rows[name])
        for name in select.grouped_by
        if name not in OWN or rows.schema[name] != pl.String
    )  # groups have names, as in a run
    classes = _values(rows, select.group_column) if select.group_column else ()
    floors = _values(rows, select.floor_column) if select.floor_column else ()
    by = cutoff = noise = None
    if select.drop_noise is not None:
        name = select.noise_by or ""
        noise = name, _factor(name, higher_is)
    if isinstance(select, ByScore):
        name = select.score_column
        by = name, 1 if select.as_it_is else _factor(name, higher_is)
        cutoff = None if select.cut_by is None else (select.cut_by, _factor(select.cut_by, higher_is))
    ordered = with_order(
        rows, Order(select, seed, (), by, cutoff, classes, noise=noise, floor_classes=floors)
    )
    names = ("concept", "pinned", "key", "tie", *select.extras)
    every: Arrays = {name: ordered[name].to_numpy() for name in names}
    n_groups = len(floors) if select.floor_column else int(every["concept"].max(initial=-1)) + 1
    first = find_first(lambda *asked: iter([{name: every[name] for name in asked}]), select, wanted, n_groups)
    ordered, rank = first.arranged(ordered)
    cut = ordered["cut"].to_numpy() if "cut" in ordered.columns else np.zeros(len(rows), np.bool_)
    if "floor" in ordered.columns:
        names = (*names, "floor")
    columns: Arrays = {name: ordered[name].to_numpy()[~cut] for name in names} | {"rank": rank[~cut]}
    there = ordered.filter(~pl.Series(cut))
    return FrameRows(there, columns, _concepts(there), classes), rank, cut, first


def _values(rows: pl.DataFrame, column: str) -> tuple[str, ...]:
    """Return the different values of a column, in order."""
    return tuple(sorted(rows[column].drop_nulls().unique().to_list()))


def _factor(column: str, higher_is: Mapping[str, Direction]) -> int:
    """Return 1 where the largest value of a score is the hardest, else -1."""
    known = SCORES[column].higher_is if column in SCORES else None
    means: Direction = higher_is.get(column) or known or "harder"
    if means not in ("harder", "noisier", "easier", "better"):
        raise UsageError(f"select: higher_is must be harder, noisier, easier or better, got {means!r}")
    return 1 if hardest_is_largest(means) else -1


def _concepts(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row per concept: n_eligible, n_pinned, d_intra, smallest_uid."""
    every = int(rows["concept"].max() or 0) + 1 if len(rows) else 0  # type: ignore[arg-type]
    rows = rows if "distance" in rows.columns else rows.with_columns(distance=pl.lit(0.0))
    groups = rows.group_by("concept").agg(
        pl.len().cast(pl.Int64).alias("n_eligible"), pl.col("pinned").sum().cast(pl.Int64).alias("n_pinned"),
        pl.col("uid").min().alias("smallest_uid"), pl.col("distance").cast(pl.Float64),
    )  # fmt: skip
    exact = [math.fsum(values) / len(values) for values in groups["distance"].to_list()]
    groups = groups.drop("distance").with_columns(pl.Series("d_intra", exact, pl.Float64))
    table = pl.DataFrame({"concept": np.arange(every, dtype=np.int32)}).join(groups, on="concept", how="left")
    return table.sort("concept").with_columns(pl.col("n_eligible", "n_pinned", "d_intra").fill_null(0))


def _wanted(select: Selector, usable: int, eligible: int) -> int:
    """Return the number of rows to keep."""
    if select.keeps_all:
        return eligible
    base = eligible if select.of == "eligible" else usable
    wanted = select.count if select.count is not None else n_keep(select.keep or 0, base)
    if wanted > eligible and not select.at_most:
        raise BudgetError(
            f"{wanted:,} rows asked for, {eligible:,} can be kept; ask for fewer, or set at_most"
        )
    return min(wanted, eligible)
