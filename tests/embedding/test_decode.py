import io
import warnings

import numpy as np
import pytest
from PIL import Image

from curate.embedding import decode as decoding
from curate.embedding.decode import DecodeError, Preprocess, decode, open_image, to_array

LIMIT = 10_000_000
PREPROCESS = Preprocess((32, 32))


def encode(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pixels(data, limit=LIMIT):
    return np.asarray(open_image(data, max_pixels=limit))


def picture(height, width, bands=3, seed=0):
    shape = (height, width, bands) if bands > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def on_white(image):
    values = np.asarray(image.convert("RGBA")).astype(float)
    alpha = values[..., 3:] / 255
    return np.rint(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def test_clip_pixels_are_those_of_the_reference(shared_data):
    expected = np.load(shared_data / "clip_preprocess/expected_224_uint8.npz")
    assert len(expected.files) == 7
    for name in expected.files:
        data = (shared_data / f"clip_preprocess/images/{name}.jpg").read_bytes()
        row = decode(data, Preprocess((224, 224)), max_pixels=LIMIT)
        width, height = map(int, name.split("_"))
        assert (row.outcome, row.width, row.height) == ("ok", width, height)
        np.testing.assert_array_equal(row.array, expected[name])


def test_pngsuite_fails_exactly_where_it_should(shared_data):
    files = sorted((shared_data / "pngsuite").glob("*.png"))
    assert len(files) > 170
    for file in files:
        data = file.read_bytes()
        if file.name.startswith("x"):
            with pytest.raises(DecodeError) as caught:
                open_image(data, max_pixels=LIMIT)
            assert caught.value.outcome == "broken_image", file.name
            continue
        image = Image.open(io.BytesIO(data))
        if image.mode == "I;16":
            grey = np.rint(np.asarray(image) / 257)
            if "transparency" in image.info:
                grey[np.asarray(image) == image.info["transparency"]] = 255
            expected = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        else:
            expected = on_white(image)
        np.testing.assert_array_equal(pixels(data), expected, err_msg=file.name)


SIZES = [(32, 32), (1, 1), (1, 7), (33, 32), (31, 50), (200, 31), (57, 333), (480, 640), (100, 99)]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [(32, 32), (24, 40), (33, 33)])
def test_pixels_are_open_clips_own(mode, interpolation, target):
    open_clip = pytest.importorskip("curate.embedding.torchvision_guard").import_open_clip()
    own = Preprocess(target, mode, interpolation, fill=7, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    size = target[0] if target[0] == target[1] else target
    theirs = open_clip.image_transform(
        size,
        is_train=False,
        mean=own.mean,
        std=own.std,
        resize_mode=mode,
        interpolation=interpolation,
        fill_color=own.fill,
    )
    for height, width in SIZES:
        image = picture(height, width)
        values = to_array(image, own).astype(np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.array(x, np.float32)[:, None, None] for x in (own.mean, own.std))
        np.testing.assert_array_equal(
            (values - mean) / std, theirs(image).numpy(), err_msg=f"{height} x {width}"
        )


def test_long_strips_are_resized_where_they_are_kept_only(monkeypatch):
    for image in (picture(3, 4).resize((400, 20)), picture(4, 3).resize((7, 300))):
        for preprocess in (PREPROCESS, Preprocess((16, 24))):
            whole = to_array(image, preprocess)
            with monkeypatch.context() as patched:
                patched.setattr(decoding, "RESIZED_PIXELS", 0)
                part = to_array(image, preprocess)
            assert part.shape == whole.shape == (*preprocess.size, 3)
            assert np.abs(part.astype(int) - whole).max() <= 1
    assert to_array(Image.new("RGB", (1, 300_000), "red"), Preprocess((224, 224))).shape == (224, 224, 3)
    assert to_array(Image.new("RGB", (1, 9_000), "red"), Preprocess((8, 8), "longest", fill=3))[0, 0, 0] == 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "HTML page"),
        (b"\xef\xbb\xbf\n<html>", "HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<svg width="3">', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "isom"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\nnothing", "PNG"),
        (b"\x01\x02\x03 whatever", "starts with 01 02 03"),
    ],
)
def test_what_is_no_image_is_named(data, said):
    row = decode(data, PREPROCESS, max_pixels=LIMIT)
    assert row.outcome == "broken_image"
    assert said in row.reason
    assert "0x" not in row.reason  # no addresses: the reason is stored and must not change


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "pip install 'curate[heif]'"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "pip install 'curate[heif]'"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "Pillow 11.3"),
        (b"\xff\x0a....", "JPEG XL"),
    ],
)
def test_images_without_a_decoder_are_told_apart_from_broken_ones(monkeypatch, data, said):
    """As where pillow-heif is not installed, and Pillow was built without AVIF."""
    Image.init()
    monkeypatch.setattr(decoding, "_heif_plugin", lambda: None)
    monkeypatch.setattr(
        Image, "OPEN", {name: one for name, one in Image.OPEN.items() if name not in ("HEIF", "AVIF")}
    )
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "AVIF")])
    row = decode(data, PREPROCESS, max_pixels=LIMIT)
    assert row.outcome == "unsupported_format" and said in row.reason


