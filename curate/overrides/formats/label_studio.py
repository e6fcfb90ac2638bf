"""Tasks of Label Studio (its JSON): a task for each sample, what people decided as its annotation.

The labelling configuration of the project names its controls as the questions are called (docs/overrides.md has it).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from curate.overrides.formats.answers import QUESTIONS, SHOWN, entries_of, read_list, samples_of, write_list
from curate.overrides.formats.entry import Entry, malformed

__all__ = ["read", "write"]


def write(path: Path, rows: pl.DataFrame) -> None:
    """Write a sheet as tasks, to be imported into a project."""
    write_list(path, [_task(sample, answers) for sample, answers in samples_of(rows)])


def _task(sample: Mapping[str, Any], answers: Mapping[str, str]) -> dict[str, Any]:
    data = {"image": sample["key"], **{name: sample[name] for name in SHOWN}}
    if not answers:
        return {"data": data}
    return {"data": data, "annotations": [{"result": [_result(*one) for one in answers.items()]}]}


def _result(question: str, answer: str) -> dict[str, Any]:
    kind, value = ("choices", "choices") if QUESTIONS[question] else ("textarea", "text")
    return {"from_name": question, "to_name": "image", "type": kind, "value": {value: [answer]}}


def read(path: Path) -> list[Entry]:
    """Return what the tasks of an export (JSON) decide: of each task by its last annotation that was not cancelled."""
    found: list[Entry] = []
    for row, task in enumerate(read_list(path), 1):
        try:
            uid = task["data"]["uid"]
            done = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
            answers = dict(_answer(one) for one in done[-1]["result"]) if done else {}
        except (KeyError, TypeError, AttributeError, IndexError):
            raise malformed(str(path), row, "is no task with data.uid and annotations") from None
        found += entries_of(str(path), row, uid, answers)
    return found


def _answer(result: Mapping[str, Any]) -> tuple[str, str | None]:
    value = result["value"]
    given = value.get("choices") or value.get("text") or []
    given = [given] if isinstance(given, str) else given
    return str(result["from_name"]), (given[0] if given else None)
