"""Generated pictures of simple things with captions that describe them, for training and for the sample.

A scene is a function of (concept, seed) alone. Its caption names what can be seen: concept, colours, size, place,
how many, background, light, and what the drawing itself varies. `CONCEPTS` says how much a concept varies: some
look nearly the same each time (few colours, fixed place), some take any colour, number and background.

Seeds: training uses 0 to 999,999 (`TRAIN`), the sample and every evaluation use others (`SAMPLE`, `HELD_OUT`).

>>> picture = scene("balloon", seed=HELD_OUT)
>>> picture.image.mode, "balloon" in picture.caption
('RGB', True)
"""

import colorsys
from dataclasses import dataclass

import numpy as np
import scene_things as things
import scene_views as views
from PIL import Image
from scene_drawing import NUMBERS, Brush, Colour, Drawing, Look, Rng, count_of

TRAIN, SAMPLE, HELD_OUT = 0, 10_000_000, 20_000_000

# Hue, saturation and value (0 to 1) in the middle of what each name covers.
COLOURS = {
    "red": (0.0, 0.85, 0.85), "orange": (0.08, 0.9, 0.95), "yellow": (0.145, 0.8, 0.95), "lime": (0.22, 0.75, 0.85),
    "green": (0.35, 0.7, 0.6), "teal": (0.49, 0.75, 0.55), "cyan": (0.51, 0.55, 0.9), "sky blue": (0.56, 0.4, 0.95),
    "blue": (0.62, 0.8, 0.85), "navy": (0.64, 0.75, 0.38), "purple": (0.76, 0.65, 0.65), "magenta": (0.86, 0.75, 0.85),
    "pink": (0.93, 0.35, 0.97), "brown": (0.06, 0.65, 0.45), "beige": (0.11, 0.25, 0.88), "white": (0.1, 0.03, 0.97),
    "grey": (0.6, 0.05, 0.58), "black": (0.6, 0.1, 0.13),
}  # fmt: skip
ANY = tuple(COLOURS)
SKY = ("sky blue", "cyan", "blue", "grey", "white")
SIZES = ("tiny", "small", "medium sized", "large", "huge")
ROWS = ("top", "upper", "middle", "lower", "bottom")
COLUMNS = ("far left", "left", "centre", "right", "far right")
TEMPLATES = ("a picture of {}", "an image of {}", "a drawing of {}", "{}", "an illustration of {}")


@dataclass(frozen=True)
class Concept:
    """What a concept may look like; `variety` from 0 (always much the same) to 1 (anything goes)."""

    draw: Drawing
    variety: float
    main: tuple[str, ...]
    accent: tuple[str, ...]
    back: tuple[str, ...]
    most: int = 1
    plural: str = ""
    view: bool = False  # fills the picture: no place or size to speak of
    covers: bool = False  # paints over any background


# In the order of their labels, which is also their order by frequency in the sample.
CONCEPTS = {
    "house": Concept(things.house, 0.5, ("white", "beige", "yellow", "pink", "grey"), ("red", "brown", "black", "navy"), SKY),
    "flower": Concept(things.flower, 0.9, ANY, ANY, ANY, 5, "flowers"),
    "sunset": Concept(views.sunset, 0.25, ("orange", "yellow"), ("navy", "blue", "teal"), ("purple", "magenta", "red"), view=True, covers=True),
    "car": Concept(things.car, 0.6, ANY, ("grey", "brown", "green", "beige"), SKY),
    "fish": Concept(things.fish, 0.9, ANY, ANY, ("blue", "cyan", "teal", "navy", "sky blue", "green"), 6, "fish"),
    "tree": Concept(things.tree, 0.35, ("green", "lime", "orange"), ("brown", "black"), ("sky blue", "white", "cyan")),
    "stop sign": Concept(things.stop_sign, 0.15, ("red",), ("grey", "brown"), ("sky blue", "grey")),
    "balloon": Concept(things.balloon, 1.0, ANY, ANY, ANY, 7, "balloons"),
    "clock": Concept(things.clock, 0.35, ("black", "brown", "grey"), ("white", "beige"), ("beige", "white", "grey", "green")),
    "sailboat": Concept(things.sailboat, 0.5, ("red", "brown", "navy", "black", "yellow"), ("blue", "teal", "navy"), SKY),
    "moon": Concept(views.moon, 0.2, ("yellow", "white"), ("purple", "blue"), ("navy", "black"), covers=True),
    "butterfly": Concept(things.butterfly, 0.9, ANY, ANY, ANY, 4, "butterflies"),
    "traffic light": Concept(things.traffic_light, 0.15, ("black",), ("grey",), ("sky blue", "white")),
    "skyline": Concept(views.skyline, 0.5, ("grey", "navy", "brown", "teal"), ("yellow", "white", "orange"), ANY, view=True),
    "apple": Concept(things.apple, 0.5, ("red", "green", "yellow", "lime"), ("green",), ("white", "beige", "brown", "sky blue"), 4, "apples"),
    "cup": Concept(things.cup, 0.7, ANY, ANY, ("white", "beige", "grey", "brown", "pink", "teal")),
    "stripes": Concept(views.stripes, 0.9, ANY, ANY, ANY, view=True),
    "snowman": Concept(things.snowman, 0.2, ("white",), ("black", "red"), ("sky blue", "navy")),
    "mountain": Concept(views.mountain, 0.4, ("grey", "brown", "purple", "teal"), ("green", "lime", "beige"), SKY, view=True),
    "umbrella": Concept(things.umbrella, 0.7, ANY, ANY, SKY),
    "mushroom": Concept(things.mushroom, 0.35, ("red", "brown", "orange"), ("white", "beige"), ("green", "lime", "brown"), 3, "mushrooms"),
    "checkerboard": Concept(views.checkerboard, 0.6, ("black", "brown", "navy", "red", "green"), ("grey", "red", "blue", "yellow"),
                            ("white", "beige", "yellow"), view=True, covers=True),
    "smiley face": Concept(things.face, 0.4, ("yellow", "orange", "lime"), ("black", "blue", "brown"), ANY),
    "shapes": Concept(views.shapes, 1.0, ANY, ANY, ANY, 5, view=True),
}  # fmt: skip
NAMES = tuple(CONCEPTS)


