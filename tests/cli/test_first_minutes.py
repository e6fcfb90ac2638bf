"""What a newcomer meets first: no network, no source, a terminal or none."""

import contextlib
import io
import os
import pty
import re
import select
import shutil
import sys
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

import curate as library
from curate.cli import main
from curate.cli.output import note, print_counts
from curate.errors import ModelError
from curate.recipe.build import filter_recipe
from curate.recipe.loading import load_recipe
from tests.fixtures.builders import planted, write_shards
from tests.fixtures.calls import curate, own

COUNTS = {"rows": 10, "kept": 4, "dropped": {"over_budget": 5}, "unusable": {"decode_error": 1}}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos/cats").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(f"photos/cats/{number}.png")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No hub that answers, and nothing downloaded before; what is asked of the network is returned."""
    asked = []

    def refuse(request, timeout):
        asked.append((request.full_url, timeout))
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return asked


# --- no network


def test_without_a_network_it_says_what_to_type_before_anything_is_read(no_network):
    said = curate("filter", "photos", "--dedup", "--out", "run")
    assert said.code == 1
    assert len(said.err.splitlines()) == 1, "nothing was read before"
    assert "cannot get ViT-B-32 with weights laion2b_s34b_b79k" in said.error
    assert "(--model tiny)" in said.error
    assert "(--pretrained /path/to/checkpoint)" in said.error
    assert not Path("run/.work/keys").exists()
    assert [timeout <= 5 for _, timeout in no_network] == [True], "asked once, and not for long"


def test_each_door_names_what_it_takes(no_network):
    assert curate("init", "recipe.yaml", "--source", "photos").code == 0
    said = curate("run", "recipe.yaml")
    assert "(--set embed.model=tiny)" in said.error
    assert "(--set embed.pretrained=/path/to/checkpoint)" in said.error
    with pytest.raises(ModelError, match=r'\(model="tiny"\).*\(pretrained="/path/to/checkpoint"\)$'):
        library.filter("photos", out="run", dedup="auto", progress=False)


def test_offline_by_wish_asks_nobody(no_network, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in curate("filter", "photos", "--dedup", "--out", "run").error
    assert no_network == []


def test_names_of_models_are_checked_before_anything_is_read(no_network):
    said = curate("filter", "photos", "--dedup", "--model", "ViT-B-33", "--out", "run")
    assert "no model is called 'ViT-B-33'; did you mean 'ViT-B-32'" in said.error
    said = curate("filter", "photos", "--dedup", "--pretrained", "./no.pt", "--out", "run")
    assert "pretrained './no.pt' is neither a file nor weights of 'ViT-B-32'" in said.error
    assert not Path("run/.work/keys").exists()


# --- quiet


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    write_shards(folder / "in", planted(60))
    said = own(folder / "in", folder / "run")
    assert said.code == 0 and "score: clip_score needs captions, and there are none" in said.err
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "filter SOURCE --vectors embedding --keep 0.5 --method density --workers 1 --out new",
        "filter SOURCE --vectors embedding --keep 0.5 --set cluster.concepts=5000 --method density --workers 1 --out new",
        "run run/recipe.yaml --set select.keep=0.4",
        "score run",
        "select run --keep 0.5",
        "select run --keep 0.4 --write",
        "report run",
        "export run --format uids --out uids.txt",
        "demo --out run",
    ],
)
def test_quiet_says_nothing_but_errors(finished, command):
    shutil.copytree(finished / "run", "run")
    said = curate(*command.replace("SOURCE", str(finished / "in")).split(), "--quiet")
    assert said.out == ""
    assert [line for line in said.err.splitlines() if not line.startswith("error: ")] == []
    assert (said.code == 0) == (said.err == "")
    fails = command.startswith("demo")  # the folder holds another run
    assert (said.code == 0) != fails, said.err


# --- init


def test_init_says_what_it_finds():
    said = curate("init", "--source", "photos")
    assert said.err.splitlines()[:2] == [
        "photos: used 3 .png",
        "format folder, 1 shards; columns: image image, caption none, label label",
    ]
    assert (
        "proposed is what curate filter does: near-duplicates out, wrong labels out, then a draw: select.method auto"
        in said.err
    )
    source = Path("recipe.yaml").read_text().partition("\nsource:")[2].splitlines()
    assert source[1].index("# file, folder") == source[3].index("# parquet"), "the comments are in line"
    assert "curate run recipe.yaml --set embed.model=tiny" in said.err
    assert load_recipe(Path("recipe.yaml")).embed.model == "ViT-B-32"


def _captioned(labels):
    pictures = [Path(f"photos/cats/{number}.png").read_bytes() for number in range(3)]
    columns = {"image": pictures, "caption": ["a cat", "two cats", "a cat in a hat"]}
    pq.write_table(pa.table(columns | ({"label": ["x", "y", "x"]} if labels else {})), "captioned.parquet")


