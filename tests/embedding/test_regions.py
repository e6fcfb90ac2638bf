"""Boxes in pictures: what is cut out and what is filled, by hand and by the definition; how they reach the model."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curate.embedding import clip as models
from curate.embedding.decode import Preprocess, decode, to_array
from curate.embedding.region_pool import Boxed, RegionPool, embed_regions
from curate.embedding.regions import RING, crop_box, crops, fill_boxes, filled, inside, pack, unpack

NAN = math.nan


def picture(width=12, height=9, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_boxes_are_cut_off_and_broken_ones_are_none():
    boxes = np.array(
        [[1, 1, 5, 4], [-3, -3, 2, 2], [8, 2, 99, 3], [4, 4, 4, 8], [6, 6, 5, 8], [12, 0, 14, 3], [0, 9, 3, 12],
         [NAN, 0, 1, 1], [0, 0, math.inf, 1]], np.float64,
    )  # fmt: skip
    cut, there = inside(boxes, 12, 9)
    assert there.tolist() == [True, True, True, *[False] * 6]
    assert cut[:3].tolist() == [[1, 1, 5, 4], [0, 0, 2, 2], [8, 2, 12, 3]]
    assert inside(np.empty((0, 4)), 3, 3)[1].tolist() == []


def test_a_crop_has_its_margin_and_stays_in_the_picture():
    image = picture(100, 60)
    (one,) = crops(image, np.array([[10.0, 20, 30, 40]]), 0.1)
    np.testing.assert_array_equal(np.asarray(one), np.asarray(image)[18:42, 8:32])
    (edge,) = crops(image, np.array([[-50.0, 50, 40, 70]]), 0.1)
    # cut off first: 40 wide and 10 high, so 4 and 1 around it
    np.testing.assert_array_equal(np.asarray(edge), np.asarray(image)[49:60, 0:44])
    (bare,) = crops(image, np.array([[10.2, 20.9, 10.4, 21.1]]), 0.0)
    assert bare.size == (1, 2)
    assert crop_box(np.array([0.0, 0, 100, 60]), 0.5, 100, 60) == (0, 0, 100, 60)
    assert crops(image, np.array([[200.0, 0, 210, 9]]), 0.1) == []


def test_filling_by_hand():
    """A 1 x 1 ring around a box of 2 x 2 in a picture of one colour but for one pixel beside the box."""
    pixels = np.full((6, 6, 3), 10, np.uint8)
    pixels[2:4, 2:4] = 200
    pixels[1, 1] = 130  # one of the 12 around it: (11 x 10 + 130) / 12 = 20
    found = fill_boxes(pixels, [(2, 2, 4, 4)])
    assert (found[2:4, 2:4] == 20).all()
    assert (
        np.delete(found.reshape(-1, 3), [14, 15, 20, 21], axis=0)
        == np.delete(pixels.reshape(-1, 3), [14, 15, 20, 21], axis=0)
    ).all()
    whole = fill_boxes(pixels, [(0, 0, 6, 6)])
    assert (whole == round((31 * 10 + 130 + 4 * 200) / 36)).all()
    # nothing free in the ring of the inner box: all that is in no box
    inner = fill_boxes(pixels, [(2, 2, 4, 4), (1, 1, 5, 5)])
    assert (inner[2:4, 2:4] == 10).all()


def by_definition(pixels, boxes):
    height, width = pixels.shape[:2]
    covered = {(x, y) for x0, y0, x1, y1 in boxes for x in range(x0, x1) for y in range(y0, y1)}
    free = [(x, y) for y in range(height) for x in range(width) if (x, y) not in covered]
    result = pixels.copy()
    for x0, y0, x1, y1 in sorted(boxes):
        ring = max(1, round(RING * min(x1 - x0, y1 - y0)))
        near = [(x, y) for x, y in free if x0 - ring <= x < x1 + ring and y0 - ring <= y < y1 + ring]
        near = near or free or [(x, y) for y in range(height) for x in range(width)]
        for channel in range(3):
            mean = sum(int(pixels[y, x, channel]) for x, y in near) / len(near)
            for x in range(x0, x1):
                for y in range(y0, y1):
                    result[y, x, channel] = round(mean)
    return result


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_filling_by_the_definition(data):
    width, height = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 24))
    pixels = np.asarray(picture(width, height, data.draw(st.integers(0, 99))))
    boxes = []
    for _ in range(data.draw(st.integers(0, 4))):
        x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        boxes.append((x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))))
    found = fill_boxes(pixels, boxes)
    np.testing.assert_array_equal(found, by_definition(pixels, boxes))
    np.testing.assert_array_equal(found, fill_boxes(pixels, boxes[::-1]))


def test_a_picture_without_boxes_in_it_stays_as_it_is():
    image = picture()
    (same,) = filled(image, np.array([[50.0, 50, 60, 60], [NAN, 0, 1, 1]]), 0.0)
    np.testing.assert_array_equal(np.asarray(same), np.asarray(image))
    (larger,) = filled(image, np.array([[4.0, 4, 6, 6]]), 0.5)
    np.testing.assert_array_equal(np.asarray(larger), fill_boxes(np.asarray(image), [(3, 3, 7, 7)]))


def test_packing_and_decoding():
    image, preprocess = picture(40, 30), Preprocess((8, 8))
    boxes = np.array([[0.0, 0, 10, 10], [99, 99, 100, 100], [5, 5, 25, 20]])
    data, back, margin = unpack(pack(png(image), boxes, 0.25))
    assert data == png(image) and margin == 0.25
    np.testing.assert_array_equal(back, boxes)
    found = decode(pack(png(image), boxes, 0.1), preprocess, max_pixels=10_000, altered="crops")
    want = [to_array(one, preprocess) for one in crops(image, boxes, 0.1)]
    assert (found.outcome, found.width, found.height) == ("ok", 40, 30)
    np.testing.assert_array_equal(found.array, np.stack(want))
    none = decode(pack(png(image), boxes[1:2]), preprocess, max_pixels=10_000, altered="crops")
    assert (none.outcome, none.array) == ("ok", None)
    assert decode(pack(b"GIF8", boxes), preprocess, max_pixels=9, altered="filled").outcome == "broken_image"
    assert decode(pack(png(image), boxes), preprocess, max_pixels=9, altered="crops").outcome == "too_large"
    assert decode(None, preprocess, max_pixels=9, altered="crops").outcome == "missing_image"


@pytest.fixture(scope="module")
def clip():
    return models.load("tiny", device="cpu")


def alone(clip, images):
    """Return the vectors of pictures that never met the pool."""
    return clip.encode_images(np.stack([to_array(one, clip.preprocess) for one in images])).astype(np.float16)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_embedded_of_each_picture(clip, workers):
    """As if every crop were embedded by itself, whatever shares a batch; with processes as without."""
    rng = np.random.default_rng(3)
    images = [picture(50, 40, seed) for seed in range(7)]
    asked = []
    for number, image in enumerate(images):
        corner = rng.uniform(-10, 40, (int(rng.integers(0, 5)), 2))
        boxes = np.concatenate([corner, corner + rng.uniform(-2, 30, corner.shape)], axis=1)
        asked.append(Boxed(number, png(image), boxes))
    asked += [
        Boxed("broken", b"no picture", np.array([[0.0, 0, 4, 4]])),
        Boxed("gone", None, np.array([[0.0, 0, 4, 4]])),
    ]
    with RegionPool(clip.preprocess, workers=workers, max_pixels=10_000, altered="crops") as pool:
        found = list(embed_regions(asked, clip, pool, 0.1))
    assert [one.tag for one in found] == [*range(7), "broken", "gone"]
    assert [one.outcome for one in found[7:]] == ["broken_image", "missing_image"]
    assert [one.there.tolist() for one in found[7:]] == [[False], [False]]
    parts = []
    for one, image in zip(found, images, strict=False):
        boxes, there = inside(asked[one.tag].boxes, 50, 40)
        np.testing.assert_array_equal(one.boxes, boxes)
        assert (
            one.outcome == "ok" and one.there.tolist() == there.tolist() and len(one.vectors) == there.sum()
        )
        parts += crops(image, asked[one.tag].boxes, 0.1)
    np.testing.assert_array_equal(np.concatenate([one.vectors for one in found]), alone(clip, parts))
    with RegionPool(clip.preprocess, workers=workers, max_pixels=10_000, altered="filled") as pool:
        masked = list(embed_regions(asked, clip, pool, 0.0))
    whole = [filled(image, one.boxes, 0.0)[0] for image, one in zip(images, asked, strict=False)]
    np.testing.assert_array_equal(np.concatenate([one.vectors for one in masked[:7]]), alone(clip, whole))
    assert [one.outcome for one in masked[7:]] == ["broken_image", "missing_image"]


def test_a_batch_has_few_crops_however_many_boxes_pictures_have():
    from curate.embedding.region_pool import _BATCH_CROPS, _batches

    boxes = np.zeros((40, 4))
    sizes = [len(batch.tag) for batch in _batches([Boxed(n, b"", boxes) for n in range(5)], 0.0)]
    assert sizes == [1, 1, 1, 1, 1]
    few = [
        len(batch.tag) for batch in _batches([Boxed(n, b"", boxes[:0]) for n in range(_BATCH_CROPS + 1)], 0.0)
    ]
    assert few == [_BATCH_CROPS + 1] or sum(few) == _BATCH_CROPS + 1
