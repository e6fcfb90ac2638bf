"""Copies of pictures as people make them: compressed again, cropped a little, brighter or darker."""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ALTERATIONS"]

_QUALITY, _CROP, _LIGHT = 75, 0.03, 0.12


def _compressed(image: "Image.Image") -> "Image.Image":
    """Return an image as JPEG of quality 75 gives it back."""
    from PIL import Image  # here, because stages know the names of alterations without any picture

    packed = BytesIO()
    image.save(packed, "JPEG", quality=_QUALITY)
    with Image.open(packed, formats=("JPEG",)) as again:
        return again.convert("RGB")


def _cropped(image: "Image.Image") -> "Image.Image":
    """Return an image without 3 % of its sides, at the left and at the top (a pixel at least, where there are two)."""
    left, top = (min(max(1, round(_CROP * side)), side - 1) for side in image.size)
    return image.crop((left, top, *image.size))


def _lit(image: "Image.Image") -> "Image.Image":
    """Return an image 12 % brighter if it is dark on average, else 12 % darker."""
    from PIL import Image

    pixels = np.asarray(image)
    factor = 1 - _LIGHT if pixels.mean() > 127 else 1 + _LIGHT
    table = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return Image.fromarray(table[pixels])


#: What makes a copy of an RGB image, by name.
ALTERATIONS: Mapping[str, Callable[["Image.Image"], "Image.Image"]] = {
    "compressed": _compressed, "cropped": _cropped, "lit": _lit,
}  # fmt: skip
