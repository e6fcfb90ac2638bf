"""How well a filter trained on 500 clean pairs tells wrong captions: `python benchmarks/filter_quality.py --data DIR`.

Noto Emoji (DIR/noto_emoji), vectors of the tiny CLIP. Half of the rows, drawn with the seed, are the noisy ones: each has the
caption of the noisy row before it in file order (rolled: neighbours look alike, and differ by a skin tone or a
direction), or of a random one (shuffled). Of the clean half 500 rows are the training set, all that training sees; the
others and the noisy rows are judged. AUROC of clean above wrong; higher is better. Baselines: the cosine of the tiny CLIP, and
its contrastive score in one batch with the whole pool (`pair`). `--ways` picks what is trained; results as JSON lines.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq
from PIL import Image

import curate
from curate.embedding import clip
from curate.embedding.decode import to_array
from curate.linalg import load_unit
from curate.scores.dfn.compute import under
from curate.scores.dfn.stored import open_filter

CLEAN = 500
#: What is trained, by name: settings of a filter recipe.
WAYS: dict[str, dict[str, Any]] = {
    "adapter": {"kind": "adapter", "hard": 0.0},
    "full, hard batches": {"kind": "full", "model": "tiny", "rate": 5e-4, "epochs": 30, "hard": 0.5},
    "adapter, 5 members": {"kind": "adapter", "members": 5, "hard": 0.0},
    "adapter, hard batches": {"kind": "adapter", "batch": 64, "epochs": 25, "hard": 1.0},
    "adapter, 10% held out": {"kind": "adapter", "hard": 0.0, "validation": 0.1},
    "full, random batches": {"kind": "full", "model": "tiny", "rate": 5e-4, "epochs": 30, "hard": 0.0},
    "full, hard batches, 10% held out": {
        "kind": "full", "model": "tiny", "rate": 5e-4, "epochs": 30, "hard": 0.5, "validation": 0.1,
    },
}  # fmt: skip

Floats = npt.NDArray[np.floating]


def main() -> None:
    """Parse the arguments, train each way, print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with noto_emoji")
    parser.add_argument(
        "--ways", default=",".join(WAYS).replace(", ", "; "), help="names, with commas between"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    ways = [name.strip().replace("; ", ", ") for name in args.ways.split(",")]
    rows = pl.concat(
        [pl.from_arrow(pq.read_table(path)) for path in sorted((args.data / "noto_emoji").glob("*.parquet"))]
    )
    pool = Pool(rows, args.seed)
    image, text = pool.embedded("tiny")
    say("tiny", pool, lambda kind: clip_scores(image, pool.of(text, kind)), 0.0)
    say("tiny, nce in the pool", pool, lambda kind: nce(image, pool.of(text, kind)), 0.0)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "clean.parquet"
        pl.DataFrame({"id": [str(row) for row in pool.clean]}).with_columns(
            rows[pool.clean].get_columns()
        ).write_parquet(source)
        curate.run(
            {
                "run": f"{folder}/clean", "source": {"path": str(source), "uid": "id", "caption": "caption"},
                "embed": {"model": "tiny"}, "select": {"method": "all"}, "memory": "2GB",
            },
            until="embed", progress=False,
        )  # fmt: skip
        for number, name in enumerate(ways):
            started = time.perf_counter()
            values = {
                "out": f"{folder}/{number}",
                "set": {"run": f"{folder}/clean"},
                "seed": args.seed,
                "threads": args.threads,
            }
            made = curate.train_filter({**values, "memory": "2GB", **WAYS[name]}, progress=False)
            seconds = time.perf_counter() - started
            stored = open_filter(made, "path")
            u, v = (image, text) if stored.kind == "adapter" else pool.embedded(f"local-dir:{made}")
            found = {kind: under(stored, u, pool.of(v, kind)) for kind in pool.sources}
            say(f"{name}: dfn_score", pool, lambda kind, found=found: found[kind][0], seconds)
            say(f"{name}: dfn_loss", pool, lambda kind, found=found: -found[kind][1], seconds)


class Pool:
    """The rows that are judged: clean ones that no training sees, and the noisy half with the captions of others.

    judged : their rows in the data. sources : kind of noise -> (n,) the row whose caption each has. wrong : (n,) which are noisy.
    """

    def __init__(self, rows: pl.DataFrame, seed: int) -> None:
        draw, n = np.random.default_rng(seed), len(rows)
        noisy = np.sort(draw.permutation(n)[: n // 2])
        clean = np.setdiff1d(np.arange(n), noisy)
        self.rows, self.clean = rows, np.sort(draw.permutation(clean)[:CLEAN])
        unseen = np.setdiff1d(clean, self.clean)
        self.judged = np.concatenate([unseen, noisy])
        self.wrong = np.arange(len(self.judged)) >= len(unseen)
        self.sources = {
            "rolled": np.concatenate([unseen, np.roll(noisy, 1)]),
            "shuffled": np.concatenate([unseen, draw.permutation(noisy)]),
        }

    def embedded(self, model: str) -> tuple[Floats, Floats]:
        """Return the vectors of the judged images, and of all captions of the data, as a run stores them."""
        loaded = clip.load(model)
        pictures = [
            Image.open(io.BytesIO(one["bytes"])).convert("RGB")
            for one in self.rows["image"][self.judged].to_list()
        ]
        pixels = np.stack([to_array(picture, loaded.preprocess) for picture in pictures])
        vectors = loaded.encode_images(pixels), loaded.encode_texts(self.rows["caption"].to_list())
        image, text = (load_unit(one.astype(np.float16)) for one in vectors)
        return image, text

    def of(self, text: Floats, kind: str) -> Floats:
        """Return the vectors of the captions that the judged rows have."""
        return text[self.sources[kind]]


def clip_scores(image: Floats, text: Floats) -> Floats:
    """Return the cosine of each pair."""
    return np.einsum("ij,ij->i", image.astype(np.float64), text.astype(np.float64))


def nce(image: Floats, text: Floats) -> Floats:
    """Return the contrastive score in one batch with the whole pool, higher is better."""
    found = curate.score(image, {"pair": {"mask_copies": False, "grand": False, "el2n": False}}, text=text,
                         temperature=clip.load("tiny").temperature)  # fmt: skip
    return -found["nce"].to_numpy()


def auroc(score: Floats, wrong: npt.NDArray[np.bool_]) -> float:
    """Return the probability that a clean pair has the higher score, ties counting half."""
    from scipy.stats import rankdata

    ranks, n = rankdata(score), int((~wrong).sum())
    return float((ranks[~wrong].sum() - n * (n + 1) / 2) / n / wrong.sum())


def say(name: str, pool: Pool, score: Any, seconds: float) -> None:  # noqa: ANN401  (a function)
    """Print the figures of one way as a line of JSON."""
    figures = {kind: round(auroc(score(kind), pool.wrong), 4) for kind in pool.sources}
    sys.stdout.write(json.dumps({"way": name, **figures, "seconds": round(seconds)}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
