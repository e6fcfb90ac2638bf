"""`curate formats` and `curate models`: what there is, as people and as programs read it; the help in groups; completion."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curate.cli.app import GROUPS
from curate.cli.formats import markdown
from curate.sources.registry import FORMATS, format_of
from tests.fixtures.calls import curate

ROOT = Path(__file__).resolve().parents[2]


def test_every_format_says_what_it_is():
    found = json.loads(curate("formats", "--json").out)
    assert [one["format"] for one in found] == list(FORMATS)
    assert all(one["what"] and one["rows"] for one in found)
    assert {one["format"]: tuple(one["ends"]) for one in found} == {
        name: format_of(name).extensions for name in FORMATS
    }
    plain = curate("formats").out
    assert all(f"\n{name}" in f"\n{plain}" for name in FORMATS)


def test_the_table_of_the_docs_is_that_of_the_formats():
    assert markdown() in (ROOT / "docs/sources.md").read_text(encoding="utf-8")
    assert curate("formats", "--markdown").out == markdown()


def test_models_are_those_of_open_clip_and_the_one_that_ships():
    found = {one["model"]: one["pretrained"] for one in json.loads(curate("models", "--json").out)}
    assert found["tiny"] == [] and "laion2b_s34b_b79k" in found["ViT-B-32"]
    some = curate("models", "b-32").out
    assert "ViT-B-32 " in some and "ViT-L-14" not in some
    refused = curate("models", "no such thing")
    assert refused.code == 2 and "no model, and no weights, with 'no such thing'" in refused.err


def test_the_help_lists_every_command_in_a_group():
    shown = curate("--help").out
    assert all(f"\n{title}:\n" in shown for title in GROUPS)
    assert "Others:" not in shown


@pytest.mark.parametrize(("typed", "wanted"), [("sel", "select"), ("form", "formats")])
def test_a_shell_completes_commands(typed, wanted):
    asked = {"COMP_WORDS": f"curate {typed}", "COMP_CWORD": "1", "_CURATE_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", "from curate.cli import main; main()"],
        env=os.environ | asked, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [wanted]
