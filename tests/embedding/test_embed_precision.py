"""What `embed.precision: auto` means: by device, processor and size of the model; and that half precision is near."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from curate.embedding import precision
from curate.embedding.batching import Unembedded, embed_rows
from curate.embedding.clip import load
from curate.embedding.decode_pool import DecodePool
from curate.embedding.devices import exact_convolutions
from curate.embedding.precision import auto_precision, is_small, processor_has_bfloat16
from curate.errors import ModelError


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("fpu avx512f avx512_bf16 amx_tile", True), ("fpu amx_bf16", True), ("fpu avx512f avx512_vnni", False),
        ("fpu my_avx512_bf16_not", False), ("", False),
    ],
)  # fmt: skip
def test_flags_of_a_processor(tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(
        f"processor\t: 0\nvendor_id\t: X\nflags\t\t: {flags}\nbugs\t\t: amx_bf16\n"
    )
    assert processor_has_bfloat16(tmp_path / "cpuinfo") is has
    assert not processor_has_bfloat16(tmp_path / "none")


@pytest.mark.parametrize("has", [False, True])
def test_auto_goes_by_device_processor_and_size(tmp_path, monkeypatch, has):
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: has)
    small, large = tmp_path / "small.pt", tmp_path / "large.pt"
    small.write_bytes(b"w")
    with large.open("wb") as file:
        file.truncate(precision.SMALL_MODEL_BYTES)
    half = "bfloat16" if has else "float32"
    for model, pretrained, expected in (
        ("tiny", None, "float32"), ("ViT-B-32", "laion2b_s34b_b79k", half), ("hf-hub:a/b", None, half),
        ("ViT-B-32", str(large), half), ("ViT-B-32", str(small), "float32"),
    ):  # fmt: skip
        assert auto_precision(model, pretrained, "cpu") == expected
        assert auto_precision(model, pretrained, "mps") == "float32"
        assert auto_precision(model, pretrained, "cuda:1") == "float16"


def test_a_model_in_a_folder_is_as_small_as_its_weights(tmp_path):
    name = f"local-dir:{tmp_path}"
    assert not is_small(name, None), "without weights nothing is known"
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"w")
    (tmp_path / "README.md").write_bytes(b"w" * 100)
    assert is_small(name, None)
    with (tmp_path / "open_clip_model.safetensors").open("wb") as file:
        file.truncate(precision.SMALL_MODEL_BYTES)
    assert not is_small(name, None)


# Devices


def test_cudnn_is_put_back_by_the_last_one_out():
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32)
    with exact_convolutions():
        with exact_convolutions():
            assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, False, False)
        assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, False, False)
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == before


def pictures(n):
    rng = np.random.default_rng(n)
    found = []
    for _ in range(n):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((70, 90)).save(out, "PNG")
        found.append(out.getvalue())
    return found


def embedded(clip, images, captions):
    batches = [
        Unembedded(start, images[start : start + 7], captions[start : start + 7])
        for start in range(0, len(images), 7)
    ]
    with DecodePool(clip.preprocess, workers=0, max_pixels=10**6) as pool:
        found = list(embed_rows(batches, clip, pool, threads=1))
    return [np.concatenate([getattr(one, name) for one in found]) for name in ("image", "text")]


def test_several_devices_give_what_one_gives():
    images, captions = pictures(40), [f"thing {row}" for row in range(40)]
    one, two = (load("tiny", device=device, batch_size=8) for device in ("cpu", "cpu, cpu"))
    assert (len(one.replicas), len(two.replicas)) == (0, 1)
    assert two.replicas[0]._model is not two._model
    for ours, theirs in zip(embedded(two, images, captions), embedded(one, images, captions), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_devices_that_cannot_be_used_together_are_refused():
    with pytest.raises(ModelError, match=r"embed\.device must be one kind of device, got 'cpu,meta'"):
        load("tiny", device="cpu,meta")
    with pytest.raises(ModelError, match=r"embed\.device 'cuda:99' cannot be used"):
        load("tiny", device="cpu,cuda:99")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("x"), RuntimeError("CUDA error: out of memory\nmore")]
)
def test_want_of_memory_says_what_to_set(monkeypatch, error):
    clip = load("tiny", device="cpu", batch_size=8)
    monkeypatch.setattr(clip._model, "encode_text", lambda tokens: (_ for _ in ()).throw(error))
    with pytest.raises(
        ModelError, match=r"tiny ran out of memory on cpu with embed\.batch_size 8; set a smaller one"
    ):
        clip.encode_texts(["a"])
    monkeypatch.setattr(
        clip._model, "encode_text", lambda tokens: (_ for _ in ()).throw(RuntimeError("shape"))
    )
    with pytest.raises(RuntimeError, match="shape"):
        clip.encode_texts(["a"])


def test_half_precision_is_near_and_does_not_depend_on_companions():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    captions = [f"a picture of thing {row}" for row in range(9)]
    whole = load("tiny", device="cpu", precision="float32", batch_size=4)
    half = load("tiny", device="cpu", precision="bfloat16", batch_size=4)
    assert half.identity == whole.identity
    for name, rows in (("encode_images", pixels), ("encode_texts", np.array(captions))):
        ours, theirs = getattr(half, name)(rows), getattr(whole, name)(rows)
        assert not np.array_equal(ours, theirs)
        assert (ours * theirs).sum(axis=1).min() > 0.999
        np.testing.assert_array_equal(getattr(half, name)(rows[::-1])[::-1], ours)
        np.testing.assert_array_equal(getattr(half, name)(rows[6:7]), ours[6:7])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_gpu_gives_what_the_processor_gives_and_the_same_twice(precision):
    images, captions = pictures(40), [f"thing {row}" for row in range(40)]
    here = load("tiny", device="cpu", precision="float32", batch_size=8)
    there = load("tiny", device="cuda", precision=precision, batch_size=8)
    found = embedded(there, images, captions)
    for ours, again, theirs in zip(
        found, embedded(there, images, captions), embedded(here, images, captions), strict=True
    ):
        np.testing.assert_array_equal(ours, again)
        near = 0.9999 if precision == "float32" else 0.999
        assert (ours.astype(np.float64) * theirs.astype(np.float64)).sum(axis=1).min() > near
    shuffled = embedded(there, images[::-1], captions[::-1])
    for ours, turned in zip(found, shuffled, strict=True):
        np.testing.assert_array_equal(turned[::-1], ours)
