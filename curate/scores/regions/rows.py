"""The boxes of the rows of a part, read from a column of the source, and the pictures of the rows that have some."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate.embedding.region_pool import Boxed
from curate.errors import RunError, SourceError, UsageError
from curate.execution.context import Context, Part, usable
from curate.io import storage
from curate.schema import PASSING
from curate.scores.base import Sources
from curate.scores.regions.boxes import CATEGORY, Layout, ManyBoxes, boxes_of
from curate.sources.base import Shard
from curate.sources.columns import declared_features
from curate.sources.registry import ShardReader, check_unchanged
from curate.sources.text import coco

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = ["boxes_in", "check", "part_fingerprint", "pictures", "refuse_passing", "worked_on"]

_BATCH_BYTES = 16_000_000
#: Names under which the annotations of a file in the form of COCO are asked for.
_COCO_COLUMNS = ("objects", "annotations")


def check(recipe: "Recipe", column: str, setting: str, sources: Sources) -> None:
    """Raise UsageError, before any work, where no model embeds pictures, or a source has no column of boxes."""
    if recipe.embed.own_vectors:
        raise UsageError(
            f"score: {setting} embeds parts of pictures with the model of the run, and embed takes vectors as given; set "
            "embed.model in place of embed.column or embed.files"
        )
    for source in recipe.source:
        if source.image is None:
            raise UsageError(f"score: {setting} needs pictures, and source.image is null ({source.name})")
        for shard in sources.find_shards(source)[:1]:
            with suppress(SourceError):
                if _place(shard, column) is None:
                    have = ", ".join(ShardReader().schema(shard).names)
                    raise UsageError(
                        f"score: {setting}: {shard.url} has no column {column!r}; there are {have}"
                    )


def _place(shard: Shard, column: str) -> tuple[str, Sequence[str]] | None:
    """Return the column of a shard, and the path of a field within its JSON, for a name; None where it has none."""
    names = ShardReader().schema(shard).names
    if column in names:
        return column, ()
    if "json" in names:  # the member of a tar's samples
        return "json", column.removeprefix("json.").split(".")
    if shard.format == "json" and column in _COCO_COLUMNS and coco.is_coco(shard):
        return "", ()
    return None


def boxes_in(part: Part, column: str, layout: Layout) -> Iterator[ManyBoxes | None]:
    """Yield the boxes of each row of a part, in order; None where a row, or the shard, says nothing.

    Raises SourceError where the shard is not what it was.
    """
    shard, since = part.shard, check_unchanged(part.shard)
    place = _place(shard, column)
    if place is None:
        yield from (None for _ in range(part.rows))
        return
    name, path = place
    if not name:
        yield from (boxes_of(one, layout) for one in coco.objects(shard, part.start, part.stop))
    else:
        rows, names = np.arange(part.start, part.stop, dtype=np.int64), _names(shard, name)
        for table in ShardReader().read_rows(shard, rows, batch_bytes=_BATCH_BYTES, columns=[name]):
            cells = table.column(name).to_pylist()
            yield from (_called(boxes_of(_within(cell, path), layout), names) for cell in cells)
    check_unchanged(shard, since)


def _names(shard: Shard, column: str) -> list[str]:
    """Return the names of the classes of boxes, by code, where the column declares them (ClassLabel of Hugging Face)."""

    def inside(feature: object) -> list[str]:
        if isinstance(feature, Mapping):
            if feature.get("_type") == "ClassLabel":
                return [str(one) for one in feature.get("names") or ()]
            asked = [feature[name] for name in CATEGORY if name in feature] or [feature.get("feature")]
            return next((names for one in asked if (names := inside(one))), [])
        return inside(feature[0]) if isinstance(feature, list) and feature else []

    return inside(declared_features(ShardReader().schema(shard).metadata).get(column))


def _called(found: ManyBoxes | None, names: Sequence[str]) -> ManyBoxes | None:
    """Return boxes with the names of classes that stand there as codes."""
    if found is None or not names:
        return found
    known = {str(code): name for code, name in enumerate(names)}
    return replace(found, category=[known.get(one, one) for one in found.category])


def _within(cell: object, path: Sequence[str]) -> object:
    """Return a field within a cell that is JSON."""
    if not path:
        return cell
    with suppress(ValueError, TypeError, RecursionError):
        found = json.loads(cell) if isinstance(cell, bytes | str) else cell
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found
    return None


def part_fingerprint(context: Context, part: Part, output_fingerprint: Sequence[object]) -> str:
    """Return what the regions of a part are made from: its vectors' samples, and settings; not what other parts hold."""
    embedded = storage.stored_fingerprint(context.run.part(context.run.embeddings, part.name))
    return storage.fingerprint("regions", embedded, part.fingerprint, *output_fingerprint)


def pictures(
    context: Context,
    part: Part,
    wanted: Mapping[int, npt.NDArray[np.float64]],
    setting: str,
    sources: Sources,
) -> Iterator[Boxed]:
    """Yield the pictures of some samples of a part with their boxes; tag : the position of the sample.

    wanted : boxes, (n, 4), by position among the samples with vectors.
    """
    if not wanted:
        return
    positions = np.array(sorted(wanted), np.int64)
    rows = usable(context.run, part.name)["row"].to_numpy()[positions].astype(np.int64)
    order = np.argsort(rows, kind="stable")
    source = next(one for one in context.recipe.source if one.name == part.shard.source)
    place = dict(zip(rows[order].tolist(), positions[order].tolist(), strict=True))
    since = check_unchanged(part.shard)
    images = sources.row_images(
        part, source, rows[order], f"score: {setting}", f"leave {setting} out of score"
    )
    for some, encoded in images.encoded():
        for row, image in zip(some, encoded, strict=True):
            yield Boxed(place[row], image, wanted[place[row]])
    check_unchanged(part.shard, since)


def worked_on(context: Context, todo: Sequence[Part]) -> Iterator[tuple[Part, Callable[[int, int], None]]]:
    """Yield parts, each with what reports how many of its pictures are done; progress is told in rows of all parts."""
    total, before = sum(part.rows for part in todo), 0
    for part in todo:
        start = before

        def report(done: int, of: int, part: Part = part, start: int = start) -> None:
            context.progress("score", start + part.rows * done // max(1, of), total, "rows")

        report(0, 1)
        yield part, report
        before += part.rows
    context.progress("score", total, total, "rows")


def refuse_passing(outcome: str, setting: str) -> None:
    """Raise RunError for an outcome that is the machine's doing: it says nothing of the picture."""
    if outcome in PASSING:
        raise RunError(f"score: {setting}: a picture could not be decoded ({outcome}); run again")
