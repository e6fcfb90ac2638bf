"""Family `noise`: how probable it is that a label is wrong, from the losses of another family.

The mixture is fitted to all losses, the linear detector to a sample of the embeddings that hangs on the uids
alone, in uid order; then every part is looked at by itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from threadpoolctl import threadpool_limits

from curate.embedding.store import EmbeddingPart
from curate.errors import UsageError
from curate.execution.context import Context, log, require_same
from curate.hashing import hash_uids
from curate.io import storage
from curate.linalg import load_unit
from curate.recipe import Noise, Recipe
from curate.scores.base import FamilyStage, Output, embedding_parts, require_memory, table
from curate.scores.columns import columns_of
from curate.scores.noise import LinearDetector, fit_linear, small_loss_noise
from curate.scores.registry import folders_for, require_score
from curate.scores.reliability import hash_sample
from curate.scores.status import OK, UNIMODAL, status_names

__all__ = ["FIT_CELLS", "FIT_ROWS", "STAGE"]

#: The linear detector is fitted to at most so many rows, and so many numbers (an eighth of a gigabyte in float64).
FIT_ROWS, FIT_CELLS = 100_000, 1 << 24
#: Measured with n = 1,000,000 (216): the mixture works on copies of the losses.
_ROW_BYTES = 230

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LinearTask:
    """One part to look at with the linear detector."""

    embeddings: Path
    detector: LinearDetector


@dataclass(frozen=True)
class Losses:
    """The losses of all samples, NaN where there is none, and why: names, null only if there is no reason."""

    value: npt.NDArray[np.float32]
    status: npt.NDArray[np.object_]
    hashes: npt.NDArray[np.uint64]


def _table(settings: Noise) -> pa.Schema:
    names = [name for name in columns_of("noise") if settings.linear or name != "noise_linear"]
    return table(dict.fromkeys(names, pa.float32()), "noise_status")


def _check(recipe: Recipe, settings: Noise) -> None:
    found = require_score(recipe, settings.loss, "score: noise.loss")
    if found.higher_is != "harder" or not found.folder:
        what = "a distance" if not found.folder else f"{found.higher_is} where it is higher"
        raise UsageError(
            f"score: noise.loss must be a column of losses, higher where harder; {settings.loss!r} is {what}"
        )


def _inputs(context: Context, settings: Noise) -> list[object]:
    return [context.run.fingerprint(context.run.scores(_folder(context, settings)))]


def _folder(context: Context, settings: Noise) -> str:
    (folder,) = folders_for(context.recipe, [settings.loss])
    return folder


def _compute(context: Context, settings: Noise, output: Output) -> dict[str, Any]:
    require_memory(context, "score: noise", sum(map(len, embedding_parts(context))), _ROW_BYTES)
    losses = _read(context, settings)
    small, codes = small_loss_noise(losses.value)
    linear = _linear(context, small, losses) if settings.linear else np.full(len(small), np.nan)
    both = np.where(np.isfinite(linear), (small + linear) / 2, small)
    finite = np.isfinite(losses.value)
    status = np.where(finite | (losses.status == "ok"), status_names(codes), losses.status)
    given = {"noise_small_loss": small, "noise_prob": both, "noise_status": status}
    output.write_all(given | ({"noise_linear": linear} if settings.linear else {}))
    warnings = []
    if (codes == UNIMODAL).any():
        margins = {"loss": "neg_aum", "pixels_loss": "pixels_neg_aum"}.get(settings.loss)
        advice = f"; margins often are where losses are not: try noise.loss: {margins}" if margins else ""
        warnings.append(
            f"the {finite.sum():,} values of {settings.loss} are not two groups (or fewer than 50): nothing tells "
            f"wrong labels from hard ones, and there is no noise score{advice}"
        )
    elif settings.linear and len(small) and not np.isfinite(linear).any() and (codes == OK).any():
        warnings.append(
            "the linear detector has one class only to learn from; noise_prob is noise_small_loss"
        )
    return {"scored": int((codes == OK).sum()), "loss": settings.loss, "warnings": warnings}


def _read(context: Context, settings: Noise) -> Losses:
    """Return the losses of all parts, and one number per uid."""
    folder = context.run.scores(_folder(context, settings))
    column = require_score(context.recipe, settings.loss, "score: noise.loss")
    values, statuses = [np.empty(0, np.float32)], [np.empty(0, object)]
    hashes = [np.empty(0, np.uint64)]
    for part in context.parts:
        path = context.run.part(folder, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["uid", settings.loss, column.status]))
        uids = EmbeddingPart(context.run.part(context.run.embeddings, part.name)).uids()
        require_same(pl.Series(uids, dtype=pl.String), frame["uid"], path)
        values.append(frame[settings.loss].cast(pl.Float32).fill_null(np.nan).to_numpy())
        statuses.append(_shared(frame[column.status]))
        hashes.append(hash_uids(uids, context.recipe.seed, "noise"))
    return Losses(np.concatenate(values), np.concatenate(statuses), np.concatenate(hashes))


def _shared(column: pl.Series) -> npt.NDArray[np.object_]:
    """Return strings of which equal ones are one object: eight bytes a row."""
    encoded = column.to_arrow().cast(pa.string()).dictionary_encode()
    names = np.array([*encoded.dictionary.to_pylist(), "nonfinite"], object)
    shared: npt.NDArray[np.object_] = names[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return shared


def _linear(context: Context, small: Floats, losses: Losses) -> Floats:
    """Return the posterior of the linear detector, NaN where the first has none or there is no detector."""
    known = np.flatnonzero(np.isfinite(small))
    linear = np.full(len(small), np.nan)
    if not len(known):
        return linear
    parts = embedding_parts(context)
    limit = min(FIT_ROWS, FIT_CELLS // parts[0].dim)
    chosen = np.sort(known[hash_sample(losses.hashes[known], limit)])
    with threadpool_limits(1):  # last bits of its products depend on the threads
        detector = fit_linear(*_sample(parts, chosen, small))
    if detector is None:
        return linear
    log.info("score: noise: linear detector fitted to %s samples", f"{len(chosen):,}")
    files = [context.run.part(context.run.embeddings, part.name) for part in context.parts]
    found = context.map("score", "parts", _posterior, [LinearTask(file, detector) for file in files])
    linear[known] = np.concatenate(found)[known]
    return linear


def _sample(
    parts: list[EmbeddingPart], chosen: npt.NDArray[np.int64], small: Floats
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Return vectors and noise of the samples at `chosen` (ascending), in the order of their uids."""
    uids: list[str] = []
    vectors = np.empty((len(chosen), parts[0].dim), np.float32)
    start = 0
    for part in parts:
        stop = start + len(part)
        here = slice(*np.searchsorted(chosen, [start, stop]))
        places = chosen[here] - start
        vectors[here] = load_unit(part.take("image", places))
        uids += np.array(part.uids(), object)[places].tolist()
        start = stop
    order = sorted(range(len(uids)), key=uids.__getitem__)
    return vectors[order], small[chosen[order]]


def _posterior(task: LinearTask) -> Floats:
    part = EmbeddingPart(task.embeddings)
    posterior = np.empty(len(part))
    for start, block in part.blocks("image"):
        posterior[start : start + len(block)] = task.detector.posterior(block)
    return posterior


STAGE = FamilyStage(table=_table, compute=_compute, inputs=_inputs, check=_check)
