"""Names of concepts of a run: where they come from, where they are shown, and when they are forgotten."""

import json

import polars as pl
import pytest

from curate import open_run
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate

N = 240


def made(folder, extra, **changes):
    glob = write_shards(folder / "in", planted(N), extra=extra)
    runner.run(
        parse_recipe(recipe_values(glob, folder / "run", score=[], select={"method": "all"}, **changes))
    )
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A run whose captions say which of eight things a row is, as its vector does, and a colour that says nothing."""
    folder = tmp_path_factory.mktemp("captioned")
    run = made(folder, None)
    concept = dict(run.decisions().select("uid", "concept").iter_rows())
    things = ["dog", "cat", "stop sign", "tree", "house", "boat", "cup", "car"]
    captions = [f"a photo of a {things[concept[f's{i:06d}']]}, {('red', 'blue')[i % 2]}" for i in range(N)]
    return made(folder / "again", {"caption": captions}), things


def test_captions_name_concepts(captioned):
    run, things = captioned
    names = run.name_concepts()
    assert {concept: name.partition(",")[0] for concept, name in names.items()} == dict(enumerate(things))
    noted = json.loads((run.folder.path / "concept_names.json").read_text())
    assert noted["by"] == "captions"


def test_names_are_shown(captioned):
    run, things = captioned
    shown = run.summary()["concepts"]
    assert [things[row["concept"]] in row["name"] for row in shown] == [True] * len(shown)
    assert "stop sign" in curate("inspect", run.path).out
    page = (run.folder.report / "report.html").read_text(encoding="utf-8")
    assert '<th scope="col">Name</th>' in page and "<bdi>stop sign" in page
    said = curate("report", run.path, "--concept", "2")
    assert (
        said.code == 0 and "Concept 2: <bdi>stop sign" in (run.folder.report / "_concept-2.html").read_text()
    )
    assert curate("verify", run.path).code == 0, "names are no part of a stage"


def test_names_of_other_concepts_are_forgotten(captioned, tmp_path):
    import shutil

    run, _ = captioned
    other = open_run(shutil.copytree(run.path, tmp_path / "run"))
    names = json.loads(other.folder.concept_names.read_text())
    other.folder.concept_names.write_text(
        json.dumps({"concepts": "other", "by": "captions", "names": names["names"]})
    )
    assert "name" not in other.summary()["concepts"][0]
    assert len(other.name_concepts()) == 8 and "name" in other.summary()["concepts"][0]


def test_labels_name_concepts_and_nothing_names_none(tmp_path):
    run = made(tmp_path / "labels", {"label": [("hat", "shoe")[i % 2] for i in range(N)]})
    names = run.name_concepts()
    assert names and {name.partition(" (")[0].partition(",")[0] for name in names.values()} <= {"hat", "shoe"}
    bare = made(tmp_path / "bare", None)
    assert bare.name_concepts() == {}
    assert "nothing is said of one concept and not of others" in curate("name", bare.path).err
    assert "name" not in bare.summary()["concepts"][0]


@pytest.mark.parametrize(
    "text, said",
    [(None, "cannot be read"), ("\n# none\n", "has no names"), ("dog\n", "no model for vectors")],
)
def test_vocabularies_that_cannot_be_used(tmp_path, text, said):
    file = tmp_path / "names.txt"
    if text is not None:
        file.write_text(text)
    glob = write_shards(tmp_path / "in", planted(20))
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(recipe_values(glob, tmp_path / "run", cluster={"vocabulary": str(file)}))
    )
    refused = curate("run", tmp_path / "recipe.yaml")
    assert refused.code == 2 and said in refused.err, refused.err
    assert not (tmp_path / "run/1_embeddings").exists()


def test_a_vocabulary_changes_no_fingerprint(tmp_path):
    from curate.recipe import Cluster

    assert Cluster().of_fit() == Cluster(vocabulary="x").of_fit()


def test_precision_in_place_of_epsilon(tmp_path):
    vectors = planted(N, near=40)
    glob = write_shards(tmp_path / "in", vectors)
    values = recipe_values(
        glob,
        tmp_path / "run",
        score=[],
        select={"method": "all"},
        dedup={"epsilon": {"precision": 0.9}, "prefer": "random"},
    )
    runner.run(parse_recipe(values), until="dedup")
    run = open_run(tmp_path / "run")
    facts = run.folder.marker(run.folder.duplicates)["facts"]
    assert facts["precision"]["estimated"] >= 0.9 and facts["epsilon"] == facts["precision"]["epsilon"]
    lost = run.duplicates().filter(pl.col("duplicate_of").is_not_null())
    gone = set(lost["uid"].to_list())
    assert sum(bool({f"s{i:06d}", f"s{i + 200:06d}"} & gone) for i in range(40)) == 40, (
        "the last 40 are near-copies"
    )
    # At the epsilon that was found, given as a number, the same rows go.
    same = recipe_values(
        glob,
        tmp_path / "same",
        score=[],
        select={"method": "all"},
        dedup={"epsilon": facts["epsilon"], "prefer": "random"},
    )
    runner.run(parse_recipe(same), until="dedup")
    assert open_run(tmp_path / "same").duplicates().equals(run.duplicates())
