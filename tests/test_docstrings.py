"""The public Python API is documented as numpydoc asks."""

import inspect

import pytest
from numpydoc.validate import validate

import curate
from curate.scores.base import Score
from curate.selection.base import Selector
from curate.weighting.base import Weigher

#: What a reader cannot do without: a summary, every parameter with its type, what comes back.
NEEDED = {"GL08", "SS01", "SS02", "SS03", "PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "RT03", "YD01"}

#: Results and settings, which no user constructs: their classes list attributes, or the recipe's pages do.
NOT_CONSTRUCTED = ("Deduplicated", "Groups", "Recipe", "Run")


def public():
    """Yield the dotted names of all that a user calls."""
    for name in curate.__all__:
        yield f"curate.{name}"
    for name in NOT_CONSTRUCTED:
        for method, value in inspect.getmembers(getattr(curate, name)):
            own = str(getattr(value, "__module__", "")).startswith("curate.") or isinstance(value, property)
            if not method.startswith(("_", "model_")) and own and name != "Recipe":
                yield f"curate.{name}.{method}"


@pytest.mark.parametrize("name", sorted(set(public())))
def test_public_docstrings_are_complete(name):
    constructed = name.rpartition(".")[2] not in NOT_CONSTRUCTED
    asked = NEEDED if constructed else NEEDED - {"PR01"}
    assert [error for error in validate(name)["errors"] if error[0] in asked] == []


@pytest.mark.parametrize("base", [Score, Selector, Weigher])
def test_what_a_plugin_overrides_is_documented(base):
    for name, value in vars(base).items():
        if not name.startswith("_") and callable(value) and not inspect.isclass(value):
            assert inspect.getdoc(value), f"{base.__name__}.{name}"
