"""What heads and pixel networks share: labels of the samples, columns of the table, statistics for the manifest.

A label is what stands in `0_samples`, or, where nothing is labelled, the concept of the sample.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.errors import UsageError
from curate.execution.context import Context, log, require_same, usable
from curate.io import storage
from curate.scores.status import CLASS_TOO_SMALL, NONFINITE, OK, SINGLE_CLASS, STATUSES, Codes

if TYPE_CHECKING:
    from curate.recipe import Recipe
    from curate.scores.heads.result import HeadScores
    from curate.scores.heads.trained import Trained

__all__ = [
    "Labels",
    "check_labels",
    "columns",
    "device_of",
    "label_inputs",
    "label_source",
    "label_stats",
    "read_labels",
]

#: Classes are listed by name in the manifest up to this many.
NAMED_CLASSES = 50
#: Below this agreement of the mean over seeds the ranking is noise to a good part; more seeds are to bring it here.
RELIABLE, WANTED = 0.8, 0.9
#: Above this Spearman correlation GraNd ranks as EL2N does.
SAME_RANKING = 0.999

_BLOCK = 65_536


class Labels(Sequence[str | int | None]):
    """The label of each sample, held as a code of four bytes; `train_heads` reads it as a list of labels.

    codes : (n,) places in `names`, -1 where there is no label. names : in no particular order.
    source : `label` (what the source says) or `cluster` (concepts in its place).
    """

    def __init__(self, codes: npt.NDArray[np.int32], names: Sequence[str | int], source: str) -> None:
        self.codes, self.names, self.source = codes, list(names), source

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, place: int) -> str | int | None: ...
    @overload
    def __getitem__(self, place: slice) -> "Labels": ...
    def __getitem__(self, place: int | slice) -> "str | int | Labels | None":
        if isinstance(place, slice):
            return self.where(place)
        code = self.codes[place]
        return None if code < 0 else self.names[code]

    def __iter__(self) -> Iterator[str | int | None]:
        named = [*self.names, None]  # -1 is the last
        for start in range(0, len(self.codes), _BLOCK):
            for code in self.codes[start : start + _BLOCK].tolist():
                yield named[code]

    def where(self, rows: slice | npt.NDArray[Any]) -> "Labels":
        """Return the labels of some rows."""
        return Labels(self.codes[rows], self.names, self.source)


# --- which labels -----------------------------------------------------------------------------------


def check_labels(recipe: "Recipe", settings: "Trained") -> None:
    """Raise UsageError where labels are asked for and every source turns them off."""
    if (
        settings.needed
        and settings.labels == "label"
        and all(source.label is None for source in recipe.source)
    ):
        raise UsageError(
            f"score: {settings.family}.labels is label, but source.label is none: name the column of labels, or "
            f"set {settings.family}.labels to concept"
        )


def label_source(context: Context, settings: "Trained") -> str:
    """Return `label` or `cluster`: what stands for a label under these settings."""
    if settings.labels == "concept" or settings.head_kind == "concepts":
        return "cluster"
    if settings.labels == "label" or settings.head_kind == "zeroshot":
        return "label"
    return "label" if _any_label(context) else "cluster"


def label_inputs(context: Context, settings: "Trained") -> list[object]:
    """Return what the labels depend on, to be fingerprinted."""
    source = label_source(context, settings)
    folder = context.run.samples if source == "label" else context.run.concepts
    return [source, context.run.fingerprint(folder)]


def _any_label(context: Context) -> bool:
    labelled = (part for part in context.parts if part.columns.label is not None)
    return any(usable(context.run, part.name)["label"].is_not_null().any() for part in labelled)


def read_labels(context: Context, settings: "Trained") -> Labels:
    """Return the label of every sample, part after part in the order of the embeddings.

    Raises UsageError where labels are asked for and no sample has one, unless they are not required.
    """
    source = label_source(context, settings)
    found = _source_labels(context) if source == "label" else _concepts(context)
    given = settings.head_kind == "concepts"
    if source == "cluster" and settings.labels == "auto" and not given and len(found):
        log.info("score: %s: no sample has a label, concepts stand in for it", settings.family)
    if source == "label" and settings.needed and len(found) and (found.codes < 0).all():
        raise UsageError(_no_label(context, settings))
    return found


def _no_label(context: Context, settings: "Trained") -> str:
    columns = sorted({part.columns.label for part in context.parts if part.columns.label is not None})
    asks = f"kind is {settings.head_kind}" if settings.head_kind == "zeroshot" else ""
    asks = asks or "labels is label"
    have = (
        f"column {', '.join(columns)} is null in every usable row" if columns else "no such column is known"
    )
    return (
        f"score: {settings.family}.{asks}, but no usable sample has a label ({have}): name the column with "
        f"source.label, or set {settings.family}.labels to concept"
        + (" and another kind" if asks.startswith("kind") else "")
    )


def _source_labels(context: Context) -> Labels:
    code: dict[str, int] = {}
    pieces = [np.empty(0, np.int32)]
    for part in context.parts:
        frame = usable(context.run, part.name)
        _require_embedded(context, part.name, frame["uid"])
        encoded = frame["label"].to_arrow().cast(pa.string()).dictionary_encode()
        place = [code.setdefault(name, len(code)) for name in encoded.dictionary.to_pylist()]
        places = np.array([*place, -1], np.int32)  # a null is the last
        pieces.append(places[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)])
    return Labels(np.concatenate(pieces), list(code), "label")


def _concepts(context: Context) -> Labels:
    pieces, highest = [np.empty(0, np.int32)], -1
    for part in context.parts:
        path = context.run.part(context.run.assignments, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["uid", "concept"]))
        _require_embedded(context, part.name, frame["uid"])
        pieces.append(frame["concept"].to_numpy().astype(np.int32))
        highest = max(highest, int(pieces[-1].max(initial=-1)))
    return Labels(np.concatenate(pieces), range(highest + 1), "cluster")


def _require_embedded(context: Context, part: str, uids: pl.Series) -> None:
    path = context.run.part(context.run.embeddings, part)
    require_same(pl.Series(EmbeddingPart(path).uids(), dtype=pl.String), uids, path)


# --- how the table looks ----------------------------------------------------------------------------


def columns(scores: "HeadScores", prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Return the columns of `trained_columns` by name, (n,) each, without uid and status; no class is None."""
    names = np.array([*map(str, scores.classes), None], object)
    floats = {f"{prefix}{name}": getattr(scores, name) for name in scores.column_names()}
    return {
        **floats,
        **scores.course,
        f"{prefix}pred_label": names[scores.pred_label],
        f"{prefix}n_obs": scores.n_obs,
    }


