"""How many words a caption has: captions of few words say little about their image."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.scores.base import Score
from curate.scores.columns import Column


class Words(Score):
    """The number of words of a caption, up to `most`."""

    outputs: ClassVar = {"caption_words": Column("better")}
    reads = ("caption",)
    measures = "how many words a caption has"
    requires = "captions"
    paper = "Gadre et al. 2023, arXiv:2304.14108"
    cost = "one pass over the captions"
    avoid = "where captions are lists of tags"

    family: Literal["words"] = "words"
    most: Annotated[int, Field(ge=1)] = 20

    def score_rows(self, **rows):
        """Return the number of words of each caption, NaN where there is none."""
        counts = [np.nan if text is None else len(text.split()) for text in rows["caption"]]
        return {"caption_words": np.minimum(np.array(counts, float), self.most)}
