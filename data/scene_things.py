"""Drawings of single things, one or several of a kind. Each returns what it drew in words."""

import math

from scene_drawing import BLACK, NUMBERS, WHITE, Brush, Look, Rng, around, count_of, level, mix, places


def flower(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw flowers with petals around a centre."""
    petals, length = int(rng.integers(4, 10)), rng.uniform(0.5, 0.75)
    for x, y, r in places(k, rng):
        b.line([(x, y), (x + rng.uniform(-0.05, 0.05), 1.0)], (60, 130, 60), 0.025)
        for px, py in around(x, y, r * length, petals, rng.uniform(0, 1)):
            b.disc(px, py, r * (1.5 / petals + 0.14), k.main.rgb)
        b.disc(x, y, r * 0.33, k.accent.rgb)
    return [f"{NUMBERS[petals]} petals", f"a {k.accent.name} centre"]


def stop_sign(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a red octagon on a post."""
    lean, post, bar = rng.uniform(-0.35, 0.35), rng.uniform(0.025, 0.07), rng.uniform(0.1, 0.26)
    edge, turn = rng.uniform(0.05, 0.2), math.pi / 8 + lean
    b.box(k.x - post / 2, k.y, k.x + post / 2, 1, k.accent.rgb)
    b.poly(around(k.x, k.y, k.r, 8, turn), WHITE)
    b.poly(around(k.x, k.y, k.r * (1 - edge), 8, turn), k.main.rgb)
    b.box(k.x - k.r * 0.6, k.y - k.r * bar, k.x + k.r * 0.6, k.y + k.r * bar, WHITE)
    return [
        f"a {level(post / 0.07, ('thin', 'thin', 'thick'))} {k.accent.name} post",
        level((bar - 0.1) / 0.16, ("a thin bar", "a bar", "a thick bar")),
        level((edge - 0.05) / 0.15, ("a narrow edge", "an edge", "a wide edge")),
        level((lean + 0.35) / 0.7, ("turned left", "straight", "turned right")),
    ]


def balloon(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw balloons on strings."""
    long = rng.uniform(1.3, 2.6)
    for i, (x, y, r) in enumerate(places(k, rng)):
        b.line([(x, y), (x + r * rng.uniform(-0.4, 0.4), y + r * long)], BLACK, 0.012)
        fill = k.main.rgb if i % 2 == 0 else k.accent.rgb
        b.disc(x, y, r * 0.72, fill, r * 0.88)
        b.disc(x - r * 0.25, y - r * 0.35, r * 0.14, mix(fill, WHITE, 0.7))
    words = ["long strings" if long > 1.95 else "short strings"]
    return [*words, f"some of them {k.accent.name}"] if k.count > 1 else words


def car(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a car from the side."""
    left, tall, cabin = bool(rng.integers(0, 2)), rng.uniform(0.2, 0.4), rng.uniform(0.35, 0.65)
    s = -1.0 if left else 1.0
    x, y, r = k.x, k.y, k.r
    b.box(0, y + r * 0.5, 1, 1, k.accent.rgb)
    b.poly(
        [
            (x - s * r * 0.75, y),
            (x - s * r * 0.5, y - r * tall * 1.5),
            (x + s * r * cabin * 0.6, y - r * tall * 1.5),
            (x + s * r * cabin, y),
        ],
        k.main.rgb,
    )
    b.poly(
        [
            (x - s * r * 0.55, y),
            (x - s * r * 0.4, y - r * tall * 1.2),
            (x + s * r * cabin * 0.5, y - r * tall * 1.2),
            (x + s * r * cabin * 0.75, y),
        ],
        (190, 220, 240),
    )
    b.box(x - r, y, x + r, y + r * 0.36, k.main.rgb)
    for wheel in (-0.55, 0.55):
        b.disc(x + r * wheel, y + r * 0.38, r * 0.24, BLACK)
        b.disc(x + r * wheel, y + r * 0.38, r * 0.11, (190, 190, 190))
    return [
        f"a {'high' if tall > 0.3 else 'flat'} roof",
        f"facing {'left' if left else 'right'}",
        f"a {k.accent.name} road",
    ]


def house(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a house with a roof, a door and windows."""
    pitch, windows, wide = rng.uniform(0.4, 1.0), int(rng.integers(1, 4)), rng.uniform(0.65, 1.0)
    x, y, r = k.x, k.y, k.r
    w = r * wide
    b.box(x - w, y - r * 0.2, x + w, y + r, k.main.rgb)
    b.poly(
        [(x - w * 1.15, y - r * 0.2), (x, y - r * (0.2 + pitch)), (x + w * 1.15, y - r * 0.2)], k.accent.rgb
    )
    door = rng.uniform(-0.7, 0.45) * w
    b.box(x + door, y + r * 0.45, x + door + r * 0.26, y + r, mix(k.accent.rgb, BLACK, 0.5))
    for i in range(windows):
        wx = x - w * 0.8 + i * w * 0.6
        b.box(wx, y - r * 0.02, wx + r * 0.27, y + r * 0.25, (250, 240, 170))
    return [f"a {k.accent.name} {'steep' if pitch > 0.7 else 'flat'} roof", count_of(windows, "window")]


def fish(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw fish, all swimming the same way."""
    left, bars, slim = bool(rng.integers(0, 2)), int(rng.integers(0, 4)), rng.uniform(0.35, 0.65)
    s = -1.0 if left else 1.0
    for x, y, r in places(k, rng):
        b.poly([(x - s * r * 0.5, y), (x - s * r, y - r * 0.42), (x - s * r, y + r * 0.42)], k.accent.rgb)
        b.disc(x, y, r * 0.72, k.main.rgb, r * slim)
        for i in range(bars):
            bx = x - s * r * (0.3 - 0.26 * i)
            b.box(bx - r * 0.05, y - r * slim * 0.75, bx + r * 0.05, y + r * slim * 0.75, k.accent.rgb)
        b.disc(x + s * r * 0.48, y - r * 0.12, r * 0.1, WHITE)
        b.disc(x + s * r * 0.5, y - r * 0.12, r * 0.05, BLACK)
    stripes = count_of(bars, f"{k.accent.name} stripe") if bars else f"a {k.accent.name} tail"
    return [stripes, f"swimming {'left' if left else 'right'}"]


def tree(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a round or pointed tree."""
    fir, trunk, tiers = bool(rng.integers(0, 2)), rng.uniform(0.08, 0.2), int(rng.integers(2, 5))
    x, y, r = k.x, k.y, k.r
    b.box(x - r * trunk, y, x + r * trunk, min(1.0, y + r * 1.1), k.accent.rgb)
    if fir:
        for i in range(tiers):
            top = y - r + i * r * 1.2 / tiers
            w = r * (0.4 + 0.45 * i / tiers)
            b.poly(
                [(x, top), (x - w, top + r * 0.75), (x + w, top + r * 0.75)],
                mix(k.main.rgb, BLACK, 0.1 * (i % 2)),
            )
    else:
        for px, py in [(x, y - r * 0.3), *around(x, y - r * 0.3, r * 0.42, tiers + 2, rng.uniform(0, 1))]:
            b.disc(px, py, r * 0.42, k.main.rgb)
    return [
        "a pointed top" if fir else "a round crown",
        f"a {'thick' if trunk > 0.14 else 'thin'} {k.accent.name} trunk",
    ]


def butterfly(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw butterflies with spotted wings."""
    lower, spots, slant = rng.uniform(0.3, 0.6), int(rng.integers(0, 3)), rng.uniform(0.3, 0.6)
    for x, y, r in places(k, rng):
        for s in (-1, 1):
            b.disc(x + s * r * 0.48, y - r * slant * 0.6, r * 0.5, k.main.rgb, r * 0.42)
            b.disc(x + s * r * 0.38, y + r * 0.42, r * lower, k.accent.rgb, r * lower)
            for i in range(spots):
                b.disc(x + s * r * (0.38 + 0.28 * i), y - r * slant * 0.6, r * 0.1, BLACK)
            b.line([(x, y - r * 0.4), (x + s * r * 0.25, y - r * 0.85)], BLACK, 0.012)
        b.disc(x, y, r * 0.09, BLACK, r * 0.55)
    return [f"{k.accent.name} lower wings", "spots" if spots else "no spots"]


def sailboat(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a sailing boat on water."""
    sails, tall, water = int(rng.integers(1, 3)), rng.uniform(0.9, 1.3), min(0.95, k.y + k.r * 0.6)
    x, y, r = k.x, k.y, k.r
    b.box(0, water, 1, 1, k.accent.rgb)
    b.line([(x, y + r * 0.5), (x, y - r * tall * 0.9)], (110, 70, 40), 0.022)
    b.poly(
        [(x + r * 0.06, y - r * tall * 0.85), (x + r * 0.06, y + r * 0.25), (x + r * 0.75, y + r * 0.25)],
        WHITE,
    )
    if sails == 2:
        b.poly(
            [(x - r * 0.06, y - r * tall * 0.6), (x - r * 0.06, y + r * 0.25), (x - r * 0.6, y + r * 0.25)],
            k.main.rgb,
        )
    b.poly(
        [
            (x - r * 0.8, y + r * 0.4),
            (x + r * 0.9, y + r * 0.4),
            (x + r * 0.55, y + r * 0.8),
            (x - r * 0.5, y + r * 0.8),
        ],
        k.main.rgb,
    )
    return [
        count_of(sails, "sail"),
        f"{k.accent.name} water",
        "a tall mast" if tall > 1.1 else "a short mast",
    ]


def clock(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a round clock that shows some hour."""
    hour, quarter, ticks = int(rng.integers(0, 12)), int(rng.integers(0, 4)), bool(rng.integers(0, 2))
    b.disc(k.x, k.y, k.r, k.main.rgb)
    b.disc(k.x, k.y, k.r * 0.84, k.accent.rgb)
    for px, py in around(k.x, k.y, k.r * 0.7, 12 if ticks else 4):
        b.disc(px, py, k.r * 0.05, BLACK)
    for turns, length, width in ((hour / 12 + quarter / 48, 0.45, 0.035), (quarter / 4, 0.68, 0.02)):
        a = math.tau * turns - math.pi / 2
        b.line(
            [(k.x, k.y), (k.x + k.r * length * math.cos(a), k.y + k.r * length * math.sin(a))], BLACK, width
        )
    return [f"a {k.accent.name} face", f"the hand at {NUMBERS[hour] if hour else 'twelve'}"]


def cup(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a cup with a handle, perhaps steaming."""
    left, bands, steam, slope = (
        bool(rng.integers(0, 2)),
        int(rng.integers(0, 3)),
        bool(rng.integers(0, 2)),
        rng.uniform(0, 0.25),
    )
    x, y, r, s = k.x, k.y, k.r, -1 if left else 1
    b.disc(x + s * r * 0.68, y + r * 0.05, r * 0.34, k.main.rgb)
    b.disc(x + s * r * 0.68, y + r * 0.05, r * 0.2, k.back.rgb)
    b.poly(
        [
            (x - r * 0.7, y - r * 0.55),
            (x + r * 0.7, y - r * 0.55),
            (x + r * (0.7 - slope), y + r * 0.7),
            (x - r * (0.7 - slope), y + r * 0.7),
        ],
        k.main.rgb,
    )
    for i in range(bands):
        b.box(
            x - r * 0.55, y - r * 0.2 + i * r * 0.35, x + r * 0.55, y - r * 0.02 + i * r * 0.35, k.accent.rgb
        )
    if steam:
        for dx in (-0.3, 0.0, 0.3):
            b.line(
                [(x + r * dx, y - r * 0.7), (x + r * (dx + 0.1), y - r * 0.9), (x + r * dx, y - r * 1.15)],
                WHITE,
                0.02,
            )
    band = count_of(bands, f"{k.accent.name} band") if bands else "no pattern"
    return [f"the handle on the {'left' if left else 'right'}", band, "steam" if steam else "no steam"]


def traffic_light(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a traffic light with one lamp on."""
    lit, wide = int(rng.integers(0, 3)), rng.uniform(0.36, 0.5)
    on = ((235, 50, 40), (250, 200, 40), (50, 210, 90))
    b.box(k.x - 0.025, k.y, k.x + 0.025, 1, k.accent.rgb)
    b.box(k.x - k.r * wide, k.y - k.r, k.x + k.r * wide, k.y + k.r, k.main.rgb)
    for i in range(3):
        b.disc(
            k.x, k.y + (i - 1) * k.r * 0.62, k.r * wide * 0.62, on[i] if i == lit else mix(on[i], BLACK, 0.75)
        )
    return [f"the {('red', 'yellow', 'green')[lit]} lamp on", f"a {k.accent.name} pole"]


def snowman(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a snowman with a hat."""
    hat, buttons, lean = rng.uniform(0.2, 0.5), int(rng.integers(0, 4)), rng.uniform(-0.12, 0.12)
    x, y, r = k.x, k.y, k.r
    b.box(0, min(0.97, y + r * 0.75), 1, 1, WHITE)
    b.disc(x, y + r * 0.5, r * 0.56, k.main.rgb)
    b.disc(x + lean * r, y - r * 0.2, r * 0.38, k.main.rgb)
    hx = x + lean * r * 2
    b.disc(hx, y - r * 0.65, r * 0.27, k.main.rgb)
    b.box(hx - r * 0.2, y - r * (0.82 + hat), hx + r * 0.2, y - r * 0.82, k.accent.rgb)
    b.box(hx - r * 0.34, y - r * 0.86, hx + r * 0.34, y - r * 0.79, k.accent.rgb)
    b.poly([(hx, y - r * 0.68), (hx + r * 0.3, y - r * 0.62), (hx, y - r * 0.58)], (240, 130, 30))
    for i in range(buttons):
        b.disc(x + lean * r * 0.5, y + r * (0.05 + 0.2 * i), r * 0.05, BLACK)
    return [f"a {'tall' if hat > 0.35 else 'short'} {k.accent.name} hat", count_of(buttons, "button")]


def mushroom(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw mushrooms with dotted caps."""
    dots, stem = int(rng.integers(0, 6)), rng.uniform(0.15, 0.35)
    for x, y, r in places(k, rng):
        b.box(x - r * stem, y, x + r * stem, y + r * 0.9, k.accent.rgb)
        b.half_disc(x, y + r * 0.15, r, k.main.rgb)
        for i in range(dots):
            b.disc(x + r * (-0.6 + 0.3 * i), y - r * (0.25 + 0.3 * (i % 2)), r * 0.11, WHITE)
    return [count_of(dots, "dot"), f"a {'thick' if stem > 0.25 else 'thin'} {k.accent.name} stem"]


def umbrella(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw an open umbrella in two colours."""
    panels, drops = int(rng.integers(2, 6)), int(rng.integers(0, 16))
    x, y, r = k.x, k.y, k.r
    for _ in range(drops):
        dx, dy = rng.uniform(0, 1), rng.uniform(0, 1)
        b.line([(dx, dy), (dx - 0.015, dy + 0.06)], (110, 150, 220), 0.015)
    b.line(
        [(x, y), (x, y + r * 0.85), (x + r * 0.2, y + r * 0.92), (x + r * 0.25, y + r * 0.75)], BLACK, 0.03
    )
    for i in range(panels):
        b.half_disc(x, y + r * 0.1, r * (1 - i / panels), k.main.rgb if i % 2 == 0 else k.accent.rgb, r * 0.9)
    return [
        f"{NUMBERS[panels]} panels",
        f"{k.accent.name} panels",
        level(drops / 16, ("no rain", "light rain", "rain")),
    ]


def apple(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw apples with a stalk and perhaps a leaf."""
    leaf, bite = bool(rng.integers(0, 2)), bool(rng.integers(0, 2))
    for x, y, r in places(k, rng):
        b.line([(x, y - r * 0.5), (x + r * 0.12, y - r * 1.0)], (90, 60, 30), 0.03)
        for s in (-1, 1):
            b.disc(x + s * r * 0.3, y, r * 0.58, k.main.rgb, r * 0.72)
        if leaf:
            b.disc(x + r * 0.38, y - r * 0.82, r * 0.26, (70, 160, 60), r * 0.12)
        if bite:
            b.disc(x + r * 0.85, y - r * 0.05, r * 0.3, k.back.rgb)
    return ["a leaf" if leaf else "no leaf", "a bite taken" if bite else "no bite"]


def face(b: Brush, k: Look, rng: Rng) -> list[str]:
    """Draw a round face that smiles or frowns."""
    smile, eyes, bend = bool(rng.integers(0, 2)), rng.uniform(0.08, 0.2), rng.uniform(0.12, 0.35)
    b.disc(k.x, k.y, k.r, k.main.rgb)
    for s in (-1, 1):
        b.disc(k.x + s * k.r * 0.38, k.y - k.r * 0.22, k.r * eyes, WHITE)
        b.disc(k.x + s * k.r * 0.38, k.y - k.r * 0.22, k.r * eyes * 0.6, k.accent.rgb)
    y = k.y + k.r * (0.35 if smile else 0.6)
    side = -bend if smile else bend
    b.line(
        [
            (k.x - k.r * 0.45, y + side * k.r * 0.5),
            (k.x, y - side * k.r * 0.5),
            (k.x + k.r * 0.45, y + side * k.r * 0.5),
        ],
        BLACK,
        0.03,
    )
    return ["a smile" if smile else "a frown", f"{'large' if eyes > 0.14 else 'small'} {k.accent.name} eyes"]
