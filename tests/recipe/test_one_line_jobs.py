"""What `curate filter` keeps where nothing is said of it, and how method all and budgets replace each other."""

import pytest
import yaml

from curate.errors import RecipeError
from curate.recipe import FAMILIES
from curate.recipe.build import filter_recipe
from curate.recipe.loading import override, parse_recipe

BASE = {"run": "r", "source": {"path": "a.parquet"}}


@pytest.mark.parametrize(
    "asked",
    [
        {"epsilon": 0.05}, {"epsilon": "auto"}, {"where": ["width > 3"]}, {"exclude": ["a.txt"]}, {"only": ["a.txt"]},
        {"overrides": ["dedup.epsilon=0.1"]}, {"settings": {"filter": ["width > 3"]}},
        {"base": {"dedup": {"epsilon": 0.1}}}, {"base": {"filter": ["width > 3"]}},
    ],
)  # fmt: skip
def test_what_takes_rows_out_keeps_the_rest(asked):
    recipe = filter_recipe(BASE | asked.pop("base", {}), **asked)
    assert (recipe.select.method, recipe.select.keep, recipe.select.count) == ("all", 1.0, None)


@pytest.mark.parametrize(
    ("asked", "method", "keep"),
    [
        ({"epsilon": 0.05, "keep": 0.5}, "auto", 0.5),
        ({"where": ["width > 3"], "overrides": ["select.keep=0.5"]}, "auto", 0.5),
        ({"keep": 0.5, "overrides": ["select.prefer=easiest"]}, "density", 0.5),
        ({"where": ["width > 3"], "base": {"select": {"keep": 0.5, "method": "random"}}}, "random", 0.5),
        ({"method": "all"}, "all", 1.0),
    ],
)
def test_a_selection_that_is_asked_for_stands(asked, method, keep):
    recipe = filter_recipe(BASE | asked.pop("base", {}), **asked)
    assert (recipe.select.method, recipe.select.keep) == (method, keep)


@pytest.mark.parametrize("asked", [{}, {"pin": ["a.txt"]}, {"method": "random", "epsilon": 0.1}])
def test_nothing_to_do_is_refused(asked):
    with pytest.raises(RecipeError, match="method all keeps all that pass"):
        filter_recipe(BASE, **asked)


def test_epsilon_auto_is_refused_beside_vectors_of_ones_own():
    with pytest.raises(RecipeError, match=r"there is no model for vectors of your own; give it a number"):
        filter_recipe(BASE, epsilon="auto", vectors="vectors.npy")


def test_a_budget_and_method_all_replace_each_other():
    values = BASE | {"select": {"method": "random", "keep": 0.3}}
    every = override(values, ["select.method=all"])
    assert every["select"] == {"method": "all"}
    assert override(every, ["select.keep=0.3"])["select"] == {"keep": 0.3}
    both = override(values, ["select.method=all", "select.keep=0.3"])
    with pytest.raises(RecipeError, match=r"method all keeps every row that passes, got keep 0\.3"):
        filter_recipe(both)


@pytest.mark.parametrize(
    ("base", "asked", "epsilon", "across"),
    [
        ({}, {}, "auto", False),
        ({"dedup": {"across_captions": True, "exact": False}}, {}, "auto", True),
        ({"dedup": {"epsilon": 0.1}}, {}, 0.1, True),
        ({"dedup": {"epsilon": None}}, {}, None, True),
        ({}, {"epsilon": "none"}, None, True),
        ({}, {"method": "random"}, None, True),
        ({}, {"vectors": "vectors.npy"}, None, True),
        ({}, {"vectors": "emb"}, None, True),
        ({"cluster": {"on": "text"}}, {}, None, True),
        ({"cluster": {"on": "both"}}, {}, "auto", False),
    ],
)
def test_auto_takes_near_duplicates_out_where_nothing_is_said_of_them(base, asked, epsilon, across):
    recipe = filter_recipe(BASE | base, keep=0.5, **asked)
    assert (recipe.dedup.epsilon, recipe.dedup.across_captions) == (epsilon, across)
    assert recipe.select.at_most == (epsilon == "auto")  # it keeps what there is
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())).dedup == recipe.dedup


AUTO = ["clip_score", "heads", "pair"]


@pytest.mark.parametrize(
    ("base", "asked", "families"),
    [
        ({}, {}, AUTO),
        ({"cluster": {"on": "both"}}, {}, AUTO),
        ({"dedup": {"epsilon": None}}, {}, AUTO),
        ({"score": []}, {}, []),
        ({}, {"overrides": ["score=[]"]}, []),
        ({}, {"score": ["clip_score"]}, ["clip_score"]),
        ({}, {"score": ["heads"]}, ["clip_score", "heads"]),
        ({}, {"overrides": ["score.heads.seeds=3"]}, ["clip_score", "heads"]),
        ({}, {"method": "random"}, ["clip_score"]),
        ({}, {"vectors": "emb"}, ["clip_score"]),
        ({"cluster": {"on": "text"}}, {}, ["clip_score"]),
    ],
)
def test_auto_scores_labels_and_captions_where_nothing_is_said_of_scores(base, asked, families):
    recipe = filter_recipe(BASE | base, keep=0.5, **asked)
    assert [one.family for one in recipe.score] == families
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())).score == recipe.score
    if families == AUTO:
        _, heads, pair = recipe.score
        assert (heads.preset, heads.kind, heads.labels) == ("fast", "linear", "label")
        assert not heads.required and not pair.required
        parse_recipe(yaml.safe_load(recipe.to_yaml()) | {"source": {"path": "a.parquet", "label": None}})


def test_whether_scores_are_required_is_no_part_of_the_fingerprints_of_recipes_that_do_not_say_so():
    for family in ("heads", "pair"):
        one = FAMILIES[family].model_validate({"family": family})
        assert "required" not in one.fingerprinted() and one.needed
        other = FAMILIES[family].model_validate({"family": family, "required": False})
        assert other.fingerprinted() == {**one.fingerprinted(), "required": False} and not other.needed
