"""Which concepts are worth a look: the largest, the most complex, the most pruned, the most uneven."""

import polars as pl

__all__ = ["MAX_NOTABLE", "RANKINGS", "notable_concepts"]

#: Concepts that have a gallery on the page.
MAX_NOTABLE = 60

#: Why a concept is notable, and the column that says how much so.
RANKINGS = {
    "largest": "n_eligible",
    "most complex": "complexity",
    "most pruned": "dropped_share",
    "most uneven": "unevenness",
}


def notable_concepts(concepts: pl.DataFrame, limit: int = MAX_NOTABLE) -> dict[int, tuple[str, ...]]:
    """Return the most notable concepts and what makes each so, in turn from every ranking.

    concepts : concept, n_eligible, complexity, kept, unevenness (how far its farthest rows lie, in mean distances).
    Concepts without rows are never notable, nor is one that keeps all of its rows pruned; equal ones go by id.

    >>> frame = pl.DataFrame({"concept": [0, 1, 2], "n_eligible": [9, 5, 1], "complexity": [0.1, 0.3, 0.2],
    ...     "kept": [3, 0, 1], "unevenness": [1.0, 1.0, 4.0]})
    >>> notable_concepts(frame, 2)
    {0: ('largest',), 1: ('most complex', 'most pruned')}
    """
    frame = concepts.filter(pl.col("n_eligible") > 0).with_columns(
        dropped_share=1 - pl.col("kept") / pl.col("n_eligible")
    )
    frame = frame.with_columns(pl.when(pl.col("dropped_share") > 0).then("dropped_share"))
    orders = {
        why: frame.filter(pl.col(column).is_finite())
        .sort(column, "n_eligible", "concept", descending=[True, True, False])["concept"]
        .to_list()
        for why, column in RANKINGS.items()
    }
    chosen: list[int] = []
    while len(chosen) < limit and any(orders.values()):
        for order in orders.values():
            while order and order[0] in chosen:
                order.pop(0)
            if order and len(chosen) < limit:
                chosen.append(order.pop(0))
    return {concept: _why(frame, concept, len(chosen)) for concept in chosen}


def _why(frame: pl.DataFrame, concept: int, n_chosen: int) -> tuple[str, ...]:
    """Return the rankings in which a concept is among the first, as many as each of them could give."""
    first = max(1, n_chosen // len(RANKINGS))
    row = frame.filter(pl.col("concept") == concept)
    found = []
    for why, column in RANKINGS.items():
        value = row[column][0]
        if value is not None and frame.filter(pl.col(column) > value).height < first:
            found.append(why)
    return tuple(found)
