"""PngSuite in one run: exactly the files named x* are unusable, and the rest look as a viewer shows them."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import open_run
from curate.embedding.decode import open_image
from tests.fixtures.calls import curate


@pytest.fixture(scope="module")
def pictures(shared_data):
    """The bytes of all files by name."""
    files = {file.name: file.read_bytes() for file in sorted((shared_data / "pngsuite").glob("*.png"))}
    if not files:
        pytest.skip("no pngsuite in the shared data")
    assert len(files) > 170
    return files


def on_white(data):
    """Return what Pillow makes of a picture: RGB on white, 16-bit grey divided by 257 first."""
    image = Image.open(io.BytesIO(data))
    if image.mode == "I;16":
        values = np.asarray(image)
        grey = np.rint(values / 257).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def test_pixels_are_those_on_white(pictures):
    for name, data in pictures.items():
        if not name.startswith("x"):
            shown = np.asarray(open_image(data, max_pixels=10**6))
            np.testing.assert_array_equal(shown, on_white(data), err_msg=name)


def test_sixteen_bit_grey_is_not_saturated(pictures):
    good = {name: data for name, data in pictures.items() if not name.startswith("x")}
    deep = [name for name, data in good.items() if Image.open(io.BytesIO(data)).mode == "I;16"]
    assert len(deep) >= 5
    for name in deep:
        saturated = np.asarray(Image.open(io.BytesIO(pictures[name])).convert("RGB"))
        assert (np.asarray(open_image(pictures[name], max_pixels=10**6)) != saturated).any(), name


def test_a_run_drops_exactly_the_broken_ones(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"name": list(pictures), "image": list(pictures.values())}), "a.parquet")
    flags = ["--keep", "0.5", "--model", "tiny", "--workers", "1", "--set", "limits.unusable=20%"]
    assert curate("filter", "a.parquet", "--out", "run", "--set", "source.uid=name", *flags).code == 0
    run = open_run("run")
    outcomes = dict(run.samples().select("uid", "outcome").iter_rows())
    assert list(outcomes) == list(pictures)
    assert {name for name, outcome in outcomes.items() if outcome != "ok"} == {
        n for n in pictures if n[0] == "x"
    }
    assert set(outcomes.values()) == {"ok", "broken_image"}
    counts = run.manifest()["counts"]
    assert counts["rows"] == counts["kept"] + sum(counts["dropped"].values()) + sum(
        counts["unusable"].values()
    )
