"""Methods are found by themselves, say what people need to know, and are compared by name nowhere else."""

import ast
from pathlib import Path
from typing import ClassVar, Literal

import pytest

import curate
from curate.errors import RecipeError
from curate.recipe.loading import parse_recipe, read_yaml
from curate.recipe.select import canonical
from curate.selection.auto import Auto
from curate.selection.base import Selector
from curate.selection.entry_balance import Metaclip
from curate.selection.registry import owners, selectors
from curate.weighting.registry import weighers

PACKAGE = Path(curate.__file__).parent
OWN = (PACKAGE / "selection", PACKAGE / "weighting")
SMALL = {"run": "r", "source": {"path": "a.parquet"}}

#: What a recipe held before methods had settings of their own.
ALL = {
    "method": "density", "keep": 0.3, "count": None, "of": "usable", "at_most": False, "prefer": "hardest",
    "by": None, "on_null": "proportional", "temperature": 0.1, "neighbours": 20, "min_per_concept": 1,
    "complexity": "inter*intra", "balance": 0.0, "drop_hardest": None, "offset": None, "center": 0.5, "beta": 0.0,
    "cutoff": "neg_aum", "strata": 50, "per": "concept", "min_per_group": 1, "gamma": 1.0, "start": "medoid",
    "shipped": False,
}  # fmt: skip
ALL_WEIGHT = {
    "method": "focal", "by": None, "r": 1.0, "delta": 1.0, "gamma": 2.0, "clip": [0.01, 0.99], "max_weight": None,
    "budget": 0.3, "temperature": None,
}  # fmt: skip


def test_methods_and_their_order():
    assert list(selectors()) == [
        "auto", "density", "random", "prototypes", "hardest", "easiest", "top", "window", "middle",
        "stratified", "balanced", "quotas", "weighted", "diversity", "d2", "dual", "metaclip",
        "objects", "triage", "all",
    ]  # fmt: skip
    assert list(weighers()) == [
        "concept", "linupper", "quadratic", "extremes", "upper", "focal", "inverse", "soft_cap",
    ]  # fmt: skip


@pytest.mark.parametrize("one", [*selectors().values(), *weighers().values()], ids=lambda one: one.__name__)
def test_methods_say_what_people_need_to_know(one):
    words = ("keeps" if issubclass(one, Selector) else "weighs", "needs", "direction", "cost", "avoid")
    assert all(getattr(one, name) for name in words)
    assert "|" not in "".join(getattr(one, name) for name in words)
    assert one.__doc__.split("\n\n")[0].endswith(".")
    assert len(set(one.model_fields) - set(Selector.model_fields)) <= 6


def test_a_setting_has_the_same_meaning_of_nothing_in_all_methods():
    for old, methods in ((ALL, selectors()), (ALL_WEIGHT, weighers())):
        every = dict(old)
        for one in methods.values():
            for name, field in one.model_fields.items():
                # What is first in a concept has another default than before; a run names what it has.
                # What no entry names is not in MetaCLIP's draw.
                free = ("method", "keep", "prefer", *(["on_null"] if one is Metaclip else []))
                if name not in free and (one is not Auto or name in old):
                    known = every.setdefault(name, field.default)  # a setting that is newer
                    want = tuple(known) if isinstance(known, list) else known
                    assert field.default == want, (one, name)


def test_owners():
    assert owners("beta") == ["stratified"]
    assert owners("min_per_concept") == ["density", "diversity"]


def test_a_recipe_with_the_idle_settings_of_all_methods_still_loads(caplog):
    recipe = parse_recipe(SMALL | {"select": ALL, "weight": ALL_WEIGHT})
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith(
        "recipe: 13 idle settings of other methods are ignored: select.by, select.on_null"
    )
    assert set(recipe.select.model_dump()) == {
        "method", "keep", "count", "of", "at_most", "shipped", "prefer", "temperature", "neighbours",
        "min_per_concept", "complexity", "subtract_mean", "drop_noise", "noise_by", "floor", "floor_per",
    }  # fmt: skip
    assert set(read_yaml(recipe.to_yaml())["weight"]) == {"method", "by", "gamma", "max_weight"}
    caplog.clear()
    assert parse_recipe(read_yaml(recipe.to_yaml())) == recipe
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ALL | {"beta": 0.1}, "select.beta is not a setting of method density; it belongs to stratified"),
        (
            ALL | {"method": "hardest", "by": "a", "temperature": 0.2},
            "select.temperature is not a setting of method hardest; it belongs to density",
        ),
        (
            ALL | {"by": "a"},
            "select.by is not a setting of method density; it belongs to hardest, easiest, top",
        ),
    ],
)
def test_settings_of_other_methods_that_say_something_are_refused(settings, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(SMALL | {"select": settings})
    assert str(caught.value).startswith(message)


def test_fingerprints_are_made_of_the_settings_of_all_methods():
    """So that those of runs made before stay what they were."""
    select = {"keep": 0.3, "prefer": "hardest"}
    recipe = parse_recipe(SMALL | {"select": select, "weight": {"method": "focal"}})
    assert canonical(recipe.select) == ALL
    assert list(canonical(recipe.select)) == list(ALL)
    assert canonical(recipe.weight) == ALL_WEIGHT | {"clip": (0.01, 0.99)}


def test_methods_are_compared_by_name_nowhere_else():
    """Another method is another class: what differs is asked of it."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if any(path.is_relative_to(own) for own in OWN) or path.parent.name == "torch":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if any(isinstance(side, ast.Attribute) and side.attr == "method" for side in sides):
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []


def test_a_method_of_another_package_has_its_own_settings_in_its_fingerprint():
    class Newest(Selector):
        """The last rows."""

        keeps: ClassVar[str] = "the last rows"
        avoid: ClassVar[str] = "always"
        method: Literal["newest"] = "newest"
        days: int = 3

    assert canonical(Newest(keep=0.5))["days"] == 3
    assert "newest" not in selectors()
