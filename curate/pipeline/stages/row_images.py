"""Images of a few rows, read once more from the source: for copies that are made of them, and for small pictures."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curate.embedding.alterations import ALTERATIONS
from curate.embedding.decode import Decoded, Preprocess
from curate.embedding.decode_pool import DecodePool
from curate.errors import CurateError, UsageError
from curate.execution.context import Context, Part
from curate.pipeline.stages.read_task import reader_of
from curate.recipe import Source
from curate.sources import registry
from curate.sources.addresses import url_access
from curate.sources.base import Columns
from curate.sources.rows import rows_of, with_images

__all__ = ["RowImages", "altered_copies", "decoded"]

_BATCH_BYTES = 16_000_000

#: Pixels of images, (height, width, 3) uint8, by the row of each.
Arrays = Mapping[int, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class RowImages:
    """Rows of one part (positions in its shard, ascending) whose images are wanted, for what setting, and what else to do."""

    part: Part
    source: Source
    rows: npt.NDArray[np.int64]
    setting: str
    otherwise: str = "give dedup.epsilon a number, and dedup.confirm none"

    def encoded(self) -> Iterator[tuple[list[int], list[bytes | None]]]:
        """Yield rows with their encoded images, some at a time; None where a path or address gives none any more.

        Raises UsageError where the shard cannot be read, or is not what it was.
        """
        shard, columns = self.part.shard, Columns(image=self.part.columns.image)
        table_of, in_table, _ = shard.url.partition("/./")  # paths in a lake table begin at the table
        if columns.image is None:
            raise UsageError(
                f"{self.setting} looks at images, and {shard.url} has none (source.image); {self.otherwise}"
            )
        try:
            registry.check_unchanged(shard)
            reader, allow = reader_of(self.source, shard, self.part.columns), url_access(self.source.allow)
            done = 0
            for table in reader.read_rows(
                shard, self.rows, batch_bytes=_BATCH_BYTES, columns=[columns.image]
            ):
                named = rows_of(table, columns, shard, 0, allow_url=allow)
                pieces = with_images(
                    named, shard, columns, images=True, batch_bytes=_BATCH_BYTES, allow_url=allow,
                    below=f"{table_of}/shard" if in_table else None,
                )  # fmt: skip
                for piece in pieces:
                    images = [
                        image if said == "ok" else None
                        for image, said in zip(piece.image, piece.outcome, strict=True)
                    ]
                    yield self.rows[done : done + len(images)].tolist(), images
                    done += len(images)
        except (OSError, CurateError) as error:
            raise UsageError(
                f"{self.setting} reads images once more, which fails ({error}); put the source back, or "
                f"{self.otherwise}"
            ) from error


def decoded(
    context: Context, wanted: Sequence[RowImages], preprocess: Preprocess
) -> Iterator[tuple[RowImages, Arrays]]:
    """Yield for each of `wanted` the pixels of its rows, by row; a row is left out where its image cannot be had.

    Decoding runs in processes of its own, as for the stage `embed`, with the same limits.
    """
    with _pool(context, preprocess, None) as pool:
        for one in wanted:
            found: dict[int, npt.NDArray[np.uint8]] = {}
            for rows, images in pool.map(one.encoded()):
                found |= _arrays(rows, images)
            yield one, found


def altered_copies(
    context: Context, wanted: Sequence[RowImages], preprocess: Preprocess
) -> Iterator[tuple[RowImages, Mapping[str, Arrays]]]:
    """Yield for each of `wanted` the pixels of copies of its rows, by kind of copy and row; each image is read once."""
    with contextlib.ExitStack() as stack:
        pools = {kind: stack.enter_context(_pool(context, preprocess, kind)) for kind in ALTERATIONS}
        for one in wanted:
            found: dict[str, dict[int, npt.NDArray[np.uint8]]] = {kind: {} for kind in pools}
            for batch in one.encoded():
                for kind, pool in pools.items():
                    for rows, images in pool.map([batch]):
                        found[kind] |= _arrays(rows, images)
            yield one, found


def _pool(context: Context, preprocess: Preprocess, altered: str | None) -> DecodePool:
    embed = context.recipe.embed
    return DecodePool(
        preprocess, workers=max(1, context.engine.here), max_pixels=embed.max_pixels, altered=altered,
        memory_limit_bytes=embed.decode_memory, in_flight_bytes=context.image_memory,
    )  # fmt: skip


def _arrays(rows: Sequence[int], images: Sequence[Decoded]) -> Arrays:
    return {row: image.array for row, image in zip(rows, images, strict=True) if image.array is not None}
