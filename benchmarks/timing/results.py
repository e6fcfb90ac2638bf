"""Write what was measured: JSON with every turn, and a Markdown table of medians and ranges."""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from timing.machine import describe
from timing.turns import Comparison

HEAD = (
    "| what | way | processor s | wall s | memory MB | processor / ours | wall / ours | came out |\n"
    "|---|---|---|---|---|---|---|---|"
)


def write(benchmark: str, found: Sequence[Comparison], options: argparse.Namespace) -> dict[str, Any]:
    """Print the table; write JSON and the table where `--json` says; return what the JSON holds."""
    record = {
        "benchmark": benchmark,
        "size": options.size,
        "pairs": options.pairs,
        "settings": {name: _plain(value) for name, value in vars(options).items() if name != "json"},
        **describe(),
        "comparisons": [as_record(one) for one in found],
    }
    table = render(record)
    print(table)
    if options.json is not None:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        path.with_suffix(".md").write_text(table)
    return record


def as_record(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON: every turn, and the ratios pair by pair with their medians."""
    ratios = {}
    for other in [name for name in found.turns if name != found.ours]:
        ratios[other] = {}
        for of in ("processor", "wall"):
            pairs = found.ratios(other, of)
            ratios[other][of] = {"median": statistics.median(pairs), "pairs": pairs}
    return {
        "name": found.name,
        "ours": found.ours,
        "ratios": ratios,
        "targets": found.targets,
        "skipped": found.skipped,
        "turns": {name: [asdict(turn) for turn in turns] for name, turns in found.turns.items()},
    }


def render(record: dict[str, Any]) -> str:
    """Return the Markdown of one benchmark: on what it was measured, and a line for each contender."""
    lines = [f"{_measured_on(record)}\n", HEAD]
    for comparison in record["comparisons"]:
        lines += [row(comparison, name) for name in comparison["turns"]]
        lines += [
            f"| {comparison['name']} | {name} | not run: {reason.replace('|', '/')} | | | | | |"
            for name, reason in comparison["skipped"].items()
        ]
    return "\n".join(lines) + "\n"


def row(comparison: dict[str, Any], name: str) -> str:
    """Return the line of one contender: medians, with least and largest in brackets."""
    turns = comparison["turns"][name]
    cells = [comparison["name"], name]
    cells += [_median([turn[of] for turn in turns]) for of in ("processor", "wall")]
    cells.append(f"{max(turn['memory'] for turn in turns) / 1e6:,.0f}")
    if name == comparison["ours"]:
        cells += ["1", "1"]
    else:
        shown = [_median(comparison["ratios"][name][of]["pairs"]) for of in ("processor", "wall")]
        target = comparison["targets"].get(name)
        shown[0] += "" if target is None else f"; target {target:g}"
        cells += shown
    cells.append("; ".join(f"{key} {_figure(value)}" for key, value in turns[-1]["facts"].items()))
    return "| " + " | ".join(cells) + " |"


def _median(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _figure(value: Any) -> str:  # noqa: ANN401  (what a contender says)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _measured_on(record: dict[str, Any]) -> str:
    return (
        f"{record['date'][:10]}, commit {record['commit']}, {record['processor']}, {record['cores']} cores, load {record['load']} "
        f"({', '.join(record['flags'])}); {record['size']}, {record['pairs']} pairs."
    )


def _plain(value: Any) -> Any:  # noqa: ANN401  (an option)
    return value if isinstance(value, str | int | float | bool | None | list) else str(value)
