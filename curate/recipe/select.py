"""Which samples stay and how much they count: conditions, selection, weights."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import BeforeValidator, Field, model_validator

from curate.recipe.types import none_word
from curate.selection.base import Selector
from curate.selection.registry import DEFAULT, selectors
from curate.settings import KeepShare, Settings, Share
from curate.weighting.base import Weigher
from curate.weighting.registry import weighers

__all__ = ["ScoreFilter", "Select", "Weight", "canonical"]

log = logging.getLogger(__name__)

#: Before each method had settings of its own, a recipe held those of all methods, filled in with these values.
#: Runs made then have such recipes, and their fingerprints were made from all of them.
_ALL_SELECT: dict[str, Any] = {
    "method": "density", "keep": None, "count": None, "of": "usable", "at_most": False, "prefer": "hardest",
    "by": None, "on_null": "proportional", "temperature": 0.1, "neighbours": 20, "min_per_concept": 1,
    "complexity": "inter*intra", "balance": 0.0, "drop_hardest": None, "offset": None, "center": 0.5, "beta": 0.0,
    "cutoff": "neg_aum", "strata": 50, "per": "concept", "min_per_group": 1, "gamma": 1.0, "start": "medoid",
    "shipped": False,
}  # fmt: skip
_ALL_WEIGHT: dict[str, Any] = {
    "method": None, "by": None, "r": 1.0, "delta": 1.0, "gamma": 2.0, "clip": (0.01, 0.99), "max_weight": None,
    "budget": 0.3, "temperature": None,
}  # fmt: skip


def canonical(settings: Selector | Weigher) -> dict[str, Any]:
    """Return the values that stand for a selection, or for weights, in fingerprints: those of all methods.

    Settings that are newer than runs made before count where they are set.
    """
    every = _ALL_SELECT if isinstance(settings, Selector) else _ALL_WEIGHT
    newer = {
        name for name, field in type(settings).model_fields.items()
        if name not in every and getattr(settings, name) == field.default
        and (name in Selector.model_fields or name in getattr(settings, "later", ()))
    }  # fmt: skip
    return every | settings.model_dump(exclude=newer)


def _select(value: object) -> object:
    """Return the settings of a selection: without idle ones of other methods, and with a method."""
    if not isinstance(value, Mapping):
        return value
    later = {name: one.model_fields[name].default for one in selectors().values() for name in one.later}
    return _without_idle("select", {"method": DEFAULT, **value}, selectors(), _ALL_SELECT | later)


def _weight(value: object) -> object:
    """Return the settings of weights: `none` is None, and a method alone has its defaults."""
    value = none_word(value)
    if isinstance(value, str):
        return {"method": value}
    return _without_idle("weight", value, weighers(), _ALL_WEIGHT) if isinstance(value, Mapping) else value


def _without_idle(
    section: str,
    values: Mapping[str, Any],
    methods: Mapping[str, type[Settings]],
    every: Mapping[str, Any],
) -> dict[str, Any]:
    """Return settings without those of other methods that say nothing; others are refused where they are checked."""
    own = methods.get(str(values.get("method")))
    if own is None:
        return dict(values)
    others = [name for name in values if name in every and name not in own.model_fields]
    defaults = [
        (name, one.model_fields[name].default)
        for one in methods.values()
        for name in others
        if name in one.model_fields
    ]
    known = [*defaults, *((name, every[name]) for name in others)]
    idle = [
        name for name in others if any(_same(values[name], value) for other, value in known if other == name)
    ]
    if idle:
        log.warning(
            "recipe: %d idle settings of other methods are ignored: %s", len(idle),
            ", ".join(f"{section}.{name}" for name in idle),
        )  # fmt: skip
    return {name: value for name, value in values.items() if name not in idle}


def _same(value: object, other: object) -> bool:
    """Return whether a value in YAML is the default; a list there is a tuple here."""
    return (tuple(value) if isinstance(value, list) else value) == other


if TYPE_CHECKING:
    Select = Selector
    Weight = Weigher | None
else:
    # pydantic reads the method first, and checks the settings of that class alone.
    Select = Annotated[
        Union[tuple(selectors().values())],  # noqa: UP007  (made at run time)
        Field(discriminator="method"),
        BeforeValidator(_select),
    ]
    Weight = Annotated[
        Annotated[Union[tuple(weighers().values())], Field(discriminator="method")] | None,  # noqa: UP007
        BeforeValidator(_weight),
    ]


#: What a condition on one score may say, one of these.
_RULES = ("above", "below", "top", "bottom", "quantile")


class ScoreFilter(Settings):
    """A condition on one score: at least `above`, less than `below`, among the `top` (or `bottom`) share, or of a quantile.

    top, bottom : share of the samples with a score (of: scored) or of all usable ones (of: usable); highest
    or lowest values. quantile : at least this quantile of the score, `per` concept or label, or of all. spare : the share of
    the rows with a score that it would drop which stay all the same, drawn by a hash of uid and seed: a row that one
    condition spares is spared by every condition with as large a share.
    """

    by: str
    above: Annotated[float, Field(allow_inf_nan=False)] | None = None
    below: Annotated[float, Field(allow_inf_nan=False)] | None = None
    top: Share | None = None
    bottom: Share | None = None
    quantile: Share | None = None
    per: Literal["concept", "label"] | None = None
    of: Literal["scored", "usable"] = "scored"
    ties: Literal["cut", "all"] = "cut"
    on_null: Literal["drop", "keep", "error"] = "drop"
    spare: KeepShare | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name in _RULES if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"needs exactly one of above, below, top, bottom and quantile, got {got}")
        if self.per is not None and self.quantile is None:
            raise ValueError(f"takes per with quantile only, got {given[0]}")
        return self

    def as_fingerprinted(self) -> dict[str, object]:
        """Return the settings that decide; one that came later counts where it is set."""
        newer = {name for name in ("below", "spare") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=newer)

    def __str__(self) -> str:
        """Say the condition in words, as it stands in reasons: ``top 0.3 by clip_score``."""
        rule, value = next((name, value) for name in _RULES if (value := getattr(self, name)) is not None)
        return f"{rule} {value:g} by {self.by}" + (f" per {self.per}" if self.per else "")
