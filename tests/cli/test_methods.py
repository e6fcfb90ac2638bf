"""`curate methods`: what there is to choose from, for people, as JSON, and as the tables of docs."""

import json
from pathlib import Path

from curate.cli.methods import markdown
from curate.selection.registry import selectors
from curate.weighting.registry import weighers
from tests.fixtures.calls import curate

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_json_has_every_method_with_its_settings():
    said = curate("methods", "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert [one["method"] for one in found["select"]] == list(selectors())
    assert [one["method"] for one in found["weight"]] == list(weighers())
    stratified = next(one for one in found["select"] if one["method"] == "stratified")
    assert stratified["settings"]["beta"] == 0.0
    assert stratified["settings"]["cutoff"] == "neg_aum"
    assert "temperature" not in stratified["settings"]
    assert stratified["paper"].startswith("Zheng et al. 2023")
    assert {"score": "el2n", "family": "heads", "higher_is": "harder"}.items() <= next(
        one for one in found["score"] if one["score"] == "el2n"
    ).items()


def test_without_names_each_has_one_line():
    out = curate("methods").out
    assert "  stratified: equal numbers from all stretches of a score" in out
    assert "  heads: how hard a sample is" in out and "    needs" not in out
    found = json.loads(curate("methods", "--json").out)
    assert out.count("\n") == sum(len(found[one]) for one in ("select", "weight", "family")) + 7
    assert out.endswith("curate methods NAME; of all: --all\n")


def test_people_read_what_a_method_needs_and_when_not_to_take_it():
    out = curate("methods", "--all").out
    assert "  stratified: equal numbers from all stretches of a score" in out
    assert "    not      when less than half is kept: mislabelled rows are the hardest of all\n" in out
    assert "strata=50" in out
    assert "  el2n (harder): heads, of image vectors" in out


def test_names_are_shown_alone():
    out = curate("methods", "d2", "el2n").out
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == [
        "select.method", "score", "scores (a higher value is)",
    ]  # fmt: skip
    assert out.count("\n    needs") == 2  # d2, and heads for its column
    assert "  el2n (harder)" in out
    found = json.loads(curate("methods", "focal", "--json").out)
    assert {section: len(rows) for section, rows in found.items()} == {
        "select": 0, "weight": 1, "family": 0, "score": 0,
    }  # fmt: skip
    wrong = curate("methods", "stratifed")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "'stratifed'; did you mean 'stratified'?" in wrong.err
    assert curate("methods", "d2", "--markdown").code == 2


def test_settings_of_all_methods_are_said_once():
    out = curate("methods", "--all").out
    assert out.count("shipped=false") == 1
    auto = out[out.index("  auto: ") : out.index("  density: ")]
    assert "settings drop_noise=auto, floor=half\n" in auto  # other defaults than those of all methods


def test_the_docs_have_these_tables():
    for page, table in zip(("scores", "methods", "methods"), markdown(), strict=True):
        assert f"\n\n{table}\n" in (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert curate("methods", "--markdown").out == "\n".join(markdown())
