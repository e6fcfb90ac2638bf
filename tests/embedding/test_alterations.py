"""Altered copies: what each does to the pixels, and that decoding gives them on request."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from curate.embedding.alterations import ALTERATIONS
from curate.embedding.decode import Preprocess, decode, to_array
from curate.embedding.decode_pool import DecodePool


def picture(width, height, low=0, high=256):
    pixels = np.random.default_rng(0).integers(low, high, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (28, 28), (200, 100)])
@pytest.mark.parametrize("low", [0, 200])
def test_what_is_done_to_pixels(width, height, low):
    image = picture(width, height, low, low + 56)
    pixels = np.asarray(image)
    left, top = (0 if side == 1 else max(1, round(0.03 * side)) for side in (width, height))
    cropped = np.asarray(ALTERATIONS["cropped"](image))
    np.testing.assert_array_equal(cropped, pixels[top:, left:])
    lit = np.asarray(ALTERATIONS["lit"](image)).astype(float)
    factor = 0.88 if low == 200 else 1.12
    np.testing.assert_allclose(lit, np.clip(pixels * factor, 0, 255), atol=0.5001)
    packed = BytesIO()
    image.save(packed, "JPEG", quality=75)
    compressed = np.asarray(ALTERATIONS["compressed"](image))
    np.testing.assert_array_equal(compressed, np.asarray(Image.open(packed)))


@pytest.mark.parametrize("workers", [0, 1])
def test_decoding_gives_the_pixels_of_the_copy(workers):
    image, preprocess = picture(60, 40), Preprocess((32, 32))
    packed = BytesIO()
    image.save(packed, "PNG")
    for name, alter in ALTERATIONS.items():
        with DecodePool(preprocess, workers=workers, max_pixels=10**6, altered=name) as pool:
            [(_, [found])] = list(pool.map([(None, [packed.getvalue()])]))
        np.testing.assert_array_equal(found.array, to_array(alter(image), preprocess))
        assert (found.outcome, found.width, found.height) == ("ok", 60, 40)


def test_an_image_that_cannot_be_altered_is_no_copy():
    packed = BytesIO()
    Image.new("RGB", (65_501, 1)).save(packed, "PNG")
    asked = {"preprocess": Preprocess((8, 8)), "max_pixels": 10**6}
    assert decode(packed.getvalue(), **asked, altered="lit").outcome == "ok"
    found = decode(packed.getvalue(), **asked, altered="compressed")
    assert found.array is None and found.reason.startswith("cannot be compressed: ")
