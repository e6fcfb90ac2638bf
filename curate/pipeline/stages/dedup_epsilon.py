"""The epsilon of `dedup.epsilon: auto`: from copies that are made of some images and embedded by the run's own model.

And that of `{precision: 0.9}`: from the distances of some rows among themselves.

What is found stands beside the duplicates (`4_duplicates/_calibrated`). Like the centroids it is kept while data grow,
so that what was compared stays so; other centroids (`--refit`, other settings), another model or recall calibrate anew.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.analysis.near_duplicates.sampled import sampled_concepts
from curate.deduplication.calibration import IMAGES, Calibration, calibrate
from curate.deduplication.precision import ROWS, PrecisionCut, cut_for_precision
from curate.deduplication.similarity import most_similar, pair_similarities
from curate.embedding.alterations import ALTERATIONS
from curate.embedding.store import EmbeddingPart
from curate.errors import UsageError
from curate.execution.context import Context, log, usable
from curate.execution.engines.base import Place
from curate.hashing import hash_uids
from curate.io import storage
from curate.linalg import load_unit
from curate.pipeline.stages.embed_model import model_of, open_clip
from curate.pipeline.stages.row_images import RowImages, altered_copies
from curate.runs.folder import RunFolder

__all__ = ["calibration_of", "precise_cut_of"]

VERSION = 1
#: Rows of a block of products with the chosen images.
_BLOCK_ROWS = 8_192

Half = npt.NDArray[np.float16]


@dataclass(frozen=True, order=True)
class _Chosen:
    """A usable sample whose image is altered: its hash and uid, its part (index), its position there, its row in the shard."""

    hash: int
    uid: str
    part: int
    position: int
    row: int


@dataclass(frozen=True)
class _NearestTask:
    """One part in which the nearest samples of the chosen ones are looked for. vectors : (m, d) of the chosen ones."""

    run: RunFolder
    part: str
    on: str
    uids: tuple[str, ...]
    concept: npt.NDArray[np.int32]
    vectors: Half


def calibration_of(context: Context) -> Calibration:
    """Return what was calibrated for the present centroids, or calibrate now."""
    path, made_from = _path(context), _made_from(context)
    known = storage.read_json(path)
    if isinstance(known, dict) and known.get("made_from") == made_from:
        return Calibration(**known["calibration"])
    found = _calibrate(context)
    storage.write_record(path, {"made_from": made_from, "calibration": asdict(found)})
    return found


def precise_cut_of(context: Context, precision: float) -> PrecisionCut:
    """Return the epsilon with a wanted precision as it was found for the present centroids, or find it now."""
    path = context.run.duplicates / "_calibrated" / "precision.json"
    made_from = storage.fingerprint(_made_from(context), "precision", VERSION, ROWS, precision)
    known = storage.read_json(path)
    if isinstance(known, dict) and known.get("made_from") == made_from:
        return PrecisionCut(**known["cut"])
    found = cut_for_precision(sampled_concepts(context, ROWS), precision)
    storage.write_record(path, {"made_from": made_from, "cut": asdict(found)})
    return found


def _path(context: Context) -> Path:
    return context.run.duplicates / "_calibrated" / "calibration.json"


def _made_from(context: Context) -> str:
    """Return what stands for all that a calibration depends on: the rows it was made from are those of the centroids."""
    recipe = context.recipe
    centroids = storage.stored_fingerprint(context.run.concepts / "centroids.parquet")
    space = context.facts(context.run.embeddings).get("space")
    return storage.fingerprint(
        "calibrate", VERSION, IMAGES, sorted(ALTERATIONS), recipe.dedup.recall, recipe.seed, space, centroids
    )


def _calibrate(context: Context) -> Calibration:
    """Embed copies of the chosen images, and compare: with the images, and those with all samples of their concepts."""
    chosen = _choose(context)
    own, concept = _of_chosen(context, chosen)
    copies = _embed_copies(context, chosen)
    there = [place for place, one in enumerate(chosen) if one.uid in copies]
    if chosen and not there:
        raise UsageError(
            f"dedup.epsilon: auto reads {len(chosen):,} images once more, and none of them can be had; give it a number"
        )
    if len(there) < len(chosen):
        log.warning(
            "dedup: %s of %s images for dedup.epsilon auto cannot be read any more",
            len(chosen) - len(there),
            len(chosen),
        )
    chosen, own, concept = [chosen[place] for place in there], own[there], concept[there]
    to_copies = np.empty((len(chosen), len(ALTERATIONS)), np.float32)
    for place, one in enumerate(chosen):
        rows = load_unit(np.concatenate([own[place : place + 1], copies[one.uid]]))
        first = np.zeros(len(rows) - 1, np.int64)
        to_copies[place] = pair_similarities(rows, first, np.arange(1, len(rows)))
    return calibrate(to_copies, _to_nearest(context, chosen, own, concept), context.recipe.dedup.recall)


def _choose(context: Context) -> list[_Chosen]:
    """Return the usable samples with the smallest hashes, in that order."""
    found: list[_Chosen] = []
    for part in context.parts:
        frame = usable(context.run, part.name)
        uids = frame["uid"].to_list()
        hashes = hash_uids(uids, context.recipe.seed, "dedup", "calibrate").tolist()
        rows = zip(hashes, uids, range(len(uids)), frame["row"].to_list(), strict=True)
        here = heapq.nsmallest(
            IMAGES, (_Chosen(code, uid, part.index, at, row) for code, uid, at, row in rows)
        )
        found = heapq.nsmallest(IMAGES, [*found, *here])
    return found


def _by_part(chosen: Iterable[_Chosen]) -> Mapping[int, list[_Chosen]]:
    """Return the chosen samples of each part, in the order of their rows."""
    found: dict[int, list[_Chosen]] = {}
    for one in sorted(chosen, key=lambda one: (one.part, one.row)):
        found.setdefault(one.part, []).append(one)
    return found


def _of_chosen(context: Context, chosen: Sequence[_Chosen]) -> tuple[Half, npt.NDArray[np.int32]]:
    """Return the stored vectors and the concepts of the chosen samples, in their order."""
    vectors: dict[str, Half] = {}
    concepts: dict[str, int] = {}
    for index, here in _by_part(chosen).items():
        name, run = context.parts[index].name, context.run
        positions = np.array([one.position for one in here], np.int64)
        half = EmbeddingPart(run.part(run.embeddings, name)).take("image", positions)
        concept = storage.read_table(run.part(run.assignments, name), ["concept"])["concept"].to_numpy()
        for one, vector, number in zip(here, half, concept[positions].tolist(), strict=True):
            vectors[one.uid], concepts[one.uid] = vector, number
    dim = len(next(iter(vectors.values()), ()))
    stacked = np.array([vectors[one.uid] for one in chosen], np.float16).reshape(len(chosen), dim)
    return stacked, np.array([concepts[one.uid] for one in chosen], np.int32)


def _embed_copies(context: Context, chosen: Sequence[_Chosen]) -> dict[str, Half]:
    """Return the vectors of the copies of each image, (copies, d) by uid; those are left out that cannot be had."""
    sources = {source.name: source for source in context.recipe.source}
    wanted: list[RowImages] = []
    uids: dict[tuple[int, int], str] = {}
    for index, here in _by_part(chosen).items():
        part = context.parts[index]
        rows = np.array([one.row for one in here], np.int64)
        wanted.append(RowImages(part, sources[part.shard.source], rows, "dedup.epsilon: auto"))
        uids |= {(index, one.row): one.uid for one in here}
    if not wanted:
        return {}
    found: dict[str, dict[str, Half]] = {}
    with open_clip(model_of(context), Place()) as clip:
        for one, copies in altered_copies(context, wanted, clip.preprocess):
            for kind, arrays in copies.items():
                vectors = (
                    clip.encode_images(np.stack(list(arrays.values()))) if arrays else np.empty((0, clip.dim))
                )
                for row, vector in zip(arrays, vectors.astype(np.float16), strict=True):
                    if np.isfinite(vector).all():
                        found.setdefault(uids[one.part.index, row], {})[kind] = vector
    return {
        uid: np.stack([kinds[kind] for kind in ALTERATIONS])
        for uid, kinds in found.items()
        if len(kinds) == len(ALTERATIONS)
    }


def _to_nearest(
    context: Context, chosen: Sequence[_Chosen], vectors: Half, concept: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Return the similarity of each chosen sample to the nearest other one of its concept; NaN where it has no other."""
    uids = tuple(one.uid for one in chosen)
    tasks = [
        _NearestTask(context.run, part.name, "image", uids, concept, vectors)
        for part in context.parts
        if chosen
    ]
    best = np.full(len(chosen), np.nan, np.float32)
    for found in context.engine.map(_nearest_in_part, tasks, parallel=context.in_processes(len(tasks))):
        best = np.fmax(best, found)
    return best


