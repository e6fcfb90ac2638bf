"""Turn encoded bytes into the pixels a CLIP model is given, with Pillow and NumPy alone.

Workers import this file and nothing heavier: open_clip costs 360 MB and seconds per process. A test ties
the result to open_clip's own transform, difference 0. Only the bytes are read: formats that run programs
or name other files (EPS, SVG, WMF) are not decoded.
"""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from curate.embedding.alterations import ALTERATIONS
from curate.embedding.jpeg import load_by_turbo, shrink
from curate.embedding.regions import REGIONS, unpack

__all__ = ["DecodeError", "Decoded", "Preprocess", "decode", "open_image", "to_array"]

#: Raster formats with a signature of their own; what is listed but not built into Pillow is skipped.
FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "HEIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PNG",
    "PPM",
    "QOI",
    "TIFF",
    "WEBP",
)

#: Above this many pixels after resizing (a strip of 1 x 100,000), only the part that is kept is computed.
RESIZED_PIXELS = 1 << 24

#: The work that one image may ask for, in passes over `max_pixels` pixels. It is counted before it is done, so that
#: no clock decides: a progressive JPEG is gone over once for each of its scans, and usually has ten of them.
PASSES = 20
#: What Pillow decodes in Python, in passes per pixel or per byte of the file (a pass in C is some 10 ns a pixel).
_PASSES_OF_PIXEL = {"qoi": 100}
_PASSES_OF_BYTE = {"bmp_rle": 20, "ppm_plain": 10}
_SCAN = b"\xff\xda"
_TIFF_STRIP_ROWS, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 278, 322, 323

#: Sizes are kept in 32 bits, and no image is smaller than a pixel.
_LARGEST_SIDE = 2**31 - 1
_STRIP_PIXELS = 1 << 20

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "PostScript, which is a program"),
    (b"\xc5\xd0\xd3\xc6", "PostScript, which is a program"),
    (b"\xd7\xcd\xc6\x9a", "a WMF drawing"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"{", "JSON text"),
    (b"8BPS", "a Photoshop document"),
)
#: Brands of HEIF files: images in HEVC, and in AV1.
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_PILLOW_STATE = threading.Lock()  # the pixel limit and the warning filters belong to the whole process


@dataclass(frozen=True)
class Preprocess:
    """What a model expects of its images: open_clip's inference transform up to the integer pixels.

    size : (height, width) of the result. resize_mode : `shortest` (fill the size, crop the rest),
    `longest` (fit in the size, pad with `fill`) or `squash`. mean, std : per channel, applied by the
    model's side after division by 255.
    """

    size: tuple[int, int]
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill: int = 0
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if self.resize_mode not in ("shortest", "longest", "squash"):
            raise ValueError(f"resize_mode must be shortest, longest or squash, got {self.resize_mode!r}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation must be bicubic or bilinear, got {self.interpolation!r}")


class Decoded(NamedTuple):
    """One decoded row: a key of `schema.OUTCOMES`, why it is not ok, the size shown, the pixels.

    width, height : None where they are not known, or are no size (4,294,967,169 pixels wide; the reason says it).
    array : (height, width, 3) uint8 of the preprocessed size, None unless the outcome is ok; of regions
    (n, height, width, 3), None where there is none.
    """

    outcome: str
    reason: str | None
    width: int | None
    height: int | None
    array: npt.NDArray[np.uint8] | None


class DecodeError(Exception):
    """Bytes that give no image: the outcome, the reason, and the size where the header told one."""

    def __init__(
        self, outcome: str, reason: str, width: int | None = None, height: int | None = None
    ) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason
        known = all(side is not None and 1 <= side <= _LARGEST_SIDE for side in (width, height))
        self.width, self.height = (width, height) if known else (None, None)


