"""The sample that ships with curate: where it is, in a checkout and in an installed package, and what a run finds."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from curate.errors import UsageError

if TYPE_CHECKING:
    from curate.runs.run import StoredRun

__all__ = ["recipe_path", "sample_path", "what_was_found"]


def _data() -> Path:
    package = Path(__file__).parents[1]
    for folder in (package / "data", package.parent / "data"):
        if (folder / "sample").is_dir():
            return folder
    raise UsageError("the sample is not installed; clone the repository and run `make demo` there")


def sample_path() -> Path:
    """Return the folder of the sample's shards."""
    return _data() / "sample"


def recipe_path() -> Path:
    """Return the sample's recipe."""
    return _data() / "recipes" / "sample.yaml"


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
