"""What a score column means: its type, and which way it points.

harder, noisier : a higher value is a harder sample, or a more doubtful label. easier, better : a higher value is
an easier sample, or a better pair. `hardest` and `easiest` follow this, whatever the sign of a column.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Column", "Direction", "hardest_is_largest"]

Direction = Literal["harder", "noisier", "easier", "better"]


class Column(NamedTuple):
    """A column of a score table: what a higher value means (None where it is no score), and its Arrow type."""

    higher_is: Direction | None
    kind: str = "float32"

    def nothing(self, n: int) -> npt.NDArray[Any]:
        """Return a column of `n` rows without a value: NaN, or None where it holds text."""
        return np.full(n, None, object) if self.kind == "string" else np.full(n, np.nan, np.float32)


def hardest_is_largest(higher_is: Direction) -> bool:
    """Return whether the hardest sample has the largest value.

    >>> hardest_is_largest("harder"), hardest_is_largest("better")
    (True, False)
    """
    return higher_is in ("harder", "noisier")
