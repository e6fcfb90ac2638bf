"""The page beside a filter: its loss curve, drawn as SVG, and what it was trained on."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["page"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 320, 60, 40
_COLOURS = {"train": "#0072b2", "validation": "#d55e00"}


def page(facts: Mapping[str, Any], curves: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return a whole HTML page. facts : what `filter.json` says; curves : of each member, one entry per epoch."""
    shown = {
        "kind": facts["kind"], "rows trained on": f"{facts['rows']:,}", "rows held out": f"{facts['held_out']:,}",
        "epochs": facts["epochs"], "best epoch": ", ".join(map(str, facts["best_epoch"])), "scale": f"{facts['scale']:.2f}",
        "training set": facts["set"], "identity": facts["identity"],
    }  # fmt: skip
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in shown.items()
    )
    notes = "".join(f"<li>{html.escape(one)}</li>" for one in facts["notes"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Filter</title><style>{_STYLE}</style></head><body><h1>Training of a filter</h1><table>{rows}</table>"
        f"<ul>{notes}</ul><h2>Loss per epoch</h2>{_drawn(curves)}</body></html>\n"
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em;color:#222}"
    "th{text-align:left;padding-right:1.5em;font-weight:normal;color:#666}td{overflow-wrap:anywhere}"
    "svg{max-width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#444}"
)


def _drawn(curves: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return the curves as SVG: training and validation loss of each member over the epochs."""
    lines = [
        (name, [(int(one["epoch"]), float(one[name])) for one in curve if one[name] is not None])
        for curve in curves
        for name in _COLOURS
    ]
    values = [value for _, points in lines for _, value in points]
    if not values:
        return "<p>No epoch was trained.</p>"
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0
    last = max(1, *(epoch for _, points in lines for epoch, _ in points))
    step = 10 ** math.floor(math.log10((high - low) / 2))
    ticks = [value * step for value in range(math.ceil(low / step), math.floor(high / step) + 1)]
    ticks = ticks[:: max(1, len(ticks) // 6)]

    def at(epoch: float, value: float) -> str:
        x = _LEFT + epoch / last * (_WIDTH - _LEFT - 20)
        y = 20 + (high - value) / (high - low) * (_HEIGHT - _BOTTOM - 20)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="loss per epoch">']
    for value in ticks:
        (x, y), (right, _) = at(0, value).split(","), at(last, value).split(",")
        parts.append(f'<line x1="{x}" x2="{right}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for epoch in sorted({0, last // 2, last}):
        x = at(epoch, low).split(",")[0]
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{epoch}</text>')
    for name, points in lines:
        path = " ".join(at(*point) for point in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[name]}" stroke-width="1.8"/>')
    there = {
        name: colour
        for name, colour in _COLOURS.items()
        if any(points for other, points in lines if other == name)
    }
    for number, (name, colour) in enumerate(there.items()):
        parts.append(
            f'<text x="{_WIDTH - 120}" y="{34 + 18 * number}" style="fill:{colour}">{name} loss</text>'
        )
    return "".join([*parts, "</svg>"])
