"""Records of Argilla (as `dataset.records.to_json` writes them): a record for each sample, decisions as responses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from curate.overrides.formats.answers import SHOWN, entries_of, read_list, samples_of, write_list
from curate.overrides.formats.entry import Entry, malformed

__all__ = ["read", "write"]

#: Argilla asks for a user by a UUID; this one stands for whoever decided in the run.
_USER = "00000000-0000-0000-0000-000000000000"


def write(path: Path, rows: pl.DataFrame) -> None:
    """Write a sheet as records, for `dataset.records.from_json`."""
    write_list(path, [_record(sample, answers) for sample, answers in samples_of(rows)])


def _record(sample: Mapping[str, Any], answers: Mapping[str, str]) -> dict[str, Any]:
    fields = {"image": sample["key"], "caption": sample["caption"]}
    return {
        "id": sample["uid"],
        "fields": {name: value for name, value in fields.items() if value is not None},
        "metadata": {name: sample[name] for name in SHOWN if name != "caption" and sample[name] is not None},
        "suggestions": {},
        "responses": {name: [{"value": answer, "user_id": _USER}] for name, answer in answers.items()},
        "vectors": {},
    }


def read(path: Path) -> list[Entry]:
    """Return what records decide: by the last response to each question."""
    found: list[Entry] = []
    for row, record in enumerate(read_list(path), 1):
        try:
            uid = (record.get("metadata") or {}).get("uid", record["id"])
            responses = record.get("responses") or {}
            answers = {name: given[-1]["value"] for name, given in responses.items() if given}
        except (KeyError, TypeError, AttributeError, IndexError):
            raise malformed(str(path), row, "is no record with an id and responses") from None
        found += entries_of(str(path), row, uid, answers)
    return found
