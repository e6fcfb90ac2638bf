"""Write the pictures that the tiny CLIP is trained on: `python data/tiny_pools.py --shared ../shared/data --out pools`.

One folder of Parquet shards for each origin, with the captions of a picture as lines of one text. Then
`curate train-filter data/recipes/filters/tiny.yaml` trains. Without `--shared` there are generated scenes only.

Captions are about the instance: a class word (or the emoji's name) and what was measured in the pixels, so that two
pictures of a class have different captions. Class captions alone would teach the model to map a whole class to one
vector, and duplicates could no longer be told from look-alikes.
"""

import argparse
import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scenes
from PIL import Image

SIDE = 64
WORDINGS = 4
ROWS = 10_000

# Five words from low to high for each measurement; an empty word is not said.
MEASURES = {
    "brightness": ("very dark", "dark", "medium toned", "pale", "very pale"),
    "width": ("very narrow", "narrow", "", "wide", "very wide"),
    "height": ("very low", "low", "", "tall", "very tall"),
    "share": ("very thin", "thin", "", "full", "very full"),
    "weight": (
        "very heavy at the top",
        "heavy at the top",
        "balanced",
        "heavy at the bottom",
        "very heavy at the bottom",
    ),
    "texture": ("very smooth", "smooth", "", "textured", "strongly patterned"),
    "symmetry": ("very symmetric", "symmetric", "", "lopsided", "very lopsided"),
    "ground": (
        "on black",
        "on a dark background",
        "on a grey background",
        "on a light background",
        "on white",
    ),
}


@dataclass(frozen=True)
class Pool:
    """Pictures of one origin, (n, side, side, 3) uint8, with several wordings each."""

    name: str
    images: np.ndarray
    captions: list[list[str]]


def main() -> None:
    """Parse the arguments, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shared", type=Path, help="folder with fashion_mnist, clothing and noto_emoji; none: scenes only"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=24_000, help="generated scenes to train on")
    parser.add_argument("--brief", type=int, default=1, help="how many of four wordings of a scene are short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    write(scene_pool(args.scenes, args.seed * args.scenes, args.workers, args.brief), args.out)
    for load in (fashion_pool, clothing_pool, emoji_pool) if args.shared is not None else ():
        write(load(args.shared, args.seed), args.out)


def write(pool: Pool, out: Path) -> None:
    """Write the pictures of a pool as PNG, with a caption of several lines."""
    folder = out / pool.name
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(pool.images), ROWS)
    for number, start in enumerate(starts):
        rows = range(start, min(start + ROWS, len(pool.images)))
        table = pa.table(
            {
                "id": [f"{pool.name}-{row}" for row in rows],
                "image": [{"bytes": _png(pool.images[row]), "path": None} for row in rows],
                "caption": ["\n".join(pool.captions[row]) for row in rows],
            }
        )
        pq.write_table(table, folder / f"train-{number:05d}-of-{len(starts):05d}.parquet")


def _png(picture: np.ndarray) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "PNG")
    return stored.getvalue()


def scene_pool(n: int, seed: int, workers: int, brief: int) -> Pool:
    """Draw `n` training scenes, concepts in turn, each stored once as JPEG or PNG the way a data set would hold it.

    brief : how many of the wordings are short.
    """
    starts = range(seed, seed + n, 500)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        parts = list(pool.map(_draw, starts, [min(500, seed + n - s) for s in starts], [brief] * len(starts)))
    images = np.concatenate([images for images, _ in parts])
    captions = [c for _, part in parts for c in part]
    return Pool("scenes", images, captions)


def _draw(start: int, n: int, brief: int) -> tuple[np.ndarray, list[list[str]]]:
    images, captions = [], []
    for seed in range(start, start + n):
        picture = scenes.scene(scenes.NAMES[seed % len(scenes.NAMES)], scenes.TRAIN + seed)
        quality = 55 + seed * 7919 % 45
        stored = io.BytesIO()
        picture.image.save(stored, "JPEG" if quality < 96 else "PNG", quality=quality)
        images.append(square(Image.open(stored), SIDE))
        short = [short_caption(picture, seed, i) for i in range(brief)]
        captions.append(
            [*short, *(scenes.reword(picture, seed * WORDINGS + i) for i in range(brief, WORDINGS))]
        )
    return np.stack(images), captions


def short_caption(picture: scenes.Scene, seed: int, kind: int) -> str:
    """Return a caption that leaves most out, so that what it keeps must be recognised without the rest.

    kind : 0 subject and one more fact, or (even seeds) the concept alone; 1 the concept alone; 2 concept and two facts.
    """
    subject, *rest = picture.facts
    frame = scenes.TEMPLATES[seed // 7 % len(scenes.TEMPLATES)]
    concept = scenes.article(picture.concept)
    if kind == 0 and seed % 2:
        return frame.format(f"{subject}, {rest[seed % len(rest)]}")
    if kind == 2:
        return frame.format(", ".join([concept, rest[seed % len(rest)], rest[(seed // 5) % len(rest)]]))
    return frame.format(concept)


def fashion_pool(shared: Path, seed: int) -> Pool:
    """Load the first three of six training shards of Fashion-MNIST; the rest stays unseen."""
    files = [shared / "fashion_mnist" / f"train-0000{i}-of-00006.parquet" for i in range(3)]
    return _real("fashion", files, seed, grey=True, side=SIDE)


def clothing_pool(shared: Path, seed: int) -> Pool:
    """Load the training photographs of the clothing data set."""
    files = sorted((shared / "clothing").glob("train-*.parquet"))
    return _real("clothing", files, seed, grey=False, side=80)


def emoji_pool(shared: Path, seed: int) -> Pool:
    """Load the emoji pictures with their Unicode names and keywords."""
    files = sorted((shared / "noto_emoji").glob("train-*.parquet"))
    return _real("emoji", files, seed, grey=False, side=SIDE)


def _real(name: str, files: Sequence[Path], seed: int, *, grey: bool, side: int) -> Pool:
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    images = np.stack([square(Image.open(io.BytesIO(row["image"]["bytes"])), side) for row in rows])
    return Pool(
        name, images, measured_captions(images, [_nouns(row) for row in rows], colours=not grey, seed=seed)
    )


def _nouns(row: dict[str, str]) -> list[str]:
    """Return what a picture may be called: its class, or an emoji's name and keywords."""
    caption = row["caption"].removeprefix("a photo of a ").removeprefix("a photo of ")
    return [caption, *(f"{caption}, {word}" for word in row.get("keywords", "").split("|") if word)]


