"""Which samples stay and how much they count: conditions, selection, weights."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from curate.recipe.types import Count, Folder, KeepShare, Preference, Settings, Share, whole

__all__ = ["BY_SCORE", "ScoreFilter", "Select", "Weight"]

#: Methods that select by one score column, `select.by`.
BY_SCORE = ("hardest", "easiest", "top", "window", "middle", "stratified", "weighted")


class ScoreFilter(Settings):
    """A condition on one score: at least `above`, among the `top` (or `bottom`) share, or of a quantile.

    top, bottom : share of the samples with a score (of: scored) or of all usable ones (of: usable); highest
    or lowest values. quantile : at least this quantile of the score, `per` concept or label, or of all.
    """

    by: str
    above: Annotated[float, Field(allow_inf_nan=False)] | None = None
    top: Share | None = None
    bottom: Share | None = None
    quantile: Share | None = None
    per: Literal["concept", "label"] | None = None
    of: Literal["scored", "usable"] = "scored"
    ties: Literal["cut", "all"] = "cut"
    on_null: Literal["drop", "keep", "error"] = "drop"

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name in ("above", "top", "bottom", "quantile") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"needs exactly one of above, top, bottom and quantile, got {got}")
        if self.per is not None and self.quantile is None:
            raise ValueError(f"takes per with quantile only, got {given[0]}")
        return self

    def __str__(self) -> str:
        """Say the condition in words, as it stands in reasons: ``top 0.3 by clip_score``."""
        rule, value = next(
            (name, value)
            for name in ("above", "top", "bottom", "quantile")
            if (value := getattr(self, name)) is not None
        )
        return f"{rule} {value:g} by {self.by}" + (f" per {self.per}" if self.per else "")


class Select(Settings):
    """Which samples to keep, and how many: a share (`keep`) or a number (`count`).

    shipped : rows that were kept before go ahead of all others but pinned ones: true for the decisions that
    these replace, a path for those of another run.
    """

    method: Literal[
        "density", "random", "prototypes", "hardest", "easiest", "top", "window", "middle", "stratified",
        "quotas", "weighted", "diversity",
    ] = "density"  # fmt: skip
    keep: KeepShare | None = None
    count: Annotated[Annotated[int, Field(ge=0, strict=True)] | None, BeforeValidator(whole)] = None
    of: Literal["usable", "input", "eligible"] = "usable"
    at_most: bool = False
    prefer: Preference = "hardest"
    by: str | None = None
    on_null: Literal["proportional", "keep", "drop", "error"] = "proportional"
    temperature: Annotated[float, Field(gt=0)] = 0.1
    neighbours: Annotated[int, Field(ge=1)] = 20
    min_per_concept: Annotated[int, Field(ge=0)] = 1
    complexity: Literal["inter*intra", "inter", "intra", "uniform", "size"] = "inter*intra"
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    drop_hardest: Share | None = None
    offset: Annotated[Count, Field(ge=0)] | None = None
    center: Share = 0.5
    beta: Share = 0.0
    cutoff: str = "neg_aum"
    strata: Annotated[Count, Field(ge=1)] = 50
    per: Literal["concept", "label"] = "concept"
    min_per_group: Annotated[Count, Field(ge=0)] = 1
    gamma: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    start: Literal["medoid", "isolated"] = "medoid"
    shipped: bool | Folder = False

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.keep is not None and self.count is not None:
            raise ValueError("takes keep (a share) or count (a number of samples), got both")
        if self.keep is None and self.count is None:
            raise ValueError("needs keep (a share) or count (a number of samples)")
        return self

    @model_validator(mode="after")
    def _method_settings(self) -> Self:
        if self.method in BY_SCORE and self.by is None:
            raise ValueError(f"needs by (a score column) for method {self.method}")
        if self.method not in BY_SCORE and self.by is not None:
            raise ValueError(f"takes by with the methods {', '.join(BY_SCORE)}, got method {self.method}")
        if self.method == "window" and (self.drop_hardest is None) == (self.offset is None):
            raise ValueError("needs drop_hardest or offset, exactly one of them, for method window")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The score columns that the method reads."""
        found = [] if self.by is None else [self.by]
        if self.method == "stratified" and self.beta > 0:
            found.append(self.cutoff)
        if self.method not in BY_SCORE and self.prefer.startswith("score:"):
            found.append(self.prefer.removeprefix("score:"))
        return tuple(dict.fromkeys(found))


class Weight(Settings):
    """How much each kept sample counts, with mean 1.

    concept : what density pruning would keep of a concept (`budget`, a share) divided by what it has;
    `temperature` weighs far samples more within it. linupper, quadratic, extremes, focal : by a column
    of losses (`by`). inverse : 1 / the probability of having been selected.
    """

    method: Literal["concept", "linupper", "quadratic", "extremes", "focal", "inverse"]
    by: str | None = None
    r: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    delta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    clip: tuple[Share, Share] | None = (0.01, 0.99)
    max_weight: Annotated[float, Field(ge=1)] | None = None
    budget: KeepShare = 0.3
    temperature: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _by_loss(self) -> Self:
        if self.by is not None and self.method in ("concept", "inverse"):
            raise ValueError(f"takes by with linupper, quadratic, extremes and focal, got {self.method}")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"needs clip as two quantiles, the lower first, got {list(self.clip)}")
        return self

    @property
    def column(self) -> str | None:
        """The score column that the method reads."""
        return None if self.method in ("concept", "inverse") else self.by or "loss"
