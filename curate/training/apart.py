"""Evaluation sets that the training set must share nothing with: lists of uids, runs, sources."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from curate.errors import UsageError
from curate.execution.context import Context
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.filtering.uid_lists import read_uids
from curate.io import paths, storage
from curate.pipeline import runner
from curate.pipeline.stages import read
from curate.recipe import Source
from curate.runs.folder import RunFolder
from curate.runs.run import open_run
from curate.training.filter_recipe import FilterRecipe

__all__ = ["require_apart"]

#: The endings of a list of uids.
ENDINGS = (".txt", ".parquet", ".csv", ".jsonl", ".npy")
_EXAMPLES = 3


def require_apart(recipe: FilterRecipe, uids: Sequence[str], image_hash: Sequence[str | None]) -> None:
    """Raise UsageError where rows of the training set are in an evaluation set: by uid, or with the same image.

    uids, image_hash : (n,), of the training set. Images are compared with those of runs and sources; a list has uids alone.
    """
    known, pictures = set(uids), {one for one in image_hash if one is not None}
    for number, one in enumerate(recipe.against):
        name = one if isinstance(one, str) else ", ".join(one.patterns)
        shared: dict[str, None] = {}
        for block, images in _rows_of(recipe, one, number):
            shared |= {
                uid: None
                for uid, image in zip(block, images, strict=True)
                if uid in known or (image is not None and image in pictures)
            }
        if shared:
            some = ", ".join(sorted(shared)[:_EXAMPLES])
            raise UsageError(
                f"set and against must share no row: {len(shared):,} of {name} are in the training set ({some}); take them "
                "out of it, or the filter has seen what it is judged by"
            )


def _rows_of(
    recipe: FilterRecipe, one: str | Source, number: int
) -> Iterable[tuple[list[str], Sequence[str | None]]]:
    """Yield uids and image hashes of an evaluation set, block by block."""
    if isinstance(one, Source):
        yield from _read(recipe, one, number)
        return
    if Path(one).is_dir():
        folder = open_run(one).folder
        for path in sorted(storage.ensure_all_local(folder.samples, "part-*.parquet")):
            frame = pl.DataFrame(storage.read_table(path, ["uid", "image_hash"]))
            yield frame["uid"].to_list(), frame["image_hash"].to_list()
        return
    found = paths.expand([one], {}, extensions=ENDINGS)
    for file in found:
        if not file.url.lower().endswith(ENDINGS):
            raise UsageError(f"against: {file.url} must be a run folder or end in {', '.join(ENDINGS)}")
        for block in read_uids(Path(file.url)):
            yield block, [None] * len(block)


def _read(recipe: FilterRecipe, source: Source, number: int) -> Iterable[tuple[list[str], list[str | None]]]:
    """Read a source as a run does, in a folder of its own; nothing of it is embedded."""
    folder = Path(recipe.out) / ".work" / f"against-{number}"
    own = recipe.run_of([source], folder)
    runner.run(own, until="read", force=True)
    context = with_parts(Context(own, RunFolder(folder), LocalEngine(1)))
    for part in context.parts:
        frame = pl.DataFrame(storage.read_table(read.keys_path(context, part), ["uid", "image_hash"]))
        yield frame["uid"].to_list(), frame["image_hash"].to_list()
