"""What people answered about a sample, as the questions of a labelling tool have it, from and to decisions."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from curate.errors import UsageError
from curate.io import storage
from curate.overrides.formats.entry import Entry, checked, malformed

__all__ = ["QUESTIONS", "entries_of", "read_list", "samples_of", "write_list"]

#: The questions about a sample, and their answers; `new_label` is free text.
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "decision": ("keep", "drop"),
    "duplicate": ("not_duplicate",),
    "label_check": ("right_label", "wrong_label"),
    "new_label": (),
}
#: What a tool shows of a sample beside its image.
SHOWN = ("uid", "caption", "label", "reason", "duplicate_of", "concept", "shard", "row")


def samples_of(rows: pl.DataFrame) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Yield each sample of a sheet with the answers about it, in order."""
    for _, of_one in rows.group_by("uid", maintain_order=True):
        found: dict[str, str] = {}
        for what, to in of_one.select("what", "to").rows():
            question = next((name for name, answers in QUESTIONS.items() if what in answers), None)
            if question is not None:
                found[question] = what
            if what == "wrong_label" and to is not None:
                found["new_label"] = to
        yield of_one.row(0, named=True), found


def entries_of(path: str, row: int, uid: object, answers: Mapping[str, object]) -> list[Entry]:
    """Return what the answers about one sample decide; raise UsageError for an answer that there is not."""
    found = []
    label = answers.get("new_label")
    given = dict(answers)
    if label not in (None, "") and not given.get("label_check"):
        given["label_check"] = "wrong_label"
    for question, allowed in QUESTIONS.items():
        answer = given.get(question)
        if not allowed or answer is None:
            continue
        if answer not in allowed:
            raise malformed(path, row, f"{question} must be one of {', '.join(allowed)}, got {answer!r}")
        one = checked(path, row, uid, answer, label)
        found += [] if one is None else [one]
    return found


def write_list(path: Path, value: object) -> None:
    """Write JSON."""
    with storage.atomic(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_list(path: Path, inside: str | None = None) -> list[Any]:
    """Return the list that a JSON file holds, or that its object has under the name `inside`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from None
    found = found.get(inside) if inside is not None and isinstance(found, dict) else found
    if not isinstance(found, list):
        where = "a list" if inside is None else f"an object with a list {inside!r}"
        raise UsageError(f"{path}: must hold {where}")
    return found
