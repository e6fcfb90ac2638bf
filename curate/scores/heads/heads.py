"""How hard a sample is for small heads on the embeddings that never saw it (formulas: el2n, grand, losses, dynamics)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from curate.scores.base import AtLeastOne, Positive, Sources
from curate.scores.columns import Column
from curate.scores.heads.course import COURSE, CourseName, course_columns
from curate.scores.heads.trained import Trained, trained_columns
from curate.settings import Count, listed

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["FAST", "Heads"]

#: What `preset: fast` stands for where a setting is not given: what it loses is measured in docs/scores.md.
FAST: Mapping[str, Any] = {"kind": "linear", "seeds": 5, "epochs": 3}


class Heads(Trained):
    """Small heads on the embeddings: trained (mlp, linear), or given (zeroshot by class names, concepts).

    preset : `fast` is linear heads of 5 seeds and 3 epochs, unless these are given.
    hidden `auto` : the power of two from 64 to 512 that comes nearest to 1,280,000 / samples.
    batch `auto` : the power of two from 32 to 1,024 that comes nearest to 50 steps an epoch. class_names : what a
    label is called in the prompts of zeroshot, by label; the label itself where it is not named. dynamics : columns more, of
    how predictions move while heads train: mdl (mdl_hardness), tdds, dual, aldr (aldr_lambda); calibrated is p_label_calibrated, p_label at the temperature that fits. window : the epochs that tdds
    and dual look at together. required : false leaves all scores null, without a word, where there are no labels to learn from or too little
    memory.
    """

    measures: ClassVar[str] = (
        "how hard a sample is for classifiers on the embeddings that never saw it; with `dynamics` also mdl_hardness, tdds, "
        "dual, aldr_lambda, p_label_calibrated"
    )
    paper: ClassVar[str] = (
        "Paul et al. 2021, arXiv:2107.07075; Pleiss et al. 2020, arXiv:2001.10528; of `dynamics` Hase et al. 2024, "
        "arXiv:2401.06751 and Zhu et al. 2023 (ALDR-KL), source: not checked; Zhang et al. 2024, arXiv:2311.13613; Cho et al. "
        "2025, arXiv:2502.06905"
    )
    cost: ClassVar[str] = (
        "samples x d x hidden per epoch, seed and fold; minutes for a million on a CPU, with `preset: fast` a sixth"
    )
    requires: ClassVar[str] = "image vectors and labels (or concepts in their place)"
    avoid: ClassVar[str] = "where labels are mostly wrong: hard is then wrong (see noise)"
    place: ClassVar[int] = 3
    outputs: ClassVar[Mapping[str, Column]] = trained_columns()
    optional: ClassVar[Mapping[str, str]] = {
        column: f"dynamics: [{name}]" for name, (column, _) in COURSE.items()
    }

    version: ClassVar[int] = 2

    family: Literal["heads"] = "heads"
    preset: Literal["default", "fast"] = "default"
    kind: Literal["mlp", "linear", "zeroshot", "concepts"] = "mlp"
    hidden: Literal["auto"] | AtLeastOne = "auto"
    batch: Literal["auto"] | AtLeastOne = "auto"
    rate: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    normalise: Literal["standardize", "l2"] = "standardize"
    templates: Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)] = ("a photo of a {}",)
    class_names: dict[str, str] = Field(default_factory=dict)
    dynamics: Annotated[tuple[CourseName, ...], BeforeValidator(listed)] = ()
    window: Annotated[Count, Field(ge=3)] = 4
    required: bool = True

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:  # noqa: ANN401 - whatever stands in the recipe
        fast = isinstance(given, Mapping) and given.get("preset") == "fast"
        return {**FAST, **given} if fast else given

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        wrong = next((text for text in self.templates if "{}" not in text), None)
        if wrong is not None:
            raise ValueError(f"templates must hold {{}} where the class name goes, got {wrong!r}")
        return self

    @model_validator(mode="after")
    def _course(self) -> Self:
        if len(set(self.dynamics)) < len(self.dynamics):
            raise ValueError(f"dynamics must be different, got {', '.join(self.dynamics)}")
        if self.dynamics and self.kind not in ("mlp", "linear"):
            raise ValueError(f"dynamics are of heads that are trained (mlp, linear), got kind {self.kind}")
        if "calibrated" in self.dynamics and not self.folds:
            raise ValueError(
                "dynamics calibrated needs folds: of rows that heads learnt from no temperature is known"
            )
        windows = [name for name in ("tdds", "dual") if name in self.dynamics]
        if windows and self.window > self.epochs:
            raise ValueError(
                f"window must be at most epochs ({self.epochs}) for {' and '.join(windows)}, got {self.window}"
            )
        return self

    def columns_made(self) -> Mapping[str, Column]:
        """Return the columns, those of the course of training that are asked for last."""
        return {**self.outputs, **course_columns(self.dynamics)}

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers; newer ones count where they are set."""
        idle = {"device", "epsilon", "preset"} | (set() if self.dynamics else {"dynamics", "window"})
        idle |= {"required"} if self.required else set()
        return self.model_dump(mode="json", exclude=idle)

    @property
    def head_kind(self) -> str:
        """The kind of heads."""
        return self.kind

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for labels or a kind of heads that the recipe does not admit."""
        from curate.scores.heads import parts

        parts.check(recipe, self)

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        from curate.scores.heads.in_memory import score_samples

        return score_samples(self, samples)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        from curate.scores.heads import parts

        return parts.compute(context, self, output)
