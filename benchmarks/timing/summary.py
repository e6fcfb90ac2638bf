"""The lines of all benchmarks together, as docs show them."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HEAD = (
    "| benchmark | what | against | ours, processor s | theirs | ratio (range) | wall ratio | memory MB, ours : theirs |\n"
    "|---|---|---|---|---|---|---|---|"
)


def summary(records: Sequence[dict[str, Any]]) -> str:
    """Return a table with a line for each peer of each benchmark, and on what each was measured."""
    lines = [HEAD, *(line for record in records for line in _lines(record)), ""]
    groups: dict[str, list[str]] = {}
    for record in records:
        flags = ", ".join(
            flag for flag in record["flags"] if "512" in flag or "amx" in flag or flag == "avx2"
        )
        said = (
            f"{record['date'][:10]}, commit {record['commit']}, {record['processor']}, {record['cores']} cores ({flags}), "
            f"load {record['load']} before the table was written, {record['pairs']} pairs"
        )
        groups.setdefault(said, []).append(record["benchmark"])
    lines += [f"- {', '.join(names)}: {said}." for said, names in groups.items()]
    return "\n".join(lines) + "\n"


def _lines(record: dict[str, Any]) -> Iterator[str]:
    name = f"[{record['benchmark']}](../benchmarks/results/{record['benchmark']}-{record['size']}.md)"
    for one in record["comparisons"]:
        ours = one["turns"][one["ours"]]
        for other, ratios in one["ratios"].items():
            theirs, pairs = one["turns"][other], ratios["processor"]["pairs"]
            target = one["targets"].get(other)
            cells = [
                name, one["name"], other, _seconds(ours), _seconds(theirs),
                f"**{statistics.median(pairs):.2f}** ({min(pairs):.2f} to {max(pairs):.2f})"
                + ("" if target is None else f", target {target:g}"),
                f"{ratios['wall']['median']:.2f}", f"{_memory(ours)} : {_memory(theirs)}",
            ]  # fmt: skip
            yield "| " + " | ".join(cells) + " |"
        for other, reason in one["skipped"].items():
            yield f"| {name} | {one['name']} | {other} | {_seconds(ours)} | not run: {reason.replace('|', '/')} | | | |"


def _seconds(turns: Sequence[dict[str, Any]]) -> str:
    return f"{statistics.median(turn['processor'] for turn in turns):.2f}"


def _memory(turns: Sequence[dict[str, Any]]) -> str:
    return f"{max(turn['memory'] for turn in turns) / 1e6:,.0f}"


def put_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a file."""
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = path.read_text().partition(first)
    _, closed, after = rest.partition(last)
    if not (opened and closed):
        raise SystemExit(f"{path}: there is no {first} ... {last} to write between")
    path.write_text(f"{before}{first}\n{text}{last}{after}")
