"""One run over every kind of image that nobody should trust: each row has the outcome that is its own."""

import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import open_run
from curate.embedding.decode import Preprocess, decode
from tests.fixtures.calls import curate

#: Enough for the strip of 15,754 pixels, less than the bombs claim.
MAX_PIXELS = 2_000_000


def noise(width=30, height=20, mode="RGB", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width, height, rows):
    """Return a grey PNG that claims a size and holds these (filtered) rows, whatever they are."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def text_bomb():
    """Return a PNG with a compressed comment of 80 MB."""
    data = encoded(noise())
    body = b"Comment\0\0" + zlib.compress(b"a" * 80_000_000)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return data[:33] + chunk + data[33:]


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(seed=orientation), "JPEG", exif=exif)


def animated(kind):
    frames = [noise(seed=seed) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def two_sizes_tiff():
    """Return a TIFF of which the second page is huge; only the first is looked at."""
    return encoded(noise(), "TIFF", save_all=True, append_images=[Image.new("L", (3000, 3000))])


HTML = b"<!DOCTYPE html><html><body><script>alert(1)</script>404</body></html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"


@functools.cache
def evil():
    """Return what each name holds: bytes, the outcome, part of the reason."""
    return {
        "bomb that says so": (png(60_000, 60_000, b""), "too_large", "60,000 x 60,000 pixels"),
        "bomb that lies": (png(40, 40, b"\0" * 80_000_000), "ok", None),
        "bomb in a comment": (text_bomb(), "broken_image", None),
        "gif that claims much": (b"GIF89a\xff\xff\xff\xff\x80\0\0" + encoded(noise(), "GIF")[13:], "too_large", None),
        "second page huge": (two_sizes_tiff(), "ok", None),
        "no bytes": (b"", "missing_image", "no bytes"),
        "null": (None, "missing_image", "no such file"),
        "cut off png": (encoded(noise(90, 90))[:4000], "broken_image", "decoded"),
        "cut off jpeg": (encoded(noise(90, 90), "JPEG")[:900], "broken_image", "truncated"),
        "only a head": (b"\xff\xd8\xff\xe0", "broken_image", "JPEG"),
        "html": (HTML, "broken_image", "HTML page"),
        "svg": (SVG, "broken_image", "SVG"),
        "eps, which is a program": (EPS, "broken_image", "PostScript"),
        "json error of a server": (b'{"error": "not found"}', "broken_image", "JSON"),
        "zip": (b"PK\x03\x04rest", "broken_image", "ZIP"),
        "gif": (animated("GIF"), "ok", None),
        "animated png": (animated("PNG"), "ok", None),
        "animated webp": (animated("WEBP"), "ok", None),
        "16 bits": (encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)), "ok", None),
        "1 bit": (encoded(noise(mode="1")), "ok", None),
        "palette": (encoded(noise(mode="P")), "ok", None),
        "cmyk": (encoded(noise(mode="CMYK"), "JPEG"), "ok", None),
        "wide": (encoded(noise(15_754, 3)), "ok", None),
        "high": (encoded(noise(2, 15_754)), "ok", None),
        "one pixel": (encoded(noise(1, 1)), "ok", None),
        "rubbish after the end": (encoded(noise(), "JPEG") + b"<?php system($_GET[0]); ?>", "ok", None),
        **{f"orientation {turn}": (turned(turn), "ok", None) for turn in range(1, 9)},
    }  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run over all of `evil`, each between two good rows, with names that lie about the kind."""
    folder = tmp_path_factory.mktemp("evil")
    images, names = [], []
    for place, (name, (data, *_)) in enumerate(evil().items()):
        good = encoded(noise(seed=1000 + place), "JPEG")
        images += [{"bytes": good, "path": "a.jpg"}, {"bytes": data, "path": "lies.tiff"}]
        names += [f"good {place}", name]
    table = pa.table({"image": images, "name": names, "caption": [f"caption {name}" for name in names]})
    pq.write_table(table, folder / "a.parquet")
    flags = ["--model", "tiny", "--keep", "0.5", "--workers", "2", "--set", "source.uid=name"]
    limits = ["--set", f"embed.max_pixels={MAX_PIXELS}", "--set", "limits.unusable=50%"]
    said = curate("filter", folder / "a.parquet", "--out", folder / "run", *flags, *limits)
    assert said.code == 0, said.err
    return open_run(folder / "run")


def test_every_row_has_its_own_outcome(ran):
    rows = {row["uid"]: row for row in ran.samples().iter_rows(named=True)}
    assert len(rows) == 2 * len(evil())
    for name, (_, outcome, reason) in evil().items():
        assert rows[name]["outcome"] == outcome, f"{name}: {rows[name]}"
        assert (rows[name]["reason"] is None) == (outcome == "ok")
        assert reason is None or reason in rows[name]["reason"], name
    assert {row["outcome"] for name, row in rows.items() if name.startswith("good")} == {"ok"}


def test_rows_in_are_kept_dropped_or_unusable(ran):
    counts = ran.manifest()["counts"]
    assert counts["rows"] == 2 * len(evil())
    assert counts["rows"] == counts["kept"] + sum(counts["dropped"].values()) + sum(
        counts["unusable"].values()
    )
    bad = [outcome for _, outcome, _ in evil().values() if outcome != "ok"]
    assert counts["unusable"] == {outcome: bad.count(outcome) for outcome in set(bad)}
    decisions = ran.decisions()
    assert decisions.filter(pl.col("reason").str.starts_with("unusable:"))["keep"].any() is False


def test_kept_bytes_are_those_that_came(ran):
    out = [pq.read_table(file) for file in sorted(Path(ran.folder.filtered).glob("*.parquet"))]
    rows = [row for table in out for row in table.to_pylist()]
    assert len(rows) == ran.manifest()["counts"]["kept"]
    for row in rows:
        if row["name"] in evil():
            assert row["image"]["bytes"] == evil()[row["name"]][0]
            assert row["image"]["path"] == "lies.tiff"


def test_sizes_are_those_shown(ran):
    sizes = {row["uid"]: (row["width"], row["height"]) for row in ran.samples().iter_rows(named=True)}
    assert sizes["wide"] == (15_754, 3)
    assert [sizes[f"orientation {turn}"] for turn in range(1, 9)] == [(30, 20)] * 4 + [(20, 30)] * 4
    assert sizes["bomb that says so"] == (60_000, 60_000)


@pytest.mark.parametrize(
    "name", ["bomb that says so", "bomb that lies", "bomb in a comment", "gif that claims much"]
)
def test_bombs_take_no_memory(name):
    import tracemalloc

    data = evil()[name][0]  # made before: making it takes more than reading it
    tracemalloc.start()
    row = decode(data, Preprocess((16, 16)), max_pixels=MAX_PIXELS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row.outcome == evil()[name][1]
    assert peak < 20_000_000