@pytest.mark.parametrize(
    ("source", "labels", "captions"),
    [
        ("photos", "label", None),
        ("captioned.parquet", None, "caption"),
        ("captioned.parquet", "label", "caption"),
    ],
)
def test_init_proposes_what_filter_does_and_says_what_there_is_for_it(source, labels, captions):
    if source != "photos":
        _captioned(labels)
    said = curate("init", "--source", source)
    lines = Path("recipe.yaml").read_text().splitlines()
    shown = load_recipe(Path("recipe.yaml"))
    assert shown == filter_recipe({"run": "runs/first", "source": [{"path": source}]}, keep=0.3)
    assert shown.select.method == "auto" and shown.dedup.epsilon == "auto"
    [heads], [pair] = (
        [line for line in lines if line.startswith(f"  - {name}:")] for name in ("heads", "pair")
    )
    none = "; there are none here, and nothing is asked of it"
    assert heads.endswith("# which labels are wrong" + (f": {labels}" if labels else none))
    assert pair.endswith("# which captions are wrong" + (f": {captions}" if captions else none))
    assert ("wrong labels out" in said.err, "wrong captions out" in said.err) == (
        bool(labels),
        bool(captions),
    )
    template = resources.files("curate.cli").joinpath("recipe.yaml").read_text(encoding="utf-8")
    assert _settings("\n".join(lines)) == _settings(template), "no setting is lost"


def _settings(text):
    select = text[text.index("\nselect:") : text.index("\nweight:")]
    return {one[1] for one in re.finditer(r"(?m)^  (?:# )?(\w+): ", select)}


def test_init_takes_vectors_where_there_is_nothing_else():
    rng = np.random.default_rng(0)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(80), pa.float32()), 8)
    boxes = pa.array([[0.0, 0.0, 1.0, 1.0]] * 10)
    pq.write_table(pa.table({"box": boxes, "clip_emb": vectors}), "a.parquet")
    said = curate("init", "--source", "a.parquet")
    assert "vectors: clip_emb; taken: embed: {column: clip_emb}" in said.err
    assert "tiny" not in said.err
    shown = load_recipe(Path("recipe.yaml"))
    given = {"run": "runs/first", "source": [{"path": "a.parquet"}]}
    assert shown == filter_recipe(given, keep=0.3, vectors="clip_emb")
    assert shown.embed.column == "clip_emb" and shown.select.method == "auto"
    assert curate("run", "recipe.yaml", "--dry-run").code == 0


def test_init_goes_on_where_nothing_is_there_yet():
    said = curate("init", "--source", "later/*.parquet")
    assert said.code == 0
    assert said.err.startswith("warning: later/*.parquet")
    assert load_recipe(Path("recipe.yaml")) == filter_recipe(
        {"run": "runs/first", "source": [{"path": "later/*.parquet"}]}, keep=0.3
    )


def test_init_asks_on_a_terminal(monkeypatch):
    with terminal() as (stream, _, typed):
        monkeypatch.setattr(sys, "stdin", stream)
        os.write(typed, b"photos\n")
        said = curate("init")
    assert "Where are the samples" in said.err
    assert "photos: used 3 .png" in said.err
    assert load_recipe(Path("recipe.yaml")).source[0].path == "photos"


# --- colour


def _read(master):
    """Return what was written, until nothing more comes for a moment."""
    seen = b""
    while select.select([master], [], [], 0.3)[0]:
        seen += os.read(master, 65536)
    return seen.decode().replace("\r\n", "\n")


@contextlib.contextmanager
def terminal():
    """Give a stream that is a terminal, a function that returns what was written to it, and where one types."""
    master, slave = pty.openpty()
    with io.TextIOWrapper(os.fdopen(slave, "w+b", 0), "utf-8", write_through=True) as stream:
        yield stream, lambda: _read(master), master
    os.close(master)


@pytest.mark.parametrize("settings", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_is_for_terminals_that_want_it(monkeypatch, settings):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with terminal() as (stream, shown, _):
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            print_counts(COUNTS)
            note("error: wrong")
            note("read: 10 rows")
        seen = shown()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert plain.splitlines()[1:] == [
        "rows in                   10  1.0000",
        "kept                       4  0.4000",
        "dropped: over_budget       5  0.5000",
        "unusable: decode_error     1  0.1000",
        "error: wrong",
        "read: 10 rows",
    ]
    coloured = [line for line in seen.splitlines() if "\x1b" in line]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line).split()[0] for line in coloured] == (
        [] if settings else ["kept", "dropped:", "unusable:", "error:"]
    )


def test_errors_have_colour_on_a_terminal_alone(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (stream, shown, _):
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit):
            main(["inspect", "nowhere"])
        assert shown().startswith("\x1b[31m\x1b[1merror:\x1b[0m nowhere")
    assert "\x1b" not in curate("inspect", "nowhere").err