def device_of(device: str, setting: str) -> str:
    """Return the device to train on: the first of several; `auto` is CUDA where there is one.

    Raises ModelError naming the setting.
    """
    from curate.embedding.devices import usable_device

    return usable_device(device.split(",")[0], setting)


# --- what the manifest says -------------------------------------------------------------------------


def label_stats(
    scores: "HeadScores", labels: Labels, settings: "Trained", *, trained: bool = True
) -> dict[str, Any]:
    """Return what is known of a family beside its tables: counts, agreement of seeds, warnings.

    trained : False for heads that are given, which have no seeds to agree.
    """
    counts = np.bincount(scores.status, minlength=len(STATUSES))
    known: dict[str, Any] = {
        "scored": int(counts[OK]),
        "label_source": labels.source,
        "classes": len(scores.classes),
        "status": {name: int(n) for name, n in zip(STATUSES, counts, strict=True) if n},
        "seeds": scores.seeds,
        "accuracy": [_number(value) for value in scores.accuracy],
        "accuracy_mean": _number(scores.accuracy.mean()) if len(scores.accuracy) else None,
        "reliability": _number(scores.reliability),
        "reliability_of_mean": _number(scores.reliability_of_mean),
        "grand_el2n": _number(scores.grand_el2n),
    }
    if len(scores.classes) <= NAMED_CLASSES:
        known["class_names"] = [str(name) for name in scores.classes]
    warnings = _missing(scores.status, settings, trained=trained)
    if trained and counts[OK]:
        warnings += _agreement(scores, settings) + _redundant(scores, settings)
    return known | {"warnings": warnings}


def _number(value: float) -> float | None:
    """Return a number as JSON can say it."""
    return round(float(value), 6) if math.isfinite(value) else None


def _agreement(scores: "HeadScores", settings: "Trained") -> list[str]:
    family, n_seeds = settings.family, len(scores.seeds)
    found = []
    if n_seeds < settings.seeds:
        left = sorted({*range(settings.first_seed, settings.first_seed + settings.seeds)} - {*scores.seeds})
        found.append(f"seeds {left} left the finite numbers and are left out; try a smaller {family}.rate")
    one, mean = scores.reliability, scores.reliability_of_mean
    if math.isnan(one):
        reason = "one seed" if n_seeds == 1 else "seeds with equal scores"
        found.append(f"{reason} cannot tell how reliable el2n is; set {family}.seeds to 10")
    elif mean < RELIABLE:
        advice = f"train longer ({family}.epochs), the seeds do not agree at all"
        if one > 0:
            seeds = math.ceil(round(WANTED * (1 - one) / (one * (1 - WANTED)), 6))
            advice = f"set {family}.seeds to {seeds} for {WANTED:g}"
        found.append(
            f"el2n of {n_seeds} seeds has a reliability of {mean:.2f}, less than {RELIABLE:g}; {advice}"
        )
    return found


def _redundant(scores: "HeadScores", settings: "Trained") -> list[str]:
    if not scores.grand_el2n > SAME_RANKING:
        return []
    other = settings.head_kind == "linear"
    advice = "; kind mlp gives one of its own" if other else ""
    return [f"grand ranks as el2n does (Spearman {scores.grand_el2n:.4f}) and says nothing more{advice}"]


def _missing(status: Codes, settings: "Trained", *, trained: bool) -> list[str]:
    """Return warnings about samples without a score, whose labels are at fault."""
    counts = np.bincount(status, minlength=len(STATUSES))
    found = []
    if counts[CLASS_TOO_SMALL]:
        least = settings.min_class or max(2, settings.folds)
        found.append(
            f"{counts[CLASS_TOO_SMALL]:,} samples are in classes of fewer than {least} samples and have no score; "
            f"{settings.family}.min_class and {settings.family}.folds set that number"
        )
    if counts[SINGLE_CLASS]:
        left = "one class is left" if trained else "there is one class"
        found.append(f"{left} and nothing to tell it from: {counts[SINGLE_CLASS]:,} samples have no score")
    if counts[NONFINITE]:
        found.append(f"{counts[NONFINITE]:,} samples have no finite score")
    return found
