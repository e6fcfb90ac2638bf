"""Conditions on one score (`settings.ScoreFilter`): what a share or a quantile means is found over all samples.

Every share is taken of all usable samples, whatever other conditions and lists say.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate import schema
from curate.errors import BudgetError, CurateError
from curate.execution.context import Context, usable
from curate.filtering.expressions import expression
from curate.filtering.threshold import above, top_cuts, top_rows
from curate.hashing import hash_uids, tie
from curate.io import storage
from curate.ordering.cutoff import Pairs
from curate.ordering.group_cutoff import GroupedPairs, nth_smallest_by_group
from curate.ordering.keys import priority_key, score_of
from curate.ordering.shares import exact_share
from curate.ordering.span import Cuts
from curate.runs.folder import RunFolder
from curate.scores.base import require_memory
from curate.scores.registry import require_score, score_columns

if TYPE_CHECKING:
    from curate.recipe import Recipe, ScoreFilter

__all__ = ["Rule", "columns_of", "find_rules", "needed_scores", "table_columns"]

#: What the name of a group and its cut take.
_GROUP_BYTES = 300
_NO_CUTS = Cuts(None, None)


@dataclass(frozen=True)
class Rule:
    """A condition on one score, and what was found of it over all samples.

    folder, status : where the score is, and its column of reasons ("" for distances). cuts : the rows of a
    top or bottom share. least : what a score must reach, as a key, by group (None: all samples are one).
    """

    condition: "ScoreFilter"
    folder: str
    status: str
    seed: int
    cuts: Cuts = _NO_CUTS
    least: Mapping[Any, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say the condition as it stands in reasons."""
        return str(self.condition)

    def passes(self, frame: pl.DataFrame) -> pl.Series:
        """Return whether each row passes. frame : uid, the score, and the group where the rule has one."""
        score = _numbers(frame[self.condition.by])
        if self.condition.above is not None:
            passed = above(score.astype(np.float64), _as_stored(self.condition.above, score))
        elif self.condition.below is not None:
            limit = _as_stored(self.condition.below, score)
            passed = np.isfinite(score) & ~above(score.astype(np.float64), limit)
        elif self.condition.quantile is not None:
            passed = self._reaches(score, frame)
        else:
            known = np.isfinite(score)
            passed = np.zeros(len(score), np.bool_)
            passed[known] = self.cuts.holds(*self._pairs(score, frame["uid"]))
        if self.condition.on_null == "keep":
            passed |= ~self._judged(score, frame)
        return pl.Series("passes", passed, pl.Boolean)

    def spared(self, frame: pl.DataFrame) -> pl.Series:
        """Return which rows stay although they have a score that does not pass: a share of them, by a hash."""
        failed = self._judged(_numbers(frame[self.condition.by]), frame) & ~self.passes(frame).to_numpy()
        limit = int(exact_share(self.condition.spare or 0) * (1 << 64))
        chosen = np.zeros(len(frame), np.bool_)
        uids = frame["uid"].filter(pl.Series(failed)).to_list()
        chosen[failed] = np.array([int(one) < limit for one in hash_uids(uids, self.seed, "spare")], np.bool_)
        return pl.Series("spared", chosen, pl.Boolean)

    def nulls(self, frame: pl.DataFrame) -> pl.Series:
        """Return which rows lack the score or the group, and are dropped for it."""
        judged = self._judged(_numbers(frame[self.condition.by]), frame)
        return pl.Series("null", ~judged & (self.condition.on_null != "keep"), pl.Boolean)

    def _reaches(self, score: npt.NDArray[Any], frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
        known = self._judged(score, frame)
        least = _looked_up(self._groups(frame).filter(known), self.least)
        passed = np.zeros(len(score), np.bool_)
        passed[known] = priority_key(score[known], "easiest") >= least
        return passed

    def _groups(self, frame: pl.DataFrame) -> pl.Series:
        """Return the group of each row; 0 for all where the rule has no groups."""
        per = self.condition.per
        return frame[per] if per else pl.Series(np.zeros(len(frame), np.int32))

    def _judged(self, score: npt.NDArray[Any], frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return which rows have a score, and a group where the rule has groups."""
        known: npt.NDArray[np.bool_] = np.isfinite(score)
        return known & frame[self.condition.per].is_not_null().to_numpy() if self.condition.per else known

    def _pairs(self, score: npt.NDArray[Any], uid: pl.Series) -> Pairs:
        """Return (key, tie) of the rows with a score, first the row that a share takes first."""
        known = np.isfinite(score)
        key = priority_key(score[known], "hardest" if self.condition.top is not None else "easiest")
        if self.condition.ties == "all":
            return key, np.zeros(len(key), np.uint64)
        return key, tie(uid.filter(known).to_list(), self.seed)


def find_rules(context: Context, conditions: "Sequence[ScoreFilter]") -> list[Rule]:
    """Return each condition with what it means for the samples of this run.

    Raises CurateError where a sample lacks a score that on_null: error asks for, BudgetError where a share of
    the usable samples is more than have a score.
    """
    rules = []
    for condition in conditions:
        found = require_score(context.recipe, condition.by, f"filter {str(condition)!r}")
        rule = Rule(condition, found.folder, found.status, context.recipe.seed)
        if condition.on_null == "error":
            _refuse_nulls(context, rule)
        if condition.quantile is not None:
            rule = _with_quantiles(context, rule)
        elif condition.above is None and condition.below is None:
            rule = _with_cuts(context, rule)
        rules.append(rule)
    return rules


def _with_cuts(context: Context, rule: Rule) -> Rule:
    condition = rule.condition
    share = condition.top if condition.top is not None else condition.bottom
    n_rows = n_scored = 0
    for frame in _frames(context, rule):
        n_rows += len(frame)
        n_scored += int(np.isfinite(_numbers(frame[condition.by])).sum())
    try:
        n_top = top_rows(share or 0, n_scored, n_rows, "scored" if condition.of == "scored" else "all")
    except BudgetError as error:
        raise BudgetError(f"filter {str(condition)!r}: {error}; ask for less, or take of: scored") from None

    def read() -> Iterator[Pairs]:
        return (rule._pairs(_numbers(f[condition.by]), f["uid"]) for f in _frames(context, rule))

    return replace(rule, cuts=top_cuts(read, n_top, ties=condition.ties))


def _with_quantiles(context: Context, rule: Rule) -> Rule:
    """Find the score that stands at the quantile q of each group of m scores: number ceil(q (m - 1)), from 0.

    That keeps the rows that a linearly interpolated quantile keeps, but by a score that is there, in exact decimals.
    """
    sizes: Counter[Any] = Counter()
    for group, _ in _grouped(context, rule):
        sizes.update(dict(group.value_counts().iter_rows()))
        require_memory(context, f"filter {str(rule)!r}: groups", len(sizes), _GROUP_BYTES)
    names = sorted(sizes)
    share = exact_share(rule.condition.quantile or 0)
    n = np.array([_ceil(share * (sizes[name] - 1)) + 1 for name in names], np.int64)
    codes = {name: code for code, name in enumerate(names)}

    def read() -> Iterator[GroupedPairs]:
        for group, key in _grouped(context, rule):
            yield _looked_up(group, codes).astype(np.int64), key, np.zeros(len(key), np.uint64)

    cuts = nth_smallest_by_group(read, n)
    return replace(rule, least=dict(zip(names, cuts.key.tolist(), strict=True)))


def _grouped(context: Context, rule: Rule) -> Iterator[tuple[pl.Series, npt.NDArray[np.uint64]]]:
    """Yield the group of each row that has a score, and its key, smallest score first."""
    for frame in _frames(context, rule):
        score = _numbers(frame[rule.condition.by])
        known = rule._judged(score, frame)
        yield rule._groups(frame).filter(known), priority_key(score[known], "easiest")


def _looked_up(group: pl.Series, found: Mapping[Any, int]) -> npt.NDArray[np.uint64]:
    """Return the number of each group."""
    if not found:  # then no row has a group
        return np.empty(len(group), np.uint64)
    numbers = pl.Series(list(found.values()), dtype=pl.UInt64)
    old = pl.Series(list(found), dtype=group.dtype)
    return group.replace_strict(old, numbers, return_dtype=pl.UInt64).to_numpy()


def _refuse_nulls(context: Context, rule: Rule) -> None:
    lacking: Counter[str] = Counter()
    total = 0
    for frame in _frames(context, rule):
        score = _numbers(frame[rule.condition.by])
        status = frame[rule.status] if rule.status else pl.Series(["null"] * len(frame))
        status = status.zip_with(pl.Series(~np.isfinite(score)), pl.Series(["no_label"] * len(frame)))
        lacking.update(status.filter(~rule._judged(score, frame)).to_list())
        total += len(frame)
    if lacking:
        each = ", ".join(f"{count:,} {status}" for status, count in sorted(lacking.items()))
        raise CurateError(
            f"filter {str(rule)!r}: {sum(lacking.values()):,} of {total:,} samples have no {rule.condition.by} "
            f"({each}) and on_null is error; set on_null to drop or keep"
        )


def _frames(context: Context, rule: Rule) -> Iterator[pl.DataFrame]:
    """Yield uid, score, status and group of the usable samples, part by part."""
    for part in context.parts:
        yield _frame(context.run, part.name, rule)


def _frame(run: RunFolder, part: str, rule: Rule) -> pl.DataFrame:
    folder = run.scores(rule.folder) if rule.folder else run.assignments
    columns = [rule.condition.by, *([rule.status] if rule.status else [])]
    frame = pl.DataFrame(storage.read_table(run.part(folder, part), ["uid", *columns]))
    if rule.condition.per == "label":
        frame = frame.with_columns(usable(run, part)["label"])
    elif rule.condition.per == "concept":
        concept = storage.read_table(run.part(run.assignments, part), ["concept"])
        frame = frame.with_columns(pl.DataFrame(concept)["concept"])
    return frame


def _numbers(column: pl.Series) -> npt.NDArray[Any]:
    """Return a column of floats, NaN where it is null."""
    return column.fill_null(np.nan).to_numpy()


def _as_stored(threshold: float, score: npt.NDArray[Any]) -> float:
    """Return a threshold rounded like the scores, as SQL does: 0.7 is not above the score that was 0.7."""
    with np.errstate(over="ignore"):
        rounded = float(score.dtype.type(threshold))
    return rounded if np.isfinite(rounded) else threshold


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def needed_scores(recipe: "Recipe") -> dict[str, str]:
    """Return the score columns without which a sample cannot be compared or ranked, and why each is null.

    The value is the name of the status column, "" where there is none.
    """
    select, dedup = recipe.select, recipe.dedup
    names = {*select.required, *(score_of(dedup.prefer) if dedup.epsilon is not None else ())}
    known = score_columns(recipe)
    return {name: known[name].status if name in known else "" for name in sorted(names)}


def columns_of(conditions: "Sequence[str | ScoreFilter]") -> list[str]:
    """Return the columns that conditions read."""
    names: list[str] = []
    for one in conditions:
        names += expression(one).meta.root_names() if isinstance(one, str) else [one.by]
    return names


def table_columns(recipe: "Recipe") -> pa.Schema:
    """Return the columns of the tables of a run that conditions may read."""
    fields = {field.name: field.type for table in (schema.SAMPLES, schema.ASSIGNMENTS) for field in table}
    fields |= {name: column.kind for name, column in score_columns(recipe).items()}
    return pa.schema(list(fields.items()))