def _nearest_in_part(task: _NearestTask) -> npt.NDArray[np.float32]:
    """Return the similarity of the chosen samples to the nearest other one in a part."""
    frame = pl.DataFrame(
        storage.read_table(task.run.part(task.run.assignments, task.part), ["uid", "concept"])
    )
    stored = EmbeddingPart(task.run.part(task.run.embeddings, task.part))
    best = np.full(len(task.uids), np.nan, np.float32)
    concepts = frame["concept"].to_numpy()
    for number in np.unique(task.concept):
        asked = np.flatnonzero(task.concept == number)
        members = np.flatnonzero(concepts == number)
        names = frame["uid"].gather(members).to_numpy()
        for start in range(0, len(members), _BLOCK_ROWS):
            here = members[start : start + _BLOCK_ROWS]
            rows = load_unit(np.concatenate([task.vectors[asked], stored.take(task.on, here)]))
            ones, others = np.arange(len(asked)), np.arange(len(asked), len(rows))
            products = rows[ones] @ rows[others].T
            itself = (
                np.array([task.uids[one] for one in asked])[:, None] == names[start : start + _BLOCK_ROWS]
            )
            products[itself] = -np.inf
            best[asked] = np.fmax(best[asked], most_similar(rows, ones, others, products)[1])
    return best