@dataclass(frozen=True)
class Scene:
    """A picture, what can be said about it, and how hard it was made (0 clear to 1 cluttered, noisy and faint)."""

    concept: str
    image: Image.Image
    facts: tuple[str, ...]  # subject first, then the rest in falling order of importance
    difficulty: float

    @property
    def caption(self) -> str:
        """The full description."""
        return reword(self, 0)


def reword(picture: Scene, choice: int) -> str:
    """Return the description in another wording: same facts, other frame and order after the subject."""
    subject, *rest = picture.facts
    rng = np.random.Generator(np.random.Philox(key=choice))
    if choice:
        rest = [rest[i] for i in rng.permutation(len(rest))]
    frame = TEMPLATES[choice % len(TEMPLATES)]
    return frame.format(", ".join([subject, *rest]))


def prompts(concept: str) -> list[str]:
    """Return captions that name the concept alone, for zero-shot classification."""
    return [frame.format(article(concept)) for frame in TEMPLATES]


def scene(concept: str, seed: int, difficulty: float | None = None, side: int | None = None) -> Scene:
    """Draw one scene; difficulty and side length (64 to 112 pixels) follow from the seed where not given."""
    kind = CONCEPTS[concept]
    rng = np.random.Generator(np.random.Philox(key=[seed, NAMES.index(concept)]))
    drawn_difficulty, drawn_side = float(rng.beta(1.1, 2.6)), int(rng.integers(64, 113))
    hard = drawn_difficulty if difficulty is None else difficulty
    side = drawn_side if side is None else side
    look = _look(kind, hard, rng)
    brush = Brush(side, look.back.rgb)
    backdrop = "" if kind.covers else _backdrop(brush, look, kind, rng)
    details = kind.draw(brush, look, rng)
    clutter = _clutter(brush, hard, rng)
    image, light = _finish(brush, side, hard, rng)
    said = [_subject(concept, kind, look), *details, *_placement(kind, look), backdrop, clutter, light]
    return Scene(concept, image, tuple(w for w in said if w), round(hard, 3))


def _look(kind: Concept, hard: float, rng: Rng) -> Look:
    spread, size = 0.1 + 0.16 * kind.variety, 0.09 + 0.1 * kind.variety
    main = _colour(kind.main, kind.variety, rng)
    back = _colour(_other(kind.back, main), kind.variety, rng)
    accent = _colour(_other(kind.accent, main, back), kind.variety, rng)
    r = float(np.clip(0.33 + rng.uniform(-size, size) - 0.06 * hard, 0.14, 0.46))
    room = spread if r < 0.3 else spread * 0.6
    x, y = 0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room)
    count = 1 if kind.most == 1 or rng.uniform() > kind.variety else int(rng.integers(2, kind.most + 1))
    return Look(float(x), float(y), r, main, accent, back, count)


def _other(names: tuple[str, ...], *taken: Colour) -> tuple[str, ...]:
    """Return the names that are not taken, or all of them where nothing else would be left."""
    return tuple(n for n in names if not any(c.name.endswith(n) for c in taken)) or names


