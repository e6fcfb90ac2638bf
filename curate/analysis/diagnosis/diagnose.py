"""What of a run looks wrong: its vectors, scores that contradict each other or treat classes unevenly, heads that are too sure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.analysis.diagnosis.agreement import disagreements, threshold_inconsistency
from curate.analysis.diagnosis.sample import VectorSample
from curate.errors import CurateError
from curate.recipe.loading import parse_recipe
from curate.scores.columns import Direction, hardest_is_largest
from curate.scores.registry import known_scores, score_columns

__all__ = ["diagnose", "score_meanings"]

#: Scores and rows that are compared, and how many uneven scores are named.
SCORES, ROWS, PAIRS, UNEVEN = 30, 10_000, 3, 5

Meanings = Mapping[str, tuple[Direction, str]]


def score_meanings(recipe: Mapping[str, Any]) -> dict[str, tuple[Direction, str]]:
    """Return what a higher value of each score means, and its family. recipe : as it stands in the run.

    Of a recipe that cannot be read any more (a plug-in that is gone) those that are known without it.
    """
    try:
        found = {
            name: (one.higher_is, one.folder)
            for name, one in score_columns(parse_recipe(dict(recipe))).items()
        }
    except CurateError:
        found = {name: (one.higher_is, one.family) for name, one in known_scores().items()}
    return {name: (means, family) for name, (means, family) in found.items() if means is not None}


def diagnose(
    vectors: VectorSample,
    sample: pl.DataFrame,
    meanings: Meanings,
    heads: Mapping[str, Any],
    classes: Mapping[str, str],
) -> dict[str, Any]:
    """Return what a summary says of a run, as plain values; a section that there is nothing for is left out.

    Parameters
    ----------
    vectors : VectorSample
        Rows with their vectors.
    sample : polars.DataFrame
        uid and scores of an even sample of the rows, and `label` where there is one.
    meanings : mapping of name to (direction, family)
        The scores.
    heads : mapping
        What the heads noted of themselves.
    classes : mapping of str to str
        What labels are called, where they are numbers.

    Returns
    -------
    dict
        space : see `VectorSample.facts`. disagree : one, other, correlation, rows (uid, label, the shares of rows that are
        easier by each). uneven : score, variance, spread (its root), group, share, the most uneven first.
        calibration : rows, temperature, error, error_scaled.
    """
    if "label" in sample.columns and classes:
        sample = sample.with_columns(pl.col("label").replace(classes))
    sections = {
        "space": vectors.facts(),
        "disagree": _disagree(sample, meanings),
        "uneven": _uneven(sample, meanings),
        "calibration": dict(heads.get("calibration", {})),
    }
    return {name: found for name, found in sections.items() if found}


def _scores(sample: pl.DataFrame, meanings: Meanings) -> dict[str, npt.NDArray[np.float64]]:
    """Return the scores that are compared, without the spread of others over seeds."""
    names = [name for name in sample.columns if name in meanings and not name.endswith("_std")]
    names = [name for name in names if sample[name].n_unique() > 2][:SCORES]
    return {name: sample[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names}


def _disagree(sample: pl.DataFrame, meanings: Meanings) -> list[dict[str, Any]]:
    some = sample.gather_every(-(-len(sample) // ROWS)) if len(sample) else sample
    scores = _scores(some, meanings)
    turned = {name: not hardest_is_largest(meanings[name][0]) for name in scores}
    families = {name: meanings[name][1] for name in scores}
    every = disagreements(scores, turned=turned, families=families, pairs=SCORES**2)
    first = {frozenset((families[one.one], families[one.other])): one for one in reversed(every)}
    found = sorted(first.values(), key=lambda one: one.correlation)[:PAIRS]  # of two families one pair
    labels = some["label"].to_list() if "label" in some.columns else [None] * len(some)
    return [
        {
            "one": one.one, "other": one.other, "correlation": round(one.correlation, 3),
            "rows": [
                {"uid": some["uid"][row], "label": labels[row], one.one: round(a, 3), one.other: round(b, 3)}
                for row, a, b in one.rows
            ],
        }
        for one in found
    ]  # fmt: skip


def _uneven(sample: pl.DataFrame, meanings: Meanings) -> list[dict[str, Any]]:
    """Return the scores of which one threshold treats classes most unevenly."""
    if "label" not in sample.columns or sample["label"].null_count() == len(sample):
        return []
    names = sample["label"].drop_nulls().unique().sort().to_list()
    code = {name: place for place, name in enumerate(names)}
    group = np.array([code.get(label, -1) for label in sample["label"].to_list()], np.int64)
    found = []
    for name, values in _scores(sample, meanings).items():
        one = threshold_inconsistency(values, group)
        if one is not None:
            found.append(
                {
                    "score": name, "variance": round(one.variance, 5), "spread": round(one.variance**0.5, 3),
                    "group": names[one.group], "share": round(one.share, 3),
                }
            )  # fmt: skip
    return sorted(found, key=lambda row: (-row["variance"], row["score"]))[:UNEVEN]
