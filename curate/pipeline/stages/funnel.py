"""How many rows came in and what each step took; and how many of what is left a selection is to keep."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from curate.errors import BudgetError
from curate.execution.context import Context, log
from curate.filtering.nulls import say_nulls
from curate.io import storage
from curate.ordering.shares import n_keep
from curate.selection.rows.overridden import judged

__all__ = ["Funnel", "count_rows", "wanted_rows"]


@dataclass(frozen=True)
class Funnel:
    """How many rows each step took; `input` less all that was taken is `eligible`. overridden : dropped by people."""

    input: int
    unusable: int
    exact_duplicate: int
    filtered: int
    near_duplicate: int
    eligible: int
    overridden: int = 0

    @property
    def usable(self) -> int:
        """Rows that could be read and embedded, copies included."""
        return self.input - self.unusable

    def __str__(self) -> str:
        """Say what each step took."""
        people = f", {self.overridden:,} dropped by people" if self.overridden else ""
        return (
            f"{self.input:,} rows in, {self.unusable:,} unusable, {self.exact_duplicate:,} exact duplicates, "
            f"{self.filtered:,} filtered, {self.near_duplicate:,} near-duplicates{people}"
        )

    @property
    def facts(self) -> dict[str, int]:
        """The numbers as they are noted."""
        return {name: n for name, n in vars(self).items() if name != "overridden" or n}


def count_rows(context: Context, n_eligible: int, overrides: Path | None) -> Funnel:
    """Return how many rows each step took; raises BudgetError where they do not add up to `n_eligible`."""
    run = context.run
    totals = np.zeros(6, np.int64)
    for part in context.parts:
        samples = pl.DataFrame(storage.read_table(run.part(run.samples, part.name), ["outcome", "copy_of"]))
        ok = samples["outcome"] == "ok"
        copies = ok & samples["copy_of"].is_not_null()
        rows = storage.read_table(
            run.part(run.scores("filter"), part.name), ["uid", "filter_reason", "pinned"]
        )
        rows_judged = judged(run, part.name, pl.DataFrame(rows), overrides)
        dropped = rows_judged["override"].eq_missing("drop")
        reason = rows_judged["filter_reason"].filter(~dropped)
        near = rows_judged["duplicate_of"]
        same = int((reason == "exact_duplicate").sum())
        failed = len(reason) - reason.null_count() - same
        lost = (copies.sum() + same, failed, len(near) - near.null_count(), dropped.sum())
        totals += np.array([len(samples), (~ok).sum(), *lost], np.int64)
    n_input, unusable, copied, filtered, n_near, overridden = totals.tolist()
    funnel = Funnel(n_input, unusable, copied, filtered, n_near, n_eligible, overridden)
    if funnel.input - sum(totals[1:].tolist()) != n_eligible:
        raise BudgetError(
            f"select: rows do not add up: {funnel}, but {n_eligible:,} eligible; please report this"
        )
    return funnel


def wanted_rows(context: Context, funnel: Funnel, n_pinned: int) -> int:
    """Return the exact number of rows to keep; raises BudgetError if fewer are eligible, or more are pinned."""
    settings = context.recipe.select
    if settings.keeps_all:
        return funnel.eligible
    if settings.count is not None:
        wanted, asked = settings.count, f"select.count {settings.count:,}"
    else:
        base: int = getattr(funnel, settings.of)
        wanted = n_keep(settings.keep or 0, base)
        asked = f"select.keep {settings.keep:g} of {base:,} {settings.of} rows = {wanted:,}"
    if n_pinned > wanted:
        raise BudgetError(
            f"{asked}, but {n_pinned:,} rows are pinned or kept by people; ask for more, or pin fewer"
        )
    if wanted <= funnel.eligible:
        return wanted
    if settings.at_most:
        log.warning(
            "select: %s asked for, all %s eligible rows are kept (%s)", asked, f"{funnel.eligible:,}", funnel
        )
        return funnel.eligible
    raise BudgetError(
        f"{asked}, but only {funnel.eligible:,} rows are eligible ({funnel}); "
        f"{_nulls(context)}ask for fewer, or accept what there is with --at-most"
    )


def _nulls(context: Context) -> str:
    """Say which conditions dropped rows for want of a value, for the error of too few rows."""
    return "".join(f"{said}; " for said in say_nulls(context.facts(context.run.scores("filter"))))