def decode(
    data: bytes | None,
    preprocess: Preprocess,
    *,
    max_pixels: int,
    reserve: Callable[[int], object] | None = None,
    altered: str | None = None,
    way: str = "pillow",
) -> Decoded:
    """Return the pixels of one row, or why there are none. Only MemoryError gets out.

    reserve : called with the bytes that decoding takes, before it takes them; it may wait.
    altered : gives the pixels of a copy that is made so (`alterations.ALTERATIONS`), in place of the image's own; or of
    what is made with the boxes packed before the image (`regions.REGIONS`). way : how JPEGs are decoded (`jpeg.WAYS`); what
    is altered is decoded whole.
    """
    if data is None:
        return Decoded("missing_image", "no image", None, None, None)
    regions = REGIONS.get(altered or "")
    if regions is not None:
        data, boxes, margin = unpack(data)
    wanted = preprocess if way == "draft" and altered is None else None
    try:
        image = open_image(data, max_pixels=max_pixels, reserve=reserve, turbo=way == "turbo", wanted=wanted)
    except DecodeError as error:
        return Decoded(error.outcome, error.reason, error.width, error.height, None)
    width, height = image.info.get("whole", image.size)
    if regions is not None:
        parts = [to_array(part, preprocess) for part in regions(image, boxes, margin)]
        return Decoded("ok", None, width, height, np.stack(parts) if parts else None)
    if altered is not None:
        try:
            image = ALTERATIONS[altered](image)
        except (OSError, ValueError) as error:  # a JPEG has at most 65,500 pixels on a side
            return Decoded("broken_image", f"cannot be {altered}: {error}", width, height, None)
    return Decoded("ok", None, width, height, to_array(image, preprocess))


def open_image(
    data: bytes,
    *,
    max_pixels: int,
    reserve: Callable[[int], object] | None = None,
    turbo: bool = False,
    wanted: Preprocess | None = None,
) -> Image.Image:
    """Return `data` as the RGB image a viewer shows: rotated as EXIF says, transparency on white.

    Size and work are checked before anything is decoded. Animations give their first frame; 16-bit grey is
    divided by 257 (to nearest), floats within [0, 1] are stretched to 255, other floats are clipped.
    reserve : see `decode`. turbo : JPEGs by simplejpeg. wanted : a JPEG that is then made so may come smaller than it is,
    with `info["whole"]`, its width and height. Raises DecodeError.
    """
    if not data:
        raise DecodeError("broken_image", "0 bytes")
    with _contained(max_pixels):
        try:
            with Image.open(BytesIO(data), formats=_formats()) as image:
                _check_size(image, max_pixels)
                _check_work(image, data, max_pixels)
                whole = None if wanted is None or image.format != "JPEG" else _shrink(image, wanted)
                if reserve is not None:
                    reserve(_bytes_to_decode(image, data))
                if turbo and (loaded := load_by_turbo(image, data)) is not None:
                    return _turn(loaded.convert("RGB"), _orientation(image))
                image.load()
                _check_size(image, max_pixels)
                if image.format == "PNG":
                    # load() accepts a wrong checksum; verify() wants a file that was not loaded.
                    with Image.open(BytesIO(data), formats=("PNG",)) as again:
                        again.verify()
                shown = _turn(_to_rgb(image, data), _orientation(image))
                shown.info = {} if whole is None else {"whole": whole}
                return shown
        except (DecodeError, MemoryError):
            raise
        except UnidentifiedImageError:
            if (unknown := _without_decoder(data)) is not None:
                raise DecodeError("unsupported_format", unknown) from None
            raise DecodeError("broken_image", _what_it_is(data)) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            reason = f"a part of the image has more than {max_pixels:,} pixels"
            raise DecodeError("too_large", reason) from None
        except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly everything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if "memory" in reason:  # codecs say it in words; another worker may have enough
                raise MemoryError(reason) from None
            raise DecodeError("broken_image", f"cannot be decoded: {reason}") from None


def _shrink(image: Image.Image, wanted: Preprocess) -> tuple[int, int]:
    """Let a JPEG be decoded as small as a model takes it, or somewhat larger; return width and height as shown."""
    width, height = image.size
    turned = _orientation(image) >= 5
    if turned:
        width, height = height, width
    down, across = _resized(height, width, wanted)
    shrink(image, *((down, across) if turned else (across, down)))
    return width, height


