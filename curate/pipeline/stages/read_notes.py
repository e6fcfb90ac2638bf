"""What was chosen or guessed in reading the rows (one of several captions, an encoding): counted, and said once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curate.execution.context import Part, log
from curate.sources.base import Rows
from curate.sources.captions import LABEL_LIST, SEVERAL, encoding_of

__all__ = ["Notes", "say", "total"]

#: What the rule does with several captions.
_TAKEN = {
    "first": "the first of each was taken",
    "longest": "the longest of each was taken",
    "join": "those of each were joined",
}


class Notes:
    """How many rows of a part have each note, and the first of them."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, Any]] = {}

    def add(self, rows: Rows) -> None:
        """Count the notes of some rows."""
        for place, notes in enumerate(rows.notes or ()):
            for note in dict.fromkeys(notes) if notes else ():
                known = self.counts.setdefault(
                    note, {"rows": 0, "first": rows.key[place] or int(rows.row[place])}
                )
                known["rows"] += 1


def total(parts: Sequence[Part], facts: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the notes of all parts: rows, an example (shard and key or row), and the rules for several captions."""
    found: dict[str, dict[str, Any]] = {}
    for part, counts in zip(parts, facts, strict=True):
        for note, one in counts.items():
            first = one["first"]
            example = f"{part.shard.name} row {first}" if isinstance(first, int) else str(first)
            known = found.setdefault(note, {"rows": 0, "example": example})
            known["rows"] += one["rows"]
            if note == SEVERAL:
                known["take"] = sorted({part.columns.caption_take, *known.get("take", ())})
    return dict(sorted(found.items()))


def say(notes: Mapping[str, Mapping[str, Any]]) -> None:
    """Log one line per kind of note."""
    for note, one in notes.items():
        rows, example = f"{one['rows']:,} row{'s' * (one['rows'] != 1)}", one["example"]
        if note == SEVERAL:
            rules = "; ".join(_TAKEN[take] for take in one["take"])
            log.info(
                "read: %s with several captions (such as %s): %s (source.caption: {take: first, longest or join})",
                rows, example, rules,
            )  # fmt: skip
        elif note == LABEL_LIST:
            log.warning(
                "read: %s with a list of labels (such as %s): the first of each was taken", rows, example
            )
        elif (encoding := encoding_of(note)) is not None:
            log.warning(
                "read: %s with text that is not UTF-8 (such as %s): read as %s", rows, example, encoding
            )
