"""Thumbnails of a few rows, from the source shards: decoded in guarded processes, as the stage `embed` does.

What cannot be shown (a source that is gone or has changed, an address, a broken file) has no thumbnail; it never
stops a report. Addresses are not fetched: a report asks nothing of a network that reading the shards does not.
"""

import base64
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt

from curate.embedding.decode import Decoded, Preprocess
from curate.embedding.decode_pool import DecodePool
from curate.embedding.regions import crop_box, pack
from curate.errors import CurateError
from curate.execution.context import Context, Part, log
from curate.sources import references, registry
from curate.sources.base import Columns, Shard
from curate.sources.rows import rows_of

__all__ = ["SIDE", "Place", "encoded", "packed", "side_of", "thumbnails"]

#: Longest side of a picture in pixels, by how many there are at most; all have to fit onto one page.
SIDES = {600: 224, 1_000: 160, 1_600: 128}
SIDE = 96
#: Reading stops after this time; what is left has no thumbnail.
MAX_SECONDS = 300.0
#: Above this many pictures they are compressed more.
MANY = 1_600
_QUALITY, _QUALITY_OF_MANY = 72, 52
_BATCH_BYTES = 16_000_000
Box = tuple[float, float, float, float]
_CANNOT_READ = (CurateError, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class Place:
    """Where a sample is: its part (by index) and its row in the shard."""

    part: int
    row: int


def side_of(count: int) -> int:
    """Return the longest side that so many pictures have.

    >>> side_of(10), side_of(10_000)
    (224, 96)
    """
    return next((side for most, side in SIDES.items() if count <= most), SIDE)


def thumbnails(
    context: Context, wanted: Mapping[str, Place], boxes: Mapping[str, Box] | None = None, side: int = SIDE
) -> dict[str, str]:
    """Return a data: URI by uid, for those samples of `wanted` that have an image which can be had.

    side : the longest side of each. boxes : what is shown of each, x0 y0 x1 y1 in pixels; the whole picture where None.
    """
    wanted = {uid: place for uid, place in wanted.items() if context.parts[place.part].columns.image}
    if not wanted:
        return {}
    quality = _QUALITY if len(wanted) <= MANY else _QUALITY_OF_MANY
    whole = Preprocess((side, side), resize_mode="longest", fill=255)
    found: dict[str, str] = {}
    pool = DecodePool(
        whole, workers=max(1, context.engine.here), max_pixels=context.recipe.embed.max_pixels,
        memory_limit_bytes=context.recipe.embed.decode_memory, in_flight_bytes=context.image_memory,
        altered=None if boxes is None else "crops",
    )  # fmt: skip
    batches = encoded(context, wanted)
    with pool:
        for uids, decoded in pool.map(batches if boxes is None else _boxed(batches, boxes)):
            for uid, one in zip(uids, decoded, strict=True):
                if boxes is not None and one.array is not None:
                    one = _crop(one, boxes[uid])
                if (uri := _uri(one, quality, side)) is not None:
                    found[uid] = uri
    return found


def _boxed(
    batches: Iterator[tuple[list[str], list[bytes | None]]], boxes: Mapping[str, Box]
) -> Iterator[tuple[list[str], list[bytes | None]]]:
    """Yield batches of pictures, each with its box."""
    for uids, images in batches:
        yield (
            uids,
            [
                None if image is None else pack(image, np.array([boxes[uid]], np.float64))
                for uid, image in zip(uids, images, strict=True)
            ],
        )


def _crop(one: Decoded, box: Box) -> Decoded:
    """Return the one crop of a picture, with the size that it had in it."""
    x0, y0, x1, y1 = crop_box(np.array(box, np.float64), 0.0, one.width or 1, one.height or 1)
    return one._replace(array=None if one.array is None else one.array[0], width=x1 - x0, height=y1 - y0)


def encoded(context: Context, wanted: Mapping[str, Place]) -> Iterator[tuple[list[str], list[bytes | None]]]:
    """Yield names of samples with their encoded images as the source has them, shard after shard; None where there is none."""
    wanted = {name: place for name, place in wanted.items() if context.parts[place.part].columns.image}
    started, done = time.monotonic(), 0
    by_part: dict[int, list[tuple[int, str]]] = {}
    for uid, place in wanted.items():
        by_part.setdefault(place.part, []).append((place.row, uid))
    for index in sorted(by_part):
        places = sorted(by_part[index])
        if time.monotonic() - started > MAX_SECONDS:
            left = len(wanted) - done
            log.warning("report: %s of %s thumbnails are left out, reading took too long", left, len(wanted))
            return
        uids = [uid for _, uid in places]
        for images in _images(context.parts[index], np.array([row for row, _ in places], np.int64)):
            yield uids[: len(images)], images
            uids = uids[len(images) :]
        done += len(places)


def _images(part: Part, rows: npt.NDArray[np.int64]) -> Iterator[list[bytes | None]]:
    """Yield the encoded images of rows of a part's shard, some at a time; None where one cannot be had."""
    done = 0
    try:
        registry.check_unchanged(part.shard)
        for images in _read(part.shard, part.columns, rows):
            done += len(images)
            yield images
    except _CANNOT_READ as error:
        log.debug("report: %s: %s", part.shard.url, error)
        # One row that cannot be read must not hide the others; what has changed is not the sample any more.
        for row in rows[done:]:
            yield _one(part, row)


def _one(part: Part, row: int) -> list[bytes | None]:
    try:
        registry.check_unchanged(part.shard)
        return [
            image for images in _read(part.shard, part.columns, np.array([row], np.int64)) for image in images
        ]
    except _CANNOT_READ:
        return [None]


def _read(shard: Shard, columns: Columns, rows: npt.NDArray[np.int64]) -> Iterator[list[bytes | None]]:
    reader = registry.format_of(shard.format).reader(columns, False)
    only = Columns(image=columns.image)
    for table in reader.read_rows(shard, rows, batch_bytes=_BATCH_BYTES):
        named = rows_of(table.select([columns.image]), only, shard, 0)
        images: list[bytes | None] = []
        size = 0
        for image, ref, outcome in zip(named.image, named.image_ref, named.outcome, strict=True):
            if image is None and ref and outcome == "ok":
                image, _, _ = references.follow(ref, shard.url, shard.storage_options, access=shard.access)
            images.append(image)
            size += len(image or b"")
            if size > _BATCH_BYTES:
                yield images
                images, size = [], 0
        if images:
            yield images


def _uri(one: Decoded, quality: int, side: int) -> str | None:
    """Return a decoded picture as a data: URI."""
    data = packed(one, side, quality)
    return None if data is None else f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def packed(one: Decoded, side: int, quality: int) -> bytes | None:
    """Return a picture that was decoded into a square of `side` as WebP: without the padding, and never larger than it was.

    None where it could not be decoded.
    """
    if one.array is None or not one.width or not one.height:
        return None
    from PIL import Image

    scale = side / max(one.width, one.height)
    width, height = (max(1, round(length * scale)) for length in (one.width, one.height))
    top, left = (side - height) // 2, (side - width) // 2
    image = Image.fromarray(one.array[top : top + height, left : left + width])
    if scale > 1:
        image = image.resize((one.width, one.height), Image.Resampling.BOX)
    data = BytesIO()
    image.save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()
