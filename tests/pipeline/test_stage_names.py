"""One list names the stages (`curate.runs.layout`); all other lists of them are made from it."""

import ast
from pathlib import Path

import pytest

from curate.pipeline import runner
from curate.runs.folder import RunFolder
from curate.runs.layout import STAGE_FOLDERS, STAGES

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "curate" / "runs" / "layout.py"
#: So many names of stages in one literal (or in one text) are a list of the stages.
MANY = 4


def names_in(node):
    """Return the names of stages that a literal holds: its items, its keys, or the words of a text."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = node.elts
    elif isinstance(node, ast.Dict):
        items = node.keys
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
        return set(node.value.replace(",", " ").replace(".", " ").split()) & set(STAGES)
    else:
        return set()
    words = {item.value for item in items if isinstance(item, ast.Constant)}
    sections = "source" in words  # of a recipe: some are called as a stage is
    return set() if sections else words & set(STAGES)


def lists_of_stages(text):
    return [node.lineno for node in ast.walk(ast.parse(text)) if len(names_in(node)) >= MANY]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = ('read', 'embed', 'cluster', 'score')", [1]),
        ("y = 1\nx = {'read': 1, 'embed': 2, 'cluster': 3, 'filter': 4}", [2]),
        ("x = Literal['read', 'embed', 'cluster', 'score']", [1]),
        ("help='Last stage: read, embed, cluster or score.'", [1]),
        ("x = ('read', 'embed', 'cluster')", []),
    ],
)
def test_lists_are_found(text, lines):
    assert lists_of_stages(text) == lines


def test_no_other_list_of_stages():
    verbs = ROOT / "curate" / "__init__.py"  # cluster, filter, score and select are verbs of the API too
    files = sorted({*(ROOT / "curate").rglob("*.py"), *(ROOT / "flows").glob("*.py")} - {LIST, verbs})
    assert len(files) > 200
    found = {
        str(file.relative_to(ROOT)): lines
        for file in files
        if (lines := lists_of_stages(file.read_text(encoding="utf-8")))
    }
    assert found == {}
    assert lists_of_stages(LIST.read_text(encoding="utf-8"))


def test_classes_are_those_of_the_list():
    assert tuple(runner.STAGES) == STAGES == tuple(STAGE_FOLDERS)
    assert {name: stage.name for name, stage in runner.STAGES.items()} == {name: name for name in STAGES}


def test_folders_of_a_run():
    run = RunFolder(Path("run"))
    assert {name: run.stage(name) for name in STAGES} == {
        name: Path("run") / folder for name, folder in STAGE_FOLDERS.items()
    }
    assert run.stage("score/heads") == run.scores("heads") == Path("run/3_scores/heads")
