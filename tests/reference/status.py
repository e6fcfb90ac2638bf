"""The status of a value by itself."""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.scores.status import NONFINITE, OK, Codes

__all__ = ["value_status"]


def value_status(values: npt.NDArray[np.floating[Any]]) -> Codes:
    """Return `nonfinite` where a value is NaN or infinite, else `ok`. values : (n,). Returns (n,)."""
    return np.where(np.isfinite(values), OK, NONFINITE)
