"""How much of a vector lies in the space that some texts span: unsafe concepts, as SAFREE projects them.

SAFREE (Yoon et al. 2024, arXiv:2410.12761) spans a space by the vectors of unsafe concepts and projects tokens of a prompt on
it and on its complement. Here the vectors of samples are projected.
"""

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
    from curate.execution.context import Context
    from curate.scores.tables.output import Output
    from curate.scores.texts.vectors import Groups

__all__ = ["ConceptShare", "share_inside", "span_of"]

Vectors = npt.NDArray[np.float32]
Basis = npt.NDArray[np.float64]

#: Directions shorter than this part of the longest are rounding.
_RANK = 1e-6


class ConceptShare(ByTexts):
    """The share of a vector that lies in the space spanned by the texts of a concept, each a text or a `.npy` file.

    besides : texts of what is harmless; what they span is taken out of the concept first, or the share would mostly be
    what all texts have in common.
    """

    measures: ClassVar[str] = "share of a vector in the space spanned by the texts of a concept (`concept`)"
    paper: ClassVar[str] = (
        "after Yoon et al. 2024 (SAFREE), arXiv:2410.12761, which projects tokens of prompts; source: not checked for vectors of images"
    )
    cost: ClassVar[str] = "samples x texts x d; each text is embedded once"
    requires: ClassVar[str] = "vectors by a model that reads texts, or the vectors of the texts"
    avoid: ClassVar[str] = "to call a sample safe: it ranks, and its threshold is another for every model"
    place: ClassVar[int] = 13

    family: Literal["concept_share"] = "concept_share"
    name: ColumnName = "unsafe"
    concept: Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]
    besides: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    higher_is: Direction = "noisier"

    @property
    def texts(self) -> "Groups":
        """The concept, and what is harmless."""
        return {"concept": self.concept, "besides": self.besides}

    def columns_made(self) -> Mapping[str, Column]:
        """Return the one column, of the name that the user gave."""
        return {self.name: Column(self.higher_is)}

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return what the texts span."""
        found = super().given(context, output)
        return {"basis": span_of(found["concept"], found["besides"])}

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return the share of each vector."""
        return {self.name: share_inside(rows["image"], rows["basis"])}


def span_of(texts: Vectors, besides: Vectors) -> Basis:
    """Return an orthonormal basis of what `texts` span, (r, d), with what `besides` span taken out of it.

    texts : (m, d), m > 0, besides : (k, d) or no rows. Texts that say the same add nothing: r is at most m. Raises
    EmbeddingError where nothing is left, or the lengths differ.

    >>> rows = np.eye(3, dtype=np.float32)
    >>> np.abs(span_of(rows[[0, 0]], rows[:0])), np.abs(span_of(rows[:2], rows[1:2]))
    (array([[1., 0., 0.]]), array([[1., 0., 0.]]))
    """
    from threadpoolctl import threadpool_limits

    rows = texts.astype(np.float64)
    with threadpool_limits(1, user_api="blas"):  # the last bits of a decomposition depend on their number
        if len(besides):
            if besides.shape[1] != texts.shape[1]:
                raise EmbeddingError(
                    f"concept_share.besides: vectors must have {texts.shape[1]} numbers, as those of concept, got "
                    f"{besides.shape[1]}"
                )
            harmless = span_of(besides, besides[:0])
            rows = rows - (rows @ harmless.T) @ harmless
        _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    basis: Basis = directions[sizes > _RANK * np.linalg.norm(texts, axis=1).max()]
    if not len(basis):
        raise EmbeddingError(
            "concept_share: nothing of concept is left beside what besides says; give other texts"
        )
    return basis


def share_inside(vectors: Vectors, basis: Basis) -> npt.NDArray[np.float32]:
    """Return the squared length of the projection of each unit row, (n,) in [0, 1]: its share in the space.

    vectors : (n, d) unit rows. basis : (r, d) orthonormal rows. Higher is more of the concept. In float64, rounded once.
    Raises EmbeddingError where the lengths differ.

    >>> share_inside(np.array([[0.6, 0.8, 0.0]], np.float32), np.eye(3)[:1])
    array([0.36], dtype=float32)
    """
    if vectors.shape[1] != basis.shape[1]:
        raise EmbeddingError(
            f"concept_share: vectors of texts must have {vectors.shape[1]} numbers, as those of the samples, got "
            f"{basis.shape[1]}"
        )
    share = np.zeros(len(vectors))
    for direction in basis:
        share += row_dots(vectors, direction[None]) ** 2
    return np.clip(share, 0.0, 1.0).astype(np.float32)
