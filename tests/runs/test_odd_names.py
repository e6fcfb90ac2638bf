"""A run folder may be called as it likes: what other tools take for a wildcard is no wildcard in its name."""

import shutil

import pytest

import curate
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate as command

ROWS = 80


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run twice: under a plain name, and under one of wildcards."""
    folder = tmp_path_factory.mktemp("odd")
    glob = write_shards(folder / "in", planted(ROWS, near=6), shards=2)
    curate.run(parse_recipe(recipe_values(glob, folder / "plain", dedup={"epsilon": 0.01})))
    shutil.copytree(folder / "plain", folder / "odd [a-b]?{1,2}*")
    return folder / "plain", folder / "odd [a-b]?{1,2}*"


@pytest.mark.parametrize("table", ["samples", "scores", "decisions", "duplicates", "concepts"])
def test_tables(runs, table):
    plain, odd = (getattr(curate.open_run(run), table)() for run in runs)
    assert len(plain) and plain.equals(odd)


@pytest.mark.parametrize(
    "asked",
    [
        ("inspect", "--json"), ("inspect", "--sql", "select count(*) n from samples"), ("explain", "s000003", "--json"),
        ("plan", "--json"), ("search", "--uid", "s000003", "--json"),
    ],
    ids=lambda asked: " ".join(asked)[:20],
)  # fmt: skip
def test_questions(runs, asked):
    plain, odd = (command(asked[0], run, *asked[1:]) for run in runs)
    assert plain.code == odd.code == 0, odd.err
    assert odd.out.replace(str(runs[1]), str(runs[0])) == plain.out


def test_two_runs(runs):
    found = command("diff", runs[0], runs[1], "--json")
    assert found.code == 0, found.err


def test_an_imported_table(runs, tmp_path):
    sheet = tmp_path / "[1]*.parquet"
    run = curate.open_run(runs[1])
    assert command("overrides", run.folder.path, "--drop", "s000001,s000002").code == 0
    assert command("overrides", run.folder.path, "--export", sheet).code == 0
    assert command("overrides", run.folder.path, "--import", sheet).code == 0
