"""What the scripts of the page draw and compute from, as JSON that may stand in a script element."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.report import evaluation_figure
from curate.report.model import Gallery, Listed, Pair, ReportData, Sample, Shown, WhatIf

__all__ = ["as_json", "figures", "gallery", "listed", "pairs", "samples", "shown", "what_if"]


def as_json(value: object) -> str:
    r"""Return JSON that may stand in a script element: it has no <, > or &.

    >>> as_json({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    # Lone surrogates, which no file can hold, become question marks.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def samples(shown: Sequence[Sample], room: int) -> tuple[dict[str, list[Any]], int]:
    """Return the shown samples as columns, with thumbnails as far as `room` bytes go; and how many had no room."""
    images: list[str | None] = []
    for sample in shown:
        size = len(sample.image or "")
        images.append(sample.image if size <= room else None)
        room -= size if size <= room else 0
    left_out = sum(
        image is None and sample.image is not None for image, sample in zip(images, shown, strict=True)
    )
    names = ("uid", "shard", "row", "caption", "label", "reason", "concept")
    columns = {name: [getattr(one, name) for one in shown] for name in names}
    return {**columns, "scores": [_short(one.scores) for one in shown], "image": images}, left_out


def _short(scores: Mapping[str, float | None]) -> dict[str, float]:
    """Return the scores that are there, to five digits."""
    return {
        name: float(f"{value:.5g}")
        for name, value in scores.items()
        if value is not None and math.isfinite(value)
    }


def gallery(one: Gallery, name: str | None = None) -> dict[str, Any]:
    """Return the lists of a concept's gallery, by places of samples. name : what the concept is called."""
    return {
        "concept": one.concept,
        "name": name,
        "why": list(one.why),
        "lists": [listed(some) for some in one.lists],
        "duplicates": pairs(one.duplicates),
    }


def listed(one: Listed) -> dict[str, Any]:
    """Return a list of a gallery with its title."""
    return {"name": one.name, "title": one.title, "nothing": one.nothing, "shown": shown(one.shown)}


def shown(some: Iterable[Shown]) -> list[list[object]]:
    """Return samples of a list with their notes."""
    return [[one.sample, one.note] for one in some]


def pairs(some: Iterable[Pair]) -> list[list[object]]:
    """Return pairs of samples with their notes."""
    return [[one.kept, one.dropped, one.note] for one in some]


def figures(report: ReportData, concepts: pl.DataFrame) -> dict[str, Any]:
    """Return the numbers of every figure that has something to show."""
    found: dict[str, Any] = {}
    if not concepts.is_empty() and not report.layout.is_empty():
        drawn = concepts.join(report.layout, on="concept", how="inner", maintain_order="left")
        names = ["concept", "x", "y", "n_eligible", "kept", "budget", "share", "complexity"]
        found["map"] = _finite(drawn.select(names)).to_dict(as_series=False)
        found["map"]["typical"] = [list(report.typical.get(c, ())) for c in drawn["concept"].to_list()]
    drawable = [score for score in report.scores if score.edges]
    if drawable:
        found["scores"] = {
            score.name: {
                "edges": [float(f"{edge:.7g}") for edge in score.edges], "kept": list(score.kept),
                "dropped": list(score.dropped), "cuts": [[value, rule] for value, rule in score.cuts],
                "means": score.means,
            }
            for score in drawable
        }  # fmt: skip
    names_, square = report.correlation
    if len(names_) > 1:
        found["correlation"] = {"names": list(names_), "square": [list(row) for row in square]}
    if report.weights.get("counts"):
        found["weights"] = {name: report.weights[name] for name in ("edges", "counts")}
    if report.evaluation:
        found["evaluation"] = evaluation_figure.lines(report.evaluation)
    return found


def _finite(frame: pl.DataFrame) -> pl.DataFrame:
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    return frame.with_columns(pl.when(pl.col(floats).is_finite()).then(pl.col(floats)))


def what_if(grid: WhatIf | None) -> Mapping[str, Any] | None:
    """Return the budgets the page looks up: arrays as base64 of little-endian numbers, as short as they can be."""
    if grid is None:
        return None
    columns = {name: _packed(grid.concepts[name].to_numpy()) for name in ("concept", "size", "now")}
    complexity = grid.concepts["complexity"].to_numpy().astype("<f8").tobytes()
    return {
        **columns, "complexity": base64.b64encode(complexity).decode(), "budgets": _packed(grid.budgets),
        "shares": list(grid.shares), "temperatures": list(grid.temperatures), "own": list(grid.own),
        "cells": grid.cells.reshape(-1, 3).tolist(), "eligible": grid.eligible, "of": grid.of, "command": grid.command,
    }  # fmt: skip


def _packed(numbers: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Return counts as base64 of 1, 2 or 4 bytes each."""
    size = next(size for size in (1, 2, 4) if numbers.max(initial=0) < 256**size)
    return {"bytes": size, "data": base64.b64encode(numbers.astype(f"<u{size}").tobytes()).decode()}
