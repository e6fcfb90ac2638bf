"""The recipe of the sample that ships with curate, and what a run finds in it."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from curate.api.sample import data_path

if TYPE_CHECKING:
    from curate.runs.run import StoredRun

__all__ = ["recipe_path", "what_was_found"]


def recipe_path() -> Path:
    """Return the sample's recipe."""
    return data_path() / "recipes" / "sample.yaml"


def what_was_found(run: "StoredRun") -> list[str]:
    """Return three lines on a finished run: what is dropped, which concepts keep most, which captions fit least."""
    import polars as pl

    counts = run.manifest()["counts"]
    dropped, unusable = counts["dropped"], sum(counts["unusable"].values())
    concepts = run.concepts().filter(pl.col("n_eligible") > 0).sort("complexity", "concept")
    shares = (concepts["kept"] / concepts["n_eligible"]).to_list()
    told = (
        run.scores()
        .join(run.samples().select("uid", "caption"), on="uid")
        .filter(pl.col("caption").is_not_null())
    )
    worst = told.drop_nulls("clip_score").sort("clip_score", "uid").row(0, named=True)
    return [
        (
            f"found {dropped.get('exact_duplicate', 0):,} exact copies, {dropped.get('near_duplicate', 0):,} near-duplicates "
            f"and {unusable:,} unusable images among {counts['rows']:,} pairs"
        ),
        f"of {len(concepts):,} concepts the most complex keeps {shares[-1]:.0%} of its samples, the simplest {shares[0]:.0%}",
        f"the caption that fits its image least (clip_score {worst['clip_score']:.2f}): {shorten(worst['caption'], 90)!r}",
    ]
