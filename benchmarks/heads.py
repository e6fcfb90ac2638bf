"""Ten linear heads at once against their bare matrix products, and against ten runs of the usual DataLoader loop.

100,000 x 512 vectors, 100 classes, 5 epochs. Bare products: (n, d) x (d, C) and (d, n) x (n, C) per epoch, seed and
fold a sample is trained in, in one product over all seeds and minibatches of the same size, and the product of one
look per epoch and seed. The loop is torch.utils.data.DataLoader over a TensorDataset, batch 1,024, shuffled, autograd,
SGD, and a second pass that takes EL2N after each epoch, for one seed and one epoch; ten seeds and five epochs are
scaled from that.
"""

import argparse
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from curate.scores.heads.batches import ArrayRows
from curate.scores.heads.training import HeadSettings, train_heads

BATCH = 1024


def make(n: int, dim: int, n_classes: int) -> tuple[np.ndarray, list[str]]:
    """Return vectors around one direction per class, and labels of which a tenth is wrong."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, n_classes, n)
    centres = rng.standard_normal((n_classes, dim), dtype=np.float32)
    x = centres[label] + 3 * rng.standard_normal((n, dim), dtype=np.float32)
    wrong = rng.random(n) < 0.1
    label[wrong] = rng.integers(0, n_classes, wrong.sum())
    return x, [f"class {code:04d}" for code in label]


def products(n: int, dim: int, columns: int, rounds: int) -> tuple[float, float]:
    """Return seconds of the products of one pass over n rows, forward and for the gradient, all columns at once."""
    x, w = torch.randn(BATCH, dim), torch.randn(dim, columns)
    z, g = torch.empty(BATCH, columns), torch.empty(dim, columns)
    forward, backward = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        torch.mm(x, w, out=z)
        middle = time.perf_counter()
        torch.mm(x.T, z, out=g)
        forward.append(middle - started)
        backward.append(time.perf_counter() - middle)
    batches = n / BATCH
    return float(np.median(forward)) * batches, float(np.median(backward)) * batches


def loop(x: np.ndarray, labels: list[str], n_classes: int) -> tuple[float, float]:
    """Return seconds of one epoch of training, and of one pass of scoring, in the usual loop."""
    names = {name: code for code, name in enumerate(sorted(set(labels)))}
    data = TensorDataset(torch.from_numpy(x), torch.tensor([names[label] for label in labels]))
    model = torch.nn.Linear(x.shape[1], n_classes)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    started = time.perf_counter()
    for rows, label in DataLoader(data, batch_size=BATCH, shuffle=True):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(rows), label).backward()
        optimiser.step()
    trained = time.perf_counter()
    scores = []
    with torch.no_grad():
        for rows, label in DataLoader(data, batch_size=BATCH):
            p = torch.softmax(model(rows), 1)
            scores.append((p - torch.nn.functional.one_hot(label, n_classes)).norm(dim=1))
    torch.cat(scores)
    return trained - started, time.perf_counter() - trained


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 5])
    parser.add_argument(
        "--rounds", type=int, default=5, help="repeats of the bare products, of which the median counts"
    )
    options = parser.parse_args()
    n, dim, n_classes, seeds, epochs = (
        options.rows, options.dim, options.classes, options.seeds, options.epochs
    )  # fmt: skip
    x, labels = make(n, dim, n_classes)
    uids = [f"{row:08d}" for row in range(n)]
    rows = ArrayRows(x)
    train, look = loop(x, labels, n_classes)
    once = seeds * epochs * (train + look)
    print(f"the usual loop, scaled from one epoch ({train:.2f} s) and one look ({look:.2f} s): {once:.1f} s")
    for folds in options.folds:
        before = products(n, dim, seeds * n_classes, options.rounds)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        alone = products(n, dim, seeds * n_classes, options.rounds)
        torch.set_num_threads(threads)
        settings = HeadSettings(
            kind="linear", n_seeds=seeds, epochs=epochs, cross_fit=folds, batch=BATCH, normalise="l2"
        )
        started, busy = time.perf_counter(), time.process_time()
        got = train_heads(rows, uids, labels, settings)
        ours, busy = time.perf_counter() - started, time.process_time() - busy
        after = products(n, dim, seeds * n_classes, options.rounds)
        forward, backward = ((a + b) / 2 for a, b in zip(before, after, strict=True))
        passes = max(1, folds - 1)
        training, looking = epochs * passes * (forward + backward), epochs * forward
        bare = training + looking
        rate = 2 * n * dim * n_classes * seeds / forward / 1e9
        print(
            f"{folds or 'no'} folds: {ours:.1f} s, accuracy {got.accuracy.mean():.3f}; bare products {bare:.1f} s"
        )
        print(f"  ({training:.1f} s to train, {looking:.1f} s to look, at {rate:.0f} GFLOP/s)")
        print(f"  ratio to the bare products {ours / bare:.2f} (target 1.3)")
        steady = epochs * (passes * sum(alone) + alone[0])
        print(
            f"  in processor seconds {busy:.1f}, the products by one thread {steady:.1f}: {busy / steady:.2f}"
        )
        usual = seeds * epochs * (passes * train + look)
        print(
            f"  the usual loop would take {usual:.0f} s: {usual / ours:.1f} times as long (target 10)",
            flush=True,
        )


if __name__ == "__main__":
    main()
