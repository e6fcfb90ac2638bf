"""Score families, one file each. Pure: arrays in, arrays out.

`SCORES` declares every score column once: the family that makes it, which direction it has, and what
it needs.
"""

from typing import Literal, NamedTuple

__all__ = ["SCORES", "Score"]


class Score(NamedTuple):
    """One score column: what a higher value means, its family, and what a sample needs to have it."""

    higher_is: Literal["harder", "better"]
    family: str
    needs: str


SCORES: dict[str, Score] = {
    "clip_score": Score("better", "clip_score", "image and caption"),
}
