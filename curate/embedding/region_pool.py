"""Embed what is in boxes: each picture is decoded once, and what is made of its boxes goes to the model one by one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from curate.embedding.batching import Unembedded, embed_rows
from curate.embedding.clip import Clip
from curate.embedding.decode import Decoded
from curate.embedding.decode_pool import DecodePool
from curate.embedding.regions import inside, pack

__all__ = ["Boxed", "RegionPool", "Regions", "embed_regions"]

T = TypeVar("T")

#: Crops that one batch for the decoders may give, so that their pixels fit into memory whatever pictures have.
_BATCH_CROPS = 64
_BATCH_BYTES = 16_000_000

Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Boxed:
    """A picture with boxes, (n, 4) x0 y0 x1 y1 in pixels as it is shown. tag : comes back with what was made of it."""

    tag: object
    image: bytes | None
    boxes: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Regions:
    """What became of a picture with boxes.

    outcome : a key of `schema.OUTCOMES`, of the picture. boxes : (n, 4), cut off at its edges. there : (n,) which boxes
    have a vector, as far as each has one of its own. vectors : (m, d) of crops, one for each box that is there; of a
    filled picture one.
    """

    tag: object
    outcome: str
    boxes: npt.NDArray[np.float64]
    there: npt.NDArray[np.bool_]
    vectors: Half


class RegionPool(DecodePool):
    """A pool that gives what is made of each picture as rows of their own; made with `altered` crops or filled."""

    def map(self, batches: Iterable[tuple[T, Sequence[bytes | None]]]) -> Iterator[tuple[T, list[Decoded]]]:
        """Yield (batch, decoded rows) for each (batch, encoded images): a row for each crop; one where there is none."""
        for batch, decoded in super().map(batches):
            flat = [one for row in decoded for one in _each(row)]
            given = cast(Unembedded, batch)._replace(captions=[None] * len(flat))
            yield cast(T, given), flat


def _each(row: Decoded) -> list[Decoded]:
    if row.array is None:
        return [row]
    return [row._replace(array=one) for one in row.array]


def embed_regions(
    pictures: Iterable[Boxed], clip: Clip, pool: RegionPool, margin: float
) -> Iterator[Regions]:
    """Yield what became of each picture, in order.

    margin : what is around each box, as a share of its width and height.
    """
    for found in embed_rows(_batches(pictures, margin), clip, pool):
        start = 0
        for tag, boxes in found.tag:
            ok = found.outcome[start] in ("ok", "bad_vector") and found.width[start] is not None
            cut, there = boxes, np.zeros(len(boxes), np.bool_)
            if ok:
                cut, there = inside(boxes, found.width[start] or 1, found.height[start] or 1)
            n = 1 if not ok or pool.altered != "crops" else max(1, int(there.sum()))
            stop = start + n
            good = found.has_image[start:stop]
            if ok and pool.altered == "crops" and there.any():
                there[np.flatnonzero(there)[~good]] = False
            outcome = "ok" if ok and pool.altered == "crops" else found.outcome[start]
            yield Regions(tag, outcome, cut, there, found.image[start:stop][good])
            start = stop


def _batches(pictures: Iterable[Boxed], margin: float) -> Iterator[Unembedded]:
    """Yield pictures in batches of few crops and few bytes, one picture at least."""
    held: list[Boxed] = []
    crops = size = 0
    for one in pictures:
        more = len(one.image or b"")
        if held and (crops + len(one.boxes) > _BATCH_CROPS or size + more > _BATCH_BYTES):
            yield _batch(held, margin)
            held, crops, size = [], 0, 0
        held.append(one)
        crops, size = crops + max(1, len(one.boxes)), size + more
    if held:
        yield _batch(held, margin)


def _batch(held: list[Boxed], margin: float) -> Unembedded:
    packed = [None if one.image is None else pack(one.image, one.boxes, margin) for one in held]
    return Unembedded([(one.tag, one.boxes) for one in held], packed, [])
