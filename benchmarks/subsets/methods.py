"""The recipes that are compared: settings of a run, and of its selection, by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from subsets.pools import Pool

__all__ = ["ORACLES", "by_labels", "by_pairs", "oracle", "run_name"]

Settings = Mapping[str, Any]


def _select(method: str, **settings: object) -> dict[str, object]:
    """Return the settings of a selection by their dotted names."""
    return {"select.method": method} | {f"select.{name}": value for name, value in settings.items()}


#: Heads that are trained long enough for their course to say something.
_COURSE: dict[str, object] = {"score": [{"heads": {"epochs": 10, "dynamics": ["dual"]}}]}

_HEADS: dict[str, dict[str, object]] = {
    "random": _select("random"),
    "auto": _select("auto"),
    "noise out (auto), then random": _select("random", drop_noise="auto"),
    "noise out (20 %), then random": _select("random", drop_noise=0.2),
    "noise out (30 %), then random": _select("random", drop_noise=0.3),
    "noise out (40 %), then random": _select("random", drop_noise=0.4),
    "floor half, then random": _select("random", floor="half"),
    "density, prefer hardest": _select("density", prefer="hardest"),
    "density, prefer random": _select("density", prefer="random"),
    "density, prefer easiest": _select("density", prefer="easiest"),
    "prototypes": _select("prototypes"),
    "hardest el2n": _select("hardest", by="el2n"),
    "easiest el2n": _select("easiest", by="el2n"),
    "hardest neg_aum": _select("hardest", by="neg_aum"),
    "easiest neg_aum": _select("easiest", by="neg_aum"),
    "middle el2n": _select("middle", by="el2n"),
    "stratified el2n, beta 0": _select("stratified", by="el2n", beta=0.0),
    "stratified el2n, beta .1": _select("stratified", by="el2n", beta=0.1),
    "stratified el2n, beta .3": _select("stratified", by="el2n", beta=0.3),
    "diversity": _select("diversity"),
    "balanced": _select("balanced"),
    "balanced in levels": {**_select("balanced"), "cluster.levels": [200, 50, 10]},
    "d2 el2n": _select("d2", by="el2n"),
    "d2 el2n, noise out (auto)": _select("d2", by="el2n", drop_noise="auto"),
    "dual": {**_select("dual"), **_COURSE},
    "dual, floor half": {**_select("dual", floor="half"), **_COURSE},
    "dual, noise out (auto), floor half": {**_select("dual", drop_noise="auto", floor="half"), **_COURSE},
    "triage, far from the centre": _select(
        "triage", uncertainty="distance", misconception=True, at_most=True
    ),
    "quotas by label": _select("quotas", per="label", prefer="random"),
    "weighted el2n": _select("weighted", by="el2n"),
    "density, temperature 1": _select("density", prefer="random", temperature=1.0),
    "density, uniform": _select("density", prefer="random", complexity="uniform"),
    "density, size": _select("density", prefer="random", complexity="size", temperature="auto"),
    "density, dimension": _select("density", prefer="random", complexity="dimension", temperature="auto"),
    "density, temperature auto": _select("density", prefer="random", temperature="auto"),
    "density, mean out": _select("density", prefer="random", subtract_mean=True),
    "density, mean out, temperature auto": _select(
        "density", prefer="random", subtract_mean=True, temperature="auto"
    ),
}

_PAIRS: dict[str, dict[str, object]] = {
    "random": _select("random"),
    "auto": _select("auto"),
    "density, prefer hardest": _select("density", prefer="hardest"),
    "density, prefer random": _select("density", prefer="random"),
    "density, prefer clip_score": _select("density", prefer="score:clip_score"),
    "prototypes": _select("prototypes"),
    "balanced": _select("balanced"),
    "diversity": _select("diversity"),
    "d2 nce": _select("d2", by="nce"),
    "metaclip, words of the captions": _select("metaclip", at_most=True),
    "top clip_score": _select("easiest", by="clip_score"),
    "top neg_clip_loss": _select("easiest", by="neg_clip_loss"),
    "easiest nce": _select("easiest", by="nce"),
    "hardest nce": _select("hardest", by="nce"),
    "nce worst 30 % out, then random": {**_select("random"), "filter": [{"by": "nce", "bottom": 0.7}]},
    "nce worst 30 % out, then density": {
        **_select("density", prefer="random"), "filter": [{"by": "nce", "bottom": 0.7}],
    },
}  # fmt: skip

#: What the truth would give: rows with right labels, rows that are no copies, classes evened.
ORACLES = ("right labels", "no copies", "both", "both, classes evened")


def by_labels() -> dict[str, dict[str, object]]:
    """Return the recipes for pools with labels."""
    return _HEADS


def by_pairs() -> dict[str, dict[str, object]]:
    """Return the recipes for pools of pairs."""
    return _PAIRS


def run_name(settings: Settings) -> str:
    """Return the folder of the run of a recipe: one for all recipes that differ in the selection alone."""
    other = {name: value for name, value in settings.items() if not name.startswith("select.")}
    return (
        "run"
        if not other
        else "run-" + "".join(c if c.isalnum() else "_" for c in str(sorted(other.items())))[:80]
    )


def oracle(pool: Pool, kind: str, share: float, seed: int) -> np.ndarray | None:
    """Return the rows that somebody who knows the truth keeps, drawn at random; None where the pool has no such fault."""
    n_keep = round(share * len(pool))
    rows = np.arange(len(pool))
    if kind != "no copies":
        rows = rows[~pool.wrong[rows]]
    if kind != "right labels":
        rows = rows[pool.copy_of[rows] < 0]
    rows = np.random.default_rng([seed, 8]).permutation(rows)
    if not kind.endswith("evened"):
        return None if len(rows) == len(pool) else np.sort(rows[:n_keep])
    return None if not pool.labels else np.sort(_evened(rows, np.array(pool.labels)[rows], n_keep))


def _evened(rows: np.ndarray, labels: np.ndarray, n_keep: int) -> np.ndarray:
    """Return rows, the first of each class in turn, until there are enough."""
    order = np.argsort(labels, kind="stable")
    starts = np.unique(labels[order], return_index=True)[1]
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - np.repeat(starts, np.diff([*starts, len(rows)]))
    return rows[np.lexsort((np.arange(len(rows)), place))[:n_keep]]
