"""What a dedup found, in words: how it was done, what to know before one trusts it, what a sample has."""

from collections.abc import Mapping
from typing import Any

__all__ = ["in_words", "of_sample", "warnings_of"]

#: A larger share of dropped rows is said aloud.
MANY = 1 / 3


def warnings_of(noted: Mapping[str, Any]) -> list[str]:
    """Return lines about a dedup: that the model cannot tell copies, that much was dropped, that images were missing.

    noted : the facts of the stage, empty where nothing was compared.

    >>> warnings_of({"share": 0.85, "epsilon": 0.05})[0][:58]
    '85.0 % of the rows compared are near-duplicates at epsilon'
    """
    found = []
    calibrated = noted.get("calibration")
    if calibrated and not calibrated["tells_copies"]:
        how = "small pictures confirmed what was dropped"
        if not noted.get("confirm"):
            how = "what was dropped may be merely alike; set dedup.confirm to thumbnail or auto, or dedup.epsilon to none"
        found.append(
            f"this model cannot tell copies from what is alike: {calibrated['near']:.1%} of {calibrated['images']:,} images "
            f"have another sample as near as a copy, {calibrated['beyond']:.1%} one just beyond; {how}"
        )
    cut = noted.get("precision")
    if cut and cut["estimated"] is None:
        best = (
            "too few rows are near each other" if cut["best"] is None else f"the best has {cut['best']:.2f}"
        )
        found.append(
            f"no epsilon has a precision of {cut['wanted']:g}, as estimated from {cut['rows']:,} rows ({best}): only equal "
            "vectors were dropped"
        )
    if noted.get("unreadable"):
        found.append(
            f"{noted['unreadable']:,} images could not be read again, so nothing confirms that they are copies, and they stay"
        )
    if noted.get("share", 0) > MANY:
        share = f"{100 * noted['share']:.1f} %"
        found.append(
            f"{share} of the rows compared are near-duplicates at epsilon {noted['epsilon']:.6g}, more than a third: look at "
            "pairs (curate plan RUN --pairs 20) before you trust it; the epsilon that fits a model is found by "
            "dedup.epsilon: auto"
        )
    return found


def in_words(noted: Mapping[str, Any]) -> str:
    """Return how near-duplicates were found, in a sentence or two; empty where nothing was compared.

    >>> in_words({"compared": 60, "dropped": 3, "epsilon": 0.05})
    '60 rows were compared, 3 dropped at epsilon 0.05.'
    """
    if "epsilon" not in noted:
        return ""
    text = f"{noted['compared']:,} rows were compared, {noted['dropped']:,} dropped at epsilon {noted['epsilon']:.6g}"
    text += ", where small pictures confirmed it." if noted.get("confirm") else "."
    if calibrated := noted.get("calibration"):
        text += (
            f" {calibrated['recall']:.0%} of the copies made of {calibrated['images']:,} images are within epsilon "
            f"{calibrated['epsilon']:.6g}, and {calibrated['near']:.1%} of these images have another sample as near."
        )
    if (cut := noted.get("precision")) and cut["estimated"] is not None:
        text += f" {cut['estimated']:.0%} of what epsilon drops are copies, as estimated from {cut['rows']:,} rows."
    return text


def of_sample(found: Mapping[str, Any]) -> str:
    """Return a line about the near-duplicates of a sample that nobody looked for: `rows`, and the shares `within`.

    >>> of_sample({"rows": 2000, "within": {"0.01": 0.031, "0.05": 0.124}})[:87]
    'near-duplicates stay; of 2,000 rows 3.1 % have another within 0.01, 12.4 % within 0.05 '
    """
    (first, share), *more = found["within"].items()
    others = "".join(f", {100 * value:.1f} % within {epsilon}" for epsilon, value in more)
    return (
        f"near-duplicates stay; of {found['rows']:,} rows {100 * share:.1f} % have another within {first}{others} "
        "(which distance makes a copy depends on the model; dedup.epsilon: auto finds it)"
    )
