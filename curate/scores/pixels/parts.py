"""Over the parts of a run: how hard a sample is for small ResNets trained on the images, as in Data Diet.

Images are decoded once, into a scratch file that training maps; it and the checkpoint, from which a run that was
killed goes on, are gone when the tables are written. A sample whose image cannot be decoded (the vectors of such
a run are given) has the status `no_image`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.embedding.decode import Decoded, Preprocess
from curate.embedding.store import EmbeddingPart
from curate.errors import RunError, SourceError, UsageError
from curate.execution.context import Context, Part, log
from curate.io import checksums, storage
from curate.schema import PASSING
from curate.scores.base import Sources, embedding_parts, require_memory
from curate.scores.heads.labels import (
    Labels,
    check_labels,
    columns,
    device_of,
    label_stats,
    read_labels,
)
from curate.scores.status import NO_LABEL, status_names
from curate.scores.tables.output import Output
from curate.sources.addresses import url_access
from curate.sources.base import Columns
from curate.sources.registry import format_of
from curate.sources.settings import Source

if TYPE_CHECKING:
    from curate.recipe import Recipe
    from curate.scores.heads.result import HeadScores
    from curate.scores.pixels.pixels import Pixels
    from curate.scores.pixels.training import PixelSettings

__all__ = ["NO_IMAGE", "check", "compute", "decoded_images", "has_images", "pixel_settings"]

VERSION = 1
#: The status of a sample with a vector but without an image that can be decoded.
NO_IMAGE = "no_image"
#: Rows handed to the decoders at a time.
DECODE_ROWS = 64
#: As `heads`; networks vote besides.
_ROW_BYTES, _SEED_BYTES = 400, 8

Images = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


def check(recipe: "Recipe", settings: "Pixels", sources: Sources) -> None:
    """Raise UsageError where there are no labels or no images."""
    check_labels(recipe, settings)
    if not recipe.embed.own_vectors:
        return
    for source in recipe.source:
        if not has_images(recipe, source, sources):
            raise UsageError(
                "score: pixels needs images, and embed gives vectors of which no column of images is known "
                f"({source.name}): name it with source.image, or take heads"
            )


def has_images(recipe: "Recipe", source: Source, sources: Sources) -> bool:
    """Return whether the first shard of a source has a column of images; one that cannot be read is not judged."""
    if source.image is None:
        return False
    try:
        first = sources.find_shards(source)[0]
        present = format_of(first.format).reader(Columns(), url_access(source.allow)).schema(first)
    except SourceError:
        return True
    vector, ids_only = recipe.embed.column, recipe.embed.files is not None
    guess = format_of(first.format).columns
    return guess(present, image=source.image, vector=vector, ids_only=ids_only).image is not None


def compute(context: Context, settings: "Pixels", output: Output) -> dict[str, Any]:
    """Write the tables of all parts."""
    from curate.scores.pixels.training import train_pixels

    parts = embedding_parts(context)
    row_bytes = _ROW_BYTES + _SEED_BYTES * settings.seeds
    require_memory(context, "score: pixels", sum(map(len, parts)), row_bytes)
    labels = read_labels(context, settings)
    context.engine.close()  # idle workers would hold memory that training can use
    folder = context.run.work / "pixels"
    checkpoint = folder / f"checkpoint-{output.fingerprint[:16]}.pt"
    for stale in set(folder.glob("checkpoint-*")) - {checkpoint}:
        storage.remove(stale)
    rows = np.flatnonzero(labels.codes >= 0)
    images, decoded = _images(context, settings, labels, folder, output.sources)
    seen = Labels(np.where(decoded, labels.codes[rows], -1).astype(np.int32), labels.names, labels.source)
    log.info("score: pixels: %s networks on %s images", settings.seeds, f"{int(decoded.sum()):,}")
    uids = _some(parts, labels.codes >= 0)
    scores = train_pixels(images, uids, seen, pixel_settings(context, settings), checkpoint=checkpoint)
    del images
    names = status_names(scores.status)
    names[~decoded] = NO_IMAGE
    status = status_names(np.full(len(labels), NO_LABEL))
    status[rows] = names
    spread = {name: _spread(value, rows, len(labels)) for name, value in columns(scores, "pixels_").items()}
    output.write_all(spread | {"pixels_status": status})
    storage.remove(folder)
    return _stats(scores, labels, settings, status)


def _stats(
    scores: "HeadScores", labels: Labels, settings: "Pixels", status: npt.NDArray[np.object_]
) -> dict[str, Any]:
    known = label_stats(scores, labels, settings)
    names, counts = np.unique(status.astype(str), return_counts=True)
    known["status"] = {str(name): int(n) for name, n in zip(names, counts, strict=True)}
    lost = known["status"].get(NO_IMAGE, 0)
    if lost:
        known["warnings"].append(
            f"{lost:,} samples have a vector but no image that can be decoded, and no score"
        )
    return known


def _spread(values: npt.NDArray[Any], rows: npt.NDArray[np.int64], n: int) -> npt.NDArray[Any]:
    """Return the values of some rows as a column over all: NaN, None or 0 elsewhere."""
    rest = {"f": np.nan, "O": None}.get(values.dtype.kind, 0)
    full = np.full(n, rest, values.dtype)
    full[rows] = values
    return full


def pixel_settings(context: Context, settings: "Pixels") -> "PixelSettings":
    """Return the settings of `train_pixels`; what the engine and the memory allow does not matter to it."""
    from curate.scores.pixels.training import PixelSettings

    return PixelSettings(
        width=settings.width,
        blocks=settings.blocks,
        n_seeds=settings.seeds,
        epochs=settings.epochs,
        cross_fit=settings.folds,
        score_epochs=settings.score_epochs,
        batch=settings.batch,
        rate=settings.rate,
        momentum=settings.momentum,
        decay=settings.decay,
        augment=settings.augment,
        grand=settings.grand,
        min_class=settings.min_class,
        seed=context.recipe.seed,
        first_seed=settings.first_seed,
        device=device_of(settings.device, "pixels.device"),
    )


def _some(parts: Sequence[EmbeddingPart], wanted: Flags) -> Iterator[str]:
    start = 0
    for part in parts:
        for uid, chosen in zip(part.uids(), wanted[start : start + len(part)], strict=True):
            if chosen:
                yield uid
        start += len(part)


# --- one decoding pass ------------------------------------------------------------------------------


def _images(
    context: Context, settings: "Pixels", labels: Labels, folder: Path, sources: Sources
) -> tuple[Images, Flags]:
    """Return the images of the samples with a label, mapped from a file, and which could be decoded."""
    size, n = settings.size, int((labels.codes >= 0).sum())
    if n == 0:
        return np.empty((0, size, size, 3), np.uint8), np.empty(0, np.bool_)
    path, note = folder / "images.npy", folder / "images.json"
    fingerprint = storage.fingerprint(
        "pixels", VERSION, size, *context.recipe.embed.decode_limits, context.run.fingerprint(context.run.samples),
        labels.source,
    )  # fmt: skip
    made = storage.read_json(note) or {}
    if made.get("stamp") != fingerprint or not checksums.verify_or_remove(path):
        storage.remove(note)
        made = {"stamp": fingerprint, "lost": _decode(context, settings, labels, path, n, sources)}
        storage.write_record(note, made)
    decoded = np.ones(n, np.bool_)
    decoded[made["lost"]] = False
    return np.load(storage.ensure_local(path), mmap_mode="r", allow_pickle=False), decoded


def _decode(
    context: Context, settings: "Pixels", labels: Labels, path: Path, n: int, sources: Sources
) -> list[int]:
    """Write the images one after the other; return the places of those that could not be decoded (black)."""
    size = settings.size
    lost: list[int] = []
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, size, size, 3)}
    with storage.atomic(path, checksum=True) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for place, row in enumerate(decoded_images(context, labels.codes >= 0, size, sources)):
            if row.outcome in PASSING:
                raise RunError(f"score pixels: image {place:,} of {n:,}: {row.reason}; run again")
            if row.array is None:
                lost.append(place)
            file.write(bytes(3 * size * size) if row.array is None else row.array.tobytes())
    return lost


def decoded_images(
    context: Context, wanted: Flags, size: int | Preprocess, sources: Sources, *, stage: str = "score"
) -> Iterator[Decoded]:
    """Yield the images of some samples of a run, decoded and brought to `size` x `size`, in the order of the embeddings.

    wanted : (n,), one per sample with a vector. size : or how a model brings them to its own. stage : under which
    progress is reported.
    """
    from curate.embedding.batching import default_decode_workers
    from curate.embedding.decode_pool import DecodePool

    recipe = context.recipe
    workers = default_decode_workers("cpu") if recipe.workers == "auto" else context.engine.here
    with DecodePool(
        size if isinstance(size, Preprocess) else Preprocess((size, size)), workers=workers, max_pixels=recipe.embed.max_pixels,
        memory_limit_bytes=recipe.embed.decode_memory, in_flight_bytes=context.image_memory,
    ) as pool:  # fmt: skip
        yield from _rows(pool.map(_encoded(context, wanted, sources)), context, stage, int(wanted.sum()))


def _rows(
    batches: Iterable[tuple[None, list[Decoded]]], context: Context, stage: str, n: int
) -> Iterator[Decoded]:
    done = 0
    context.progress(stage, 0, n, "images")
    for _, rows in batches:
        yield from rows
        done += len(rows)
        context.progress(stage, done, n, "images")


def _encoded(context: Context, wanted: Flags, sources: Sources) -> Iterator[tuple[None, list[bytes | None]]]:
    """Yield the encoded images of the samples that are wanted, in small batches, in the order of the embeddings."""
    first = 0
    for part in context.parts:
        usable = _usable_rows(context, part)
        here = np.zeros(len(usable), np.bool_)
        stop = first + int(usable.sum())
        here[usable] = wanted[first:stop]
        yield from _wanted(context, part, here, sources)
        first = stop


def _usable_rows(context: Context, part: Part) -> Flags:
    """Return which rows of a part have a vector: all that its embeddings hold, copies once."""
    table = storage.read_table(context.run.part(context.run.samples, part.name), ["outcome", "copy_of"])
    ok = np.array(table["outcome"].to_pylist(), object) == "ok"
    return np.asarray(ok & table["copy_of"].is_null().to_numpy(), np.bool_)


def _wanted(
    context: Context, part: Part, wanted: Flags, sources: Sources
) -> Iterator[tuple[None, list[bytes | None]]]:
    recipe, start = context.recipe, 0
    source = next(one for one in recipe.source if one.name == part.shard.source)
    batch_bytes = min(64_000_000, context.task_memory // 4)
    for rows, _ in sources.read_batches(
        replace(part, vectors=()), source, batch_bytes=batch_bytes, images=True
    ):
        places = np.flatnonzero(wanted[start : start + len(rows)])
        for begin in range(0, len(places), DECODE_ROWS):
            some = places[begin : begin + DECODE_ROWS].tolist()
            yield None, [rows.image[row] if rows.outcome[row] == "ok" else None for row in some]
        start += len(rows)
