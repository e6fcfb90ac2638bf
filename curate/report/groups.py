"""Which groups shrink much more than the rest."""

import polars as pl

__all__ = ["MIN_ROWS", "compared"]

#: Smaller groups shrink by chance.
MIN_ROWS = 20
#: A group is warned of where it keeps less than this part of what the rest keeps ...
SHRUNK = 0.5
#: ... and that is more than this many standard deviations of a count.
SIGMAS = 3.0


def compared(groups: pl.DataFrame) -> pl.DataFrame:
    """Return groups with `share` kept, `rest` (the share of all other rows) and `shrunk`, most shrunk first.

    groups : group, rows, kept.

    >>> compared(pl.DataFrame({"group": ["a", "b"], "rows": [100, 100], "kept": [10, 60]})).select("group", "shrunk").rows()
    [('a', True), ('b', False)]
    """
    total, kept = groups["rows"].sum(), groups["kept"].sum()
    others = pl.lit(total) - pl.col("rows")
    frame = groups.with_columns(
        share=pl.when(pl.col("rows") > 0).then(pl.col("kept") / pl.col("rows")),
        rest=pl.when(others > 0).then((pl.lit(kept) - pl.col("kept")) / others),
    )
    expected = pl.col("rows") * pl.col("rest")
    far = (expected - pl.col("kept")) > SIGMAS * expected.sqrt()
    much = pl.col("share") < SHRUNK * pl.col("rest")
    shrunk = (pl.col("rows") >= MIN_ROWS) & much & far
    return frame.with_columns(shrunk=shrunk.fill_null(False)).sort(
        "shrunk", "share", "rows", "group", descending=[True, False, True, False], nulls_last=True
    )
