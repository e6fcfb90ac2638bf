"""How right `noise_prob` is: pools whose wrong labels are known, heads and noise in memory, one line each.

`python benchmarks/noise_prob.py --data ../shared/data --out runs/noise_prob` embeds the pools (kept in `--out`) and prints, of
each: rows that are wrong, the sum of `noise_prob`, rows above .5 with precision and recall, AUROC of `noise_prob` and of its
best input, the mean gap between probability and truth in ten bins, and what share of the rows at .5 to .6 is wrong. Foreign
images are clothing photos among Fashion-MNIST under labels drawn at random.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score
from subsets import pools, runs

import curate

INPUTS = ("neg_aum", "loss", "el2n")
POOLS = (
    "clean", "noise 20 %", "noise 40 %", "pair flip 20 %", "human-like 20 %", "tail 100:1", "clothing",
    "clothing 20 %", "foreign 10 %",
)  # fmt: skip


def make(name: str, seed: int, data: Path) -> pools.Pool:
    """Return a pool of `subsets/pools.py`, clothing with a fifth of its labels swapped, or one with foreign images."""
    if name == "clothing 20 %":
        return _swapped(pools.make("clothing", seed, data), 0.2)
    if name == "foreign 10 %":
        return _with_foreign(pools.make("clean", seed, data), pools.make("clothing", seed, data), 0.1)
    return pools.make(name, seed, data)


def _swapped(pool: pools.Pool, share: float) -> pools.Pool:
    """Give a share of the rows another class, each of the others alike."""
    rng, names = np.random.default_rng([pool.seed, 2]), sorted(set(pool.labels))
    code = np.searchsorted(names, pool.labels)
    rows = rng.choice(len(pool), round(share * len(pool)), replace=False)
    code[rows] = (code[rows] + rng.integers(1, len(names), len(rows))) % len(names)
    return replace(pool, labels=[names[one] for one in code], wrong=np.isin(np.arange(len(pool)), rows))


def _with_foreign(pool: pools.Pool, other: pools.Pool, share: float) -> pools.Pool:
    """Put pictures of another pool in the place of some, under labels drawn at random."""
    rng = np.random.default_rng([pool.seed, 77])
    rows = rng.choice(len(pool), round(share * len(pool)), replace=False)
    images, labels, wrong = list(pool.images), list(pool.labels), pool.wrong.copy()
    for row, source in zip(
        rows.tolist(), rng.choice(len(other), len(rows), replace=False).tolist(), strict=True
    ):
        images[row], labels[row], wrong[row] = other.images[source], str(rng.integers(10)), True
    return replace(pool, images=images, labels=labels, wrong=wrong)


def vectors(pool: pools.Pool, out: Path) -> np.ndarray:
    """Return the vectors of a pool: those it has, or those of the tiny CLIP."""
    if pool.vectors is not None:
        return pool.vectors.astype(np.float32)
    rows = runs.PoolRun(pool, out / f"{pool.name}-{pool.seed}".replace(" ", "_"))
    rows.write()
    curate.run({**rows.base(), "score": []}, out=rows.folder / "run", until="embed", progress=False,
               settings={"select.keep": 1.0, "dedup.exact": False})  # fmt: skip
    return runs.unit_vectors(rows.folder / "run")


def line(name: str, wrong: np.ndarray, scores: pl.DataFrame) -> str:
    """Return what is to be said of one pool."""
    p, n = scores["noise_prob"].to_numpy(), len(wrong)
    flagged, place = p > 0.5, np.minimum((p * 10).astype(int), 9)
    gap = sum(abs(p[place == b].sum() - wrong[place == b].sum()) for b in range(10)) / n
    text = f"| {name} | {wrong.mean():.1%} | {p.mean():.1%} | {flagged.mean():.1%} |"
    if wrong.any():
        best = max(roc_auc_score(wrong, scores[one].to_numpy()) for one in INPUTS)
        text += f" {wrong[flagged].mean():.2f} | {flagged[wrong].mean():.2f} | {roc_auc_score(wrong, p):.3f} | {best:.3f} |"
    else:
        text += " - | - | - | - |"
    half = (p >= 0.5) & (p < 0.6)
    foreign = int((scores["noise_ood"] > 0.5).sum())
    return f"{text} {gap:.3f} | {wrong[half].mean() if half.any() else 0:.0%} of {half.sum()} | {foreign} |"


def main() -> None:
    """Print one line per pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/noise_prob"))
    parser.add_argument("--pools", nargs="+", default=POOLS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        "| pool | wrong | sum | flagged | precision | recall | AUROC | best input | gap | of .5-.6 | foreign |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.pools:
        pool = replace(make(name, options.seed, options.data), name=name)
        scores = curate.score(
            vectors(pool, options.out), ["heads", "noise"], labels=pool.labels, uids=pool.uids
        )
        print(line(name, pool.wrong, scores), flush=True)


if __name__ == "__main__":
    main()
