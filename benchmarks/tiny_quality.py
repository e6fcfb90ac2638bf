"""Measure the CLIP that ships with the package: `python benchmarks/tiny_quality.py --shared ../shared/data`.

Prints one line per figure; `measure` returns them; `--card` puts them into the model card. Everything goes through
open_clip's own loading and preprocessing.
"""

import argparse
import io
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
from curate.embedding.torchvision_guard import import_open_clip

Array = np.ndarray
BATCH = 256


class Tiny:
    """The model with its preprocessing and tokenizer, as unit vectors."""

    def __init__(self, folder: Path) -> None:
        open_clip = import_open_clip()
        open_clip.add_model_config(folder / "tiny.json")
        weights = str(folder / "model.safetensors")
        self.model, _, self.preprocess = open_clip.create_model_and_transforms("tiny", pretrained=weights)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer("tiny")

    @torch.inference_mode()
    def images(self, pictures: Iterable[Image.Image]) -> Array:
        """Return (n, d) unit vectors of pictures."""
        ready, vectors = [], []
        for picture in pictures:
            ready.append(self.preprocess(picture))
            if len(ready) == BATCH:
                vectors.append(self.model.encode_image(torch.stack(ready), normalize=True).numpy())
                ready = []
        if ready:
            vectors.append(self.model.encode_image(torch.stack(ready), normalize=True).numpy())
        return np.concatenate(vectors)

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> Array:
        """Return (n, d) unit vectors of captions."""
        parts = [self.tokenizer(list(captions[i : i + BATCH])) for i in range(0, len(captions), BATCH)]
        return np.concatenate([self.model.encode_text(part, normalize=True).numpy() for part in parts])


def opened(stored: Iterable[bytes]) -> Iterable[Image.Image]:
    """Decode pictures one by one."""
    return (Image.open(io.BytesIO(data)) for data in stored)


def zero_shot(tiny: Tiny, per_concept: int = 40) -> tuple[float, dict[str, float]]:
    """Return the accuracy on scenes no training saw, overall and per concept, by prompts that name the concept alone."""
    import scenes

    weights = np.stack([tiny.texts(scenes.prompts(name)).mean(0) for name in scenes.NAMES])
    per = {}
    for label, name in enumerate(scenes.NAMES):
        vectors = tiny.images(scenes.scene(name, scenes.HELD_OUT + i).image for i in range(per_concept))
        per[name] = float(
            (
                (vectors @ (weights / np.linalg.norm(weights, axis=1, keepdims=True)).T).argmax(1) == label
            ).mean()
        )
    return float(np.mean(list(per.values()))), per


def neighbours_accuracy(gallery: Array, labels: Array, query: Array, truth: Array, k: int = 5) -> float:
    """Return the accuracy of the majority of the `k` nearest by cosine; ties go to the class of the nearest among them."""
    classes = int(labels.max()) + 1
    right = 0
    for i in range(0, len(query), 1000):
        similarity = query[i : i + 1000] @ gallery.T
        near = np.argpartition(-similarity, k, axis=1)[:, :k]
        order = np.take_along_axis(similarity, near, 1).argsort(1)[:, ::-1]
        near = np.take_along_axis(near, order, 1)
        votes = (labels[near][:, :, None] == np.arange(classes)).sum(1) + 0.0
        np.put_along_axis(
            votes, labels[near][:, :1], np.take_along_axis(votes, labels[near][:, :1], 1) + 0.5, 1
        )
        right += int((votes.argmax(1) == truth[i : i + 1000]).sum())
    return right / len(query)


def knn(tiny: Tiny, folder: Path) -> float:
    """Return the 5-nearest-neighbour accuracy of a labelled data set: gallery train, queries test."""
    parts = {}
    for split in ("train", "test"):
        table = pq.read_table(sorted(folder.glob(f"{split}-*.parquet")), columns=["image", "label"])
        stored = (row["bytes"].as_py() for row in table["image"])
        parts[split] = tiny.images(opened(stored)), table["label"].to_numpy()
    return neighbours_accuracy(*parts["train"], *parts["test"])


def sample_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the sample that decode and are not exact copies."""
    rows = [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return [row for row in rows if not row["broken"] and row["exact_duplicate_of"] is None]


def near_copies(tiny: Tiny, folder: Path) -> tuple[float, Array, list[dict[str, Any]]]:
    """Return the share of near-copies whose nearest other picture is of their family, the vectors and the rows."""
    rows = sample_rows(folder)
    vectors = tiny.images(opened(row["image"]["bytes"] for row in rows))
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    family = np.array([row["near_duplicate_of"] or row["id"] for row in rows])
    copies = np.array([row["near_duplicate_of"] is not None for row in rows])
    return float((family[similarity.argmax(1)] == family)[copies].mean()), vectors, rows


def speed(tiny: Tiny, folder: Path) -> float:
    """Return pictures per second from stored bytes and captions to both vectors, on this machine's cores."""
    rows = sample_rows(folder)[:1024]
    started = time.perf_counter()
    tiny.images(opened(row["image"]["bytes"] for row in rows))
    tiny.texts([row["caption"] or "" for row in rows])
    return len(rows) / (time.perf_counter() - started)


def measure(folder: Path, shared: Path | None) -> dict[str, Any]:
    """Return every figure that can be had: those of real data need the shared folder, others the sample."""
    tiny = Tiny(folder)
    accuracy, per = zero_shot(tiny)
    worst = min(per, key=lambda name: per[name])
    figures: dict[str, Any] = {
        "weights, MB": round((folder / "model.safetensors").stat().st_size / 1e6, 2),
        "zero-shot accuracy, held-out scenes": round(accuracy, 4),
        "zero-shot accuracy, worst concept": f"{per[worst]:.3f} ({worst})",
    }
    sample = ROOT / "data/sample"
    if any(sample.glob("*.parquet")):
        figures["near-copies whose nearest is their family"] = round(near_copies(tiny, sample)[0], 4)
        figures["pictures per second, bytes to both vectors"] = round(speed(tiny, sample))
    if shared is not None:
        for name in ("fashion_mnist", "clothing"):
            figures[f"5-nearest-neighbour accuracy, {name} test"] = round(knn(tiny, shared / name), 4)
    return figures


def write_card(folder: Path, figures: dict[str, Any]) -> None:
    """Replace the table of figures in the model card by what was run and what was measured."""
    lines = ["| figure | value |", "|---|---|"]
    for i, run in enumerate(json.loads((folder / "training.json").read_text()), 1):
        pictures = ", ".join(f"{n:,} {name}" for name, n in run.pop("pictures").items())
        said = ", ".join(f"{name} {value}" for name, value in run.items())
        lines.append(f"| training run {i} | {said}; {pictures} |")
    lines += [f"| {name} | {value} |" for name, value in figures.items()]
    card = folder / "MODEL_CARD.md"
    marked = "<!-- figures -->\n" + "\n".join(lines) + "\n<!-- /figures -->"
    text = re.sub(r"<!-- figures -->.*<!-- /figures -->", lambda _: marked, card.read_text(), flags=re.DOTALL)
    card.write_text(text)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "curate/embedding/tiny")
    parser.add_argument("--shared", type=Path)
    parser.add_argument(
        "--card", action="store_true", help="write the figures into MODEL_CARD.md beside the model"
    )
    args = parser.parse_args()
    figures = measure(args.model, args.shared)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if args.card:
        write_card(args.model, figures)


if __name__ == "__main__":
    main()
