"""How well `dedup.epsilon: auto` finds copies: pools in which it is known which rows are copies, embedded by the tiny CLIP.

`python benchmarks/copies.py --data FOLDER --out FOLDER` prints, for each pool and way: the epsilon, the share of rows
dropped, how many of them name a row of which they are a copy (precision), and how many of the copies are gone (recall).
"""

import argparse
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageEnhance
from subsets.pools import Pool, make
from subsets.runs import PoolRun

import curate

WAYS: dict[str, dict[str, Any]] = {
    "auto": {"epsilon": "auto"},
    "auto, vectors alone": {"epsilon": "auto", "confirm": "none"},
    "precision .9": {"epsilon": {"precision": 0.9}},
    "precision .8": {"epsilon": {"precision": 0.8}},
    ".05": {"epsilon": 0.05},
}


def pools(data: Path) -> Iterator[Pool]:
    """Yield pools with and without copies; none of them has vectors of another model."""
    yield make("clean", 0, data)
    yield make("copies 30 %", 0, data)
    photos = replace(make("clothing", 0, data), vectors=None, test_vectors=None)
    yield photos
    yield photographed(photos, 0.3)
    yield replace(photographed(photos, 0.05), name="clothing, few copies")
    yield make("emoji, right captions", 0, data)


def photographed(pool: Pool, share: float) -> Pool:
    """Put copies of photos in the place of others: cropped by up to 4 % a side, brighter or darker, compressed."""
    rng = np.random.default_rng(1)
    order = rng.permutation(len(pool))
    count = round(share * len(pool))
    sources, replaced = order[: count // 4], order[count // 4 : count // 4 + count]
    images, copy_of = list(pool.images), np.full(len(pool), -1)
    for row, source in zip(replaced.tolist(), rng.choice(sources, count).tolist(), strict=True):
        image = Image.open(io.BytesIO(pool.images[source])).convert("RGB")
        (width, height), cut = image.size, rng.uniform(0, 0.04, 4)
        image = image.crop(
            (int(cut[0] * width), int(cut[1] * height), int((1 - cut[2]) * width), int((1 - cut[3]) * height))
        )
        packed = io.BytesIO()
        lit = ImageEnhance.Brightness(image).enhance(rng.uniform(0.85, 1.15))
        lit.save(packed, "JPEG", quality=int(rng.integers(60, 90)))
        images[row], copy_of[row] = packed.getvalue(), source
    return replace(pool, name=f"{pool.name}, copies", images=images, copy_of=copy_of)


def judge(pool: Pool, run: curate.Run) -> str:
    """Return what one run dropped, against what is known."""
    found = run.duplicates()
    lost = found.drop_nulls("duplicate_of")
    original = np.where(pool.copy_of >= 0, pool.copy_of, np.arange(len(pool)))
    one, other = (original[lost[name].cast(pl.Int64).to_numpy()] for name in ("uid", "duplicate_of"))
    right, copies = int((one == other).sum()), len(original) - len(np.unique(original))
    facts = run.folder.marker(run.folder.duplicates)["facts"]
    shares = [right / max(len(lost), 1), right / copies] if copies else [None, None]
    shown = ["-" if share is None else f"{share:.3f}" for share in shares]
    near, estimated = facts.get("calibration", {}).get("near"), facts.get("precision", {}).get("estimated")
    return " | ".join(
        [f"{facts['epsilon']:.3g}", "-" if near is None else f"{near:.1%}", facts.get("confirm", "-"),
         f"{len(lost) / len(found):.1%}", *shown, "-" if estimated is None else f"{estimated:.3f}"]
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    asked = arguments.parse_args()
    print(
        "| pool | way | epsilon | near | confirmed by | dropped | precision | recall | estimated precision |\n|---|---|---|---|---|---|---|---|---|"
    )
    for pool in pools(asked.data):
        here = PoolRun(pool, asked.out / pool.name.replace(" ", "_").replace("%", "").replace(",", ""))
        here.write()
        for way, dedup in WAYS.items():
            settings = {"select.method": "all", "dedup.prefer": "random"}
            settings |= {f"dedup.{name}": value for name, value in ({"confirm": "auto"} | dedup).items()}
            run = curate.run(
                here.base() | {"score": []},
                out=here.folder / "copies",
                until="select",
                settings=settings,
                progress=False,
            )
            print(f"| {pool.name} | {way} | {judge(pool, run)} |", flush=True)


if __name__ == "__main__":
    main()
