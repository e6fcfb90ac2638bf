"""A FiftyOne dataset as JSON (`dataset.write_json`, `Dataset.from_json`): a sample each, decisions as tags and labels.

Tags `keep`, `drop`, `not_duplicate`, `right_label` and `wrong_label` are decisions; a new label is the classification
`new_label`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from curate.overrides.formats.answers import QUESTIONS, entries_of, read_list, samples_of, write_list
from curate.overrides.formats.entry import Entry, malformed

__all__ = ["read", "write"]

_STRING = "fiftyone.core.fields.StringField"
_EMBEDDED = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Classification)"
#: The fields of a sample, with their types as FiftyOne names them.
_FIELDS = {
    "filepath": _STRING,
    "tags": "fiftyone.core.fields.ListField(fiftyone.core.fields.StringField)",
    "metadata": "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.metadata.ImageMetadata)",
    "uid": _STRING, "caption": _STRING, "reason": _STRING, "duplicate_of": _STRING,
    "ground_truth": _EMBEDDED, "new_label": _EMBEDDED,
}  # fmt: skip


def write(path: Path, rows: pl.DataFrame) -> None:
    """Write a sheet as a dataset."""
    samples = [_sample(*one) for one in samples_of(rows)]
    head = {"name": path.stem, "media_type": "image", "num_samples": len(samples), "sample_fields": _FIELDS}
    write_list(path, {**head, "info": {}, "samples": samples})


def _sample(sample: Mapping[str, Any], answers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "filepath": sample["key"] or f"{sample['shard']}:{sample['row']}",
        "tags": [answer for question, answer in answers.items() if QUESTIONS[question]],
        "metadata": None,
        **{name: sample[name] for name in ("uid", "caption", "reason", "duplicate_of")},
        "ground_truth": _label(sample["label"]),
        "new_label": _label(answers.get("new_label")),
    }


def _label(value: str | None) -> dict[str, str] | None:
    return None if value is None else {"_cls": "Classification", "label": value}


def read(path: Path) -> list[Entry]:
    """Return what the samples of a dataset decide; tags that are no decisions are passed over."""
    found: list[Entry] = []
    for row, sample in enumerate(read_list(path, "samples"), 1):
        try:
            tags, label = set(sample.get("tags") or ()), (sample.get("new_label") or {}).get("label")
            uid = sample["uid"]
        except (KeyError, TypeError, AttributeError):
            raise malformed(str(path), row, "is no sample with a uid and tags") from None
        answers: dict[str, object] = {"new_label": label}
        for question, allowed in QUESTIONS.items():
            said = [tag for tag in allowed if tag in tags]
            if len(said) > 1:
                raise malformed(str(path), row, f"has the tags {' and '.join(said)}, of which one can hold")
            answers |= {question: said[0]} if said else {}
        found += entries_of(str(path), row, uid, answers)
    return found
