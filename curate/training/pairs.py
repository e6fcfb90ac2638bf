"""The pairs that a filter is trained on: who they are, their vectors, and how their pictures are read.

They are the rows of a run: one that is there, or one that is made of a source below the folder of the filter, by the stages
of every run up to `embed`. Rows stand in the order of their uids, so that no shard and no place in one decides anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

from curate.embedding.store import EmbeddingPart
from curate.errors import RunError, UsageError
from curate.execution.context import Context, Part, Progress, eligible, log, usable
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.filtering.conditions import Rule, columns_of, find_rules
from curate.filtering.source_columns import SourceColumns
from curate.hashing import hash_uids
from curate.io import storage
from curate.linalg import load_unit
from curate.pipeline import runner
from curate.pipeline.row_needs import columns_lack, rows_lack
from curate.pipeline.stages import filter as filter_stage
from curate.pipeline.stages import read
from curate.pipeline.stages.condition_values import types_of_source
from curate.process import cpu_count
from curate.recipe import Recipe, ScoreFilter
from curate.recipe.dedup import Dedup
from curate.recipe.loading import load_recipe
from curate.runs.folder import RunFolder
from curate.runs.run import open_run
from curate.scores.base import embedding_parts, require_memory
from curate.scores.pair.formula import OWN_TEMPERATURE
from curate.scores.registry import folders_for, score_columns
from curate.selection.everything import All
from curate.training.apart import require_apart
from curate.training.filter_recipe import FilterRecipe, TrainingSet

__all__ = ["LEAST", "Pairs", "read_pairs", "temperature_of"]

#: Fewer rows than this teach nothing.
LEAST = 16
#: What a source must have for a kind of filter.
_NEEDS = {"adapter": ("text",), "head": ("label",), "full": ("image", "caption")}

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """The n rows of a training set, sorted by uid.

    context : the run that they are of. place : (n,) where each stands among the embeddings of the run. image, text : (n, d)
    float32 unit rows (text is zero without a caption).
    """

    context: Context
    place: npt.NDArray[np.int64]
    uids: list[str]
    image: Floats
    text: Floats
    captions: list[str | None]
    labels: list[str | None]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def space(self) -> dict[str, Any]:
        """What embedded the vectors."""
        return dict(self.context.facts(self.context.run.embeddings).get("space") or {})

    @property
    def class_names(self) -> dict[str, str]:
        """What their labels are called, where the source says so."""
        names = self.context.run.class_names()
        return {label: names[label] for label in sorted({one for one in self.labels if one in names})}

    @property
    def fingerprint(self) -> str:
        """What changes when the rows or their vectors are others."""
        state = xxhash.xxh3_128()
        for rows in (self.image, self.text):
            state.update(np.ascontiguousarray(rows).data)
        return storage.fingerprint("pairs", 1, self.uids, self.captions, self.labels, state.hexdigest())

    def held_out(self, share: float, seed: int, member: int) -> Flags:
        """Return which rows validate: the `share` with the least hashes; none of fewer than ten of them."""
        hashes = hash_uids(self.uids, seed, "validation", member)
        n = int(share * len(self))
        held = np.zeros(len(self), np.bool_)
        if n >= 10:
            held[np.argsort(hashes, kind="stable")[:n]] = True
        return held


def read_pairs(recipe: FilterRecipe, progress: Progress) -> Pairs:
    """Return the training set of a recipe. Raises UsageError where it is not to be had, or too small."""
    context = _of_source(recipe, progress) if recipe.set.run is None else _of_run(recipe, progress)
    parts = embedding_parts(context)
    rows = sum(map(len, parts))
    require_memory(context, "train-filter", rows, 8 * (parts[0].dim if parts else 1) + 400)
    frames, conditions = [], _conditions(context, recipe.set)
    for part in context.parts:
        frame = usable(context.run, part.name).select("uid", "caption", "label", "source", "image_hash")
        frames.append(
            frame.with_columns(
                wanted=pl.Series(_wanted(context, recipe.set, conditions, part), dtype=pl.Boolean)
            )
        )
    frame = pl.concat(frames).with_row_index("place")
    there = np.concatenate([_captioned(part) for part in parts])
    needs = frame["label"].is_not_null() if recipe.kind == "head" else pl.Series(there)
    chosen = _drawn(frame.filter(pl.Series(frame["wanted"]) & needs), recipe)
    if len(chosen) < LEAST:
        what = "labels" if recipe.kind == "head" else "captions"
        raise UsageError(
            f"set: at least {LEAST} rows with {what} are needed to train on, got {len(chosen)} of {rows:,}"
        )
    if recipe.set.run is not None:
        require_apart(recipe, chosen["uid"].to_list(), chosen["image_hash"].to_list())
    place = chosen["place"].to_numpy().astype(np.int64)
    log.info("train-filter: %s of %s rows to train on", f"{len(chosen):,}", f"{rows:,}")
    return Pairs(
        context, place, chosen["uid"].to_list(), _vectors(parts, "image", place), _vectors(parts, "text", place),
        chosen["caption"].to_list(), chosen["label"].to_list(), chosen["source"].to_list(),
    )  # fmt: skip


def temperature_of(pairs: Pairs) -> float:
    """Return what similarities are divided by in the model that embedded the pairs; 0.01 for vectors of the user's own."""
    embed = pairs.context.recipe.embed
    if embed.own_vectors:
        return OWN_TEMPERATURE
    from curate.embedding import clip

    return clip.load(embed.model, embed.pretrained, device="cpu", precision="float32").temperature