def square(image: Image.Image, side: int) -> np.ndarray:
    """Return the middle of the picture as open_clip takes it: short side to `side` (bicubic), cut, RGB bytes."""
    width, height = image.size
    scale = side / min(width, height)
    image = image.convert("RGB").resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def measured_captions(
    images: np.ndarray, nouns: list[list[str]], *, colours: bool, seed: int
) -> list[list[str]]:
    """Return `WORDINGS` captions per picture: a noun and one to four of its measured properties."""
    values, objects, grounds = _measure(images)
    ranks = values.argsort(0, kind="stable").argsort(0, kind="stable") * 5 // len(images)
    rng = np.random.Generator(np.random.Philox(key=seed))
    captions = []
    for i, names in enumerate(nouns):
        said = [words[ranks[i, j]] for j, words in enumerate(MEASURES.values())]
        facts = [
            w for w in said[: None if colours else -1] if w
        ]  # a single background for all is not worth saying
        facts += [f"on a {grounds[i]} background"] if colours else []
        thing = [f"{objects[i]} "] if colours else [""]
        captions.append([_word(str(rng.choice(names)), thing[0], facts, rng) for _ in range(WORDINGS)])
    return captions


def _word(noun: str, colour: str, facts: list[str], rng: np.random.Generator) -> str:
    chosen = [facts[i] for i in rng.permutation(len(facts))[: rng.integers(1, 5)]]
    return ", ".join([f"a photo of a {colour if rng.uniform() < 0.7 else ''}{noun}", *chosen])


def _measure(images: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
    """Return (n, 8) measurements in the order of `MEASURES`, colour names of the objects and of the backgrounds."""
    small = np.stack([np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BOX)) for x in images])
    values, objects, grounds = [], [], []
    for picture in small.astype(np.float32) / 255:
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        ground = np.median(border, 0)
        mask = np.abs(picture - ground).max(-1) > 0.12
        mask = mask if mask.any() else ~mask
        grey = picture.mean(-1)
        values.append([*_shape(mask, grey), float(ground.mean())])
        objects.append(_name(np.median(picture[mask], 0)))
        grounds.append(_name(ground))
    return np.array(values, np.float32), objects, grounds


def _shape(mask: np.ndarray, grey: np.ndarray) -> list[float]:
    rows, columns = mask.mean(1), mask.mean(0)
    slope = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    inside = mask[:-1, :-1]
    texture = slope[inside].mean() if inside.any() else 0.0
    weight = (rows * np.arange(len(rows))).sum() / rows.sum()
    width, height = (columns > 0.1).mean() + columns.std() * 0.1, (rows > 0.1).mean() + rows.std() * 0.1
    return [
        float(v)
        for v in (
            grey[mask].mean(),
            width,
            height,
            mask.mean(),
            weight,
            texture,
            np.abs(grey - grey[:, ::-1]).mean(),
        )
    ]


def _name(rgb: np.ndarray) -> str:
    """Return the nearest colour name in RGB."""
    return _NAMES[int(((_PALETTE - rgb) ** 2).sum(1).argmin())]


def _palette() -> tuple[tuple[str, ...], np.ndarray]:
    import colorsys

    return tuple(scenes.COLOURS), np.array(
        [colorsys.hsv_to_rgb(*hsv) for hsv in scenes.COLOURS.values()], np.float32
    )


_NAMES, _PALETTE = _palette()


if __name__ == "__main__":
    main()
