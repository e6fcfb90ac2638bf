"""How many words a caption has: captions of few words say little about their image."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.scores.base import Score
from curate.scores.columns import Column


class Words(Score):
    """The number of words of a caption, up to `most`."""

    outputs: ClassVar[Mapping[str, Column]] = {"caption_words": Column("better")}
    reads: ClassVar[tuple[str, ...]] = ("caption",)
    requires: ClassVar[str] = "captions"

    family: Literal["words"] = "words"
    most: int = 20

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:
        """Return the number of words of each caption, NaN where there is none."""
        counts = [np.nan if caption is None else len(caption.split()) for caption in rows["caption"]]
        return {"caption_words": np.minimum(np.array(counts, float), self.most)}