def _of_source(recipe: FilterRecipe, progress: Progress) -> Context:
    """Embed the source in a run of its own, and return it."""
    folder = Path(recipe.out) / ".work" / "set"
    own = recipe.run_of(recipe.set.source, folder)
    runner.run(own, until="read", force=True, progress=progress)
    found = _opened(own, RunFolder(folder), progress)  # before anything is embedded
    _require(recipe, rows_lack(own, found.parts, lambda part: read.keys_path(found, part)))
    require_apart(recipe, *_identities(found))
    runner.run(own, until="embed", progress=progress)
    return _opened(own, RunFolder(folder), progress)


def _of_run(recipe: FilterRecipe, progress: Progress) -> Context:
    """Return the run of the set, with the conditions of the set in place of its own."""
    folder = open_run(str(recipe.set.run)).folder
    made = load_recipe(folder.recipe, settings={"run": folder.where})
    asked = made.model_copy(
        update={
            "filter": recipe.set.filter,
            "select": All(),
            "dedup": Dedup(),
            "pin": (),
            "exclude": (),
            "only": (),
        }
    )
    filter_stage.check_recipe(asked)
    families = folders_for(
        asked, [name for name in columns_of(recipe.set.filter) if name in score_columns(asked)]
    )
    needs = [
        folder.embeddings,
        *([folder.concepts] if recipe.set.filter else []),
        *map(folder.scores, families),
    ]
    needs += [folder.decisions] if recipe.set.kept else []
    for one in needs:
        if folder.marker(one) is None:
            raise RunError(
                f"set.run {folder.where}: {one.name} is not there yet; first: curate run {folder.recipe}"
            )
    context = _opened(asked.model_copy(update={"memory": recipe.memory}), folder, progress)
    _require(recipe, columns_lack(made, context.parts))
    return context


def _require(recipe: FilterRecipe, lack: Mapping[str, str]) -> None:
    """Raise UsageError where a set lacks what its kind of filter is trained on."""
    for what in _NEEDS[recipe.kind]:
        if what in lack:
            raise UsageError(f"set: a filter of kind {recipe.kind} cannot be trained: {lack[what]}")


def _identities(context: Context) -> tuple[list[str], list[str | None]]:
    """Return the uids of all rows that were read, and the hashes of their images."""
    tables = [
        storage.read_table(read.keys_path(context, part), ["uid", "image_hash"]) for part in context.parts
    ]
    frame = pl.concat([pl.DataFrame(table) for table in tables])
    return frame["uid"].to_list(), frame["image_hash"].to_list()


def _opened(recipe: Recipe, folder: RunFolder, progress: Progress) -> Context:
    return with_parts(Context(recipe, folder, LocalEngine(cpu_count()), progress=progress))


def _conditions(context: Context, settings: TrainingSet) -> tuple[str | Rule, ...]:
    """Return the conditions of the set, those on a score with what they mean for all rows of the run."""
    rules = iter(find_rules(context, [one for one in settings.filter if isinstance(one, ScoreFilter)]))
    return tuple(one if isinstance(one, str) else next(rules) for one in settings.filter)


def _wanted(context: Context, settings: TrainingSet, conditions: tuple[str | Rule, ...], part: Part) -> Flags:
    """Return which usable rows of a part meet the conditions of the set."""
    rows = usable(context.run, part.name)
    wanted = np.ones(len(rows), np.bool_)
    if settings.kept:
        table = storage.read_table(context.run.part(context.run.decisions, part.name), ["uid", "keep"])
        kept = set(pl.DataFrame(table).filter("keep")["uid"].to_list())
        wanted &= np.array([uid in kept for uid in rows["uid"].to_list()], np.bool_)
    if not conditions or not len(rows):
        return wanted
    frame = eligible(context.run, part.name, folders_for(context.recipe, columns_of(settings.filter)))
    types = types_of_source(context.recipe, context.parts)
    source = SourceColumns(part.shard, types, min(64_000_000, context.task_memory // 4)) if types else None
    blocks = [frame] if source is None else source.beside(frame)
    reasons = pl.concat([filter_stage.failed_condition(block, conditions, {}) for block in blocks])
    return np.asarray(wanted & reasons.is_null().to_numpy())


def _drawn(frame: pl.DataFrame, recipe: FilterRecipe) -> pl.DataFrame:
    """Return the rows of a set sorted by uid, or those drawn of them by hashes of their uids."""
    frame = frame.unique("uid", keep="first", maintain_order=True).sort("uid")
    share, count = recipe.set.sample, recipe.set.count
    if share is None and count is None:
        return frame
    n = count if count is not None else round((share or 0) * len(frame))
    if n > len(frame):
        raise UsageError(f"set.count must be at most the {len(frame):,} rows that the set has, got {n:,}")
    order = np.argsort(hash_uids(frame["uid"].to_list(), recipe.seed, "training set"), kind="stable")[:n]
    return frame[np.sort(order)]


def _captioned(part: EmbeddingPart) -> Flags:
    if not part.has_text:
        return np.zeros(len(part), np.bool_)
    return np.concatenate(
        [np.empty(0, np.bool_), *(part.present("text", batch) for batch in range(part.batches))]
    )


def _vectors(parts: Sequence[EmbeddingPart], column: str, place: npt.NDArray[np.int64]) -> Floats:
    """Return the unit vectors of some rows; zero where there is none."""
    out = np.zeros((len(place), parts[0].dim), np.float32)
    first = 0
    for part in parts:
        here = (place >= first) & (place < first + len(part))
        if here.any() and (column == "image" or part.has_text):
            half = part.take(column, place[here] - first)
            there = (
                np.ones(len(half), np.bool_) if column == "image" else _captioned(part)[place[here] - first]
            )
            unit = np.zeros(half.shape, np.float32)
            unit[there] = load_unit(half[there])
            out[here] = unit
        first += len(part)
    return out
