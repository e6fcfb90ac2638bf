"""Faster ways to the pixels of a JPEG: another binding of libjpeg-turbo, and decoding at an eighth, quarter or half size.

Decode workers import this file. `turbo` gives the pixels that Pillow gives, bit for bit (`tests/embedding/test_jpeg.py`), or
leaves the image to Pillow: colours other than grey and RGB, and any file that libjpeg warns of. `draft` lets libjpeg
leave out the frequencies that resizing would remove, as long as the picture stays `DRAFT_GAP` times as large as it is
resized to; its pixels differ a little.
"""

from functools import cache
from typing import Any

from PIL import Image, JpegImagePlugin

__all__ = ["DRAFT_GAP", "WAYS", "has_turbo", "load_by_turbo", "shrink", "way_of"]

#: How images may be decoded; `auto` is turbo where it is installed.
WAYS = ("auto", "pillow", "turbo", "draft")
#: How much larger a picture decoded by `draft` is than what it is resized to, at least.
DRAFT_GAP = 2


@cache
def _simplejpeg() -> Any:  # noqa: ANN401  (a module, or None)
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def has_turbo() -> bool:
    """Return True if simplejpeg is installed (curate[turbo])."""
    return _simplejpeg() is not None


def way_of(asked: str) -> str:
    """Return how JPEGs are decoded where `asked` is asked for: pillow, turbo or draft.

    >>> way_of("pillow"), way_of("draft")
    ('pillow', 'draft')
    """
    if asked in ("pillow", "draft"):
        return asked
    return "turbo" if has_turbo() else "pillow"


def load_by_turbo(image: Image.Image, data: bytes) -> Image.Image | None:
    """Return the decoded pixels of a JPEG that Pillow has opened and not loaded; None where Pillow must decode it."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or not has_turbo():
        return None
    try:
        pixels = _simplejpeg().decode_jpeg(data, "RGB" if image.mode == "RGB" else "GRAY")
    except ValueError:  # damaged, or unusual: Pillow says what it is, or reads it
        return None
    if image.mode == "L":
        pixels = pixels[..., 0]
    return Image.fromarray(pixels) if pixels.shape[:2] == (image.height, image.width) else None


def shrink(image: Image.Image, width: int, height: int) -> None:
    """Let a JPEG that is not loaded yet be decoded smaller, though not below `DRAFT_GAP` times (width, height)."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(image.mode, (DRAFT_GAP * width, DRAFT_GAP * height))
