"""What the decisions of a finished run divided over its concepts, so that budgets can be computed again."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.clustering.store import load_parents
from curate.errors import RunError
from curate.execution.context import Context
from curate.io import storage
from curate.ordering.shares import n_keep
from curate.selection.rows.order import noise_column
from curate.selection.rows.whatif import Density

__all__ = ["Divided", "divided"]


@dataclass(frozen=True)
class Divided:
    """What the decisions of a run divided: eligible rows by concept, (k,), those pinned among them, the counts.

    base : what a share is a share of. wanted, kept : rows asked for and kept, pinned ones included; they differ where
    `select.at_most` let a method keep fewer. parents : the levels of concepts above the finest.
    """

    density: Density
    pinned: npt.NDArray[np.int64]
    concepts: pl.DataFrame
    base: int
    wanted: int
    kept: int
    parents: tuple[npt.NDArray[np.int32], ...] = ()

    @property
    def n_pinned(self) -> int:
        """The number of pinned rows."""
        return int(self.pinned.sum())

    @property
    def eligible(self) -> int:
        """The number of rows that could be kept."""
        return self.density.total + self.n_pinned


def divided(context: Context) -> Divided:
    """Read what budgets depend on, from the decisions and their table of concepts.

    Raises RunError if the budgets that follow are not those of the run.
    """
    run, select = context.run, context.recipe.select
    facts = context.facts(run.decisions)
    if not facts:
        raise RunError(f"{run.where}: 5_decisions is not there yet; finish the run first")
    table = pl.DataFrame(storage.read_table(run.budgets))
    noise = f"cutoff:{noise_column(context.recipe, context)}" if select.drop_noise is not None else ""
    rows = (
        pl.scan_parquet(storage.ensure_all_local(run.decisions, "part-*.parquet"), glob=False)
        .filter(pl.col("rank").is_not_null())
        .group_by("concept")
        .agg(
            smallest_uid=pl.col("uid").min(),
            n_pinned=(pl.col("reason") == "pinned").sum(),
            n_cut=(pl.col("reason") == noise).sum(),
        )
        .collect(engine="streaming")
    )
    table = table.join(rows, on="concept", how="left", maintain_order="left")
    order = table["smallest_uid"].rank("ordinal").fill_null(len(table) + 1).to_numpy().astype(np.int64)
    pinned = table["n_pinned"].fill_null(0).cast(pl.Int64).to_numpy()
    cut = table["n_cut"].fill_null(0).cast(pl.Int64).to_numpy()
    free, value = table["n_eligible"].to_numpy() - pinned - cut, table["complexity"].to_numpy()
    temperature = select.density.temperature_of(value, free)
    density = Density(free, value, order, temperature, select.density.min_per_concept)
    usable = facts["input"] - facts["unusable"]
    base = {"usable": usable, "input": facts["input"], "eligible": facts["eligible"]}[select.of]
    wanted = select.count if select.count is not None else n_keep(select.keep or 0, base)
    wanted = min(wanted, facts["eligible"]) if select.at_most or select.keeps_all else wanted
    found = Divided(density, pinned, table, base, wanted, facts["kept"], load_parents(run.final_concepts))
    if select.keeps_all and select.composed:
        wanted = facts["kept"]
    if select.by_complexity and not select.composed:
        budget = pinned + density.at(wanted - found.n_pinned).budget
        if found.eligible != facts["eligible"] or (budget != table["budget"].to_numpy()).any():
            raise RunError(
                f"{run.where}: 5_decisions is not what recipe.yaml makes of the tables; run it again: "
                f"curate run {run.recipe}"
            )
    return found