def to_array(image: Image.Image, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Return `image` (RGB) resized and cropped as (height, width, 3) uint8: open_clip's transform, exactly.

    Where open_clip would resize to more than `RESIZED_PIXELS` (very long strips), only the centre that
    the crop keeps is computed; values may then differ by the rounding between Pillow's two passes.
    """
    height, width = preprocess.size
    resized_height, resized_width = _resized(image.height, image.width, preprocess)
    resample = _FILTERS[preprocess.interpolation]
    if preprocess.resize_mode == "shortest" and height != width:
        resample = Image.Resampling.BICUBIC  # open_clip ignores the setting here
    fill = preprocess.fill if preprocess.resize_mode == "longest" else 0
    if resized_height * resized_width > RESIZED_PIXELS:
        image = _resize_centre(image, (resized_height, resized_width), (height, width), resample)
    elif image.size != (resized_width, resized_height):
        image = image.resize((resized_width, resized_height), resample)
    return _centre(np.asarray(image), height, width, fill)


def _resized(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """Return (height, width) after resizing, before cropping or padding; rounding as torchvision's and timm's."""
    target_height, target_width = preprocess.size
    if preprocess.resize_mode == "squash":
        return target_height, target_width
    if preprocess.resize_mode == "shortest" and target_height == target_width:
        if width <= height:
            return int(target_width * height / width), target_width
        return target_height, int(target_height * width / height)
    choose = max if preprocess.resize_mode == "longest" else min
    ratio = choose(height / target_height, width / target_width)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _resize_centre(
    image: Image.Image, resized: tuple[int, int], target: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Return the centre that a crop to `target` would keep of `image` resized to `resized`."""
    height, width = (min(a, b) for a, b in zip(resized, target, strict=True))
    top, left = round((resized[0] - height) / 2), round((resized[1] - width) / 2)
    scale_y, scale_x = image.height / resized[0], image.width / resized[1]
    box = (left * scale_x, top * scale_y, (left + width) * scale_x, (top + height) * scale_y)
    return image.resize((width, height), resample, box=box)


def _centre(pixels: npt.NDArray[np.uint8], height: int, width: int, fill: int) -> npt.NDArray[np.uint8]:
    """Return the centre of `pixels`, padded with `fill` where it is smaller."""
    add_y, add_x = max(0, height - pixels.shape[0]), max(0, width - pixels.shape[1])
    if add_y or add_x:
        around = ((add_y // 2, (add_y + 1) // 2), (add_x // 2, (add_x + 1) // 2), (0, 0))
        pixels = np.pad(pixels, around, constant_values=fill)
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


@contextlib.contextmanager
def _contained(max_pixels: int) -> Iterator[None]:
    """Keep Pillow's warnings here, and let nothing inside a file (an icon, a frame) exceed the limit."""
    with _PILLOW_STATE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the header is checked by us
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _formats() -> list[str]:
    Image.init()
    if "HEIF" not in Image.OPEN and _heif_plugin() is not None:
        _heif_plugin().register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


@cache
def _heif_plugin() -> Any:  # noqa: ANN401  (a module, or None)
    """Return pillow-heif, which reads HEIC where it is installed (curate[heif])."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        return pillow_heif
    return None


def _without_decoder(data: bytes) -> str | None:
    """Say which decoder is missing for bytes that are an image; None where they are anything else."""
    if data[4:8] == b"ftyp" and (brand := data[8:12]) in _HEIF + _AVIF:
        if brand in _AVIF:
            return (
                None
                if "AVIF" in Image.OPEN
                else "an AVIF image; this Pillow cannot read it: install Pillow 11.3 or newer"
            )
        return None if "HEIF" in Image.OPEN else "a HEIC image; to read it: pip install 'curate[heif]'"
    if data.startswith((b"\0\0\0\x0cJXL ", b"\xff\x0a")):
        return "a JPEG XL image, which curate does not read; make it JPEG, PNG or WebP"
    return None


def _check_size(image: Image.Image, max_pixels: int) -> None:
    """Raise DecodeError if the image is too large, or has no pixel; from here on Pillow checks what is inside it."""
    width, height = image.size
    if width < 1 or height < 1:
        raise DecodeError("broken_image", f"{width:,} x {height:,} pixels")
    if width * height > max_pixels:
        # Reading the EXIF block of a PNG or TIFF would decode it.
        if image.format in ("JPEG", "MPO", "WEBP") and _orientation(image) >= 5:
            width, height = height, width
        reason = f"{width:,} x {height:,} pixels, more than {max_pixels:,}"
        raise DecodeError("too_large", reason, width, height)
    Image.MAX_IMAGE_PIXELS = max_pixels


def _check_work(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise DecodeError if decoding takes more passes than an image may ask for, judging by what can be counted."""
    width, height = image.size
    tiles = getattr(image, "tile", None)
    pixels, codec = width * height, str(tiles[0][0]) if tiles else ""
    work, asked = pixels, f"{width:,} x {height:,} pixels"
    if codec in _PASSES_OF_PIXEL:
        work *= _PASSES_OF_PIXEL[codec]
    elif codec in _PASSES_OF_BYTE:
        work, asked = len(data) * _PASSES_OF_BYTE[codec], f"{len(data):,} bytes of {codec}"
    elif image.format in ("JPEG", "MPO", "TIFF"):
        # Behind a scan's marker comes its data, in which the marker cannot stand.
        scans = data.count(_SCAN)
        work, asked = pixels * max(scans, 1) // _pieces(image), f"{asked} in {scans:,} scans"
    if work > PASSES * max_pixels and work > pixels:
        reason = f"{asked}: more work than {PASSES} passes over {max_pixels:,} pixels"
        raise DecodeError("too_large", reason, width, height)


def _pieces(image: Image.Image) -> int:
    """Return how many strips or tiles a TIFF is cut into, each of which has scans of its own; 1 for other formats."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    across, down = tags.get(_TIFF_TILE_WIDTH, image.width), tags.get(_TIFF_TILE_HEIGHT)
    down = tags.get(_TIFF_STRIP_ROWS, image.height) if down is None else down
    if not (isinstance(across, int) and isinstance(down, int) and across > 0 and down > 0):
        return 1
    return -(-image.width // across) * -(-image.height // down)


def _bytes_to_decode(image: Image.Image, data: bytes) -> int:
    """Return about how many bytes decoding takes at its peak: the file, the pixels, and what they are turned into."""
    copies = 2 if image.mode in ("RGB", "L") else 4
    return len(data) + image.width * image.height * 4 * copies


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a damaged EXIF block does not make the picture unusable
        return 1
    return value if isinstance(value, int) else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Return a loaded image in mode RGB: deep modes scaled to 8 bits, transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    _repair_transparent_colour(image, data)
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """Return a 16-bit, 32-bit or float grey image as RGB; its transparent value becomes white."""
    deep = np.asarray(image)
    transparent = image.info.get("transparency")
    pixels = np.empty(deep.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // deep.shape[1])  # in strips: float64 takes eight times the memory
    strips = [slice(start, start + rows) for start in range(0, deep.shape[0], rows)]
    unit = image.mode == "F" and all(_within_unit(deep[strip]) for strip in strips)
    for strip in strips:
        values = deep[strip].astype(np.float64)
        if image.mode == "F":
            values = _finite(values)
            grey = values * 255 if unit else values
        else:
            grey = values / 257
        pixels[strip] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        if isinstance(transparent, int):
            pixels[strip][values == transparent] = 255
    return Image.fromarray(pixels).convert("RGB")


def _finite(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)


def _within_unit(strip: npt.NDArray[np.float32]) -> bool:
    """Return True if no value lies outside [0, 1]."""
    values = _finite(strip.astype(np.float64))
    return bool(values.min() >= 0 and values.max() <= 1)


def _repair_transparent_colour(image: Image.Image, data: bytes) -> None:
    """Scale a PNG's transparent colour to 8 bits: Pillow scales the pixels, not the colour they are compared to."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or len(data) < 25:
        return
    depth = data[24]  # in the IHDR chunk, which comes first
    if image.mode == "L" and isinstance(colour, int) and depth in (2, 4):
        image.info["transparency"] = min(255, colour * 255 // (2**depth - 1))
    if image.mode == "RGB" and isinstance(colour, tuple) and depth == 16:
        image.info["transparency"] = tuple(channel >> 8 for channel in colour)


def _what_it_is(data: bytes) -> str:
    """Return the reason for bytes that no image format claims: what they look like."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return "not a raster image: an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")):
        return "not an image: an HTML page"
    if head.startswith(b"<"):
        return "not an image: XML or HTML text"
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("ascii", "replace")
        return f"not a readable image: a {brand.strip()!r} file (HEIC or video)"
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return f"not a readable image: {name}"
    if data.startswith(b"\x89PNG"):
        return "a PNG file with a damaged header"
    if data.startswith(b"\xff\xd8"):
        return "a JPEG file with a damaged header"
    return f"not a readable image: starts with {data[:8].hex(' ')}"
