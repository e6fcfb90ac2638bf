"""How much is kept of every class, source and split, and which of them shrink much more than the rest."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curate.analysis.summary.tables import beside, part_names
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["BY", "group_facts", "group_warnings"]

#: What samples are grouped by.
BY = ("label", "source", "split")
#: A column with more values than this names samples, not groups of them.
MAX_GROUPS = 10_000


def group_facts(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """Return, by label, source and split, a row per value: group, rows (usable), kept, share, rest, shrunk.

    rest : the share kept of all other groups; shrunk : whether the group's is much less, as the report has it; these
    come first, then the least kept. A column with one value, or with more than `MAX_GROUPS`, is left out.
    """
    from curate.report.groups import compared

    tallies: dict[str, pl.DataFrame] = {}
    names = list(BY)
    for part in part_names(run, run.decisions):
        rows = beside(run, part, [*BY, "outcome"], ["keep"], usable=False)
        tallies = {name: _tally(tallies.get(name), rows, name) for name in names}
        names = [name for name in names if len(tallies[name]) <= MAX_GROUPS]
    return {name: compared(tallies[name]).to_dicts() for name in names if len(tallies.get(name, ())) > 1}


def _tally(before: "pl.DataFrame | None", rows: "pl.DataFrame", name: str) -> "pl.DataFrame":
    """Add the rows of a part to what is counted."""
    import polars as pl

    usable = rows.filter((pl.col("outcome") == "ok") & pl.col(name).is_not_null())
    found = usable.group_by(pl.col(name).alias("group")).agg(
        rows=pl.len().cast(pl.Int64), kept=pl.col("decided_keep").sum().cast(pl.Int64)
    )
    return (
        found if before is None else pl.concat([before, found]).group_by("group").agg(pl.sum("rows", "kept"))
    )


def group_warnings(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return a line for each grouping of which a group shrinks much more than the rest.

    >>> group_warnings({"label": [{"group": "cat", "share": 0.1, "rest": 0.4, "shrunk": True}]})
    ["label 'cat' keeps 10.0% where the rest keeps 40.0%"]
    """
    found = []
    for by, rows in groups.items():
        worst = [row for row in rows if row["shrunk"]]
        more = f" (and {len(worst) - 1:,} more)" if len(worst) > 1 else ""
        for row in worst[:1]:
            name = str(row["group"])[:60]
            found.append(
                f"{by} {name!r} keeps {row['share']:.1%} where the rest keeps {row['rest']:.1%}{more}"
            )
    return found
