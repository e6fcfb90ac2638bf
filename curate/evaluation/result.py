"""What an evaluation found: cells (one per model trained), and what they say of each subset."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curate.evaluation.intervals import difference, mean_interval

__all__ = ["ALL", "PLACEBO", "Cell", "draw_name", "said", "spoken", "summarise"]

ALL, PLACEBO = "all rows", "placebo"
_DRAW = "draw "


@dataclass(frozen=True)
class Cell:
    """One model. share : of the pool that was asked for, None for all of it. rows : it was trained on."""

    share: float | None
    name: str
    seed: int
    rows: int
    metrics: Mapping[str, float]
    weighted: bool = field(default=False)


def _is_draw(name: str) -> bool:
    """Return True for a random draw; the placebo is one that is judged as if it were a method."""
    return name.startswith(_DRAW)


def draw_name(number: int) -> str:
    """Return the name of a random draw."""
    return f"{_DRAW}{number}"


def summarise(cells: Sequence[Cell], pool: int, seen: int) -> dict[str, Any]:
    """Return means, intervals and differences to random draws: `all` and `shares`.

    pool : rows in all. seen : rows that a model is trained on, repeats counted. An interval is one of 95 %: of all rows
    and methods over seeds, of random draws over draws. A difference is beyond chance where it is larger than what one
    more draw differs from the mean of those there are (`curate.evaluation.intervals.difference`).
    """
    everything = [cell for cell in cells if cell.name == ALL]
    shares = list(dict.fromkeys(cell.share for cell in cells if cell.share is not None))
    return {
        "all": {"rows": pool, "metrics": _over_seeds(everything)},
        "shares": [
            _share([cell for cell in cells if cell.share == share], share, everything, pool, seen)
            for share in shares
        ],
    }


def _by_name(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.name, []).append(cell)
    return found


def _values(cells: Sequence[Cell], metric: str) -> list[float]:
    return [cell.metrics[metric] for cell in cells]


def _over_seeds(cells: Sequence[Cell]) -> dict[str, dict[str, float | None]]:
    """Return each metric's mean over seeds and its interval."""
    names = cells[0].metrics
    return {
        name: {"value": float(np.mean(_values(cells, name))), "interval": mean_interval(_values(cells, name))}
        for name in names
    }


def _share(
    cells: Sequence[Cell], share: float, everything: Sequence[Cell], pool: int, seen: int
) -> dict[str, Any]:
    """Return what one share came to: the random draws, the headroom above them, and each subset."""
    groups = _by_name(cells)
    drawn = [group for name, group in groups.items() if _is_draw(name)]
    random: dict[str, dict[str, float | None]] = {}
    headroom: dict[str, float] = {}
    means: dict[str, list[float]] = {}
    for metric in cells[0].metrics:
        means[metric] = [float(np.mean(_values(group, metric))) for group in drawn]
        mean = float(np.mean(means[metric]))
        random[metric] = {
            "value": mean, "interval": mean_interval(means[metric]), "sd": float(np.std(means[metric], ddof=1))
        }  # fmt: skip
        headroom[metric] = float(np.mean(_values(everything, metric))) - mean
    subsets = [
        _subset(name, group, means, pool, seen) for name, group in groups.items() if not _is_draw(name)
    ]
    rows = drawn[0][0].rows
    return {
        "share": share, "rows": rows, "draws": len(drawn), "random": random, "headroom": headroom,
        **_cost(rows, pool, seen), "subsets": subsets,
    }  # fmt: skip


def _subset(
    name: str, cells: Sequence[Cell], draws: Mapping[str, Sequence[float]], pool: int, seen: int
) -> dict[str, Any]:
    metrics: dict[str, dict[str, Any]] = {}
    for metric, found in _over_seeds(cells).items():
        gap, half = difference([float(found["value"] or 0.0)], [draws[metric]])
        metrics[metric] = {**found, "difference": gap, "chance": half, "beyond": bool(abs(gap) > half)}
    rows = cells[0].rows
    return {
        "name": name,
        "rows": rows,
        "weighted": cells[0].weighted,
        **_cost(rows, pool, seen),
        "metrics": metrics,
    }


def _cost(rows: int, pool: int, seen: int) -> dict[str, float]:
    """Return how often a model saw each row, and what a pass over these rows saves of one over all."""
    return {"passes": seen / rows, "saved_per_pass": 1 - rows / pool}


def said(found: Mapping[str, Any]) -> list[str]:
    """Return what a whole result says, in sentences for people."""
    lines = [line for one in found["shares"] for line in _share_said(one, found["main"])]
    steps = f"{found['steps']:,} steps of {found['batch']} rows"
    passes = ", ".join(f"{one['rows'] / found['all']['rows']:.0%}" for one in found["shares"])
    lines.append(
        f"compute: every model here took {steps}, so none was cheaper; training for a number of epochs takes {passes} of "
        "the steps that all rows take"
    )
    every = [subset for one in found["shares"] for subset in one["subsets"]]
    placebos = [subset["metrics"][found["main"]]["beyond"] for subset in every if subset["name"] == PLACEBO]
    if (n := len(every) - len(placebos)) > 1:
        lines.append(
            f"{n} comparisons: one of twenty is beyond chance by chance alone; of the placebos {sum(placebos)} of "
            f"{len(placebos)} are"
        )
    return [*lines, *found["notes"]]


def _share_said(one: Mapping[str, Any], main: str) -> Iterator[str]:
    size = f"{one['rows']:,} rows"
    for subset in one["subsets"]:
        if subset["name"] == PLACEBO:
            continue
        facts = subset["metrics"][main]
        points, chance = 100 * facts["difference"], 100 * facts["chance"]
        verdict = "no difference that chance does not explain"
        if facts["beyond"]:
            verdict = "better than random" if points > 0 else "worse than random"
        other = "" if subset["rows"] == one["rows"] else f" of {size}, which are not as many"
        yield (
            f"{subset['name']}, {subset['rows']:,} rows: {points:+.1f} points of {spoken(main)} against random draws{other}, "
            f"where chance gives up to {chance:.1f}: {verdict}"
        )
    yield f"headroom, {size}: all rows are {100 * one['headroom'][main]:+.1f} points from random draws"


def spoken(metric: str) -> str:
    """Return a metric in words.

    >>> spoken("balanced_accuracy"), spoken("recall_1")
    ('balanced accuracy', 'recall at 1')
    """
    name, _, number = metric.rpartition("_")
    return f"{name.replace('_', ' ')} at {number}" if number.isdecimal() else metric.replace("_", " ")
