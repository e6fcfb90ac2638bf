"""A run in a notebook: its counts, its concepts with pictures, and that nothing in the data or on the disk harms it."""

import base64
import io
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from PIL import Image

from curate import open_run
from curate.analysis import notebook
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

N = 120
EVIL = "<img src=x onerror=alert(1)>\"' & </script>"


class Page(HTMLParser):
    """Elements, texts and attributes of a piece of HTML, and whether its elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def pictures(self):
        """The pictures, decoded."""
        sources = [value for name, value in self.attributes if name == "src"]
        assert all(source.startswith("data:image/") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


def png(i, size=(300, 200)):
    file = io.BytesIO()
    Image.new("RGB", size, (i, 10, 200)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run on own vectors beside images, every caption a trap."""
    folder = tmp_path_factory.mktemp("seen")
    extra = {"image": [png(i) for i in range(N)], "caption": [f"{EVIL} {i}" for i in range(N)]}
    glob = write_shards(folder / "in", planted(N), extra=extra)
    runner.run(parse_recipe(recipe_values(glob, folder / "run")))
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.fixture(scope="module")
def text(made):
    """The finished run as a notebook shows it."""
    found = open_run(made / "run")._repr_html_()
    assert len(found.encode()) < 500_000
    return found


@pytest.fixture
def no_pictures(monkeypatch):
    """Spare the process that decodes, where pictures are not what is asked about."""
    monkeypatch.setattr(notebook, "_thumbnails", lambda run, samples: {})


def page(path):
    return Page(open_run(path)._repr_html_())


def test_counts_and_concepts_are_shown(made, text):
    shown, run = Page(text), open_run(made / "run")
    texts = " | ".join(shown.text)
    counts = run.manifest()["counts"]
    assert f"rows in | {N} | 100 %" in texts
    assert f"kept | {counts['kept']} | " in texts
    assert f"over_budget | {counts['dropped']['over_budget']} | " in texts
    assert "the 8 largest of 8 concepts" in texts
    for row in run.concepts().iter_rows(named=True):
        line = [row["concept"], row["n_eligible"], f"{row['complexity']:.4f}", row["budget"], row["kept"]]
        assert " | ".join(map(str, line)) in texts


def test_every_concept_has_the_picture_of_its_nearest_sample(made, text):
    shown, run = Page(text), open_run(made / "run")
    assert len(shown.pictures) == 8
    assert {picture.size for picture in shown.pictures} == {(96, 64)}
    sizes = run.concepts().sort("n_eligible", "concept", descending=[True, False])
    nearest = run.scores().sort("distance", "uid").unique("concept", keep="first")
    wanted = sizes.join(nearest, on="concept", how="left", maintain_order="left")["uid"].to_list()
    reds = [picture.convert("RGB").getpixel((48, 32))[0] for picture in shown.pictures]
    assert np.abs(np.array(reds) - [int(uid[1:]) for uid in wanted]).max() <= 6, "as WebP rounds"


def test_captions_do_nothing_but_show(text):
    shown = Page(text)
    assert set(shown.tags) == {"div", "p", "b", "code", "table", "thead", "tbody", "tr", "th", "td", "img"}
    assert sum(text.startswith(EVIL) for text in shown.text) == 8
    assert not [name for name, _ in shown.attributes if name.startswith("on")]


def test_nothing_is_asked_of_a_network(text):
    assert "http" not in text
    assert "url(" not in text


@pytest.mark.parametrize("damage", ["gone", "changed", "broken"])
def test_without_its_source_it_has_no_pictures(run, tmp_path, damage):
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    shards = tmp_path / "shards"
    source = next(line for line in recipe.splitlines() if "path:" in line).partition("path: ")[2]
    parts = (run / ".work/parts.json").read_text(encoding="utf-8")
    old = source.rpartition("/")[0]
    shutil.copytree(old, shards)
    (run / "recipe.yaml").write_text(recipe.replace(old, str(shards)), encoding="utf-8")
    (run / ".work/parts.json").write_text(parts.replace(old, str(shards)), encoding="utf-8")
    for shard in shards.iterdir():
        if damage == "gone":
            shard.unlink()
        elif damage == "broken":
            shard.write_bytes(b"PAR1" + bytes(1000))
        else:
            frame = pl.read_parquet(shard)
            frame.with_columns(image=pl.lit(b"no image")).write_parquet(shard)
    shown = page(run)
    assert (shown.pictures, shown.tags.count("img")) == ([], 0)
    assert sum(value == "no picture" for name, value in shown.attributes if name == "title") == 8


def test_an_unfinished_run_shows_what_there_is(run, no_pictures):
    for stage, there in (("5_decisions", "n_assigned"), ("2_concepts", "counts"), ("0_samples", "nothing")):
        (run / stage / "_done.json").unlink()
        shown = page(run)
        texts = " | ".join(shown.text)
        assert "not there yet: " in texts
        assert ("8 largest" in texts) is (there == "n_assigned")
        assert (f"ok | {N} | 100.0 %" in texts) is (there != "nothing")
        assert ("complexity" in texts) is False


@pytest.mark.parametrize(
    "damage",
    ["recipe.yaml", "5_decisions/_concepts/concepts.parquet", "5_decisions/_done.json", ".work/parts.json"],
)
def test_what_is_damaged_never_raises(run, monkeypatch, damage):
    if "parts.json" not in damage:
        monkeypatch.setattr(notebook, "_thumbnails", lambda run, samples: {})
    opened = open_run(run)
    for content in (b"", b"\xff{", b"[1]"):
        (run / damage).write_bytes(content)
        text = opened._repr_html_()
        assert "<b>curate run</b>" in text
        Page(text)
    shutil.rmtree(run)
    Page(opened._repr_html_())


def test_pictures_are_never_too_much_together(made, monkeypatch):
    large = "data:image/webp;base64," + "A" * (notebook.MAX_BYTES // 3)
    monkeypatch.setattr(notebook, "_thumbnails", lambda run, samples: dict.fromkeys(samples["uid"], large))
    shown = open_run(made / "run")._repr_html_()
    assert shown.count("data:image") == 2
    assert len(shown.encode()) < 500_000


def test_many_reasons_are_summed_up(made, monkeypatch, no_pictures):
    counts = {f"filter:{i}": 100 - i for i in range(50)}
    found = notebook.summarize(open_run(made / "run").folder, concepts=notebook.CONCEPTS, whole=False)
    monkeypatch.setattr(notebook, "summarize", lambda *_, **__: replace(found, reasons=counts))
    texts = " | ".join(page(made / "run").text)
    assert f"rows in | {sum(counts.values()):,} | " in texts
    assert f"30 other reasons | {sum(100 - i for i in range(20, 50)):,} | " in texts
    assert "filter:20" not in texts
