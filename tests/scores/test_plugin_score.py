"""A score of another package: installed beside curate, named in a recipe, and what is said where it is broken."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from builders import planted, recipe_values, write_shards

from curate import plugins
from curate.errors import UsageError
from curate.runs.run import open_run
from curate.scores.registry import families

PLUGIN = Path(__file__).resolve().parents[1] / "plugin"


def install(target, scores=None, package="curate-words"):
    """Put the package and its entry points into a folder, as an installer does; `scores` : other entry points."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    shutil.copytree(PLUGIN / "curate_words", target / "curate_words")
    info = target / f"{package.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {project['version']}\n")
    groups = project["entry-points"] if scores is None else {"curate.scores": scores}
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in one.items()) for group, one in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return target


def curate(target, *arguments):
    """Call the command line in an interpreter of its own, with the folder on its path."""
    environment = os.environ | {"PYTHONPATH": str(target)}
    return subprocess.run(
        [sys.executable, "-m", "curate", *map(str, arguments)], capture_output=True, text=True, env=environment,
        check=False,
    )  # fmt: skip


def test_a_run_by_a_score_of_another_package(tmp_path):
    target = install(tmp_path / "site")
    captions = [None if n % 10 == 9 else " ".join(["word"] * (n % 10 + 1)) for n in range(50)]
    glob = write_shards(tmp_path / "in", planted(50), shards=2, extra={"caption": captions})
    values = recipe_values(
        glob,
        tmp_path / "run",
        score=[{"words": {"most": 7}}],
        filter=["caption_words >= 3"],
        select={"keep": 0.7},
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    done = curate(target, "run", tmp_path / "recipe.yaml")
    assert done.returncode == 0, done.stderr
    scores = pl.read_parquet(tmp_path / "run" / "3_scores" / "words" / "part-*.parquet").sort("uid")
    want = [None if caption is None else min(7, len(caption.split())) for caption in captions]
    assert scores["caption_words"].to_list() == want
    assert scores["words_status"].to_list() == ["nonfinite" if one is None else "ok" for one in want]
    decisions = open_run(tmp_path / "run").decisions().sort("uid")
    assert decisions["keep"].to_list() == [one is not None and one >= 3 for one in want]
    shown = curate(target, "inspect", tmp_path / "run")
    assert shown.returncode == 0 and "caption_words" in shown.stdout, shown.stderr
    told = curate(target, "explain", tmp_path / "run", "s000004")
    assert told.returncode == 0 and re.search(r"caption_words\s+5", told.stdout), told.stdout


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that installs entry points and returns the families that are found then."""

    def found(scores):
        monkeypatch.syspath_prepend(str(install(tmp_path / "site", scores)))
        plugins.load_plugins.cache_clear()
        return families.__wrapped__()

    yield found
    plugins.load_plugins.cache_clear()


def test_families_of_plug_ins_come_last(installed):
    known = installed({"words": "curate_words.words:Words"})
    assert list(known) == [
        "clip_score", "pair", "heads", "pixels", "normsim", "noise", "color", "fuse", "file", "words",
    ]  # fmt: skip
    made = known["words"]().score_rows(caption=["a b", None])["caption_words"]
    np.testing.assert_array_equal(made, [2, np.nan])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"heads": "curate_words.words:Words"}, r"plug-in 'heads' .*curate has a family of scores 'heads' of its own"),
        ({"filter": "curate_words.words:Words"}, r"plug-in 'filter' .*of its own"),
        ({"other": "curate_words.words:Words"}, r'plug-in \'other\' .*must declare family: Literal\["other"\] = "other"'),
        ({"words": "curate_words.words:np"}, r"plug-in 'words' of curate-words .*must be a subclass of Score"),
        ({"words": "curate_words.missing:Words"}, r"plug-in 'words' of curate-words .*cannot be loaded: ModuleNotFound"),
    ],
)  # fmt: skip
def test_a_broken_plug_in_is_named(installed, scores, message):
    with pytest.raises(UsageError, match=message):
        installed(scores)


def test_a_broken_plug_in_ends_the_command_line_with_one_error(tmp_path):
    target = install(tmp_path / "site", {"words": "curate_words.missing:Words"})
    done = curate(target, "inspect", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: plug-in 'words' of curate-words .*cannot be loaded: .*\n", done.stderr)
