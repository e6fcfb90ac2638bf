"""What drawings are made with: a brush on a canvas with coordinates from 0 to 1 (right, down), a look, and words.

A drawing takes a `Brush`, a `Look` and a random generator, and returns what it drew in words. The words matter as
much as the pixels: whatever varies visibly between two drawings of a concept (how many, which way, how long, second
colour) is said, so that a model trained on the captions must tell them apart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Rng = np.random.Generator
WHITE: RGB = (245, 245, 240)
BLACK: RGB = (25, 25, 28)
OVERSAMPLE = 2
NUMBERS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


@dataclass(frozen=True)
class Colour:
    """A colour and the name a caption gives it."""

    name: str
    rgb: RGB


@dataclass(frozen=True)
class Look:
    """What one drawing looks like: centre and radius of the object, its colours, how many of them."""

    x: float
    y: float
    r: float
    main: Colour
    accent: Colour
    back: Colour
    count: int


class Brush:
    """Draw in unit coordinates on a canvas larger than the picture, which smooths the edges when it is reduced."""

    def __init__(self, side: int, back: RGB) -> None:
        self.n = side * OVERSAMPLE
        self.image = Image.new("RGB", (self.n, self.n), back)
        self.draw = ImageDraw.Draw(self.image)

    def disc(self, x: float, y: float, r: float, fill: RGB, ry: float | None = None) -> None:
        """Fill a circle, or an upright ellipse with the vertical radius `ry`."""
        v = r if ry is None else ry
        self.draw.ellipse([(x - r) * self.n, (y - v) * self.n, (x + r) * self.n, (y + v) * self.n], fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        """Fill an upright rectangle."""
        self.draw.rectangle([x0 * self.n, y0 * self.n, max(x0, x1) * self.n, max(y0, y1) * self.n], fill=fill)

    def poly(self, points: Sequence[tuple[float, float]], fill: RGB) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * self.n, y * self.n) for x, y in points], fill=fill)

    def line(self, points: Sequence[tuple[float, float]], fill: RGB, width: float = 0.02) -> None:
        """Draw a line through the points."""
        w = max(1, round(width * self.n))
        self.draw.line([(x * self.n, y * self.n) for x, y in points], fill=fill, width=w, joint="curve")

    def half_disc(self, x: float, y: float, r: float, fill: RGB, ry: float | None = None) -> None:
        """Fill the upper half of a circle, or of an ellipse with the vertical radius `ry`."""
        v = r if ry is None else ry
        corners = [(x - r) * self.n, (y - v) * self.n, (x + r) * self.n, (y + v) * self.n]
        self.draw.pieslice(corners, 180, 360, fill=fill)


def around(x: float, y: float, r: float, n: int, turn: float = 0.0) -> list[tuple[float, float]]:
    """Return `n` points on a circle, evenly spaced, the first at the angle `turn`."""
    return [
        (x + r * math.cos(turn + math.tau * i / n), y + r * math.sin(turn + math.tau * i / n))
        for i in range(n)
    ]


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """Return the colour a share `t` of the way from `a` to `b`."""
    return (round(a[0] + (b[0] - a[0]) * t), round(a[1] + (b[1] - a[1]) * t), round(a[2] + (b[2] - a[2]) * t))


def fade(b: Brush, top: RGB, bottom: RGB, y0: float = 0.0, y1: float = 1.0) -> None:
    """Fill a band across the picture with a colour that changes from top to bottom."""
    steps = 24
    for i in range(steps):
        b.box(
            0,
            y0 + (y1 - y0) * i / steps,
            1,
            y0 + (y1 - y0) * (i + 1) / steps,
            mix(top, bottom, i / (steps - 1)),
        )


def places(k: Look, rng: Rng) -> list[tuple[float, float, float]]:
    """Return centre and radius of each of `k.count` objects: one where the look says, several spread around it."""
    if k.count == 1:
        return [(k.x, k.y, k.r)]
    turn, r = rng.uniform(0, math.tau), k.r * (1.15 / math.sqrt(k.count))
    ring = around(k.x, k.y, k.r * 0.95, k.count, turn)
    return [(x, y, r * rng.uniform(0.8, 1.15)) for x, y in ring]


def count_of(n: int, thing: str) -> str:
    """Return a number and a noun: "no bands", "one band", "two bands"."""
    return f"{NUMBERS[n]} {thing}{'' if n == 1 else 's'}"


def level(value: float, words: Sequence[str]) -> str:
    """Return the word for a value between 0 and 1 on a scale of words."""
    return words[min(int(value * len(words)), len(words) - 1)]


Drawing = Callable[[Brush, Look, Rng], list[str]]
