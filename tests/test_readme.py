"""What the documents say about commands and settings is so."""

import re
import shlex
from pathlib import Path

import pytest
from calls import curate

from curate.config import load_recipe, parse_recipe, read_yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ["init", "run", "filter", "demo", "inspect", "verify"]


def shown_calls():
    """Return every call of curate in a block of shell lines."""
    blocks = re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = [re.match(r"\s*(?:\$ )?(?:\S*/)?curate (.*)", line) for line in lines]
    return sorted({call[1] for call in calls if call})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    if len(README) < 1000:
        pytest.skip("the README is a stub")
    assert re.search(rf"(?:curate|make) {command}\b", README)


@pytest.mark.parametrize("call", shown_calls())
def test_every_call_shown_has_flags_that_there_are(call):
    command, *arguments = shlex.split(call, comments=True)
    options = [word.split("=")[0] for word in arguments if re.match("-[-a-z]", word)]
    if command.startswith("-"):
        assert curate(command).code == 0
        return
    assert command in COMMANDS, call
    known = curate(command, "--help").out
    for option in options:
        assert re.search(rf"(^|[ ,]){option}\b", known, re.MULTILINE), f"{call}: no {option}"


def test_every_setting_shown_with_set_is_one():
    shown = re.findall(r"--set '?([a-z_.]+)=([^'\s]+)", README)
    assert shown
    for name, value in shown:
        values = {"run": "r", "source": {"path": "a"}, "select": {"keep": 0.3}}
        section, _, setting = name.partition(".")
        if setting:
            values[section] = values.get(section, {}) | {setting: read_yaml(value)}
            if name == "select.count":
                del values["select"]["keep"]
        else:
            values[section] = read_yaml(value)
        parse_recipe(values)


def test_recipes_that_ship_load():
    for path in sorted((ROOT / "data/recipes").glob("*.yaml")):
        assert load_recipe(path).select.keep
