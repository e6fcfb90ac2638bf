"""Concept retrieval: a subset of a run for each of some names, found by text, and how right it is where there are labels."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.analysis.retrieval.ground import THRESHOLD, Answer, ground_of, relevant
from curate.analysis.search import text_model
from curate.analysis.summary.tables import part_names, require, table
from curate.errors import UsageError
from curate.retrieval.precision import cut_for
from curate.retrieval.words import plain_name
from curate.runs.folder import RunFolder
from curate.runs.run import open_run

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Asked", "Retrieved", "read_names", "retrieve"]

#: Relevances below are not looked at for a wanted precision.
_FLOOR = 0.05


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be found: names, and where to cut: a relevance, a number for each name, or a precision.

    compete : whether an image is of one name rather than of another, or each name is judged by itself.
    """

    names: tuple[str, ...]
    threshold: float | None = None
    top: int | None = None
    precision: float | None = None
    compete: bool = True

    def __post_init__(self) -> None:
        if not self.names:
            raise UsageError("retrieve needs at least one name")
        seen: dict[str, str] = {}
        for name in self.names:
            if not name.strip():
                raise UsageError("retrieve takes names that are not empty")
            first = seen.setdefault(plain_name(name) or name, name)
            if first is not name:
                raise UsageError(f"retrieve takes each name once, got {first!r} and {name!r}")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UsageError(f"--threshold must be in (0, 1], got {self.threshold:g}")
        if self.precision is not None and not 0 < self.precision < 1:
            raise UsageError(f"--precision must be in (0, 1), got {self.precision:g}")
        if self.top is not None and self.top < 1:
            raise UsageError(f"--top must be at least 1, got {self.top}")
        if self.threshold is not None and self.precision is not None:
            raise UsageError("retrieve takes one of --threshold and --precision")


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What was found.

    rows : uid, concept (the name), relevance, cosine, rank (from 1, in its concept). concepts : one row per name: found,
    fits, by, best_cosine, estimated_precision, why_empty, and beside labels: labelled, right, precision, recall.
    threshold : the least relevance taken.
    """

    rows: "pl.DataFrame"
    concepts: "pl.DataFrame"
    threshold: float
    facts: dict[str, Any]


def read_names(path: str | Path) -> tuple[str, ...]:
    """Return the names in a file, one a line; empty lines, and those that begin with #, are none.

    Raises UsageError for a file without names, or that cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8; write one name a line") from None
    names = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    if not names:
        raise UsageError(f"{path} has no names; write one a line")
    return names


def retrieve(run: str | Path, asked: Asked) -> Retrieved:
    """Return which images of a run are of each name.

    Raises UsageError for what cannot be asked, RunError for a run without vectors, ModelError.
    """
    import polars as pl

    folder = open_run(run).folder
    require(folder, folder.embeddings)
    ground = ground_of(folder, text_model(folder))
    least = THRESHOLD if asked.threshold is None else asked.threshold
    floor = least if asked.precision is None else _FLOOR
    answers = relevant(ground, asked.names, threshold=floor, top=asked.top, compete=asked.compete)
    if asked.precision is not None:
        found = np.concatenate([answer.rows["relevance"].to_numpy() for answer in answers])
        cut = cut_for(found, asked.precision)
        least = 1.0 if cut is None else cut
        answers = [_cut(answer, least, cut is None) for answer in answers]
    rows = [
        answer.rows.select("uid", pl.lit(answer.name).alias("concept"), "relevance", "cosine").with_row_index(
            "rank", 1
        )
        for answer in answers
    ]
    every = pl.concat(rows).select("uid", "concept", "relevance", "cosine", pl.col("rank").cast(pl.Int64))
    concepts = _concepts(answers).hstack(_truth(folder, answers))
    curve = ground.curve
    facts = {
        "decided_by": "captions" if ground.captions_decide else "model", "own_texts": curve.own, "other_texts": curve.foreign,
        "auc": None if np.isnan(curve.auc) else curve.auc, "names": len(asked.names), "found": len(every),
    }  # fmt: skip
    return Retrieved(every, concepts, least, facts)


def _cut(answer: Answer, least: float, none: bool) -> Answer:
    import polars as pl

    rows = answer.rows.clear() if none else answer.rows.filter(pl.col("relevance") >= least)
    return dataclasses.replace(answer, rows=rows)


def _concepts(answers: Sequence[Answer]) -> "pl.DataFrame":
    import polars as pl

    found = [
        {
            "concept": answer.name, "found": len(answer.rows), "fits": round(answer.fits, 6), "decided_by": answer.by,
            "best_cosine": answer.best, "estimated_precision": answer.rows["relevance"].mean(),
            "why_empty": None if len(answer.rows) else answer.why_empty(),
        }
        for answer in answers
    ]  # fmt: skip
    kinds = {
        "concept": pl.String, "found": pl.Int64, "fits": pl.Float64, "decided_by": pl.String, "best_cosine": pl.Float64,
        "estimated_precision": pl.Float64, "why_empty": pl.String,
    }  # fmt: skip
    return pl.DataFrame(found, schema=kinds)


def _truth(folder: RunFolder, answers: Sequence[Answer]) -> "pl.DataFrame":
    """Return what the labels say of each name: labelled, right, precision, recall; null for a name that is no label."""
    import polars as pl

    classes = folder.class_names()
    wanted = {plain_name(answer.name): number for number, answer in enumerate(answers)}
    found = [set(answer.rows["uid"].to_list()) for answer in answers]
    labelled, right = [0] * len(answers), [0] * len(answers)
    for part in part_names(folder, folder.embeddings):
        rows = table(folder, folder.samples, part, ["uid", "label", "outcome", "copy_of"])
        rows = rows.filter(
            (pl.col("outcome") == "ok") & pl.col("copy_of").is_null() & pl.col("label").is_not_null()
        )
        for uid, label in rows.select("uid", "label").iter_rows():
            number = wanted.get(plain_name(classes.get(label, label)))
            if number is not None:
                labelled[number] += 1
                right[number] += uid in found[number]
    told = [
        {
            "labelled": total or None, "right": hits if total else None,
            "precision": hits / len(uids) if total and uids else None, "recall": hits / total if total else None,
        }
        for total, hits, uids in zip(labelled, right, found, strict=True)
    ]  # fmt: skip
    kinds = {"labelled": pl.Int64, "right": pl.Int64, "precision": pl.Float64, "recall": pl.Float64}
    return pl.DataFrame(told, schema=kinds)
