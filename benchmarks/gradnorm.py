"""Per-sample gradient norms of a whole ResNet-18 (32 x 32, batch 32) against one ordinary forward and backward pass."""

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from curate.scores.pixels.ghost import gradient_norms
from curate.scores.pixels.resnet import ResNet

TARGET = 2.0


def best(work: Callable[[], object], rounds: int) -> float:
    """Return the shortest time of several calls, after one to warm up."""
    work()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print both times and their ratio, and the largest relative difference from a loop over samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = ResNet(10, width=options.width).eval()
    x, label = torch.randn(options.batch, 3, 32, 32), torch.randint(0, 10, (options.batch,))

    def ordinary() -> None:
        model.zero_grad()
        functional.cross_entropy(model(x), label).backward()

    plain = best(ordinary, options.rounds)
    ghost = best(lambda: gradient_norms(model, x, label), options.rounds)
    print(f"ordinary forward and backward {plain * 1e3:.0f} ms, all gradient norms {ghost * 1e3:.0f} ms")
    print(f"ratio {ghost / plain:.2f} (target at most {TARGET})")
    norms = gradient_norms(model, x, label)[1]
    worst = 0.0
    for row in range(min(4, options.batch)):
        model.zero_grad()
        functional.cross_entropy(model(x[row : row + 1]), label[row : row + 1]).backward()
        true = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt()
        worst = max(worst, float(abs(norms[row] - true) / true))
    print(f"largest relative difference from single backward passes: {worst:.1e}")


if __name__ == "__main__":
    main()
