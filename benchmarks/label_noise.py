"""How well wrong labels are found: Fashion-MNIST, a tenth of the labels flipped, heads on vectors of the tiny CLIP.

`python benchmarks/label_noise.py RUN` takes the vectors from a run folder over the six train shards (or only 00003 to
00005, which are used: the tiny CLIP was trained on the others); without RUN it embeds `--data` into `--out` first.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from curate.embedding.store import EmbeddingPart
from curate.scores.heads.batches import PartRows
from curate.scores.heads.result import HeadScores
from curate.scores.heads.training import HeadSettings, train_heads

SHARDS = ("train-00003", "train-00004", "train-00005")
FLIPPED = 0.1


def embed(data: Path, out: Path) -> Path:
    """Run the pipeline up to the embeddings."""
    from curate.pipeline.runner import run
    from curate.recipe.loading import parse_recipe

    shards = str(data / "train-0000[345]-*.parquet")
    source = {"path": shards, "image": "image", "caption": "caption", "label": "label"}
    embedding = {"model": "tiny"}
    recipe = {"run": str(out), "source": source, "embed": embedding, "select": {"keep": 1.0}}
    run(parse_recipe(recipe), until="embed")
    return out


def load(run: Path) -> tuple[PartRows, list[str], list[str]]:
    """Return vectors, uids and labels of the shards that are used."""
    parts, labels = [], []
    for path in sorted((run / "1_embeddings").glob("part-*.arrow")):
        samples = pl.read_parquet(
            run / "0_samples" / f"{path.stem}.parquet", columns=["uid", "label", "shard"]
        )
        if not samples["shard"][0].split("/")[-1].startswith(SHARDS):
            continue
        part = EmbeddingPart(path)
        label = dict(samples.select("uid", "label").iter_rows())
        parts.append(part)
        labels += [label[uid] for uid in part.uids()]
    rows = PartRows(parts)
    return rows, list(rows.uids()), labels


def flip(labels: list[str], uids: list[str]) -> tuple[list[str], np.ndarray]:
    """Return labels of which a tenth, the same in every row order, names another class; and which."""
    names = sorted(set(labels))
    order = np.argsort(np.array(uids))
    rng = np.random.default_rng(0)
    wrong = np.zeros(len(labels), bool)
    wrong[order[rng.permutation(len(labels))[: round(FLIPPED * len(labels))]]] = True
    step = np.empty(len(labels), np.int64)
    step[order] = rng.integers(1, len(names), len(labels))
    code = np.searchsorted(names, labels)
    return [names[c] for c in np.where(wrong, (code + step) % len(names), code)], wrong


def report(name: str, got: HeadScores, wrong: np.ndarray, seconds: float) -> None:
    """Print the figures of one kind of head."""
    n = round(FLIPPED * len(wrong))
    hardest = np.argsort(-got.el2n)[:n]
    left = np.argsort(-got.neg_aum)[n:]
    after = left[np.argsort(-got.el2n[left])[:n]]
    print(
        f"{name}: {len(wrong):,} samples, {seconds:.1f} s, accuracy on flipped labels {got.accuracy.mean():.3f}"
    )
    for column in ("el2n", "neg_aum", "loss", "grand"):
        target = " (target 0.97)" if column in ("el2n", "neg_aum") else ""
        print(f"  AUROC of {column} {roc_auc_score(wrong, getattr(got, column)):.4f}{target}")
    print(f"  flipped among the hardest 10 % by el2n {wrong[hardest].mean():.1%} (target at least 75 %)")
    print(f"  the same after the cutoff of 10 % by neg_aum {wrong[after].mean():.1%} (target below 18 %)")
    print(
        f"  reliability of one seed {got.reliability:.3f}, of {len(got.seeds)} {got.reliability_of_mean:.3f} (0.9)"
    )
    print(f"  Spearman of grand and el2n {got.grand_el2n:.4f}", flush=True)


def main() -> None:
    """Print the figures of the kinds of heads asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fashion_mnist"))
    parser.add_argument("--out", type=Path, default=Path("runs/label_noise"))
    parser.add_argument("--kinds", nargs="+", default=["linear", "mlp"])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    rows, uids, labels = load(options.run or embed(options.data, options.out))
    given, wrong = flip(labels, uids)
    for kind in options.kinds:
        started = time.perf_counter()
        got = train_heads(rows, uids, given, HeadSettings(kind=kind, n_seeds=options.seeds))
        report(kind, got, wrong, time.perf_counter() - started)


if __name__ == "__main__":
    main()
