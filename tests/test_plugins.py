"""A score and a selection method of another package: installed beside curate, used like its own, named where broken.

Everything that finds plug-ins remembers them, so each set of plug-ins has interpreters of its own. What needs no fresh
one is asked of one that stays (`Site`): most of a call is importing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest
import yaml

from curate.hashing import tie
from curate.recipe import FAMILIES
from curate.runs.run import open_run
from tests.fixtures.builders import planted, recipe_values, write_shards

PLUGIN = Path(__file__).resolve().parent / "plugin"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "plugins.md"
PROJECT = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
N = 50
CAPTIONS = [None if n % 10 == 9 else " ".join(["word"] * (n % 10 + 1)) for n in range(N)]
WORDS = [None if caption is None else min(7, len(caption.split())) for caption in CAPTIONS]


def install(target, groups=None):
    """Put the package and its entry points into a folder, as an installer does; `groups` : other entry points."""
    shutil.copytree(PLUGIN / "curate_extras", target / "curate_extras")
    info = target / f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in one.items())
        for group, one in (PROJECT["entry-points"] if groups is None else groups).items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return target


def python(target, *arguments):
    """Call an interpreter of its own, with the folder on its path."""
    environment = os.environ | {"PYTHONPATH": str(target)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


#: Does what it is asked, line by line: calls the command line, or runs code as a script.
SERVER = """
import contextlib, io, json, sys, traceback

from curate import cli

for line in sys.stdin:
    code, arguments = json.loads(line)
    out, err, ended = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if code is None:
                cli.main(arguments)
            else:
                sys.argv = ["-c", *arguments]
                exec(code, {"__name__": "__main__"})
        except SystemExit as exit:
            ended = exit.code
        except BaseException:
            traceback.print_exc()
            ended = 1
    print(json.dumps([ended, out.getvalue(), err.getvalue()]), flush=True)