def _colour(names: tuple[str, ...], variety: float, rng: Rng) -> Colour:
    name = names[int(rng.integers(0, len(names)))]
    h, s, v = COLOURS[name]
    width = 0.5 + 0.5 * variety
    shade = float(rng.uniform(-1, 1)) * width
    h = (h + float(rng.uniform(-0.02, 0.02))) % 1.0
    s = min(1.0, max(0.0, s * (1 + 0.25 * float(rng.uniform(-1, 1)) * width)))
    v = min(1.0, max(0.05, v * (1 + 0.28 * shade)))
    rgb = colorsys.hsv_to_rgb(h, s, v)
    word = "dark " if shade < -0.4 else "light " if shade > 0.4 else ""
    return Colour(word + name, (round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))


def _backdrop(brush: Brush, look: Look, kind: Concept, rng: Rng) -> str:
    """Paint what is behind the object and say it."""
    style = int(rng.integers(0, 4)) if rng.uniform() < 0.35 + 0.6 * kind.variety else 0
    other = _colour(kind.back, kind.variety, rng)
    if style == 1:
        for i in range(24):
            t = i / 23
            fill = tuple(round(a + (b - a) * t) for a, b in zip(look.back.rgb, other.rgb, strict=True))
            brush.box(0, i / 24, 1, (i + 1) / 24, (fill[0], fill[1], fill[2]))
        return f"on {look.back.name} fading to {other.name}"
    if style == 2:
        edge = float(rng.uniform(0.55, 0.85))
        brush.box(0, edge, 1, 1, other.rgb)
        return f"on {look.back.name} over {other.name} ground"
    if style == 3:
        for _ in range(int(rng.integers(12, 45))):
            brush.disc(
                float(rng.uniform(0, 1)), float(rng.uniform(0, 1)), float(rng.uniform(0.01, 0.035)), other.rgb
            )
        return f"on {look.back.name} with {other.name} specks"
    return f"on {look.back.name}"


def _clutter(brush: Brush, hard: float, rng: Rng) -> str:
    """Scatter small things that do not belong to the concept: none when easy, up to eight when hard."""
    n = int(rng.integers(0, 1 + round(8 * hard)))
    word = ""
    for _ in range(n):
        colour = _colour(ANY, 1.0, rng)
        x, y, r = float(rng.uniform(0, 1)), float(rng.uniform(0, 1)), float(rng.uniform(0.03, 0.08))
        if rng.integers(0, 2):
            brush.disc(x, y, r, colour.rgb)
        else:
            brush.box(x - r, y - r, x + r, y + r, colour.rgb)
        word = f"with {count_of(n, 'thing')} around, one {colour.name}" if n < 4 else "cluttered"
    return word


def _finish(brush: Brush, side: int, hard: float, rng: Rng) -> tuple[Image.Image, str]:
    """Reduce to the final size, set light and contrast, add noise; say what is noticeable."""
    image = brush.image.resize((side, side), Image.Resampling.BOX)
    gain = float(rng.uniform(0.85 - 0.25 * hard, 1.1))
    contrast = 1.0 - float(rng.uniform(0, 0.5)) * hard
    noise = float(rng.uniform(0, 22)) * hard
    pixels = np.asarray(image, np.float32)
    pixels = (pixels * contrast + 128 * (1 - contrast)) * gain
    pixels += rng.normal(0, 1, pixels.shape).astype(np.float32) * noise
    words = ["dim"] if gain < 0.8 else ["bright"] if gain > 1.03 else []
    words += ["faint"] if contrast < 0.82 else []
    words += ["noisy"] if noise > 6 else []
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8)), " and ".join(words)


def _subject(concept: str, kind: Concept, look: Look) -> str:
    if kind.view:
        return article(f"{look.main.name} {concept}")
    size = SIZES[min(int((look.r - 0.14) / 0.064), 4)]
    if look.count > 1 and kind.plural:
        return f"{NUMBERS[look.count]} {look.main.name} {kind.plural}"
    return article(f"{size} {look.main.name} {concept}")


def _placement(kind: Concept, look: Look) -> list[str]:
    if kind.view:
        return []
    row, column = (min(int((v - 0.3) / 0.08), 4) for v in (max(look.y, 0.3), max(look.x, 0.3)))
    return [f"at the {ROWS[row]} {COLUMNS[column]}"]


def article(words: str) -> str:
    """Put "a" or "an" before a noun phrase that takes one."""
    if words in ("stripes", "shapes") or words.endswith((" stripes", " shapes")):
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words
