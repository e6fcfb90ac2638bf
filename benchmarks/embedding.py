"""Images to CLIP vectors: what embeds in a run against an open_clip loop with a DataLoader.

The loop is that of a careful user: images from Parquet by PyArrow, `open_clip`'s own transform in the workers of a DataLoader,
inference mode; in half precision one autocast around it all, so that weights are cast once. Ours gives each image an
outcome besides, and decodes in processes that may die. Both have as many cores as there are. Decoding and the
forward pass are measured alone too: `efficiency` in the facts of a line of its own says which share of the time of
both together our whole takes (1 would be no overhead at all).

Images are photo-like JPEGs of 500 x 375. The model is ViT-B-32 with random weights (toy: `tiny`): speed does not depend on them.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from timing import Contender, arguments, call, compare, write

from curate.embedding import clip as clips
from curate.embedding.batching import Unembedded, default_decode_workers, embed_rows
from curate.embedding.decode_pool import DecodePool
from curate.embedding.devices import one_thread
from curate.embedding.precision import auto_precision
from curate.embedding.torchvision_guard import import_open_clip
from curate.process import cpu_count

ROWS = {"toy": 40, "short": 96, "long": 2_048}
SIZE = (500, 375)
MAX_PIXELS = 100_000_000
TARGET = 0.9


def make(path: Path, rows: int) -> None:
    """Write JPEGs that cost what photos cost: smooth shapes with edges and some noise."""
    rng, images = np.random.default_rng(0), []
    for _ in range(rows):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += rng.integers(-12, 13, pixels.shape, dtype=np.int16)
        out = BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
        images.append(out.getvalue())
    pq.write_table(pa.table({"image": images}), path, row_group_size=256)


def weights(folder: Path) -> str:
    """Write a checkpoint of ViT-B-32 with random weights; return its path."""
    from safetensors.torch import save_file

    path = folder / "vit-b-32.safetensors"
    with clips.quiet():
        torch.manual_seed(0)
        network = import_open_clip().create_model("ViT-B-32")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return str(path)


def batches(images: str) -> Iterator[Unembedded]:
    """Yield the images of a file as the stage hands them to the decoders."""
    for batch in pq.ParquetFile(images).iter_batches(64):
        encoded = batch.column("image").to_pylist()
        yield Unembedded(None, encoded, [None] * len(encoded))


def _pool(clip: clips.Clip) -> DecodePool:
    return DecodePool(clip.preprocess, workers=default_decode_workers(clip.device), max_pixels=MAX_PIXELS)


def _decoded(clip: clips.Clip, images: str) -> list[Any]:
    with _pool(clip) as pool:
        pairs = ((None, batch.images) for batch in batches(images))
        return [row.array for _, rows in pool.map(pairs) for row in rows]


def ours(images: str, model: str, pretrained: str | None, precision: str) -> Iterator[dict[str, Any] | None]:
    """Embed as a run does."""
    clip = clips.load(model, pretrained, device="cpu", precision=precision)
    yield None
    n = 0
    with _pool(clip) as pool:
        for found in embed_rows(batches(images), clip, pool):
            n += int(found.has_image.sum())
    return {"images": n}


def decode_alone(images: str, model: str, pretrained: str | None) -> Iterator[dict[str, Any] | None]:
    """Decode as a run does, and nothing else."""
    clip = clips.load(model, pretrained, device="cpu", precision="float32")
    yield None
    return {"images": len(_decoded(clip, images))}


def forward_alone(
    images: str, model: str, pretrained: str | None, precision: str
) -> Iterator[dict[str, Any] | None]:
    """Give decoded pixels to the model, as many batches beside each other as there are cores."""
    clip = clips.load(model, pretrained, device="cpu", precision=precision)
    pixels = np.stack(_decoded(clip, images))
    yield None
    starts = range(0, len(pixels), clip.batch_size)
    with one_thread(), ThreadPoolExecutor(cpu_count()) as threads:
        some = threads.map(lambda start: clip.encode_images(pixels[start : start + clip.batch_size]), starts)
        return {"images": sum(len(vectors) for vectors in some)}


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    """Images for a DataLoader, opened and transformed one by one in its workers."""

    def __init__(self, images: str, transform: Any) -> None:  # noqa: ANN401  (a transform of torchvision)
        self._images, self._transform = pq.read_table(images)["image"].to_pylist(), transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> torch.Tensor:
        found: torch.Tensor = self._transform(Image.open(BytesIO(self._images[row])))
        return found


def loop(
    images: str, model: str, pretrained: str | None, precision: str, workers: int
) -> Iterator[dict[str, Any] | None]:
    """Embed by open_clip itself."""
    open_clip = import_open_clip()
    if model == "tiny":
        clips.load("tiny", device="cpu")  # makes its architecture known
        pretrained = str(Path(clips.__file__).parent / "tiny" / "model.safetensors")
    with clips.quiet():
        network, _, transform = open_clip.create_model_and_transforms(model, pretrained=pretrained)
    network.eval()
    yield None
    n, half = 0, precision == "bfloat16"
    loader = torch.utils.data.DataLoader(Rows(images, transform), batch_size=32, num_workers=workers)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        for batch in loader:
            n += len(network.encode_image(batch, normalize=True).float().numpy())
    return {"images": n}


def main(given: list[str] | None = None) -> None:
    """Compare in float32, and in what `auto` is here."""
    options = arguments(__doc__).parse_args(given)
    rows, found = ROWS[options.size], []
    with tempfile.TemporaryDirectory() as scratch:
        images = str(Path(scratch) / "images.parquet")
        make(Path(images), rows)
        model = "tiny" if options.size == "toy" else "ViT-B-32"
        pretrained = None if model == "tiny" else weights(Path(scratch))
        given_all = {"images": images, "model": model, "pretrained": pretrained}
        workers = 0 if options.size == "toy" else max(1, cpu_count() // 2)
        for precision in dict.fromkeys(["float32", auto_precision(model, pretrained, "cpu")]):
            asked = {**given_all, "precision": precision}
            one = compare(
                f"embedding, {rows:,} images, {model}, {precision}",
                Contender("curate", call(__file__, "ours", **asked)),
                [
                    Contender("open_clip and a DataLoader", call(__file__, "loop", **asked, workers=workers)),
                    Contender("decoding alone", call(__file__, "decode_alone", **given_all)),
                    Contender("forward pass alone", call(__file__, "forward_alone", **asked)),
                ],
                pairs=options.pairs,
                targets={"open_clip and a DataLoader": 1.0},
            )
            _say(one, rows)
            found.append(one)
    write("embedding", found, options)


def _say(one: Any, rows: int) -> None:  # noqa: ANN401  (a Comparison)
    """Print images a processor second, and how near our whole is to its parts."""
    seconds = {
        name: float(np.median([turn.processor for turn in turns])) for name, turns in one.turns.items()
    }
    for name, took in seconds.items():
        print(f"   {name}: {rows / max(took, 1e-9):.1f} images per processor second")
    parts = seconds.get("decoding alone", 0.0) + seconds.get("forward pass alone", 0.0)
    print(f"   efficiency: {parts / max(seconds['curate'], 1e-9):.2f} (at least {TARGET})")


if __name__ == "__main__":
    main()
