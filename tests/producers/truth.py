"""What every producer was given: ten rows, nine small images, captions and values of the awkward kinds.

The image of the last row is missing: a null, a failed download, a name without a file.
"""

import io

import numpy as np
from PIL import Image

N = 10
MISSING = N - 1
SIZE = 16
CLASSES = ("cat", "dog", "öl lamp")

IDS = [f"{number:04d}" for number in range(N)]  # text with zeros in front
CAPTIONS = [
    "a plain cat",
    'a "red", small dog',
    "Straße mit 猫 🐈",
    "two\nlines",
    None,
    "",
    "NA",  # text that readers of CSV take for nothing
    "0012",  # and for a number
    "tab\there; semicolon",
    "an image that is missing",
]
LABELS = [CLASSES[number % 3] for number in range(N)]
SCORES = [0.05, 0.25, 0.5, 0.75, None, 0.125, 1.0, 0.0, 0.625, 0.875]
COUNTS = [1, 2**40, 3, 4, 5, 6, 7, None, 9, 10]  # whole numbers that pandas makes floats of
YEARS = [2023 + number % 2 for number in range(N)]

#: The rows that a condition on `score` keeps, of those with an image.
ABOVE_HALF = (2, 3, 6, 8)


def pixels(number):
    """Return image `number` as (16, 16, 3) bytes: four colours in four tiles, no two images alike."""
    tiles = np.random.default_rng(number).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    return tiles.repeat(SIZE // 2, axis=0).repeat(SIZE // 2, axis=1)


def png(number):
    """Return image `number` as PNG, which loses nothing."""
    out = io.BytesIO()
    Image.fromarray(pixels(number)).save(out, "PNG")
    return out.getvalue()


def images():
    """Return the images of all rows; None where one is missing."""
    return [None if number == MISSING else png(number) for number in range(N)]


def vectors(seed):
    """Return (N, 8) unit vectors, as an embedding model would make them."""
    rows = np.random.default_rng(seed).standard_normal((N, 8)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def columns():
    """Return every column but the images."""
    return {
        "id": IDS, "caption": CAPTIONS, "label": LABELS, "score": SCORES, "count": COUNTS, "year": YEARS,
    }  # fmt: skip
