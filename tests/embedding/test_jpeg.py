"""Ways to decode a JPEG: turbo gives Pillow's pixels, draft comes near; and what happens where they cannot."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from curate.embedding import jpeg
from curate.embedding.decode import Preprocess, decode, open_image
from curate.embedding.decode_pool import DecodePool
from curate.execution.engines.base import Place
from curate.pipeline.stages import embed_model
from curate.recipe import Embed

PREPROCESS = Preprocess((64, 64))
SHARED = Path(os.environ.get("CURATE_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
turbo = pytest.mark.skipif(not jpeg.has_turbo(), reason="simplejpeg is not installed (curate[turbo])")


def photo(width, height, seed=0):
    """Return something like a photo: smooth shapes, an edge, a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[:, width // 3 : width // 2] //= 2
    return Image.fromarray(np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8))


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def both(data, **options):
    return [decode(data, PREPROCESS, max_pixels=10**7, way=way, **options) for way in ("pillow", "turbo")]


def assert_same(one, other):
    assert one[:4] == other[:4]
    if one.array is None:
        assert other.array is None
    else:
        np.testing.assert_array_equal(one.array, other.array)


@turbo
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (65, 64), (8, 300), (131, 97), (320, 241)])
def test_turbo_gives_pillows_pixels(size, progressive, subsampling):
    for quality in (10, 75, 100):
        options = {"quality": quality, "progressive": progressive, "subsampling": subsampling}
        assert_same(*both(encoded(photo(*size), **options)))
    assert_same(*both(encoded(photo(*size).convert("L"), progressive=progressive)))


@turbo
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turbo_turns_as_exif_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    one, other = both(encoded(photo(90, 40), exif=exif))
    assert_same(one, other)
    assert (other.width, other.height) == ((40, 90) if orientation >= 5 else (90, 40))


@turbo
def test_turbo_leaves_to_pillow_what_it_would_read_otherwise():
    data = encoded(photo(200, 150))
    cut, torn = data[: len(data) // 2], bytearray(data)
    torn[len(data) // 2 : len(data) // 2 + 40] = b"\xff\xd9" * 20
    cmyk = encoded(photo(60, 50).convert("CMYK"))
    for some in (
        cut,
        bytes(torn),
        cmyk,
        data[:200],
        data + b"more",
        b"",
        b"\xff\xd8\xff",
        data.replace(b"JFIF", b"JFxx"),
    ):
        assert_same(*both(some))
    out = io.BytesIO()
    photo(50, 60).save(out, "PNG")
    assert_same(*both(out.getvalue()))


@turbo
@pytest.mark.skipif(not (SHARED / "clothing").is_dir(), reason="shared/data/clothing is not there")
def test_turbo_gives_pillows_pixels_of_real_photos():
    files = sorted((SHARED / "clothing").glob("*.parquet"))
    images = [one["bytes"] for file in files for one in pl.read_parquet(file)["image"][::12]]
    images += [file.read_bytes() for file in sorted((SHARED / "clip_preprocess" / "images").iterdir())]
    assert len(images) > 300
    for data in images:
        assert_same(*both(data))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(1200, 900), (900, 1300), (520, 515), (130, 700)])
def test_draft_decodes_smaller_and_tells_the_whole_size(monkeypatch, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data, seen = encoded(photo(*size), exif=exif, quality=90), []
    real = jpeg.Image.Image.resize
    monkeypatch.setattr(
        jpeg.Image.Image, "resize", lambda self, *a, **k: seen.append(self.size) or real(self, *a, **k)
    )
    whole, fast = (decode(data, PREPROCESS, max_pixels=10**7, way=way) for way in ("pillow", "draft"))
    assert fast[:4] == whole[:4]
    assert min(seen[1]) >= jpeg.DRAFT_GAP * 64
    assert min(seen[1]) < 2 * jpeg.DRAFT_GAP * 64 + 2 or min(seen[0]) >= 8 * min(seen[1]) - 8
    assert np.abs(fast.array.astype(int) - whole.array).mean() < 2.0


def test_draft_leaves_what_is_small_and_what_is_no_jpeg():
    small = encoded(photo(150, 140))
    out = io.BytesIO()
    photo(900, 800).save(out, "PNG")
    for data in (small, out.getvalue(), b"", small[:300]):
        assert_same(*(decode(data, PREPROCESS, max_pixels=10**7, way=way) for way in ("pillow", "draft")))


@pytest.mark.skipif(
    not (SHARED / "clip_preprocess").is_dir(), reason="shared/data/clip_preprocess is not there"
)
def test_draft_is_as_near_as_the_docs_say_on_real_photos():
    """docs/embedding.md: half of the photos differ by less than 1 of 255 on average, none by more than 8."""
    means = []
    for file in sorted((SHARED / "clip_preprocess" / "images").iterdir()):
        whole, fast = (
            decode(file.read_bytes(), PREPROCESS, max_pixels=10**8, way=way) for way in ("pillow", "draft")
        )
        means.append(np.abs(fast.array.astype(int) - whole.array).mean())
    assert len(means) == 7 and max(means) > 0
    assert np.median(means) < 1 and max(means) < 8


def test_workers_decode_as_the_process_does():
    images = [encoded(photo(400, 300, seed)) for seed in range(4)]
    for way in jpeg.WAYS:
        found = []
        for workers in (0, 1):
            with DecodePool(PREPROCESS, workers=workers, max_pixels=10**7, way=way) as pool:
                found.append(next(rows for _, rows in pool.map([(None, images)])))
        for one, other in zip(*found, strict=True):
            assert_same(one, other)


def test_without_the_package_pillow_decodes(monkeypatch, caplog):
    caplog.set_level("INFO", "curate")
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    assert [jpeg.way_of(way) for way in jpeg.WAYS] == ["pillow", "pillow", "pillow", "draft"]
    data = encoded(photo(80, 70))
    assert_same(*both(data))
    assert open_image(data, max_pixels=10**6).size == (80, 70)
    clip = SimpleNamespace(preprocess=PREPROCESS, device="cpu")
    for way in jpeg.WAYS:
        task = embed_model.ModelTask(Embed(model="tiny", decode=way), 1, 10**8)
        assert embed_model._pool(lambda *_, **given: given["way"], task, clip, Place()) == way
    assert caplog.text.count("simplejpeg is not installed, Pillow decodes instead") == 1
