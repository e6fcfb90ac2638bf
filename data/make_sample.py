"""Write the sample: 2,000 generated image-caption pairs in four Parquet shards, with planted faults and their truth.

`python data/make_sample.py --out data/sample` writes the same bytes on each run with the same package versions.
Truth columns say what was planted: exact and near copies, wrong captions, broken images, difficulty of the scene.
"""

import argparse
import io
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scenes
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scenes import Rng, Scene

SHARDS = 4
DISTINCT, EXACT, NEAR, WRONG, CAPTIONLESS = 1812, 60, 120, 60, 6
BROKEN = ("truncated", "truncated", "truncated", "empty", "html", "noise", "checksum", "checksum")
UNUSUAL = {"RGBA": 10, "P": 12, "L": 6, "CMYK": 3, "rotated": 9}
LARGEST_PNG = 5000
PNG = b"\x89PNG"
LEAST_DIFFERENCE = 25.0  # of 255: mean over the pixels of 16 x 16 thumbnails


@dataclass(frozen=True)
class Row:
    """One row of the sample; copies name their original by its number, which becomes an id when all are placed."""

    number: int
    scene: Scene
    data: bytes
    caption: str | None
    exact_of: int | None = None
    near_of: int | None = None
    wrong: bool = False
    broken: bool = False

    @property
    def path(self) -> str:
        """A file name with the extension the bytes deserve; an exact copy keeps the name of its original."""
        number = self.number if self.exact_of is None else self.exact_of
        return f"{number:04d}.{'png' if self.data.startswith(PNG) else 'jpg'}"


