"""CLIP score: how well a caption fits its image, by the model's own measure."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.linalg import row_dots
from curate.scores.base import Score
from curate.scores.columns import Column

__all__ = ["ClipScore", "clip_score"]


class ClipScore(Score):
    """The cosine of image and caption."""

    measures: ClassVar[str] = "cosine of image and caption"
    paper: ClassVar[str] = "Hessel et al. 2021, arXiv:2104.08718"
    cost: ClassVar[str] = "one product per pair"
    requires: ClassVar[str] = "image and caption vectors of one model"
    avoid: ClassVar[str] = "for images without captions; it prefers what the model saw often"
    place: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, Column]] = {"clip_score": Column("better")}
    reads: ClassVar[tuple[str, ...]] = ("image", "text")

    family: Literal["clip_score"] = "clip_score"

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return the clip score of each pair."""
        return {"clip_score": clip_score(rows["image"], rows["text"])}


def clip_score(image: npt.NDArray[np.float32], text: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the cosine of each image with its own caption (Hessel et al. 2021, arXiv:2104.08718).

    image, text : (n, d) unit rows of the same model. Returns (n,) in [-1, 1]; higher fits better.
    Computed in float64 and rounded once, so that it does not depend on the other rows.

    >>> clip_score(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[[0, 0]])
    array([1., 0.], dtype=float32)
    """
    return np.clip(row_dots(image, text), -1.0, 1.0).astype(np.float32)
