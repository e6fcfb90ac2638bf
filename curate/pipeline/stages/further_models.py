"""Vectors of further CLIP models, beside those that concepts are made of: for scores of pairs.

A model embeds once what it is needed for: the usable samples that are pairs. Its vectors lie in `1_embeddings_more`, in a
folder named by the model and by what decides the numbers, so that scores share them and a new name of a score costs
nothing. Parts are those of `1_embeddings`, row by row; where a sample is no pair, or the model gives no vector, there
is no vector of a caption and zeros stand for the image. The model of the run itself embeds nothing again.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.embedding.store import EmbeddingPart, Vectors, write_part
from curate.errors import ModelError, RunError
from curate.execution.context import Context, Part, log
from curate.execution.engines.base import Place
from curate.execution.stage import Stage
from curate.io import storage
from curate.pipeline.stages import read_task
from curate.pipeline.stages.embed import GROUP_ROWS, unembedded
from curate.pipeline.stages.embed_model import model_of, open_model
from curate.pipeline.stages.embed_task import space_of
from curate.recipe import Embed, Recipe, Source
from curate.runs.folder import RunFolder, folder_of
from curate.runs.layout import MORE_EMBEDDINGS
from curate.schema import PASSING

if TYPE_CHECKING:
    from curate.embedding.batching import Embedded, Unembedded
    from curate.embedding.clip import Clip
    from curate.embedding.decode_pool import DecodePool

__all__ = ["check", "embedded", "space_of"]


@dataclass(frozen=True)
class ModelFolder(RunFolder):
    """A run folder in which the vectors are those of a further model. vectors : where they are."""

    vectors: Path

    @cached_property
    def embeddings(self) -> Path:
        """Unit vectors of the usable samples by the further model."""
        return self.vectors


@dataclass(frozen=True)
class FurtherTask:
    """One part to embed once more. embeddings, samples : of the run, which say which rows there are."""

    part: Part
    source: Source
    embeddings: Path
    samples: Path
    batch_bytes: int
    out: Path
    fingerprint: str


def _place(run: RunFolder, embed: Embed) -> Path:
    """Return the folder of the vectors of a model."""
    stem = PurePosixPath(embed.model).name if ":" in embed.model else embed.model
    name = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-") or "model"
    return run.path / MORE_EMBEDDINGS / f"{name}-{storage.fingerprint(space_of(embed))[:12]}"


def _is_own(recipe: Recipe, embed: Embed) -> bool:
    """Whether vectors of a model are those of the run."""
    return not recipe.embed.own_vectors and space_of(embed) == space_of(recipe.embed)


def check(recipe: Recipe, embed: Embed, what: str) -> None:
    """Raise ModelError where a model cannot be had: found before anything is embedded, and only where it embeds at all.

    what : the score, for messages.
    """
    run = folder_of(recipe)
    if _is_own(recipe, embed) or run.marker(_place(run, embed)) is not None:
        return
    try:
        _load_once(embed.model, embed.pretrained)
    except ModelError as error:
        raise ModelError(f"{what}: {error}") from error


@functools.cache
def _load_once(model: str, pretrained: str | None) -> None:
    """Load a model to see that it can be had."""
    from curate.embedding import clip

    clip.load(model, pretrained, device="cpu", precision="float32")


def embedded(context: Context, embed: Embed, what: str) -> Context:
    """Return the run as it is with the vectors of another model, embedded where they are not there yet.

    what : the score, for progress.
    """
    recipe = context.recipe.model_copy(update={"embed": embed})
    if _is_own(context.recipe, embed):
        return replace(context, recipe=recipe)
    run = ModelFolder(context.run.path, _place(context.run, embed))
    nested = replace(context, recipe=recipe, run=run)
    EmbedFurther(nested, context.run, what).run()
    return nested


class EmbedFurther(Stage):
    """Gives vectors of a further model to all parts that have none yet."""

    name = "score"
    hashed_as = "embed further"

    def __init__(self, context: Context, own: RunFolder, what: str) -> None:
        super().__init__(context)
        self._own, self._what = own, what

    @property
    def marked(self) -> tuple[Path, ...]:
        """The folder of the vectors."""
        return (self.run_folder.embeddings,)

    def inputs(self) -> list[object]:
        """Return what the vectors depend on: the model, and which rows there are."""
        return [space_of(self.recipe.embed), self._own.fingerprint(self._own.embeddings)]

    def tasks(self) -> list[FurtherTask]:
        """Return what giving vectors to each part takes."""
        own, space = self._own, space_of(self.recipe.embed)
        found = []
        for part in self.parts:
            vectors = own.part(own.embeddings, part.name)
            made_of = storage.fingerprint(
                self.hashed_as, self.version, space, part.fingerprint, storage.stored_fingerprint(vectors)
            )
            source = next(one for one in self.recipe.source if one.name == part.shard.source)
            found.append(
                FurtherTask(
                    part, source, vectors, own.part(own.samples, part.name),
                    min(64_000_000, self.context.task_memory // 4),
                    self.run_folder.part(self.run_folder.embeddings, part.name), made_of,
                )
            )  # fmt: skip
        return found

    def make(self, tasks: Sequence[FurtherTask]) -> tuple[()]:
        """Run the model over parts: in one stream here, or in groups where holders of a cluster are."""
        total, done = sum(task.part.rows for task in tasks), 0
        unit = f"images of {self._what}"
        self.context.progress(self.name, 0, total, unit)
        log.info("score: embedding %s rows with %s for %s", f"{total:,}", self.recipe.embed.model, self._what)
        for rows in self._stream(tasks) if tasks else ():
            done += rows
            self.context.progress(self.name, done, total, unit)
        return ()

    def _stream(self, tasks: Sequence[FurtherTask]) -> Iterator[int]:
        model = model_of(self.context)
        if not self.context.engine.remote:
            with open_model(model, Place()) as held:
                yield from _embed_parts(tasks, *held)
            return
        groups: list[list[FurtherTask]] = [[]]
        for task in tasks:
            if sum(one.part.rows for one in groups[-1]) >= GROUP_ROWS:
                groups.append([])
            groups[-1].append(task)
        yield from self.context.engine.hold(partial(open_model, model), _embed_group, groups)

    def finish(self, results: Sequence[object]) -> dict[str, object]:
        """Return the space of the vectors."""
        return {"space": space_of(self.recipe.embed)}


def _embed_group(held: tuple["Clip", "DecodePool"], tasks: Sequence[FurtherTask]) -> int:
    waiting = [task for task in tasks if storage.stored_fingerprint(task.out) != task.fingerprint]
    return sum(_embed_parts(waiting, *held)) + sum(task.part.rows for task in tasks if task not in waiting)


def _embed_parts(tasks: Sequence[FurtherTask], clip: "Clip", pool: "DecodePool") -> Iterator[int]:
    """Write parts from one stream, so that the model never waits between them; yield rows as they are done."""
    from curate.embedding.batching import embed_rows

    results = embed_rows(_batches(tasks), clip, pool)
    for task in tasks:
        uids, there = EmbeddingPart(task.embeddings).uids(), _usable(task)
        pieces: list[Vectors] = []
        row = done = 0
        while row < task.part.rows:
            result = next(results)
            wanted = np.flatnonzero(there[row : row + len(result.outcome)])
            pieces.append(_taken(result, wanted, uids[done : done + len(wanted)]))
            row, done = row + len(result.outcome), done + len(wanted)
            yield len(result.outcome)
        if done != len(uids):
            raise RunError(f"{task.embeddings}: {len(uids):,} vectors for {done:,} usable rows; run again")
        write_part(task.out, pieces, clip.dim, task.fingerprint, text=True)


def _taken(result: "Embedded", wanted: npt.NDArray[np.int64], uids: list[str]) -> Vectors:
    """Return the vectors of some rows of a batch; zeros where there is none."""
    for outcome, reason in zip(result.outcome, result.reason, strict=True):
        if outcome in PASSING:
            raise RunError(f"score: an image could not be decoded: {reason}; run again")
    pair = (result.has_image & result.has_text)[wanted]
    image, text = result.image[wanted], result.text[wanted]
    image[~pair], text[~pair] = 0, 0
    return Vectors(uids, image, text, pair)


def _batches(tasks: Sequence[FurtherTask]) -> Iterator["Unembedded"]:
    """Yield the rows of all parts in small batches; images only of those that are pairs."""
    for task in tasks:
        there, start = _usable(task), 0
        part = replace(task.part, vectors=())
        for rows, _ in read_task.read_batches(part, task.source, batch_bytes=task.batch_bytes, images=True):
            pair = [
                bool(here) and bool((words or "").strip())
                for here, words in zip(there[start : start + len(rows)], rows.caption, strict=True)
            ]
            images = [image if one else None for image, one in zip(rows.image, pair, strict=True)]
            yield from unembedded(replace(rows, image=images), pair)
            start += len(rows)


def _usable(task: FurtherTask) -> npt.NDArray[np.bool_]:
    """Return which rows of a part have a vector in the run: usable ones, copies once."""
    table: Any = storage.read_table(task.samples, ["outcome", "copy_of"])
    ok = np.array(table["outcome"].to_pylist(), object) == "ok"
    return np.asarray(ok & table["copy_of"].is_null().to_numpy(), np.bool_)