def test_heic_is_decoded_where_there_is_a_decoder():
    heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 40))).save(out)
    row = decode(out.getvalue(), PREPROCESS, max_pixels=LIMIT)
    assert (row.outcome, row.width, row.height) == ("ok", 64, 48)
    assert np.abs(row.array.reshape(-1, 3).mean(axis=0) - (200, 30, 40)).max() < 12
    assert decode(out.getvalue(), PREPROCESS, max_pixels=100).outcome == "too_large"
    assert decode(out.getvalue()[:-20], PREPROCESS, max_pixels=LIMIT).outcome == "broken_image"


def test_no_image_is_missing():
    assert decode(None, PREPROCESS, max_pixels=LIMIT).outcome == "missing_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_broken(format):
    data = encode(picture(90, 120), format)
    assert decode(data, PREPROCESS, max_pixels=LIMIT).outcome == "ok"
    row = decode(data[: len(data) // 2], PREPROCESS, max_pixels=LIMIT)
    assert (row.outcome, row.array) == ("broken_image", None)


def test_a_png_with_a_wrong_checksum_is_broken():
    data = bytearray(encode(picture(40, 40)))
    at = data.index(b"IDAT") + 4 + int.from_bytes(data[data.index(b"IDAT") - 4 :][:4])
    data[at] ^= 1  # the checksum itself; Pillow's load() does not look at it
    assert "checksum" in decode(bytes(data), PREPROCESS, max_pixels=LIMIT).reason


def test_pixels_are_counted_before_anything_is_decoded():
    header = _png(depth=1, colour=0, size=(30_000, 30_000), rows=b"")  # would be broken if it were decoded
    row = decode(header, PREPROCESS, max_pixels=LIMIT)
    assert (row.outcome, row.width, row.height) == ("too_large", 30_000, 30_000)
    assert row.reason == "30,000 x 30,000 pixels, more than 10,000,000"
    exact = encode(picture(20, 30))
    assert decode(exact, PREPROCESS, max_pixels=600).outcome == "ok"
    assert decode(exact, PREPROCESS, max_pixels=599).outcome == "too_large"


def test_a_small_icon_with_a_large_image_inside_is_too_large():
    icon = bytearray(encode(Image.new("RGB", (64, 64)), "ICO", sizes=[(64, 64)]))
    inside = encode(Image.new("RGB", (900, 900)))
    offset = int.from_bytes(icon[18:22], "little")
    icon[14:18] = len(inside).to_bytes(4, "little")
    row = decode(bytes(icon[:offset]) + inside, PREPROCESS, max_pixels=64 * 64)
    assert row.outcome == "too_large"


def test_warnings_and_the_global_pixel_limit_stay_as_they_were():
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        huge = _png(depth=1, colour=0, size=(20_000, 10_000), rows=b"")  # beyond Pillow's own limit
        assert decode(huge, PREPROCESS, max_pixels=10**9).outcome == "broken_image"
        decode(b"\x89PNG", PREPROCESS, max_pixels=LIMIT)
    assert caught == []
    assert Image.MAX_IMAGE_PIXELS == before


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(format, orientation):
    stored = Image.new("RGB", (40, 24), "white")
    stored.paste("red", (0, 0, 20, 12))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(stored, format, exif=exif, **options)
    shown = open_image(data, max_pixels=LIMIT)
    assert shown.size == ((40, 24) if orientation < 5 else (24, 40))
    top, left = {1: (1, 1), 2: (1, 0), 3: (0, 0), 4: (0, 1), 5: (1, 1), 6: (1, 0), 7: (0, 0), 8: (0, 1)}[
        orientation
    ]
    red = (3 if left else shown.width - 4, 3 if top else shown.height - 4)
    assert shown.getpixel(red)[1] < 80, "the red corner is where a viewer shows it"
    row = decode(data, PREPROCESS, max_pixels=LIMIT)
    assert (row.width, row.height) == shown.size
    if format in ("JPEG", "WEBP"):
        row = decode(data, PREPROCESS, max_pixels=10)
        assert (row.outcome, row.width, row.height) == ("too_large", *shown.size)


def test_damaged_exif_is_ignored():
    data = encode(picture(20, 20), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data, PREPROCESS, max_pixels=LIMIT).outcome == "ok"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_put_on_white(mode):
    image = picture(16, 16, 4).convert(mode)
    np.testing.assert_array_equal(pixels(encode(image)), on_white(image))
    clear = Image.new(mode, (4, 4), 0)
    assert (pixels(encode(clear)) == 255).all()


def test_transparent_colours_are_put_on_white():
    red = Image.new("RGB", (2, 1), (200, 0, 0))
    red.putpixel((1, 0), (0, 0, 9))
    assert pixels(encode(red, transparency=(200, 0, 0))).tolist() == [[[255] * 3, [0, 0, 9]]]
    palette = red.quantize(2)
    index = palette.getpixel((0, 0))
    for format in ("PNG", "GIF"):
        assert pixels(encode(palette, format, transparency=index)).tolist()[0][0] == [255] * 3
    alphas = bytes(0 if i == index else 255 for i in range(2))
    assert pixels(encode(palette, transparency=alphas)).tolist() == [[[255] * 3, [0, 0, 9]]]
    grey = Image.fromarray(np.array([[65535, 514, 0]], np.uint16))
    assert pixels(encode(grey, transparency=514))[0, :, 0].tolist() == [255, 255, 0]


def test_transparent_grey_of_four_bits_is_scaled_like_the_pixels():
    four_bits = bytearray(encode(Image.fromarray(np.array([[0x30, 0]], np.uint8))))
    four_bits = _png(depth=4, colour=0, size=(2, 1), rows=b"\x00\x30", trns=b"\x00\x03")
    assert pixels(four_bits)[0, :, 0].tolist() == [255, 0]
    opaque = _png(depth=4, colour=0, size=(2, 1), rows=b"\x00\x30")
    assert pixels(opaque)[0, :, 0].tolist() == [51, 0]


def _png(depth, colour, size, rows, trns=None):
    import struct
    import zlib

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    middle = chunk(b"tRNS", trns) if trns else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_grey_keeps_its_range():
    values = np.array([[0, 257, 128, 129, 32_768, 65_535]], np.uint16)
    expected = [0, 1, 0, 1, 128, 255]
    for format in ("PNG", "TIFF"):
        assert pixels(encode(Image.fromarray(values), format))[0, :, 0].tolist() == expected
    deep = Image.fromarray(values.astype(np.int32))
    assert pixels(encode(deep, "TIFF"))[0, :, 1].tolist() == expected


def test_float_images():
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert pixels(encode(unit, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    wide = Image.fromarray(np.array([[-3.0, 100.4, np.nan, np.inf]], np.float32))
    assert pixels(encode(wide, "TIFF"))[0, :, 0].tolist() == [0, 100, 0, 255]


def test_other_modes_are_converted_as_pillow_does():
    for mode, format in (
        ("1", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("CMYK", "JPEG"),
        ("L", "JPEG"),
        ("YCbCr", "JPEG"),
    ):
        image = picture(16, 24).convert(mode)
        data = encode(image, format)
        np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="resize_mode must be"):
        Preprocess((8, 8), "crop")
    with pytest.raises(ValueError, match="interpolation must be"):
        Preprocess((8, 8), interpolation="nearest")
