"""Train the CLIP that ships with the package: `python data/train_tiny.py --shared ../shared/data --out curate/embedding/tiny`.

Symmetric InfoNCE on pictures and captions of the same instance (Radford et al. 2021, arXiv:2103.00020), float32, CPU.
The result depends on the arguments, the package versions and the kind of processor alone. Without `--shared` it is
trained on generated scenes only. Writes `model.safetensors` (half precision) and `training.json` (what was run).
The shipped weights took two runs, the second with more scenes and short captions; their commands are in MODEL_CARD.md.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

# Waiting threads that spin cost three quarters of the time when anything else runs; read when OpenMP starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_pools import SIDE, WORDINGS, Pool, Tokenizer, clothing_pool, emoji_pool, fashion_pool, scene_pool

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from curate.embedding.torchvision_guard import import_open_clip

LOG_100 = math.log(100.0)


def main() -> None:
    """Parse the arguments, train, write the weights, measure them."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    open_clip = import_open_clip()
    open_clip.add_model_config(args.out / "tiny.json")
    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny", pretrained=args.start and str(args.start)
    )
    tokenizer = open_clip.get_tokenizer("tiny")
    pools = load_pools(args, tokenizer)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in (preprocess.transforms[-1].mean, preprocess.transforms[-1].std)
    )
    started = time.perf_counter()
    train(model, pools, (mean, std), args)
    facts = {
        "steps": args.steps, "batch": args.batch, "seed": args.seed, "lr": args.lr, "brief": args.brief, "share": args.share,
        "minutes": round((time.perf_counter() - started) / 60, 1), "pictures": {p.name: len(p.images) for p in pools},
    }  # fmt: skip
    write(model, args.out, [*earlier_runs(args.start), facts])
    if args.unmeasured:
        return
    from tiny_quality import measure, write_card

    figures = measure(args.out, args.shared)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if (args.out / "MODEL_CARD.md").exists():
        write_card(args.out, figures)


def load_pools(args: argparse.Namespace, tokenizer: Tokenizer) -> list[Pool]:
    """Load what there is to train on, and say how much."""
    started = time.perf_counter()
    first = args.seed * args.scenes
    pools = [scene_pool(args.scenes, first, tokenizer, args.threads, args.brief, args.share)]
    if args.shared is not None:
        pools += [
            load(args.shared, tokenizer, args.seed) for load in (fashion_pool, clothing_pool, emoji_pool)
        ]
    sizes = ", ".join(f"{len(p.images):,} {p.name}" for p in pools)
    print(f"pictures: {sizes} ({time.perf_counter() - started:.0f} s)", flush=True)
    return pools


def train(
    model: torch.nn.Module,
    pools: list[Pool],
    normal: tuple[torch.Tensor, torch.Tensor],
    args: argparse.Namespace,
) -> None:
    """Run the optimiser for `args.steps` batches, each mixed from all pools by their shares."""
    rng = np.random.Generator(np.random.Philox(key=args.seed))
    optimiser = torch.optim.AdamW(_groups(model, args.decay), lr=args.lr, betas=(0.9, 0.98), foreach=True)
    model.to(memory_format=torch.channels_last).train()
    decks = [_Deck(len(p.images), rng) for p in pools]
    shares = np.array([p.share for p in pools])
    parts = np.floor(shares / shares.sum() * args.batch).astype(int)
    started, losses = time.perf_counter(), []
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = args.lr * _schedule(step, args.steps, args.warmup)
        images, tokens = batch(pools, [deck.deal(n) for deck, n in zip(decks, parts, strict=True)], rng)
        image, text, scale = model(
            ((images - normal[0]) / normal[1]).to(memory_format=torch.channels_last), tokens
        )
        loss = info_nce(image, text, scale)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, LOG_100)
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            speed = (time.perf_counter() - started) / (step + 1)
            print(f"step {step + 1}/{args.steps}: loss {np.mean(losses[-100:]):.3f}, scale {float(scale.detach()):.1f}, "
                  f"{speed:.2f} s each, {speed * (args.steps - step - 1) / 60:.1f} min left", flush=True)  # fmt: skip


