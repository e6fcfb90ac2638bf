"""Over the parts of a run: the score and the loss of every sample under a trained filter.

An adapter and a head work on the stored vectors, part by part. A full model reads images and captions once more and
embeds them itself, in one stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.embedding.store import EmbeddingPart
from curate.errors import RunError, UsageError
from curate.execution.context import Context, Part, require_same, usable
from curate.linalg import load_unit
from curate.runs.folder import RunFolder
from curate.schema import PASSING
from curate.scores.base import Sources, embedding_parts
from curate.scores.dfn.formula import adapted, label_losses, pair_scores
from curate.scores.dfn.stored import StoredFilter
from curate.scores.pixels.parts import NO_IMAGE, has_images
from curate.scores.status import NO_LABEL, NO_TEXT, NONFINITE, OK, STATUSES
from curate.scores.tables.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from curate.embedding.clip import Clip
    from curate.recipe import Recipe
    from curate.scores.dfn.dfn import Dfn
    from curate.scores.in_memory import Samples

__all__ = ["check", "compute", "embed_pairs", "in_memory", "under"]

#: Rows handed to the decoders at a time.
DECODE_ROWS = 64

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DfnTask:
    """One part to score under an adapter or a head."""

    run: RunFolder
    part: str
    stored: StoredFilter
    names: tuple[str, ...]
    out: Path
    fingerprint: str


def check(settings: "Dfn", recipe: "Recipe", sources: Sources) -> None:
    """Raise UsageError where there is no filter, one for another model, or one that lacks what it reads."""
    where = f"score: {settings.name}"
    stored = settings.opened()
    stored.check_model(recipe.embed, where)
    stored.check_files(where)
    for source in recipe.source:
        if stored.kind == "head" and source.label is None:
            raise UsageError(
                f"{where}: the filter is a head over labels, and source.label is null ({source.name})"
            )
        if stored.kind == "full" and not has_images(recipe, source, sources):
            raise UsageError(
                f"{where}: a filter of kind full embeds images, and {source.name} has none; take kind adapter"
            )


def compute(context: Context, settings: "Dfn", output: Output) -> dict[str, Any]:
    """Write the tables of all parts."""
    stored = settings.opened()
    stored.check_files(f"score: {settings.name}")
    parts = embedding_parts(context)
    if parts:
        space = context.facts(context.run.embeddings).get("space")
        stored.check_vectors(space, parts[0].dim, f"score: {settings.name}")
    names = tuple(settings.columns_made())
    todo = output.todo()
    if stored.kind == "full":
        for part, (columns, status) in zip(
            todo, _embedded(context, settings, stored, todo, output), strict=True
        ):
            output.write(
                part, dict(zip(names, columns, strict=True)) | {settings.status_column: status.tolist()}
            )
    else:
        tasks = [
            DfnTask(context.run, part.name, stored, names, output.path(part), output.fingerprint)
            for part in todo
        ]
        for part, (columns, status) in zip(
            todo, context.map("score", "parts", _score_part, tasks), strict=True
        ):
            output.write(
                part, dict(zip(names, columns, strict=True)) | {settings.status_column: status.tolist()}
            )
    return _noted(context, settings, stored, output)


def _noted(context: Context, settings: "Dfn", stored: StoredFilter, output: Output) -> dict[str, Any]:
    """Return how many samples have a score, and which filter it was."""
    from curate.io import storage

    first = next(iter(settings.columns_made()))
    tables = [storage.read_table(output.path(part), [first]) for part in context.parts]
    scored = sum(len(table) - table[first].null_count for table in tables)
    rows = sum(map(len, tables))
    facts: dict[str, Any] = {"scored": scored, "filter": stored.identity, "kind": stored.kind}
    if rows and not scored:
        what = "label that the filter knows" if stored.kind == "head" else "caption"
        facts["warnings"] = [f"no sample has a {what}; all scores are null"]
    return facts


def under(stored: StoredFilter, image: Floats, text: Floats) -> tuple[Floats, Floats]:
    """Return the score and the loss of pairs under an adapter or a full model.

    image, text : (n, d) unit rows, as stored (adapter) or as the model of the filter made them (full).
    """
    arrays = stored.arrays
    back_image, back_text = (load_unit(arrays[name]) for name in ("background_image", "background_text"))
    if stored.kind == "adapter":
        weights = {what: (arrays[f"{what}_weight"], arrays[f"{what}_bias"]) for what in ("image", "text")}
        pairs = adapted(image, *weights["image"]), adapted(text, *weights["text"])
        background = adapted(back_image, *weights["image"]), adapted(back_text, *weights["text"])
        return pair_scores(*pairs, *background, float(stored.facts["scale"]))
    return pair_scores(image, text, back_image, back_text, float(stored.facts["scale"]))


def _score_part(task: DfnTask) -> tuple[list[Floats], npt.NDArray[np.object_]]:
    """Return the columns of one part and the status of each row. One thread: last bits depend on their number."""
    from threadpoolctl import threadpool_limits

    part = EmbeddingPart(task.run.part(task.run.embeddings, task.part))
    labels = None
    if task.stored.kind == "head":
        samples = usable(task.run, task.part)
        require_same(samples["uid"], pl.Series(part.uids(), dtype=pl.String), task.out)
        labels = _as_trained(task.stored, samples["label"].to_list(), task.run.class_names())
    blocks = []
    start = 0
    with threadpool_limits(1, user_api="blas"):
        for batch in range(part.batches):
            image = load_unit(part.half("image", batch))
            rows = slice(start, start + len(image))
            if labels is not None:
                blocks.append(_of_labels(task.stored, image, labels[rows]))
            else:
                there = part.present("text", batch) if part.has_text else np.zeros(len(image), np.bool_)
                text = np.zeros_like(image)
                if there.any():
                    text[there] = load_unit(part.half("text", batch)[there])
                blocks.append(_of_pairs(task.stored, image, text, there))
            start = rows.stop
    columns = [
        np.concatenate([np.empty(0, np.float32), *(block[place] for block in blocks)]) for place in (0, 1)
    ]
    return columns, np.concatenate([np.empty(0, object), *(block[2] for block in blocks)])


def _of_pairs(stored: StoredFilter, image: Floats, text: Floats, there: Flags) -> tuple[Any, ...]:
    """Return score, loss and status of some rows; there : which have a caption."""
    score, loss = (np.full(len(image), np.nan, np.float32) for _ in range(2))
    if there.any():
        score[there], loss[there] = under(stored, image[there], text[there])
    return score, loss, _statuses(np.isfinite(score), there, int(NO_TEXT))


def _of_labels(stored: StoredFilter, image: Floats, labels: list[str | None]) -> tuple[Any, ...]:
    """Return score, loss and status of some rows under a head; a label that it was not trained on is none."""
    place = {name: code for code, name in enumerate(stored.facts["classes"])}
    codes = np.array([place.get(str(label), -1) if label is not None else -1 for label in labels], np.int64)
    known = codes >= 0
    score, loss = (np.full(len(image), np.nan, np.float32) for _ in range(2))
    if known.any():
        weight, bias = stored.arrays["weight"], stored.arrays["bias"]
        score[known], loss[known] = label_losses(image[known], weight, bias, codes[known])
    return score, loss, _statuses(np.isfinite(score), known, int(NO_LABEL))


def _as_trained(stored: StoredFilter, labels: list[str | None], names: Mapping[str, str]) -> list[str | None]:
    """Return labels as a head knows them. names : what the labels of the run are called; numbers mean other classes elsewhere."""
    known = stored.facts.get("class_names") or {}
    if not known or not names:
        return labels
    code = {known.get(one, one): one for one in stored.facts["classes"]}
    return [None if label is None else code.get(names.get(label, label)) for label in labels]


def _statuses(known: Flags, there: Flags, lacks: int) -> npt.NDArray[np.object_]:
    names = np.where(known, STATUSES[int(OK)], np.where(there, STATUSES[int(NONFINITE)], STATUSES[lacks]))
    return names.astype(object)


def in_memory(
    settings: "Dfn", samples: "Samples"
) -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
    """Return the columns of samples in memory, (n,) each, and the status of each row.

    Raises UsageError for a full model, which needs a run.
    """
    stored = settings.opened()
    stored.check_files(f"score: {settings.name}")
    if stored.kind == "full":
        raise UsageError(f"score: {settings.name}: a filter of kind full embeds images itself, in a run only")
    image = samples.require(settings.name, "image")
    stored.check_vectors(None, image.shape[1], f"score: {settings.name}")
    if stored.kind == "head":
        columns = _of_labels(stored, image, samples.require(settings.name, "labels"))
    else:
        columns = _of_pairs(stored, image, samples.require(settings.name, "text"), samples.has_text)
    return dict(zip(settings.columns_made(), columns[:2], strict=True)), columns[2]


# --- full models ------------------------------------------------------------------------------------------


def _embedded(
    context: Context, settings: "Dfn", stored: StoredFilter, todo: list[Part], output: Output
) -> "Iterator[tuple[list[Floats], npt.NDArray[np.object_]]]":
    """Yield the columns and statuses of each part: its images and captions are embedded by the filter."""
    from curate.embedding import clip

    if not todo:
        return
    model = clip.load(f"local-dir:{stored.path}", device=settings.device, precision="float32")
    for part in todo:
        image, text, there, decoded = embed_pairs(context, model, part, output.sources)
        score, loss = (np.full(len(image), np.nan, np.float32) for _ in range(2))
        wanted = there & decoded
        if wanted.any():
            score[wanted], loss[wanted] = under(stored, load_unit(image[wanted]), load_unit(text[wanted]))
        status = _statuses(np.isfinite(score), there, int(NO_TEXT))
        status[there & ~decoded] = NO_IMAGE
        yield [score, loss], status


def embed_pairs(
    context: Context,
    model: "Clip",
    part: Part,
    sources: Sources,
) -> tuple[Halves, Halves, Flags, Flags]:
    """Return the vectors of the usable samples of a part by a model, (n, dim) half precision each.

    Returns images, captions, which samples have a caption, and which could be decoded. Raises RunError for what the
    machine could not decode in time.
    """
    from curate.embedding.batching import Unembedded, default_decode_workers, embed_rows
    from curate.embedding.decode_pool import DecodePool

    recipe = context.recipe
    table = usable(context.run, part.name)
    wanted = set(table["row"].to_list())
    source = next(one for one in recipe.source if one.name == part.shard.source)
    batch_bytes = min(64_000_000, context.task_memory // 4)

    def batches() -> "Iterator[Unembedded]":
        plain = replace(part, vectors=())
        for rows, _ in sources.read_batches(plain, source, batch_bytes=batch_bytes, images=True):
            places = [place for place, row in enumerate(rows.row.tolist()) if row in wanted]
            for start in range(0, len(places), DECODE_ROWS):
                some = places[start : start + DECODE_ROWS]
                captions = [(rows.caption[place] or "").strip() or None for place in some]
                images = [rows.image[place] if rows.outcome[place] == "ok" else None for place in some]
                yield Unembedded(some, images, captions)

    found = []
    with DecodePool(
        model.preprocess, workers=default_decode_workers(model.device), max_pixels=recipe.embed.max_pixels,
        memory_limit_bytes=recipe.embed.decode_memory, in_flight_bytes=context.image_memory,
    ) as pool:  # fmt: skip
        done = 0
        for result in embed_rows(batches(), model, pool):
            passing = next((place for place, name in enumerate(result.outcome) if name in PASSING), None)
            if passing is not None:
                raise RunError(
                    f"score: {part.name}, image {done + passing:,}: {result.reason[passing]}; run again"
                )
            done += len(result.outcome)
            context.progress("score", done, len(table), "images")
            found.append(result)
    empty = np.empty((0, model.dim), np.float16)
    image = np.concatenate([empty, *(one.image for one in found)])
    text = np.concatenate([empty, *(one.text for one in found)])
    decoded = np.concatenate([np.empty(0, np.bool_), *(one.has_image for one in found)])
    captioned = np.array([bool((caption or "").strip()) for caption in table["caption"].to_list()], np.bool_)
    return image, text, captioned, decoded
