"""Boxes in pictures: cut out with what is around them, or filled with the colour around them.

Decode workers import this file. A picture travels to them as bytes with its boxes before it (`pack`).
"""

import struct
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["REGIONS", "crop_box", "crops", "fill_boxes", "filled", "inside", "pack", "unpack"]

Boxes = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

#: The ring around a box whose colour fills it: this share of the shorter side of the box, at least one pixel.
RING = 0.1
_HEAD = struct.Struct("<dI")


def pack(data: bytes, boxes: Boxes, margin: float = 0.0) -> bytes:
    """Return encoded bytes of a picture with its boxes, (n, 4) x0 y0 x1 y1, before them."""
    return _HEAD.pack(margin, len(boxes)) + np.ascontiguousarray(boxes, np.float64).tobytes() + data


def unpack(packed: bytes) -> tuple[bytes, Boxes, float]:
    """Return what was packed: the picture, its boxes, the margin.

    >>> unpack(pack(b"PNG", np.array([[0.0, 1.0, 2.0, 3.0]]), 0.1))
    (b'PNG', array([[0., 1., 2., 3.]]), 0.1)
    """
    margin, n = _HEAD.unpack_from(packed)
    start = _HEAD.size + 32 * n
    boxes = np.frombuffer(packed, np.float64, 4 * n, _HEAD.size).reshape(n, 4)
    return packed[start:], boxes, margin


def inside(boxes: Boxes, width: int, height: int) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Return boxes cut off at the edges of a picture, and which of them have an area there; (n, 4) and (n,).

    boxes : (n, 4) x0 y0 x1 y1 in pixels, x to the right and y down. One that is not finite, or has no area, or lies
    outside the picture, is none.

    >>> inside(np.array([[-2.0, 0, 3, 2], [5, 1, 5, 9], [9, 9, 12, 12]]), 8, 8)[1]
    array([ True, False, False])
    """
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    safe = np.where(finite[:, None], boxes, 0.0)
    cut = np.clip(safe, 0.0, np.array([width, height, width, height], np.float64))
    there = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    return cut, finite & there


def crop_box(
    box: npt.NDArray[np.float64], margin: float, width: int, height: int
) -> tuple[int, int, int, int]:
    """Return the pixels of a box with a margin on every side (a share of its own width and height), within the picture.

    Pixels that a box touches are in it.

    >>> crop_box(np.array([10.0, 10, 30, 20]), 0.1, 31, 100)
    (8, 9, 31, 21)
    """
    dx, dy = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    return (
        max(0, int(np.floor(box[0] - dx))),
        max(0, int(np.floor(box[1] - dy))),
        min(width, int(np.ceil(box[2] + dx))),
        min(height, int(np.ceil(box[3] + dy))),
    )


def crops(image: Image.Image, boxes: Boxes, margin: float) -> list[Image.Image]:
    """Return the part of a picture in each box that has an area in it, with a margin around it."""
    cut, there = inside(boxes, *image.size)
    return [image.crop(crop_box(box, margin, *image.size)) for box in cut[there]]


def filled(image: Image.Image, boxes: Boxes, margin: float) -> list[Image.Image]:
    """Return a picture with its boxes filled; boxes are made larger by a margin first."""
    cut, there = inside(boxes, *image.size)
    whole = [crop_box(box, margin, *image.size) for box in cut[there]]
    return [Image.fromarray(fill_boxes(np.asarray(image), whole))]


def fill_boxes(pixels: Pixels, boxes: list[tuple[int, int, int, int]]) -> Pixels:
    """Return a picture whose boxes have the average colour of the pixels around them (T-MARS, arXiv:2307.03132).

    pixels : (h, w, 3) uint8. boxes : x0 y0 x1 y1 in whole pixels, the last ones not in it. Around a box are the pixels
    of a ring (`RING`) that are in no box; where there are none, all pixels in no box; where there are none either, all.
    Colours are those of the picture as it was, so that the order of boxes has no effect; where boxes overlap the last
    in the order of numbers shows. That the colour is the average of the surroundings is the rule
    of the paper as far as it is known here (source: not checked); how wide the ring is, is ours.
    """
    result = pixels.copy()
    height, width = pixels.shape[:2]
    free = np.ones((height, width), np.bool_)
    for x0, y0, x1, y1 in boxes:
        free[y0:y1, x0:x1] = False
    elsewhere: Pixels | None = None
    for x0, y0, x1, y1 in sorted(boxes):
        ring = max(1, round(RING * min(x1 - x0, y1 - y0)))
        near = np.s_[max(0, y0 - ring) : min(height, y1 + ring), max(0, x0 - ring) : min(width, x1 + ring)]
        around = pixels[near][free[near]]
        if len(around):
            colour = _mean(around)
        else:  # once for all boxes: of a large picture it takes long
            elsewhere = _mean(pixels[free] if free.any() else pixels) if elsewhere is None else elsewhere
            colour = elsewhere
        result[y0:y1, x0:x1] = colour
    return result


def _mean(pixels: Pixels) -> Pixels:
    """Return the average colour, (3,), rounded to even where it is half way."""
    mean = pixels.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    return np.asarray(np.rint(mean), np.uint8)


#: What is made of a picture and its boxes, by name.
REGIONS: Mapping[str, Callable[[Image.Image, Boxes, float], list[Image.Image]]] = {
    "crops": crops,
    "filled": filled,
}
