"""Drawings that fill the picture: landscapes and patterns. Each returns what it drew in words."""

import math

from scene_drawing import BLACK, NUMBERS, WHITE, Brush, Look, Rng, around, count_of, fade, level, mix


def sunset(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a sun over the sea under a fading sky."""
    horizon, boats = rng.uniform(0.45, 0.8), int(rng.integers(0, 4))
    fade(b, k.back.rgb, mix(k.main.rgb, WHITE, 0.25), 0, horizon)
    b.disc(k.x, horizon - rng.uniform(-0.3, 1.0) * k.r * 0.5, k.r * 0.6, k.main.rgb)
    b.box(0, horizon, 1, 1, k.accent.rgb)
    for _ in range(int(rng.integers(4, 12))):
        x, y, w = rng.uniform(0, 1), rng.uniform(horizon, 1), rng.uniform(0.03, 0.12)
        b.line([(x - w, y), (x + w, y)], mix(k.accent.rgb, k.main.rgb, 0.6), 0.012)
    for _ in range(boats):
        x = rng.uniform(0.05, 0.95)
        b.poly([(x, horizon - 0.12), (x, horizon), (x + 0.07, horizon)], BLACK)
    return [
        f"a {k.back.name} sky",
        f"a {k.accent.name} sea",
        count_of(boats, "boat"),
        level((horizon - 0.45) / 0.35, ("a high", "a low")) + " horizon",
    ]


def moon(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw the moon in a night sky."""
    stars, phase = int(rng.integers(3, 40)), rng.uniform(0, 1)
    fade(b, k.back.rgb, mix(k.back.rgb, k.accent.rgb, 0.5))
    for _ in range(stars):
        b.disc(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.005, 0.013), WHITE)
    b.disc(k.x, k.y, k.r * 0.75, k.main.rgb)
    if phase > 0.4:
        b.disc(k.x + k.r * 0.75 * (1.5 - phase), k.y - k.r * 0.15, k.r * 0.7, k.back.rgb)
    return [
        f"a {k.back.name} sky",
        "a crescent" if phase > 0.4 else "a full disc",
        level(stars / 40, ("few stars", "some stars", "many stars")),
    ]


def mountain(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a range of mountains."""
    peaks, snow = int(rng.integers(1, 5)), bool(rng.integers(0, 2))
    for i in range(peaks):
        x, h, w = rng.uniform(0.05, 0.95), rng.uniform(0.35, 0.75) * (0.5 + k.r), rng.uniform(0.25, 0.5)
        fill = mix(k.main.rgb, BLACK, 0.12 * (i % 3))
        b.poly([(x, 1 - h), (x - w, 1), (x + w, 1)], fill)
        if snow:
            b.poly([(x, 1 - h), (x - w * 0.28, 1 - h * 0.72), (x + w * 0.28, 1 - h * 0.72)], WHITE)
    b.box(0, rng.uniform(0.82, 0.95), 1, 1, k.accent.rgb)
    return [count_of(peaks, "peak"), "snow on top" if snow else "no snow", f"a {k.accent.name} valley"]


def skyline(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a row of towers with lit windows."""
    towers, lit = int(rng.integers(3, 10)), rng.uniform(0, 1)
    w = 1 / towers
    for i in range(towers):
        top = 1 - rng.uniform(0.25, 0.5 + k.r)
        b.box(i * w, top, (i + rng.uniform(0.75, 1.0)) * w, 1, mix(k.main.rgb, BLACK, 0.15 * (i % 3)))
        for row in range(6):
            for col in range(2):
                if rng.uniform() < lit:
                    wx, wy = (i + 0.15 + 0.35 * col) * w, top + 0.05 + 0.1 * row
                    b.box(wx, wy, wx + w * 0.18, wy + 0.04, k.accent.rgb)
    return [f"{NUMBERS[towers]} towers", level(lit, ("few", "some", "many")) + f" {k.accent.name} windows"]


def stripes(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Fill the picture with parallel bands."""
    n, way = int(rng.integers(3, 10)), int(rng.integers(0, 3))
    shift, share, slant = rng.uniform(0, 1), rng.uniform(0.3, 0.7), rng.uniform(0.5, 1.2)
    for i in range(-n, 2 * n):
        a, e = (i + shift) / n, (i + shift + share) / n
        if way == 0:
            b.box(0, a, 1, e, k.main.rgb)
        elif way == 1:
            b.box(a, 0, e, 1, k.main.rgb)
        else:
            b.poly([(a, 0), (e, 0), (e - slant, 1), (a - slant, 1)], k.main.rgb)
    return [
        f"{NUMBERS[n]} {('horizontal', 'vertical', 'diagonal')[way]} bands",
        "thick bands" if share > 0.5 else "thin bands",
    ]


def checkerboard(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a board of squares in two colours, with a piece on it."""
    n, edge = int(rng.integers(3, 8)), rng.uniform(0.0, 0.12)
    b.box(0, 0, 1, 1, k.accent.rgb)
    side = (1 - 2 * edge) / n
    b.box(edge, edge, 1 - edge, 1 - edge, k.back.rgb)
    for i in range(n):
        for j in range(i % 2, n, 2):
            b.box(edge + j * side, edge + i * side, edge + (j + 1) * side, edge + (i + 1) * side, k.main.rgb)
    b.disc(edge + (int(k.x * n) + 0.5) * side, edge + (int(k.y * n) + 0.5) * side, side * 0.38, k.accent.rgb)
    return [
        f"{NUMBERS[n]} rows",
        f"a {k.accent.name} piece",
        "a wide edge" if edge > 0.06 else "a narrow edge",
    ]


def shapes(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a composition of circles, squares and triangles."""
    words = []
    colours = (k.main, k.accent)
    kinds = ("circle", "square", "triangle", "star")
    for i in range(k.count + 1):
        x, y, r = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.3)
        kind, colour, turn = kinds[int(rng.integers(0, 4))], colours[i % 2], rng.uniform(0, math.tau)
        if kind == "circle":
            b.disc(x, y, r, colour.rgb)
        elif kind == "star":
            inner, outer = around(x, y, r * 0.45, 5, turn + math.pi / 5), around(x, y, r * 1.1, 5, turn)
            b.poly([p for pair in zip(outer, inner, strict=True) for p in pair], colour.rgb)
        else:
            b.poly(around(x, y, r * 1.1, 4 if kind == "square" else 3, turn), colour.rgb)
        words.append(f"a {colour.name} {kind}")
    return words[-2:]