def info_nce(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of matching each picture to its caption and each caption to its picture."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def batch(
    pools: list[Pool], rows: list[np.ndarray], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return augmented pictures (n, 3, side, side) in 0 to 1 and one wording of each."""
    images, tokens = [], []
    for pool, chosen in zip(pools, rows, strict=True):
        wording = rng.integers(0, WORDINGS, len(chosen))
        images.append(augment(pool.images[chosen].float() / 255, pool, rng))
        tokens.append(pool.tokens[chosen, wording])
    return torch.cat(images), torch.cat(tokens).long()


def augment(x: torch.Tensor, pool: Pool, rng: np.random.Generator) -> torch.Tensor:
    """Crop, flip and recolour each picture a little, as copies found in the wild are."""
    n = len(x)
    draw = rng.uniform(-1, 1, (n, 11)).astype(np.float32)
    d = torch.from_numpy(draw)
    scale = 1 - (1 - pool.min_scale) * (d[:, 0] + 1) / 2
    aspect = torch.exp(d[:, 1] * 0.25 * (1 - pool.min_scale))
    sx, sy = (scale * aspect).clamp(max=1.0), (scale / aspect).clamp(max=1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where(d[:, 2] > 0, sx, -sx) if pool.flip else sx
    theta[:, 1, 1] = sy
    theta[:, 0, 2], theta[:, 1, 2] = d[:, 3] * (1 - sx), d[:, 4] * (1 - sy)
    grid = F.affine_grid(theta, [n, x.shape[1], SIDE, SIDE], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False).expand(-1, 3, -1, -1)
    gain = 1 + pool.colour * d[:, 5, None, None, None] + 0.4 * pool.colour * d[:, 6:9, None, None]
    middle = x.mean((1, 2, 3), keepdim=True)
    x = ((x - middle) * (1 + pool.colour * d[:, 9, None, None, None]) + middle) * gain
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    return (x + noise * (0.02 * d[:, 10].clamp(min=0)).view(-1, 1, 1, 1)).clamp(0, 1)


class _Deck:
    """Deal row numbers in shuffled order, shuffling again when all were dealt."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n, self.rng, self.rest = n, rng, np.empty(0, np.int64)

    def deal(self, k: int) -> np.ndarray:
        while len(self.rest) < k:
            self.rest = np.concatenate([self.rest, self.rng.permutation(self.n)])
        dealt, self.rest = self.rest[:k], self.rest[k:]
        return dealt


def _groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay matrices only; not the token table, most of whose rows are never used and would shrink to nothing."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim >= 2 and "embedding" not in n]
    rest = [p for n, p in named if p.ndim < 2 or "embedding" in n]
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def earlier_runs(start: Path | None) -> list[dict[str, Any]]:
    """Return what was run to make the weights that training went on from."""
    record = start.with_name("training.json") if start is not None else None
    return json.loads(record.read_text()) if record is not None and record.exists() else []


def write(model: torch.nn.Module, out: Path, runs: list[dict[str, Any]]) -> None:
    """Write the weights in half precision and what was run; counters of batch normalisation stay whole numbers."""
    state = {
        k: (v.half() if v.is_floating_point() else v).contiguous().clone()
        for k, v in model.state_dict().items()
    }
    partial = out / ".model.safetensors.partial"
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(out / "model.safetensors")
    (out / "training.json").write_text(json.dumps(runs, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shared", type=Path, help="folder with fashion_mnist, clothing and noto_emoji; none: scenes only"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "curate/embedding/tiny", help="folder that holds tiny.json"
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--scenes", type=int, default=36_000, help="generated scenes to train on")
    parser.add_argument("--brief", type=int, default=1, help="how many of four wordings of a scene are short")
    parser.add_argument(
        "--share", type=float, default=0.42, help="scenes in a batch, beside 0.58 of real pictures"
    )
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--unmeasured", action="store_true", help="stop when the weights are written")
    return parser.parse_args()


if __name__ == "__main__":
    main()
