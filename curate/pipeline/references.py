"""Reference sets: vectors of samples outside the run, with which its samples are compared.

A reference is a set of vectors in `.npy` files, or a source like that of the run, which is then read and
embedded by the stages and settings of the run, in a folder of its own below `.work/references`. Either way
it ends as one `.npy` file of float32 unit rows, in an order that no file name and no row order changes; tasks
map it from the disk.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from curate.embedding.store import BATCH_ROWS
from curate.embedding.user_vectors import open_vectors
from curate.errors import CurateError, EmbeddingError, RunError, SourceError, UsageError
from curate.execution.context import Context, log
from curate.execution.parts import with_parts
from curate.io import checksums, paths, storage
from curate.io.filesystem import is_remote, resolve_options
from curate.linalg import load_unit, unit_rows
from curate.pipeline.stages import embed, embed_task, read
from curate.recipe import Cluster, Dedup, Recipe, Write
from curate.runs.folder import RunFolder, folder_of
from curate.scores.base import embedding_parts
from curate.selection.everything import All
from curate.sources.base import Shard
from curate.sources.registry import ShardReader
from curate.sources.settings import Source
from curate.sources.vector_columns import why_unusable

__all__ = ["check", "fingerprint", "vectors"]

VERSION = 1

Matrix = npt.NDArray[np.float32]


def check(recipe: Recipe, source: Source, what: str, on: str = "image") -> None:
    """Raise UsageError for a reference that is not there, or cannot become vectors like those of the run.

    what : the setting, for messages. on : see `vectors`.
    """
    with _about(what):
        if _is_npy(source):
            _npy_files(source)
        elif recipe.embed.files is not None:
            raise UsageError(f"must be .npy files where embed.files gives the vectors, got {_named(source)}")
        else:
            _check_columns(recipe, source, on)
            work = folder_of(recipe).work
            read.find_parts(_recipe(recipe, source, on, work), work / "none.json", hashed=False)


def _check_columns(recipe: Recipe, source: Source, on: str) -> None:
    """Raise UsageError for a set without the vectors that are compared, saying which and what to do."""
    column, words = recipe.embed.column, recipe.embed.text_column
    kinds = {"embed.column": column} | ({"embed.text_column": words} if on == "text" else {})
    for setting, name in kinds.items():
        if name is not None and (shard := _lacking(source, name)) is not None:
            what = "captions" if setting == "embed.text_column" else "images"
            why = ", which are compared because cluster.on is text" if what == "captions" else ""
            raise UsageError(
                f"{shard.url} has no column {name!r} ({setting}): a reference set needs vectors of {what} as the run has "
                f"them{why}; add that column, or give the vectors as a .npy file"
            )


def _lacking(source: Source, name: str) -> Shard | None:
    """Return the first shard of a set without a column of this name; one that cannot be read says so later."""
    for shard in read.find_shards(source):
        with contextlib.suppress(SourceError):
            if name not in ShardReader().schema(shard).names:
                return shard
    return None


def fingerprint(context: Context, source: Source, what: str, on: str = "image") -> str:
    """Return what changes when the vectors of a reference may be others: its files, and how they are embedded.

    what, on : see `vectors`.
    """
    with _about(what):
        return _made_from(context, source, what, on)


def _made_from(context: Context, source: Source, what: str, on: str) -> str:
    if _is_npy(source):
        files = [(file.name, file.size, file.version) for file in _npy_files(source)]
        return storage.fingerprint("reference", VERSION, files, source.limit)
    nested = _nested(context, source, what, on)
    parts, bad = read.find_parts(nested.recipe, nested.run.work / "shards.json")
    return storage.fingerprint(
        "reference", VERSION, on, [part.fingerprint for part in parts], read.vars_of(bad),
        embed_task.space_of(context.recipe.embed),
    )  # fmt: skip


@contextlib.contextmanager
def _about(what: str) -> Iterator[None]:
    """Say in errors which setting they are about."""
    try:
        yield
    except CurateError as error:
        raise type(error)(f"{what}: {error}") from error


def vectors(context: Context, source: Source, what: str, on: str = "image") -> Path:
    """Return a `.npy` file with the (m, d) float32 unit vectors of a reference, m > 0, sorted by their content.

    what : the setting, for messages. on : `image` or `text`, which vectors of a source (a `.npy` file has one
    kind). The run must hold samples. Rows that cannot be embedded are left out, up to `limits.unusable`.
    Raises EmbeddingError where no vector is left, one has not the length of the run's or no direction,
    and RunError where they need more than a third of `memory`.
    """
    folder = _folder(context, source, on)
    with _about(what):
        made = _made_from(context, source, what, on)
        path = folder / f"{made}.npy"
        if not checksums.verify_or_remove(path):
            for stale in folder.glob("*.npy"):
                storage.remove(stale)
                checksums.drop_sidecars(stale)
            rows = _given(context, source) if _is_npy(source) else _embedded(context, source, what, on)
            if len(rows) == 0:
                raise EmbeddingError(f"{_named(source)} must hold at least one usable {on}, got none")
            if _made_from(context, source, what, on) != made:
                raise SourceError(
                    f"{_named(source)}: written to or replaced while it was being read; run again"
                )
            _write(path, rows)
    return path


def _write(path: Path, rows: Matrix) -> None:
    """Write rows in the order of their hashes, block by block."""
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(row) for row in rows), np.uint64, len(rows))
    order = np.argsort(hashes, kind="stable")
    with storage.atomic(path, checksum=True) as partial:
        file = np.lib.format.open_memmap(partial, "w+", np.float32, rows.shape)
        for start in range(0, len(rows), BATCH_ROWS):
            block = order[start : start + BATCH_ROWS]
            file[start : start + len(block)] = rows[block]
        file.flush()


def _is_npy(source: Source) -> bool:
    """Whether a reference is vectors in `.npy` files; raises UsageError where only some paths are."""
    texts = [text.strip() for pattern in source.patterns for text in pattern.split("::")]
    found = [text for text in texts if text.lower().endswith(".npy")]
    if found and len(found) < len(texts):
        raise UsageError(f"must be .npy files or shards, not both, got {_named(source)}")
    return bool(found)


def _npy_files(source: Source) -> list[paths.FoundFile]:
    return paths.expand(source.patterns, source.storage_options, extensions=(".npy",))


def _named(source: Source) -> str:
    return ", ".join(source.patterns)


def _recipe(recipe: Recipe, source: Source, on: str, folder: Path) -> Recipe:
    """Return the recipe by which a reference is read and embedded.

    Uids and labels play no part. Only captions that are compared are read: an image that stands there
    with two captions is one image.
    """
    plain = Source(
        path=source.path, image=source.image, caption=source.caption if on == "text" else None, label=None,
        allow=source.allow, root=source.root, template=source.template, limit=source.limit, storage_options=source.storage_options,
    )  # fmt: skip
    cluster = Cluster.model_validate({"on": on})
    changes = {
        "run": str(folder), "source": (plain,), "cluster": cluster, "dedup": Dedup(), "filter": (),
        "write": Write(schemas="apart"),  # it is never written: its shards may differ
        "score": (), "select": All(), "weight": None,  # nothing of it is chosen: it may be small, or lack captions
    }  # fmt: skip
    words = recipe.embed.text_column
    if on == "image" and words is not None and not _is_npy(plain) and _lacking(plain, words) is not None:
        changes["embed"] = recipe.embed.model_copy(update={"text_column": None})
    return recipe.model_copy(update=changes)


def _folder(context: Context, source: Source, on: str) -> Path:
    """Return the folder of a reference; its name stands for what is asked for, not for what the files hold."""
    nested = _recipe(context.recipe, source, on, Path("reference"))
    asked = nested.embed.model_dump(mode="json", exclude={"device"})
    plain = nested.source[0]
    unset = {name for name in ("root", "template") if not getattr(plain, name)}  # settings that came later
    parts = [plain.model_dump(mode="json", exclude=unset), asked, on]
    return context.run.work / "references" / storage.fingerprint(parts)[:16]


def _nested(context: Context, source: Source, what: str, on: str) -> Context:
    """Return the context in which a reference is read and embedded; its progress is that of the scores."""
    folder = _folder(context, source, on)

    def progress(stage: str, done: int, total: int, unit: str) -> None:
        context.progress("score", done, total, f"{unit} of {what}")

    recipe = _recipe(context.recipe, source, on, folder)
    return replace(context, recipe=recipe, run=RunFolder(folder), parts=(), progress=progress, refit=False)


def _embedded(context: Context, source: Source, what: str, on: str) -> Matrix:
    """Return the vectors of a source, embedded as the run is."""
    log.info("score: reading and embedding %s for %s", _named(source), what)
    nested = _nested(context, source, what, on)
    read.Read(nested).run()
    nested = with_parts(nested)
    embed.Embed(nested).run()
    facts = nested.facts(nested.run.embeddings)
    if facts["rows"] and facts["unusable"] / facts["rows"] > context.recipe.limits.unusable:
        raise EmbeddingError(
            f"{facts['unusable']:,} of {facts['rows']:,} rows of {_named(source)} are unusable; "
            f"limits.unusable allows {context.recipe.limits.unusable:.1%} ({nested.run.samples} says why)"
        )
    parts = [part for part in embedding_parts(nested) if len(part) and (on == "image" or part.has_text)]
    present = [[part.present(on, batch) for batch in range(-(-len(part) // BATCH_ROWS))] for part in parts]
    count = sum(int(mask.sum()) for masks in present for mask in masks)
    if parts:
        _require_length(context, _named(source), parts[0].dim)
    rows = _room(context, count, parts[0].dim if parts else 1)
    start = 0
    for part, masks in zip(parts, present, strict=True):
        for batch, mask in enumerate(masks):
            block = load_unit(part.half(on, batch)[mask])
            rows[start : start + len(block)] = block
            start += len(block)
    return rows


def _given(context: Context, source: Source) -> Matrix:
    """Return the vectors of `.npy` files, scaled to length 1."""
    found, left, dim = [], source.limit, 1
    for file in _npy_files(source):
        options = resolve_options(source.storage_options) if is_remote(file.url) else {}
        given = open_vectors([file.url], options)
        _require_length(context, file.url, given.dim)
        count = given.count() if left is None else min(left, given.count())
        left = None if left is None else left - count
        dim = given.dim
        found.append((file.url, given, count))
    rows = _room(context, sum(count for _, _, count in found), dim)
    first = 0
    for url, given, count in found:
        for start in range(0, count, BATCH_ROWS):
            block = given.read(start, min(start + BATCH_ROWS, count))
            unit, valid = unit_rows(block)
            if not valid.all():
                row = int(np.flatnonzero(~valid)[0])
                why = why_unusable(block[row : row + 1])[0] or "the vector has no usable length"
                raise EmbeddingError(f"{url}: every row must have a direction; row {start + row}: {why}")
            rows[first : first + len(unit)] = unit
            first += len(unit)
    return rows


def _require_length(context: Context, where: str, dim: int) -> None:
    """Raise EmbeddingError unless vectors are as long as those of the run."""
    expected = embedding_parts(context)[0].dim
    if dim != expected:
        raise EmbeddingError(f"{where}: vectors must have {expected} numbers, as those of the run, got {dim}")


def _room(context: Context, count: int, dim: int) -> Matrix:
    """Return an empty matrix; raises RunError if it needs more than a third of `memory`."""
    fits = context.recipe.memory // 3 // (4 * dim)
    if count > fits:
        raise RunError(
            f"{count:,} vectors of {dim} numbers need {count * dim * 4 / 1e9:.1f} GB; a third of memory "
            f"{context.recipe.memory / 1e9:g}GB fits {fits:,}: raise memory, or set limit"
        )
    return np.empty((count, dim), np.float32)
