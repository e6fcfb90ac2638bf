"""What the documents say about commands and settings is so."""

import re
import shlex
from pathlib import Path

import pytest

from curate.io.yaml import read_yaml
from curate.pipeline import runner
from curate.recipe.loading import load_recipe, parse_recipe
from curate.schema import OUTCOMES
from tests.fixtures.calls import curate

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "flows/README.md", *sorted((ROOT / "docs").glob("*.md")))
}
COMMANDS = [
    "init",
    "run",
    "filter",
    "demo",
    "score",
    "select",
    "methods",
    "models",
    "formats",
    "evaluate",
    "train-filter",
    "retry",
    "export",
    "overrides",
    "inspect",
    "report",
    "review",
    "explain",
    "plan",
    "search",
    "retrieve",
    "name",
    "verify",
    "diff",
    "gc",
    "forget",
    "schedule",
]


def shown_calls():
    """Return every call of curate in a block of shell lines, in the README and in docs."""
    blocks = [block for text in PAGES.values() for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = [re.match(r"\s*(?:\$ )?(?:\S*/)?curate (.*)", line) for line in lines]
    return sorted({call[1] for call in calls if call})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert re.search(rf"(?:curate|make) {command}\b", README)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


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
    shown = re.findall(r"--set '?([a-z_.]+)=([^'`\s]+)", "\n".join(PAGES.values()))
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


def test_outcomes_named_in_the_glossary_are_there():
    [line] = re.findall(r"^\| outcome \|.*", PAGES[ROOT / "docs/glossary.md"], re.MULTILINE)
    named = re.findall(r"`(\w+)`", line)
    assert len(named) > 2 and set(named) <= set(OUTCOMES)


def test_recipes_that_ship_load():
    for path in sorted((ROOT / "data/recipes").glob("*.yaml")):
        assert load_recipe(path).select.keep


def test_every_link_leads_somewhere():
    """Links between the README, docs and the files beside them, to headings too."""
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if target.startswith("http"):
                continue
            name, _, heading = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            if heading:
                assert heading in {slug(line) for line in PAGES[path].splitlines() if line.startswith("#")}, (
                    target
                )


def slug(heading):
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_every_page_of_docs_is_in_the_site():
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in [*PAGES, *(ROOT / "docs/jobs").glob("*.ipynb")]:
        assert (
            page.relative_to(ROOT).as_posix().removeprefix("docs/") in listed or page.name == "README.md"
        ), page.name


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder with a finished run at runs/first: own vectors, labels of which some are wrong, small heads."""
    import numpy as np

    from tests.fixtures.builders import planted, recipe_values, write_shards

    folder = tmp_path_factory.mktemp("asked")
    vectors = planted(300)
    side = vectors.astype(np.float32) @ np.random.default_rng(1).standard_normal(vectors.shape[1]) > 0
    wrong = np.arange(300) % 17 == 0
    labels = ["right" if one else "left" for one in side ^ wrong]
    glob = write_shards(folder / "in", vectors, extra={"label": labels, "really": side.tolist()})
    score = ["clip_score", {"heads": {"kind": "linear", "seeds": 2, "epochs": 3}}]
    values = recipe_values(glob, folder / "runs/first", score=score, select={"method": "random", "keep": 0.5})
    values["source"]["label"] = "label"
    runner.run(parse_recipe(values))
    return folder, {f"s{i:06d}" for i in np.flatnonzero(wrong)}


def python_blocks():
    """Return the Python blocks of the page of five questions."""
    return re.findall(r"```python\n(.*?)```", PAGES[ROOT / "docs/five-questions.md"], re.DOTALL)


def test_the_five_questions_are_answered(asked, monkeypatch):
    folder, wrong = asked
    monkeypatch.chdir(folder)
    first, *questions = python_blocks()
    assert len(questions) == 5
    assert all(len(question.splitlines()) <= 3 for question in questions)
    known, answers = {}, []
    exec(first, known)  # noqa: S102  (what the README shows)
    for question in questions:
        *before, last = question.splitlines()
        exec("\n".join(before), known)  # noqa: S102  (what the README shows)
        answers.append(eval(last, known))
    doubtful, classes, same, cut, against = answers
    assert len(set(doubtful["uid"]) & wrong) > len(wrong) / 2, "most doubtful labels are the wrong ones"
    assert classes["label"].sort().to_list() == ["left", "right"]
    assert classes["hardest"].list.len().to_list() == [3, 3]
    assert same.width == 5
    assert same["loss"].item() > 0.5
    assert (cut["lost"] * cut["len"]).sum() == pytest.approx(30, abs=3)
    assert against["rows"].to_list() == ["keep", "random_control"]
    assert against.null_count().sum_horizontal().item() == 0


def test_a_sampler_reads_the_run(asked, monkeypatch):
    monkeypatch.chdir(asked[0])
    known = {}
    page = PAGES[ROOT / "docs/methods.md"]
    shown = re.search(r"```python\n(from curate\.torch import LossReweighter.*?)```", page, re.DOTALL)[1]
    exec(shown, known)  # noqa: S102  (what the README shows)
    assert len(list(known["batches"])) == 150


@pytest.fixture
def from_python(tmp_path, monkeypatch):
    """What the five jobs find: photos, pairs, labels of which some are wrong, vectors, and a data set."""
    import numpy as np
    import polars as pl

    from tests.fixtures.builders import planted, write_shards
    from tests.fixtures.pictured import picture

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(8):
        Path(f"photos/{i}.png").write_bytes(picture(i % 6))
    pairs = {"image": [picture(i) for i in range(20)], "caption": [f"picture {i}" for i in range(20)]}
    pl.DataFrame(pairs).write_parquet("pairs.parquet")
    vectors = planted(120)
    side = vectors.astype(np.float32) @ np.random.default_rng(1).standard_normal(vectors.shape[1]) > 0
    wrong = np.arange(120) % 17 == 0
    write_shards(Path("in"), vectors, shards=1, extra={"label": (side ^ wrong).astype(int).tolist()})
    next(Path("in").iterdir()).rename("labelled.parquet")
    ids = [f"s{i:06d}" for i in range(120)]
    return {"vectors": vectors, "ids": ids, "dataset": vectors.astype(np.float32)}, wrong


def test_the_five_jobs_from_python_work_as_printed(from_python):
    known, wrong = from_python
    section = README[README.index("## From Python") : README.index("## Read on")]
    first, *jobs = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(jobs) == 5
    assert all(len(job.splitlines()) <= 5 for job in jobs)
    exec(first, known)  # noqa: S102  (what the README shows)
    found = []
    for job in jobs:
        exec(job, known)  # noqa: S102  (what the README shows)
        found.append(known["run"])
    assert sorted(known["files"]) == [f"{i}.png" for i in range(6)]
    assert known["fitting"].height == 18
    rows = found[2].samples().filter(found[2].samples()["uid"].is_in(known["wrong"]["uid"].implode()))["row"]
    assert wrong[rows.to_numpy()].sum() > wrong.sum() / 2, "most wrong labels are found"
    assert len(known["kept"]) == 36
    assert sum(len(batch) for batch in known["batches"]) == 60
    assert found[4].kept()["weight"].mean() == pytest.approx(1)
