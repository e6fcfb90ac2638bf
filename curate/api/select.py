"""Selection without files: a frame in, the same frame with `keep`, `reason`, `rank` and `inclusion_prob` out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from curate.selection.registry import DEFAULT

if TYPE_CHECKING:
    import polars as pl

    from curate.scores.columns import Direction

__all__ = ["select"]


def select(
    frame: "pl.DataFrame",
    method: str = DEFAULT,
    *,
    keep: float | str | None = None,
    count: int | None = None,
    seed: int = 0,
    higher_is: "Mapping[str, Direction] | None" = None,
    **settings: object,
) -> "pl.DataFrame":
    """Return a frame with the decision of a selection method on each of its rows.

    The rules are those of a run, so that a run decides the same on the same rows. Results do not depend on the order
    of rows.

    Parameters
    ----------
    frame : polars.DataFrame
        One row per sample. `uid` names it (without this column, the number of the row does); `concept` is its group,
        a whole number from 0 (without it, all rows are one), and `concept_2`, `concept_3`, ... those of the levels above
        that it is in (for balanced); `distance` to the centre of the concept is what `prefer`
        hardest and easiest go by; `label`, or the column that `per` or `floor_per` names, is what quotas and floors
        group by; `pinned` rows are kept whatever happens; `vector`
        (lists of one length) is for diversity, and for density unless `d_inter`, the distance of the row's concept to
        other concepts, is there; `objects` (lists of structs with `category` and `vector`) is for method objects. Other
        columns are scores; null and NaN say that a row has none.
    method : str
        A selection method; `curate methods` lists them with their settings.
    keep, count : float or int
        The share, or the number, of rows to keep; exactly one of them.
    seed : int
        What chance depends on, besides `uid`.
    higher_is : dict, optional
        What a higher value of a score means: harder, noisier, easier or better. Scores of curate have their own
        directions; others are harder.
    **settings
        Settings of the method, such as `by`, `prefer` or `strata`.

    Returns
    -------
    polars.DataFrame
        The frame with `keep`, `reason` (kept, pinned, over_budget, cutoff:<column>, no_score:null), `rank` within the
        concept from 1 (null where a row has no score and is dropped for it), and `inclusion_prob` (null where it is
        not known).

    Raises
    ------
    UsageError
        If a column is missing, or uids are not unique.
    RecipeError
        If a setting is wrong, or is not one of this method.
    BudgetError
        If there are fewer rows than asked for.

    Examples
    --------
    >>> import polars as pl
    >>> frame = pl.DataFrame({"uid": ["a", "b", "c"], "el2n": [0.1, 0.9, 0.5]})
    >>> select(frame, "hardest", by="el2n", count=2)["keep"].to_list()
    [False, True, True]
    """
    from curate.recipe.loading import parse_select
    from curate.selection.rows.frame_rows import decide

    given = {"keep": keep, "count": count, **settings}
    selector = parse_select(
        {"method": method} | {name: one for name, one in given.items() if one is not None}
    )
    return decide(frame, selector, seed, dict(higher_is or {}))