"""


class Site:
    """The folder into which the package is installed, and an interpreter that finds it."""

    def __init__(self, folder):
        self.folder = folder
        environment = os.environ | {"PYTHONPATH": str(folder)}
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip

    def ask(self, *arguments, code=None):
        """Call the command line, or run code, in the interpreter that stays."""
        self._server.stdin.write(json.dumps([code, [str(one) for one in arguments]]) + "\n")
        self._server.stdin.flush()
        return subprocess.CompletedProcess(arguments, *json.loads(self._server.stdout.readline()))

    def curate(self, *arguments):
        """Call the command line with the package installed; return what it prints."""
        done = self.ask(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        assert self._server.wait(60) == 0


def nearest(values, value, n_keep, seed=0):
    """Return which rows are nearest to a value, from the definition; those of equal distance go by hash, then uid."""
    uids = [f"s{n:06d}" for n in range(len(values))]
    ties = tie(uids, seed).tolist()
    known = [n for n, one in enumerate(values) if one is not None]
    kept = sorted(known, key=lambda n: (abs(values[n] - value), ties[n], uids[n]))[:n_keep]
    return [n in kept for n in range(len(values))]


def kept_of(folder):
    return open_run(folder).decisions().sort("uid")["keep"].to_list()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder into which the package is installed, and an interpreter that finds it."""
    made = Site(install(tmp_path_factory.mktemp("plugins") / "site"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The values of a recipe that uses both."""
    folder = tmp_path_factory.mktemp("plugged")
    glob = write_shards(folder / "in", planted(N), shards=2, extra={"caption": CAPTIONS})
    select = {"method": "nearest", "by": "caption_words", "value": 4.3, "count": 17, "on_null": "drop"}
    return recipe_values(glob, folder / "run", score=[{"words": {"most": 7}}], select=select)


@pytest.fixture(scope="module")
def run(site, recipe):
    """A finished run of that recipe."""
    path = Path(recipe["run"]).parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    site.curate("run", path)
    return Path(recipe["run"])


def test_a_run_by_a_score_and_a_method_of_another_package(run):
    scores = pl.read_parquet(run / "3_scores" / "words" / "part-*.parquet").sort("uid")
    assert scores["caption_words"].to_list() == WORDS
    assert scores["words_status"].to_list() == ["nonfinite" if one is None else "ok" for one in WORDS]
    decisions = open_run(run).decisions().sort("uid")
    assert decisions["keep"].to_list() == nearest(WORDS, 4.3, 17)
    assert decisions["keep"].sum() == 17
    dropped = decisions.filter(~pl.col("keep"))["reason"].value_counts()
    assert dict(dropped.iter_rows()) == {"over_budget": N - 5 - 17, "no_score:nonfinite": 5}


def test_a_filter_goes_by_the_score(site, recipe, tmp_path):
    values = recipe | {
        "run": str(tmp_path / "run"),
        "filter": ["caption_words >= 3"],
        "select": {"keep": 0.7},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    site.curate("run", tmp_path / "recipe.yaml")
    assert kept_of(tmp_path / "run") == [one is not None and one >= 3 for one in WORDS]


def test_a_run_is_decided_anew_by_the_method(site, recipe, tmp_path):
    values = recipe | {"run": str(tmp_path / "run"), "select": {"keep": 0.5}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    site.curate("run", tmp_path / "recipe.yaml")
    asked = ["--method", "nearest", "--by", "caption_words", "--set", "select.on_null=drop"]
    refused = site.ask("select", tmp_path / "run", *asked)
    assert (refused.returncode, refused.stderr) == (2, "error: select.value is missing\n")
    site.curate("select", tmp_path / "run", *asked, "--set", "select.value=2", "--count", "9")
    assert kept_of(tmp_path / "run") == nearest(WORDS, 2, 9)


def test_what_is_shown_of_a_run(site, run):
    shown = site.curate("inspect", run)
    assert re.search(r"kept +17 +34\.0 %", shown) and re.search(r"caption_words +45 +5 ", shown)
    order = sorted((n for n in range(N) if WORDS[n] is not None), key=lambda n: abs(WORDS[n] - 4.3))
    for row in (order[0], order[-1]):
        told = site.curate("explain", run, f"s{row:06d}")
        assert re.search(rf"caption_words +{WORDS[row]}\.0", told), told
        assert "method nearest" in told and (": kept (kept)" in told) == (row == order[0])
        flip = re.search(r"\((\d+) rows\) it is (kept|dropped); now 0\.34 \(17\)", told)
        at = int(flip[1])
        assert nearest(WORDS, 4.3, at)[row] == (flip[2] == "kept")
        assert nearest(WORDS, 4.3, at + (1 if flip[2] == "dropped" else -1))[row] != (flip[2] == "kept")
    report = (run / "7_report" / "report.html").read_text()
    assert "This run selected by <code>nearest</code>." in report and '"caption_words"' in report


def test_methods_lists_both_like_those_of_curate(site):
    shown = site.curate("methods", "--all")
    for lines in (
        "  nearest: the values of a score (by) nearest to value\n    needs    a score (by)\n    first    the sm",
        "    not      when more of the score is always better: take hardest, easiest or top\n    paper    Marion et al.",
        "    paper    Gadre et al. 2023, arXiv:2304.14108\n    settings most=20\n",
        "  words: how many words a caption has\n    needs    captions\n    costs    one pass over the captions\n",
        "  caption_words (better): words, of captions\n",
    ):
        assert lines in shown
    listed = json.loads(site.curate("methods", "--json"))
    method, family = listed["select"][-1], listed["family"][-1]
    assert (method["method"], family["family"]) == ("nearest", "words")
    for one, others in ((method, listed["select"]), (family, listed["family"])):
        assert set(one) == set(others[0])
        assert all(one[word] for word in ("needs", "paper", "cost", "avoid", "does"))
    assert method["settings"] | {"value": None, "on_null": "proportional"} == method["settings"]
    assert family["settings"] == {"most": 20} and family["columns"] == ["caption_words"]


IN_MEMORY = """
import json, sys
import numpy as np
import polars as pl
import curate

values = json.loads(sys.argv[1])
frame = pl.DataFrame({"uid": [f"s{n:06d}" for n in range(len(values))], "words": values})
kept = curate.select(frame, method="nearest", by="words", value=4.3, count=17, on_null="drop")
print(json.dumps(kept["keep"].to_list()))
for settings in ({"value": "near"}, {"value": float("nan")}, {"value": 1, "strata": 9}, {"valeu": 1, "value": 1}, {}):
    try:
        curate.select(frame, method="nearest", by="words", count=1, **settings)
    except curate.CurateError as error:
        print(error)
from curate.scores.registry import families
from curate.selection.registry import selectors
print(json.dumps([list(families()), list(selectors())[-2:]]))
scored = curate.score(np.eye(3), ["words"], captions=["a b", None, "c"])
print(json.dumps(scored["caption_words"].to_list()))
"""


def test_both_in_python(site):
    done = site.ask(json.dumps(WORDS), code=IN_MEMORY)
    assert done.returncode == 0, done.stderr
    kept, *messages, listed, scored = done.stdout.splitlines()
    assert json.loads(kept) == nearest(WORDS, 4.3, 17)
    assert messages == [
        "select.value must be a number, got 'near'",
        "select.value must be a finite number, got nan",
        "select.strata is not a setting of method nearest; it belongs to stratified",
        "select.valeu is not a setting; did you mean 'value'?",
        "select.value is missing",
    ]
    assert json.loads(listed) == [[*FAMILIES, "words"], ["all", "nearest"]]
    assert json.loads(scored) == [2.0, None, 1.0]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"select": {"method": "nearest", "by": "distance", "keep": 0.5, "value": 1, "gamma": 2}},
            "select.gamma is not a setting of method nearest; it belongs to weighted",
        ),
        (
            {"select": {"method": "hardest", "by": "distance", "keep": 0.5, "value": 1}},
            "select.value is not a setting of method hardest; it belongs to nearest",
        ),
        ({"score": [{"words": {"most": 0}}]}, "score.words.most must be at least 1, got 0"),
        (
            {"score": [{"words": {"must": 3}}]},
            "score.words.must is not a setting; did you mean 'most'?",
        ),
    ],
)
def test_settings_are_checked(site, recipe, tmp_path, section, message):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | section))
    done = site.ask("run", tmp_path / "recipe.yaml")
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


SCORES, SELECTORS = "curate.scores", "curate.selectors"
BROKEN = [
    (SCORES, "heads", "words:Words", "curate has a family of scores 'heads' of its own"),
    (SCORES, "filter", "words:Words", "curate has a family of scores 'filter' of its own"),
    (SCORES, "other", "words:Words", 'must declare family: Literal["other"] = "other"'),
    (SCORES, "words", "words:np", "must be a subclass of Score, got <module"),
    (SCORES, "words", "missing:Words", "cannot be loaded: ModuleNotFoundError: No module named"),
    (SCORES, "empty", "broken:Empty", "must define score_rows or compute"),
    (SCORES, "twin", "broken:Twin", "color has a column 'color' too"),
    (SELECTORS, "random", "nearest:Nearest", "curate has a selection method 'random' of its own"),
    (SELECTORS, "other", "nearest:Nearest", 'must declare method: Literal["other"] = "other"'),
    (SELECTORS, "nearest", "words:Words", "must be a subclass of Selector, got <class"),
    (SELECTORS, "nearest", "missing:Nearest", "cannot be loaded: ModuleNotFoundError: No module named"),
    (SELECTORS, "nearest", "nearest:Far", "cannot be loaded: AttributeError"),
    (SELECTORS, "raises", "raises:Any", "cannot be loaded: RuntimeError: two lines"),
    (SELECTORS, "bare", "broken:Bare", "must define keeps and avoid and fit and standing"),
]
BROKEN_CODE = """
from typing import ClassVar, Literal
from curate.scores.base import Score
from curate.scores.columns import Column
from curate.selection.base import Selector

class Empty(Score):
    family: Literal["empty"] = "empty"

class Twin(Score):
    outputs: ClassVar = {"color": Column("better")}
    family: Literal["twin"] = "twin"
    def score_rows(self, **rows):
        return {}

class Bare(Selector):
    method: Literal["bare"] = "bare"
"""


#: Looks plug-ins up as if for the first time, once for each set of entry points.
LOOK_UP = """
import json, sys
from curate.errors import UsageError
from curate.scores.registry import families
from curate.selection.registry import selectors

for folder in json.loads(sys.argv[1]):
    sys.path.insert(0, folder)
    try:
        families.__wrapped__(), selectors.__wrapped__()
        print("nothing is wrong")
    except UsageError as error:
        print(error)
    sys.path.remove(folder)
"""


def break_(target, group, name, value):
    """Install the package with one entry point, and modules that are wrong."""
    install(target, {group: {name: f"curate_extras.{value}"}})
    (target / "curate_extras" / "broken.py").write_text(BROKEN_CODE)
    (target / "curate_extras" / "raises.py").write_text('raise RuntimeError("two\\nlines")')
    return target


def test_a_broken_plug_in_is_named_in_one_line(tmp_path):
    folders = [
        str(break_(tmp_path / str(n), group, name, value)) for n, (group, name, value, _) in enumerate(BROKEN)
    ]
    done = python(tmp_path, "-c", LOOK_UP, json.dumps(folders))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(BROKEN)
    for line, (group, name, value, message) in zip(lines, BROKEN, strict=True):
        assert line.startswith(f"plug-in '{name}' ") and f"({group}: curate_extras.{value})" in line
        assert message in line


@pytest.mark.parametrize(
    "broken", [BROKEN[4], BROKEN[7], pytest.param(BROKEN[8], marks=pytest.mark.long)], ids=lambda one: one[1]
)
def test_a_broken_plug_in_ends_the_command_line_with_one_error(tmp_path, broken):
    group, name, value, message = broken
    done = python(break_(tmp_path / "site", group, name, value), "-m", "curate", "inspect", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"error: plug-in '{name}' of curate-extras .*\n", done.stderr), done.stderr
    assert message in done.stderr


def test_two_packages_with_one_name_are_an_error(tmp_path):
    target = install(tmp_path / "site")
    second = shutil.copytree(next(target.glob("*.dist-info")), target / "curate_more-1.dist-info")
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: curate-more\nVersion: 1\n")
    done = python(target, "-m", "curate", "methods")
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(
        r"error: plug-in '(words|nearest)' of .*: another package adds a .* too; uninstall one\n", done.stderr
    )


def test_the_page_shows_the_files_of_this_package():
    blocks = dict(re.findall(r"`([\w./]+)`:\n\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert set(blocks) == {
        "pyproject.toml",
        "curate_extras/words.py",
        "curate_extras/nearest.py",
        "recipe.yaml",
    }
    for name in set(blocks) - {"recipe.yaml"}:
        assert blocks[name] == (PLUGIN / name).read_text(), name


def test_the_python_of_the_page_runs(site):
    code = re.search(r"## Try it\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    done = site.ask(code=code)
    assert done.returncode == 0, done.stderr


def test_the_recipe_of_the_page_runs(site, recipe, tmp_path):
    shown = re.search(r"`recipe.yaml`:\n\n```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    values = recipe | {"run": str(tmp_path / "run")} | yaml.safe_load(shown)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    site.curate("run", tmp_path / "recipe.yaml")
    words = [None if one is None else len(one.split()) for one in CAPTIONS]
    kept = kept_of(tmp_path / "run")
    lack = [one is None for one in words]
    assert sum(kept) == 20 and sum(keep for keep, none in zip(kept, lack, strict=True) if none) == 2
    want = nearest(words, 8, 18)
    assert [keep and not none for keep, none in zip(kept, lack, strict=True)] == want