def make_rows(seed: int = 0) -> list[Row]:
    """Return all rows in their final order."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    rows = distinct_rows(rng)
    order = iter([int(i) for i in rng.permutation(len(rows))])
    for mode, n in UNUSUAL.items():
        for i in [next(order) for _ in range(n)]:
            rows[i] = _unusual(rows[i], mode)
    for i in [next(order) for _ in range(WRONG)]:
        rows[i] = _wrong(rows[i], rng)
    for i, caption in zip([next(order) for _ in range(CAPTIONLESS)], [None, ""] * CAPTIONLESS, strict=False):
        rows[i] = replace(rows[i], caption=caption)
    exact = [rows[next(order)] for _ in range(EXACT - 5)]
    near = [rows[next(order)] for _ in range(NEAR - 20)]
    copies = [replace(original, exact_of=original.number) for original in exact + exact[:5]]
    taken = {row.data for row in near}
    copies += [_copied(original, taken, rng) for original in near + near[:15] + near[:5]]
    copies += [_broken(how, DISTINCT + i, rng) for i, how in enumerate(BROKEN)]
    return _placed(rows, [replace(copy, number=len(rows) + i) for i, copy in enumerate(copies)], rng)


def distinct_rows(rng: Rng) -> list[Row]:
    """Return one row per distinct scene: few concepts have many, many have few (Zipf's law).

    A scene that looks like an earlier one of its concept is left out and the next seed drawn, so that whatever
    looks like a copy in the sample is one.
    """
    rows: list[Row] = []
    for name, n in zip(scenes.NAMES, concept_sizes(DISTINCT, len(scenes.NAMES)), strict=True):
        seen: NDArray[np.float32] = np.empty((0, 16, 16, 3), np.float32)
        for seed in itertools.count(scenes.SAMPLE):
            if len(seen) == n:
                break
            picture = scenes.scene(name, seed, side=int(rng.integers(80, 109)))
            thumbnail = np.asarray(picture.image.resize((16, 16), Image.Resampling.BOX), np.float32)
            if not (np.abs(seen - thumbnail).mean((1, 2, 3)) < LEAST_DIFFERENCE).any():
                seen = np.concatenate([seen, thumbnail[None]])
                data = _encoded(picture.image, int(rng.integers(72, 93)), png=rng.uniform() < 0.25)
                rows.append(Row(len(rows), picture, data, scenes.reword(picture, int(rng.integers(0, 1000)))))
    return rows


def concept_sizes(total: int, concepts: int) -> list[int]:
    """Return sizes proportional to 1 / rank that add up to `total`, remainders going to the front."""
    weights = 1 / np.arange(1, concepts + 1)
    sizes = np.floor(weights / weights.sum() * total).astype(int)
    sizes[: total - int(sizes.sum())] += 1
    return [int(n) for n in sizes]


def _encoded(image: Image.Image, quality: int, png: bool = False) -> bytes:
    stored = io.BytesIO()
    if png:
        image.save(stored, "PNG")
        if stored.tell() <= LARGEST_PNG:
            return stored.getvalue()
        stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    return stored.getvalue()


def _unusual(row: Row, mode: str) -> Row:
    """Store the picture in a mode that decoders meet now and then."""
    image, stored = row.scene.image, io.BytesIO()
    if mode == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
        image.transpose(Image.Transpose.ROTATE_90).save(stored, "JPEG", quality=88, exif=exif)
    elif mode == "RGBA":
        image.convert("RGBA").save(stored, "PNG")
    elif mode == "P":
        image.quantize(64).save(stored, "PNG")
    else:
        image.convert(mode).save(stored, "JPEG", quality=88)
    caption = (
        f"a black and white picture of {scenes.article(row.scene.concept)}" if mode == "L" else row.caption
    )
    return replace(row, data=stored.getvalue(), caption=caption)


def _wrong(row: Row, rng: Rng) -> Row:
    """Give the picture the caption of a scene of another concept."""
    others = [name for name in scenes.NAMES if name != row.scene.concept]
    other = scenes.scene(others[int(rng.integers(0, len(others)))], scenes.SAMPLE + 900_000 + row.number)
    return replace(row, caption=scenes.reword(other, int(rng.integers(0, 1000))), wrong=True)


def _copied(original: Row, taken: set[bytes], rng: Rng) -> Row:
    """Return a near copy whose bytes are not among those `taken`, and take them."""
    image = Image.open(io.BytesIO(original.data)).convert("RGB")
    data = original.data
    while data in taken:
        data = _encoded(near_copy(image, rng), int(rng.integers(80, 94)))
    taken.add(data)
    caption = (
        original.caption if rng.uniform() < 0.5 else scenes.reword(original.scene, int(rng.integers(1, 1000)))
    )
    return replace(original, data=data, caption=caption, near_of=original.number)


def near_copy(image: Image.Image, rng: Rng) -> Image.Image:
    """Return what republishing makes of a picture: the same, or resized, cut a little, or brightened."""
    change = int(rng.integers(0, 4))
    if change == 1:
        side = round(image.width * float(rng.choice([0.95, 0.97, 1.03, 1.05])))
        return image.resize((side, side), Image.Resampling.BICUBIC)
    if change == 2:
        left, top, right, bottom = (int(v) for v in rng.integers(0, 2, 4))
        return image.crop((left, top, image.width - right, image.height - bottom))
    if change == 3:
        return ImageEnhance.Brightness(image).enhance(float(rng.choice([0.97, 0.98, 1.02, 1.03])))
    return image


def _broken(how: str, seed: int, rng: Rng) -> Row:
    """Return a row whose bytes are not a readable image."""
    picture = scenes.scene(scenes.NAMES[seed % len(scenes.NAMES)], scenes.SAMPLE + 950_000 + seed)
    jpeg, png = _encoded(picture.image, 85), bytearray(_encoded(picture.image.resize((24, 24)), 85, png=True))
    png[len(png) // 2] ^= 0xFF  # inside the compressed pixels, whose checksum then no longer holds
    data = {
        "truncated": jpeg[: len(jpeg) * 2 // 5],
        "empty": b"",
        "html": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n",
        "noise": rng.bytes(900),
        "checksum": bytes(png),
    }[how]
    return Row(seed, picture, data, picture.caption, broken=True)


def _placed(distinct: list[Row], copies: list[Row], rng: Rng) -> list[Row]:
    """Deal rows to shards at random, an exact copy to another shard than its original; shuffle within each shard."""
    shards: list[list[Row]] = [[] for _ in range(SHARDS)]
    home = {}
    for i, row in enumerate(distinct[int(j)] for j in rng.permutation(len(distinct))):
        home[row.number] = i % SHARDS
        shards[i % SHARDS].append(row)
    for i, row in enumerate(copies):
        own = home[row.exact_of] if row.exact_of is not None else -1
        open_shards = [k for k in range(SHARDS) if k != own]
        shards[min(open_shards, key=lambda k: (len(shards[k]), (k + i) % SHARDS))].append(row)
    return [shard[int(j)] for shard in shards for j in rng.permutation(len(shard))]


def to_table(rows: list[Row]) -> pa.Table:
    """Return the rows as a table that the `datasets` library reads with an Image and a ClassLabel feature."""
    ids = {row.number: f"sample-{i:04d}" for i, row in enumerate(rows)}
    columns: dict[str, tuple[pa.DataType, list[Any], dict[str, Any]]] = {
        "id": (pa.string(), [ids[r.number] for r in rows], _value("string")),
        "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
                  [{"bytes": r.data, "path": r.path} for r in rows], {"_type": "Image"}),
        "caption": (pa.string(), [r.caption for r in rows], _value("string")),
        "label": (pa.int64(), [scenes.NAMES.index(r.scene.concept) for r in rows],
                  {"names": list(scenes.NAMES), "_type": "ClassLabel"}),
        "concept": (pa.string(), [r.scene.concept for r in rows], _value("string")),
        "difficulty": (pa.float64(), [r.scene.difficulty for r in rows], _value("float64")),
        "exact_duplicate_of": (pa.string(), [_id(ids, r.exact_of) for r in rows], _value("string")),
        "near_duplicate_of": (pa.string(), [_id(ids, r.near_of) for r in rows], _value("string")),
        "wrong_caption": (pa.bool_(), [r.wrong for r in rows], _value("bool")),
        "broken": (pa.bool_(), [r.broken for r in rows], _value("bool")),
    }  # fmt: skip
    features = {name: feature for name, (_, _, feature) in columns.items()}
    schema = pa.schema([(name, kind) for name, (kind, _, _) in columns.items()],
                       metadata={"huggingface": json.dumps({"info": {"features": features}})})  # fmt: skip
    return pa.table(
        {name: pa.array(values, kind) for name, (kind, values, _) in columns.items()}, schema=schema
    )


def _value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def _id(ids: dict[int, str], number: int | None) -> str | None:
    return None if number is None else ids[number]


def write(out: Path) -> int:
    """Write the shards and return their size in bytes."""
    table = to_table(make_rows())
    per_shard = -(-len(table) // SHARDS)
    for i in range(SHARDS):
        file = out / f"train-{i:05d}-of-{SHARDS:05d}.parquet"
        partial = file.with_name(f".{file.name}.partial")
        pq.write_table(table.slice(i * per_shard, per_shard), partial, row_group_size=100)
        partial.replace(file)
    return sum(file.stat().st_size for file in out.glob("*.parquet"))


def main() -> None:
    """Parse the arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "sample")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{write(args.out) / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
