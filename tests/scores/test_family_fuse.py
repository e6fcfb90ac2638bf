"""Columns computed from other columns, in memory: fused ranks, and the difference of two losses."""

import numpy as np
import polars as pl
import pytest

from curate.errors import UsageError
from curate.pipeline.stages.score import SOURCES
from curate.recipe import Color, Fuse
from curate.recipe.loading import parse_recipe
from curate.scores.in_memory import score
from curate.scores.registry import check_recipe, folders_for, score_columns
from tests.fixtures.builders import recipe_values
from tests.reference.fused import LABELS, UIDS, WEIGHTS, N, columns, fused

RNG = np.random.default_rng(3)
DISTANCE, CONCEPT = RNG.uniform(0, 2, N).astype(np.float32).tolist(), RNG.integers(0, 5, N).tolist()


def frame(**changes):
    given = {"uid": UIDS, "label": LABELS, "distance": DISTANCE, "concept": CONCEPT, **columns()}
    return pl.DataFrame(given | changes, strict=False)


@pytest.mark.parametrize("scale", ["rank", "minmax"])
@pytest.mark.parametrize("per", [None, "concept", "label"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_by_definition(scale, per, weights):
    found = score(frame(), Fuse(columns=weights, scale=scale, per=per))
    assert found.schema == {"uid": pl.String, "fused": pl.Float32, "fused_status": pl.String}
    group = {None: [0] * N, "concept": CONCEPT, "label": LABELS}[per]
    want = fused(columns() | {"distance": DISTANCE}, weights, group, scale)
    assert [value is None for value in found["fused"]] == [value is None for value in want]
    known = [i for i in range(N) if want[i] is not None]
    np.testing.assert_allclose(found["fused"].to_numpy()[known], [want[i] for i in known], atol=1e-6)
    assert all((status == "ok") == (want[i] is not None) for i, status in enumerate(found["fused_status"]))


def test_why_there_is_no_score():
    status = score(frame(), Fuse(columns={"b": 1, "a": 1}, per="label"))["fused_status"].to_list()
    assert [status[i] for i in (1, 4, 6, 7, 11)] == ["ok", "nonfinite", "nonfinite", "nonfinite", "no_label"]


def test_all_labels_may_be_missing():
    found = score(frame(label=[None] * (N - 1) + ["x"]), Fuse(columns={"a": 1}, per="label"))
    assert found["fused_status"].to_list() == ["no_label"] * (N - 1) + ["ok"]
    assert found["fused"].to_list()[-1] == 0.5


def test_one_sample():
    found = score(pl.DataFrame({"uid": ["s000000"], "distance": [0.3]}), Fuse(columns={"distance": 1}))
    assert found.rows() == [("s000000", 0.5, "ok")]


def test_fused_columns_can_be_fused():
    second = Fuse(columns={"one": 1, "b": 1}, name="two", higher_is="noisier")
    found = score(frame(), [second, Fuse(columns={"a": 1}, name="one")])
    assert found.columns == ["uid", "two", "two_status", "one", "one_status"]
    assert found["two"].null_count() == 3
    assert Fuse(columns={"a": 1}).folder == "fused"


def test_color_is_the_difference():
    found = score(frame(), Color(prior="a", conditional="b"))
    assert found.schema == {"uid": pl.String, "color": pl.Float32, "color_status": pl.String}
    given = columns()
    for i, (_, value, status) in enumerate(found.rows()):
        a, b = given["a"][i], given["b"][i]
        if i in (4, 6, 7):
            assert (value, status) == (None, "nonfinite")
        else:
            assert value == pytest.approx(a - b, abs=1e-5)
            assert status == "ok"


# --- what a recipe may ask for --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("in") / "mine.parquet"
    pl.DataFrame({"uid": UIDS, **columns()}, strict=False).write_parquet(path)
    return str(path)


def recipe(file, *families):
    return parse_recipe(recipe_values("none.parquet", "run", score=[*families, {"file": file}]))


def test_columns_must_be_scores(file):
    def refused(*families):
        with pytest.raises(UsageError) as caught:
            check_recipe(recipe(file, *families), SOURCES)
        return str(caught.value)

    assert "needs the column 'nce', which no family in score gives (pair has it)" in refused(
        {"fuse": {"columns": {"nce": 1}}}
    )
    assert "score: fuse.columns of fused: 'mine_status' is no score to rank by" in refused(
        {"fuse": {"columns": {"mine_status": 1}}}
    )
    assert "score: color.prior: 'mine_status' is no score" in refused(
        {"color": {"prior": "mine_status", "conditional": "a"}}
    )


def test_directions_and_folders_of_columns_computed_from_others(file):
    first = {"fuse": {"columns": {"a": 1}, "name": "one"}}
    second = {"fuse": {"columns": {"one": 1, "b": 1}, "name": "two", "higher_is": "noisier"}}
    values = recipe(file, second, first, {"color": {"prior": "a", "conditional": "b"}})
    assert folders_for(values, ["two", "a", "distance"]) == ("mine", "two")
    assert score_columns(values)["two"].higher_is == "noisier"
    assert score_columns(values)["color"].higher_is == "better"
