import io
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from curate.embedding import batching
from curate.embedding import clip as clips
from curate.embedding.batching import Unembedded, default_decode_workers, embed_rows
from curate.embedding.clip import load
from curate.embedding.decode import Decoded, decode
from curate.embedding.decode_pool import DecodePool
from curate.embedding.torchvision_guard import import_open_clip
from curate.errors import ModelError

LIMIT = 1_000_000
LISTS = ("outcome", "reason", "width", "height")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    open_clip = import_open_clip()
    folder = tmp_path_factory.mktemp("encode")
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = folder / "curate-test-encode.json"
    config.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    with clips.quiet():
        torch.save(open_clip.create_model("curate-test-encode").state_dict(), folder / "weights.pt")
    return load("curate-test-encode", str(folder / "weights.pt"), batch_size=8)


def jpeg(seed):
    generator = np.random.default_rng(seed)
    out = io.BytesIO()
    size = generator.integers(20, 60, 2)
    Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def rows(n):
    """Images and captions with every kind of gap, repeated captions among them."""
    images = [(None, b"", b"<html>")[i // 11 % 3] if i % 11 == 5 else jpeg(i) for i in range(n)]
    captions = [None if i % 7 == 3 else " \n" if i % 13 == 4 else f"thing {i % 10}" for i in range(n)]
    return images, captions


def split(images, captions, size, embed=None):
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield Unembedded(start, images[part], captions[part], None if embed is None else embed[part])


def run(model, batches, workers=0, **options):
    with DecodePool(model.preprocess, workers=workers, max_pixels=LIMIT) as pool:
        return list(embed_rows(batches, model, pool, **options))


def joined(results):
    return [
        *([row for result in results for row in getattr(result, name)] for name in LISTS),
        *(
            np.concatenate([getattr(result, name) for result in results])
            for name in ("image", "text", "has_image", "has_text")
        ),
    ]


def test_every_row_gets_the_vectors_it_would_get_alone(model):
    images, captions = rows(60)
    outcome, reason, width, height, image, text, has_image, has_text = joined(
        run(model, split(images, captions, 9))
    )
    assert image.dtype == text.dtype == np.float16
    assert image.shape == text.shape == (60, model.dim)
    for i in range(60):
        alone = decode(images[i], model.preprocess, max_pixels=LIMIT)
        assert (outcome[i], reason[i], width[i], height[i]) == alone[:4]
        assert has_image[i] == (alone.outcome == "ok")
        assert has_text[i] == (has_image[i] and captions[i] is not None and captions[i].strip() != "")
        if has_image[i]:
            expected = model.encode_images(alone.array[None])[0].astype(np.float16)
            np.testing.assert_array_equal(image[i], expected)
        if has_text[i]:
            expected = model.encode_texts([captions[i]])[0].astype(np.float16)
            np.testing.assert_array_equal(text[i], expected)
    assert np.isnan(image[~has_image]).all()
    assert np.isnan(text[~has_text]).all()
    assert 0 < has_text.sum() < has_image.sum() < 60


@pytest.mark.parametrize(("size", "workers", "threads"), [(1, 0, 1), (60, 1, 2), (7, 2, 3), (8, 2, 1)])
def test_batches_workers_and_threads_change_nothing(model, size, workers, threads):
    images, captions = rows(60)
    results = run(model, split(images, captions, size), workers, threads=threads)
    assert [result.tag for result in results] == list(range(0, 60, size))
    for ours, reference in zip(joined(results), joined(run(model, split(images, captions, 20))), strict=True):
        np.testing.assert_array_equal(ours, reference)


def test_copies_are_decoded_but_not_embedded(model):
    images, captions = rows(20)
    embed = [i % 2 == 0 for i in range(20)]
    with_copies = joined(run(model, split(images, captions, 6, embed)))
    every = joined(run(model, split(images, captions, 6)))
    assert with_copies[:4] == every[:4]
    np.testing.assert_array_equal(with_copies[6], every[6] & embed)
    np.testing.assert_array_equal(with_copies[4][embed], every[4][embed])
    assert np.isnan(with_copies[4][1::2]).all()
    assert not with_copies[7][1::2].any()


def test_empty_batches_and_no_batches(model):
    assert run(model, []) == []
    results = run(
        model, [Unembedded("a", [], []), Unembedded("b", [jpeg(1)], [None]), Unembedded("c", [], [])]
    )
    assert [(result.tag, len(result.outcome), result.image.shape) for result in results] == [
        ("a", 0, (0, 24)),
        ("b", 1, (1, 24)),
        ("c", 0, (0, 24)),
    ]


def test_equal_captions_are_embedded_once(model, monkeypatch):
    seen = []
    real = type(model).encode_texts

    def counted(self, captions):
        seen.extend(captions)
        return real(self, captions)

    monkeypatch.setattr(type(model), "encode_texts", counted)
    monkeypatch.setattr(batching, "CAPTION_CACHE", 4)
    images = [jpeg(1)] * 64
    captions = [f"thing {i % 2}" for i in range(64)]
    run(model, split(images, captions, 4))
    assert sorted(seen) == ["thing 0", "thing 1"]
    seen.clear()
    captions = [f"thing {i % 20}" for i in range(64)]  # more than the cache holds
    reference = [model.encode_texts([caption])[0].astype(np.float16) for caption in captions]
    np.testing.assert_array_equal(joined(run(model, split(images, captions, 4)))[5], reference)


def test_rare_captions_do_not_hold_everything_back(model, monkeypatch):
    monkeypatch.setattr(batching, "_HELD_BATCHES", 2)
    drawn = 0

    def source():
        nonlocal drawn
        for i in range(30):
            drawn += 1
            yield Unembedded(i, [jpeg(0)] * 4, ["the only caption" if i == 0 else None, None, None, None])

    with DecodePool(model.preprocess, workers=0, max_pixels=LIMIT) as pool:
        results = embed_rows(source(), model, pool)
        first = next(results)
        assert drawn < 15
        assert first.has_text.tolist() == [True, False, False, False]
        assert len(list(results)) == 29


def test_a_vector_that_is_not_finite_makes_the_row_unusable(model, monkeypatch):
    def broken(self, captions):
        vectors = np.ones((len(captions), 24), np.float32)
        vectors[[caption == "bad" for caption in captions]] = np.nan
        return vectors

    monkeypatch.setattr(type(model), "encode_texts", broken)
    [result] = run(model, [Unembedded(0, [jpeg(1), jpeg(2), jpeg(3)], ["fine", "bad", None])])
    assert result.outcome == ["ok", "bad_vector", "ok"]
    assert result.reason[1] == "the model gives no finite vector for the caption"
    assert result.has_image.tolist() == [True, False, True]
    assert result.has_text.tolist() == [True, False, False]
    assert np.isnan(result.image[1]).all()


def test_an_error_of_the_model_gets_out_and_threads_are_given_back(model, monkeypatch):
    def broken(self, pixels):
        raise ModelError("out of memory")

    monkeypatch.setattr(type(model), "encode_images", broken)
    before = torch.get_num_threads()
    with pytest.raises(ModelError, match="out of memory"):
        run(model, split(*rows(30), 5), threads=2)
    assert torch.get_num_threads() == before


def test_the_model_works_while_images_are_decoded(model, monkeypatch):
    """A second batch is drawn while the first is still with the model, which here waits for that."""
    events, second, plain = [], threading.Event(), type(model).encode_images

    def waiting(self, images):
        assert second.wait(30)
        return plain(self, images)

    monkeypatch.setattr(type(model), "encode_images", waiting)

    class Pool:
        def map(self, batches):
            for tag, images in batches:
                events.append("decoded")
                if len(events) == 2:
                    second.set()
                yield tag, [Decoded("ok", None, 1, 1, np.zeros((32, 32, 3), np.uint8)) for _ in images]

    for _ in embed_rows((Unembedded(i, [b"x"] * 8, [None] * 8) for i in range(6)), model, Pool(), threads=1):
        events.append("embedded")
    assert events.count("decoded") == events.count("embedded") == 6
    assert events[:2] == ["decoded", "decoded"]


def test_decode_workers_leave_room_for_the_model():
    assert default_decode_workers("cpu") >= 1
    assert default_decode_workers("cuda") >= 1
