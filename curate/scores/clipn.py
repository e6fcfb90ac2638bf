"""Images of no known class, by class names and "no" prompts, as CLIPN infers them (Wang et al. 2023, arXiv:2308.12213).

CLIPN trains a second text encoder for its "no" prompts. Here they are read by the run's own model, which hardly knows what
"no" means, unless vectors of a trained encoder are given as a file: the formulas are the paper's, the prompts are not.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from curate.errors import EmbeddingError
from curate.linalg import sigmoid, unit_rows
from curate.scores.base import ColumnName, Positive, file_of
from curate.scores.columns import Column
from curate.scores.texts.by_texts import ByTexts
from curate.settings import listed

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.scores.tables.output import Output
    from curate.scores.texts.vectors import Groups

__all__ = ["Clipn", "out_of_distribution"]

_ROWS = 256  # rows of a tile of products

Vectors = npt.NDArray[np.float32]
Templates = Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]


class Clipn(ByTexts):
    """How likely an image belongs to none of some classes: by prompts that name a class, and prompts that deny it.

    name : what its columns begin with. classes : names. templates, no_templates : prompts with `{}` where a name goes; the vector of a class is the mean of
    its prompts. yes, no : `.npy` files of such vectors, one row a class, in their place. temperature : what cosines are
    divided by.
    """

    measures: ClassVar[str] = "probability that an image is of none of the classes that are named"
    paper: ClassVar[str] = (
        "formulas of Wang et al. 2023 (CLIPN), arXiv:2308.12213; our prompts by the run's own model in place of a trained "
        "encoder, source: not checked"
    )
    cost: ClassVar[str] = "samples x classes x d; each prompt is embedded once"
    requires: ClassVar[str] = "vectors by a model that reads texts, or the vectors of both kinds of prompts"
    avoid: ClassVar[str] = "where it decides alone: models that were not trained for it hardly understand no"
    place: ClassVar[int] = 12
    outputs: ClassVar[Mapping[str, Column]] = {"ood_ctw": Column("noisier"), "ood_atd": Column("noisier")}

    family: Literal["clipn"] = "clipn"
    name: ColumnName = "ood"
    classes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)] = ()
    templates: Templates = ("a photo of a {}",)
    no_templates: Templates = ("a photo of no {}", "a photo without a {}")
    yes: Annotated[str, file_of(".npy")] | None = None
    no: Annotated[str, file_of(".npy")] | None = None
    temperature: Positive = 0.01

    @model_validator(mode="after")
    def _prompts(self) -> Self:
        wrong = next((one for one in (*self.templates, *self.no_templates) if "{}" not in one), None)
        if wrong is not None:
            raise ValueError(f"templates must hold {{}} where the class name goes, got {wrong!r}")
        if not self.classes and (self.yes is None or self.no is None):
            raise ValueError("needs classes, or files of the vectors of both kinds of prompts (yes and no)")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("needs classes of different names")
        return self

    @property
    def texts(self) -> "Groups":
        """The prompts of all classes, class after class; or the files."""
        return {"yes": self._texts(self.yes, self.templates), "no": self._texts(self.no, self.no_templates)}

    def _texts(self, file: str | None, templates: tuple[str, ...]) -> tuple[str, ...]:
        if file is not None:
            return (file,)
        return tuple(one.replace("{}", name) for name in self.classes for one in templates)

    def columns_made(self) -> Mapping[str, Column]:
        """Return both columns, by the name that the user gave."""
        return {f"{self.name}_ctw": Column("noisier"), f"{self.name}_atd": Column("noisier")}

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return one vector a class of each kind; raises EmbeddingError where files have not one row a class."""
        found = super().given(context, output)
        files = {"yes": self.yes, "no": self.no}
        each = {"yes": len(self.templates), "no": len(self.no_templates)}
        rows = {
            kind: vectors if files[kind] is not None else _mean_of(vectors, each[kind])
            for kind, vectors in found.items()
        }
        sizes = {len(rows["yes"]), len(rows["no"]), len(self.classes) or len(rows["yes"])}
        if len(sizes) > 1:
            raise EmbeddingError(
                f"{self._setting}: there must be one row a class in yes and no, got {len(rows['yes']):,} and "
                f"{len(rows['no']):,}, and {len(self.classes):,} classes"
            )
        return rows

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return both scores of each vector."""
        winner, agreed = out_of_distribution(rows["image"], rows["yes"], rows["no"], self.temperature)
        return {f"{self.name}_ctw": winner, f"{self.name}_atd": agreed}


def _mean_of(prompts: Vectors, each: int) -> Vectors:
    """Return the mean of each `each` rows, scaled to length 1."""
    return unit_rows(prompts.reshape(-1, each, prompts.shape[1]).astype(np.float64).mean(axis=1))[0]


def out_of_distribution(
    vectors: Vectors, yes: Vectors, no: Vectors, temperature: float
) -> tuple[Vectors, Vectors]:
    """Return how likely each row is of no class: competing-to-win and agreeing-to-differ; (n,) each, in [0, 1].

    vectors : (n, d), yes, no : (C, d), C > 0, unit rows, one of each kind a class. Higher is less likely of a class.
    With p = softmax over classes of <v, yes> / t, and q_j = sigmoid((<v, no_j> - <v, yes_j>) / t), the probability that
    the "no" of class j holds: the first is q of the class with the largest p (the first of equal ones), the second
    1 - sum_j p_j (1 - q_j). In float64 by whole tiles, so that a value depends on its row alone. Raises EmbeddingError
    for shapes that do not fit.

    >>> eye = np.eye(2, dtype=np.float32)
    >>> winner, agreed = out_of_distribution(eye[:1], eye, eye[::-1], 1.0)
    >>> winner.round(3), agreed.round(3)  # p = (.731, .269), q = (.269, .731)
    (array([0.269], dtype=float32), array([0.393], dtype=float32))
    """
    if yes.shape != no.shape or not len(yes) or yes.shape[1] != vectors.shape[1]:
        raise EmbeddingError(
            f"clipn: there must be one yes and one no vector of {vectors.shape[1]} numbers for each class, got "
            f"{yes.shape} and {no.shape}"
        )
    winner, agreed = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.float32)
    both = np.concatenate([yes, no]).astype(np.float64).T
    for start in range(0, len(vectors), _ROWS):
        block = np.zeros((_ROWS, vectors.shape[1]))
        some = vectors[start : start + _ROWS]
        block[: len(some)] = some
        products = (block @ both)[: len(some)] / temperature
        own, other = products[:, : len(yes)], products[:, len(yes) :]
        denied = sigmoid(other - own)
        p = np.exp(own - own.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        best = own.argmax(axis=1)
        winner[start : start + _ROWS] = denied[np.arange(len(some)), best]
        agreed[start : start + _ROWS] = np.clip((p * denied).sum(axis=1), 0.0, 1.0)
    return winner, agreed
