"""How much nearer a vector is to some texts than to others: zero-shot quality, watermarks, anything that words can say."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from curate.errors import EmbeddingError
from curate.linalg import row_dots
from curate.scores.base import ColumnName
from curate.scores.columns import Column, Direction
from curate.scores.texts.by_texts import ByTexts
from curate.settings import listed

if TYPE_CHECKING:
    from curate.scores.texts.vectors import Groups

__all__ = ["Prompts", "text_contrast"]

Vectors = npt.NDArray[np.float32]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)]


class Prompts(ByTexts):
    """The mean cosine with the texts `like`, less that with the texts `unlike`; each may be a `.npy` file of vectors.

    name : of the column. higher_is : what a higher value means, for methods that go by it.
    """

    measures: ClassVar[str] = "nearness to some texts (`like`), less that to others (`unlike`)"
    paper: ClassVar[str] = (
        "zero-shot classification of Radford et al. 2021, arXiv:2103.00020, as a difference"
    )
    cost: ClassVar[str] = "one product per sample; each text is embedded once"
    requires: ClassVar[str] = "vectors by a model that reads texts, or the vectors of the texts"
    avoid: ClassVar[str] = "for what the model cannot tell by words: look at both ends before you cut"
    place: ClassVar[int] = 10

    family: Literal["prompts"] = "prompts"
    name: ColumnName = "prompts"
    like: Annotated[Texts, Field(min_length=1)]
    unlike: Texts = ()
    higher_is: Direction = "better"

    @property
    def texts(self) -> "Groups":
        """What to be like, and what not."""
        return {"like": self.like, "unlike": self.unlike}

    def columns_made(self) -> Mapping[str, Column]:
        """Return the one column, of the name that the user gave."""
        return {self.name: Column(self.higher_is)}

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return the difference for each vector."""
        return {self.name: text_contrast(rows["image"], rows["like"], rows["unlike"])}


def text_contrast(vectors: Vectors, like: Vectors, unlike: Vectors) -> npt.NDArray[np.float32]:
    """Return the mean cosine of each row with `like`, less the mean cosine with `unlike`; (n,) in [-2, 2].

    vectors : (n, d), like : (m, d), m > 0, unlike : (k, d) or no rows, all unit rows of one model. Higher is nearer to
    `like`. In float64, rounded once, so that a value depends on its row alone. Raises EmbeddingError for shapes that
    do not fit.

    >>> eye = np.eye(2, dtype=np.float32)
    >>> text_contrast(np.array([[0.6, 0.8]], np.float32), eye[:1], eye[1:]).round(3), text_contrast(eye, eye, eye[:0])
    (array([-0.2], dtype=float32), array([0.5, 0.5], dtype=float32))
    """
    direction = np.zeros(vectors.shape[1])
    for texts, sign in ((like, 1), (unlike, -1)):
        if len(texts):
            if texts.shape[1] != vectors.shape[1]:
                raise EmbeddingError(
                    f"prompts: vectors of texts must have {vectors.shape[1]} numbers, as those of the samples, got "
                    f"{texts.shape[1]}"
                )
            direction += sign * texts.astype(np.float64).mean(axis=0)
    return row_dots(vectors, direction[None]).astype(np.float32)
