"""What the bytes of an image may ask for: whatever a header says fits the tables, and work is counted before it is done."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from curate.embedding import decode as decoding
from curate.embedding.decode import FORMATS, Preprocess, decode
from curate.schema import OUTCOMES

PREPROCESS = Preprocess((16, 16))
INT32 = 2**31 - 1


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width=30, height=20):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def bmp(width, height):
    header = struct.pack("<IIIHHIIIIII", 40, width, height, 1, 24, 0, 192, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 246, 0, 0, 54) + header + bytes(192)


def ppm(width, height):
    return f"P6 {width} {height} 255\n".encode() + bytes(192)


def qoi(width, height):
    return b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + bytes(192)


@pytest.mark.parametrize("made", [bmp, ppm, qoi])
@pytest.mark.parametrize(
    ("width", "height", "outcome", "size"),
    [
        (0xFFFFFF81, 64, "too_large", None),
        (0x7FFFFFFF, 1, "too_large", (INT32, 1)),
        (0x7FFFFFFF, 0x7FFFFFFF, "too_large", (INT32, INT32)),
        (0, 5, "broken_image", None),
        (5, 0, "broken_image", None),
        (0, 0, "broken_image", None),
    ],
)
def test_sizes_are_kept_where_they_are_sizes(made, width, height, outcome, size):
    row = decode(made(width, height), PREPROCESS, max_pixels=1_000_000)
    assert row.outcome == outcome, row
    assert (row.width, row.height) == (size or (None, None))
    if outcome == "too_large":
        assert f"{width:,} x {height:,} pixels" in row.reason


#: What fields of 16 and 32 bits hold at their edges.
EDGES = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFF81, 0xFFFFFFFF)


def forged(data, places):
    """Yield `data` with every field of its header at the edges, in both orders of bytes."""
    for place in places:
        for size, codes in ((2, "HH"), (4, "II")):
            for order, code in zip("<>", codes, strict=True):
                for value in {edge & ((1 << 8 * size) - 1) for edge in EDGES}:
                    yield data[:place] + struct.pack(order + code, value) + data[place + size :]


@pytest.mark.parametrize("kind", FORMATS)
def test_any_header_gives_an_outcome_that_fits(kind):
    try:
        data = encoded(noise(), kind, **({"dpi": (72, 72)} if kind in ("BMP", "TIFF", "JPEG") else {}))
    except (KeyError, OSError):
        pytest.skip(f"Pillow does not write {kind} here")
    # A few dozen places for each kind: the head, and for TIFF the directory at the end.
    places = [*range(0, 60, 5), *range(0, len(data) - 4, max(1, len(data) // 12))]
    for one in forged(data, places):
        row = decode(one, PREPROCESS, max_pixels=100_000)
        assert row.outcome in OUTCOMES
        assert (row.reason is None) == (row.outcome == "ok") == (row.array is not None)
        sides = (row.width, row.height)
        assert sides == (None, None) or all(1 <= side <= INT32 for side in sides)


@pytest.mark.parametrize("resolution", [(0, 0), (1, 0), (2**32 - 1, 1)])
def test_a_resolution_that_is_no_number_is_no_fault(resolution):
    exif = Image.Exif()
    exif[282] = exif[283] = 72.0
    data = encoded(noise(), "TIFF", dpi=(72, 72))
    assert struct.pack("<II", 72, 1) in data
    row = decode(
        data.replace(struct.pack("<II", 72, 1), struct.pack("<II", *resolution)), PREPROCESS, max_pixels=10**6
    )
    assert (row.outcome, row.width, row.height) == ("ok", 30, 20)


def with_scans(n):
    """Return a progressive JPEG with its last scan `n` times more."""
    data = encoded(noise(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * n + data[-2:], data.count(b"\xff\xda") + n


def test_a_jpeg_with_thousands_of_scans_is_refused_by_count():
    data, scans = with_scans(1000)
    row = decode(data, PREPROCESS, max_pixels=64 * 64)
    assert (row.outcome, row.width, row.height) == ("too_large", 64, 64)
    assert row.reason == f"64 x 64 pixels in {scans:,} scans: more work than 20 passes over 4,096 pixels"
    assert decode(with_scans(0)[0], PREPROCESS, max_pixels=64 * 64).outcome == "ok"
    assert decode(data, PREPROCESS, max_pixels=64 * 64 * scans // 20 + 1).outcome != "too_large"


def test_scans_of_a_tiled_tiff_are_counted_for_their_tile():
    many = encoded(noise(64, 640), "TIFF", compression="jpeg", strip_size=64 * 8 * 3)
    assert many.count(b"\xff\xda") >= 40
    assert decode(many, PREPROCESS, max_pixels=64 * 640).outcome == "ok"


def test_what_pillow_decodes_in_python_counts_for_more():
    body = b"\xc0" * 40  # runs of one pixel
    data = b"qoif" + struct.pack(">IIBB", 8, 5, 3, 0) + body + b"\0" * 7 + b"\1"
    assert decode(data, PREPROCESS, max_pixels=200).outcome == "ok"
    row = decode(data, PREPROCESS, max_pixels=199)
    assert (row.outcome, row.reason) == (
        "too_large", "8 x 5 pixels: more work than 20 passes over 199 pixels"
    )  # fmt: skip
    text = b"P3 2 2 255\n" + b"1 " * 12
    assert decode(text, PREPROCESS, max_pixels=100).outcome == "ok"
    padded = decode(b"P3 2 2 255\n" + b" " * 200 + b"1 " * 12, PREPROCESS, max_pixels=100)
    assert padded.outcome == "too_large" and "bytes of ppm_plain" in padded.reason


@pytest.mark.parametrize("mode", ["F", "I;16", "I"])
def test_deep_images_are_brought_to_8_bits_alike_in_strips(mode, monkeypatch):
    values = np.random.default_rng(1).integers(0, 60_000, (50, 40))
    deep = {
        "F": (values / 60_000).astype(np.float32),
        "I;16": values.astype(np.uint16),
        "I": values.astype(np.int32),
    }
    data = encoded(Image.fromarray(deep[mode]), "TIFF")
    whole = decode(data, PREPROCESS, max_pixels=10**6).array
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 120)
    np.testing.assert_array_equal(decode(data, PREPROCESS, max_pixels=10**6).array, whole)


def test_what_decoding_takes_is_asked_for_before():
    asked = []
    image = noise(300, 200)
    for kind, copies in (("BMP", 2), ("PNG", 2)):
        data = encoded(image, kind)
        assert decode(data, PREPROCESS, max_pixels=10**6, reserve=asked.append).outcome == "ok"
        assert asked.pop() == len(data) + 300 * 200 * 4 * copies
    decode(bmp(0xFFFF, 0xFFFF), PREPROCESS, max_pixels=10**6, reserve=asked.append)
    assert asked == [], "what is refused takes nothing"
