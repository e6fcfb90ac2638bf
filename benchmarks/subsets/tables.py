"""Cells as tables: the difference of each subset to random draws of the same size, and whether it is beyond chance."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.evaluation import intervals

__all__ = ["MARK", "difference", "into", "markdown", "plots", "read"]

Cell = Mapping[str, Any]
#: Behind this line of a page stand the tables.
MARK = "<!-- tables -->"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a file; a line that was cut off is left out."""
    if not path.exists():
        return []
    cells = []
    for line in path.read_text().splitlines():
        try:
            cells.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return cells


def difference(values: Sequence[float], draws: Sequence[Sequence[float]]) -> tuple[float, bool]:
    """Return how much better a subset is than random draws, on average over pools, and whether that is beyond chance.

    values : one per pool. draws : those of each pool.
    """
    gap, half = intervals.difference(values, draws)
    return gap, abs(gap) > half


def _grouped(cells: Iterable[Cell]) -> dict[tuple[str, str], list[Cell]]:
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell["judge"], cell["pool"]].append(cell)
    return groups


def _names(cells: Sequence[Cell]) -> list[str]:
    """Return the names of subsets that are compared, in the order they were judged, the placebo first."""
    names = dict.fromkeys(cell["name"] for cell in cells)
    compared = [
        name for name in names if not name.startswith("draw ") and name not in ("all rows", "placebo")
    ]
    return ["placebo", *compared]


def compared(cells: Sequence[Cell], share: float, name: str) -> tuple[float, bool, int] | None:
    """Return the difference of one subset at one share in points, whether it is beyond chance, and its rows."""
    values, draws, rows = [], [], 0
    for seed in sorted({cell["seed"] for cell in cells}):
        here = [cell for cell in cells if cell["seed"] == seed and cell["share"] == share]
        own = [cell for cell in here if cell["name"] == name]
        those = [cell["value"] for cell in here if cell["name"].startswith("draw ")]
        if own and len(those) > 1:
            values.append(own[0]["value"])
            draws.append(those)
            rows = own[0]["rows"]
    if not values:
        return None
    gap, beyond = difference(values, draws)
    return 100 * gap, beyond, rows


def markdown(cells: Sequence[Cell]) -> str:
    """Return a table for each judge and pool."""
    lines: list[str] = []
    for (judge, pool), group in sorted(_grouped(cells).items()):
        shares = sorted({cell["share"] for cell in group if cell["share"] < 1})
        seeds = sorted({cell["seed"] for cell in group})
        whole = [cell["value"] for cell in group if cell["name"] == "all rows"]
        lines += [f"### {pool}, judged by {judge}", ""]
        lines += [f"All rows {100 * np.mean(whole):.1f}; {len(seeds)} pools.", ""] if whole else []
        lines += ["| subset | " + " | ".join(f"{share:.0%}" for share in shares) + " |"]
        lines += ["|---|" + "---|" * len(shares)]
        lines += [
            "| random draws, mean ± sd | " + " | ".join(_draws(group, share) for share in shares) + " |"
        ]
        for name in _names(group):
            row = [_entry(compared(group, share, name), group, share) for share in shares]
            lines += [f"| {name} | " + " | ".join(row) + " |"]
        lines += [""]
    return "\n".join(lines)


def into(page: Path, cells: Sequence[Cell], before: str = "") -> None:
    """Put the tables of cells into a page, behind `before`, in the place of what is behind its mark."""
    text = page.read_text(encoding="utf-8")
    head, mark, _ = text.partition(MARK)
    if not mark:
        raise ValueError(f"{page} must have a line {MARK} behind which the tables stand")
    page.write_text(f"{head}{mark}\n\n{before}{markdown(cells).rstrip()}\n", encoding="utf-8")


def _draws(group: Sequence[Cell], share: float) -> str:
    values = defaultdict(list)
    for cell in group:
        if cell["share"] == share and cell["name"].startswith("draw "):
            values[cell["seed"]].append(cell["value"])
    means = [np.mean(those) for those in values.values()]
    spread = [np.std(those, ddof=1) for those in values.values() if len(those) > 1]
    return f"{100 * np.mean(means):.1f} ± {100 * np.mean(spread):.1f}" if spread else ""


def _entry(found: tuple[float, bool, int] | None, group: Sequence[Cell], share: float) -> str:
    if found is None:
        return ""
    gap, beyond, rows = found
    full = max((cell["rows"] for cell in group if cell["share"] == share), default=rows)
    return f"{gap:+.1f}{'*' if beyond else ''}" + (f" ({rows:,} rows)" if rows < full else "")


def plots(cells: Sequence[Cell], folder: Path) -> None:
    """Draw share against the judge's value for each judge and pool, with the band of random draws."""
    import plotly.graph_objects as go

    folder.mkdir(parents=True, exist_ok=True)
    for (judge, pool), group in sorted(_grouped(cells).items()):
        shares = sorted({cell["share"] for cell in group if cell["share"] < 1})
        figure = go.Figure()
        for name in _names(group):
            points = [(share, compared(group, share, name)) for share in shares]
            known = [(share, found[0]) for share, found in points if found is not None]
            figure.add_scatter(
                x=[x for x, _ in known], y=[y for _, y in known], name=name, mode="lines+markers"
            )
        figure.update_layout(
            title=f"{pool}, judged by {judge}", xaxis_title="share kept", yaxis_title="points above random",
            xaxis_tickformat=".0%", template="plotly_white",
        )  # fmt: skip
        name = f"{judge}-{pool}".replace(" ", "_").replace(":", "_").replace("%", "")
        figure.write_html(folder / f"{name}.html", include_plotlyjs="directory")
