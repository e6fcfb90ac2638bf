"""What a report says, as plain values: the stage `report` gathers them, the page shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = [
    "BadShard",
    "Gallery",
    "Groups",
    "Listed",
    "Matter",
    "Pair",
    "ReportData",
    "Sample",
    "Score",
    "Shown",
    "StageStats",
    "WhatIf",
]


@dataclass(frozen=True, kw_only=True)
class StageStats:
    """One stage: how long it took (None where its earlier result was reused), rows, one line of summary."""

    name: str
    seconds: float | None
    rows: int | None
    summary: str


@dataclass(frozen=True, kw_only=True)
class BadShard:
    """An input file that could not be read, and the rows it was known to have."""

    shard: str
    rows: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample that is shown: where it is, what it says, what became of it, its scores, its picture as a data: URI (or None)."""

    uid: str
    shard: str
    row: int
    caption: str | None = None
    label: str | None = None
    reason: str | None = None
    image: str | None = None
    concept: int | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A sample in a gallery: its place in `ReportData.samples`, and what is to be said of it there."""

    sample: int
    note: str


@dataclass(frozen=True)
class Pair:
    """A sample that goes beside the one that stays for it, as places in `ReportData.samples`.

    `kept` is None where that is unknown, and the same as `dropped` where copies have one uid.
    """

    kept: int | None
    dropped: int
    note: str


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Samples of a gallery under a title. name : for scripts and tests, nothing : what is said where there are none."""

    name: str
    title: str
    nothing: str
    shown: Sequence[Shown] = ()


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Samples of one concept. why : what makes it notable. The duplicates are pairs."""

    concept: int
    why: Sequence[str] = ()
    lists: Sequence[Listed] = ()
    duplicates: Sequence[Pair] = ()


@dataclass(frozen=True)
class Matter:
    """A sentence on what matters about a run, without a full stop; a command that helps, and whether it warns."""

    text: str
    command: str = ""
    warns: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """How much of each group is left. frame : group, rows, kept. cut : whether groups were left out.

    by : what the groups are, in one word.
    """

    by: str
    frame: pl.DataFrame
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score: quantiles, how many have it and lack it, a histogram, and where it cut rows off.

    quantiles : by name (`page.QUANTILES`), None where no row has the score. edges : one more than kept, dropped.
    cuts : (value, which rule) of each threshold.
    """

    name: str
    means: str | None
    quantiles: Mapping[str, float | None]
    n: int
    missing: int
    edges: Sequence[float] = ()
    kept: Sequence[int] = ()
    dropped: Sequence[int] = ()
    cuts: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class WhatIf:
    """Density budgets over a grid of shares and temperatures, as `curate select` would give them.

    concepts : (k,) rows of concept, size (rows that compete), complexity, now (kept). budgets : (shares,
    temperatures, k) rows kept. cells : (shares, temperatures, 3) rows asked for, concepts at the cap and at the
    floor. own : places of what the run has. eligible : rows there are, of : what a share is of.
    """

    concepts: pl.DataFrame
    shares: Sequence[float]
    temperatures: Sequence[float]
    budgets: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    own: tuple[int, int]
    eligible: int
    of: str
    method: str
    command: str


@dataclass(frozen=True)
class EpsilonRate:
    """Rows that an epsilon drops of those compared, at least and at most."""

    epsilon: float
    compared: int
    at_least: int
    at_most: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """All the page says. Frames may be empty, with or without columns; nulls show as a dash.

    reasons : rows of every reason as `5_decisions` has it, `kept` among them; they add up to `rows_in`.
    concepts : the columns of DECISION_CONCEPTS, and `example` (a caption) where there is one. layout : concept, x, y.
    typical : samples nearest to the centre of a concept. correlation : names, and a square of them.
    ordered_by : what galleries go by, in a sentence. copies : exact ones. unusable : samples that could not be read, with why.
    lowest : those that fit their caption least. dedup : how near-duplicates were found, in a sentence. epsilons : what others drop. complexity : how unevenly it divides
    rows over concepts, in words. mislabelled : samples whose label is doubtful. diagnosis : of vectors, scores and heads. quadrants : quadrant (of error and uncertainty), rows, kept; of_quadrants : samples
    of each. sampled : one of how many rows scores are
    drawn from.
    weights : what was noted of the weights, and `edges`, `counts`. reliability : one row per trained family.
    matters : the sentences that stand first. said : sentences on wrong labels and on what came before the method. doubtful : how many labels there are to look at. label_errors : rows, count, rate, low, high,
    pairs; none_wrong alone where labels are not visible in the pictures.
    chosen : the recipe that method auto chose. versions : anything that says where the page comes from, name to value.
    objects : classes (the rarest first) with groups and how many are covered, `of` how many, and `shots` of them by class;
    empty where no objects were covered.
    evaluation : what `curate evaluate` found, and `stale`, whether that was of another decision; empty where it was not
    called.
    """

    name: str
    rows_in: int
    kept: int
    reasons: Mapping[str, int]
    concepts: pl.DataFrame
    stages: Sequence[StageStats]
    warnings: Sequence[str]
    bad_shards: Sequence[BadShard]
    recipe: str
    versions: Mapping[str, str]
    scores: Sequence[Score] = ()
    sampled: int = 1
    correlation: tuple[Sequence[str], Sequence[Sequence[float | None]]] = ((), ())
    groups: Sequence[Groups] = ()
    layout: pl.DataFrame = field(default_factory=pl.DataFrame)
    samples: Sequence[Sample] = ()
    typical: Mapping[int, Sequence[int]] = field(default_factory=dict)
    galleries: Sequence[Gallery] = ()
    ordered_by: str = ""
    duplicates: Sequence[Pair] = ()
    copies: Sequence[Pair] = ()
    unusable: Sequence[Shown] = ()
    lowest: Listed | None = None
    dedup: str = ""
    epsilons: Sequence[EpsilonRate] = ()
    mislabelled: Sequence[Shown] = ()
    quadrants: Sequence[Mapping[str, Any]] = ()
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    of_quadrants: Mapping[str, Sequence[Shown]] = field(default_factory=dict)
    what_if: WhatIf | None = None
    complexity: str = ""
    weights: Mapping[str, object] = field(default_factory=dict)
    reliability: Sequence[Mapping[str, object]] = ()
    matters: Sequence[Matter] = ()
    said: Sequence[str] = ()
    label_errors: Mapping[str, Any] = field(default_factory=dict)
    doubtful: str = ""
    chosen: str = ""
    pictures: bool = True
    created: str = ""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)
