"""Settings and columns that heads and pixel networks share: seeds, epochs, folds, and what stands for a label."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from curate.scores.base import AtLeastOne, Score, ScoreColumn, Sources
from curate.scores.columns import Column
from curate.settings import Count

if TYPE_CHECKING:
    from curate.execution.context import Context

__all__ = ["Trained", "trained_columns"]


def _epochs(value: int) -> int:
    if value == 0:
        raise ValueError(
            "must be at least 1, got 0: scores of untrained weights (GraNd at initialisation) follow the "
            "length of the input and are known not to find hard samples"
        )
    if value < 0:
        raise ValueError(f"must be at least 1, got {value}")
    return value


def _folds(value: int) -> int:
    if value != 0 and not 2 <= value <= 255:
        raise ValueError(f"must be 0 (score what was trained on) or in [2, 255], got {value}")
    return value


Epochs = Annotated[Count, AfterValidator(_epochs)]
Folds = Annotated[Count, AfterValidator(_folds)]


def trained_columns(prefix: str = "") -> dict[str, Column]:
    """Return the columns of a family that trains: scores, the predicted label, the number of observations."""
    harder = (
        "el2n",
        "el2n_std",
        "grand",
        "grand_std",
        "loss",
        "loss_std",
        "entropy",
        "neg_aum",
        "forgetting",
    )
    columns = {name: Column("harder") for name in harder}
    columns |= {"early_agreement": Column("easier"), "p_label": Column("easier")}
    columns |= {"pred_label": Column(None, "string"), "n_obs": Column(None, "int32")}
    return {f"{prefix}{name}": column for name, column in columns.items()}


class Trained(Score):
    """What heads and pixel networks share."""

    labels: Literal["auto", "label", "concept"] = "auto"
    seeds: AtLeastOne = 10
    first_seed: Annotated[Count, Field(ge=0)] = 0
    epochs: Epochs = 5
    score_epochs: tuple[Epochs, ...] | None = None
    folds: Folds = 5
    min_class: AtLeastOne | None = None

    @model_validator(mode="after")
    def _scored_epochs(self) -> Self:
        if self.score_epochs is not None and not (
            self.score_epochs and max(self.score_epochs) <= self.epochs
        ):
            raise ValueError(f"score_epochs must be in [1, {self.epochs}] and not empty")
        return self

    @property
    def head_kind(self) -> str:
        """The kind of heads; empty for networks on pixels."""
        return ""

    @property
    def row_needs(self) -> tuple[str, ...]:
        """Labels, unless concepts may stand in for them."""
        return ("label",) if self.labels == "label" or self.head_kind == "zeroshot" else ()

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return what the labels depend on."""
        from curate.scores.heads.labels import label_inputs

        return label_inputs(context, self)
