"""CoLoR-Filter: how much the target set helps with a sample (Brandfonbrener et al. 2024, arXiv:2406.10670)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError

__all__ = ["color"]


def color(
    prior: npt.NDArray[np.floating[Any]], conditional: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Return what the loss of each sample falls by when the model has seen the target set; higher is better.

    prior, conditional : (n,), the loss under a model trained on the pool, and under the same model after it
    was trained on the target set too. Returns prior - conditional, (n,), below 0 where the target set makes
    a sample less likely; NaN where a loss is not finite.

    >>> color(np.array([3.2, 2.0, np.inf]), np.array([3.0, 2.1, 1.0])).round(6)
    array([ 0.2, -0.1,  nan])
    """
    if prior.ndim != 1 or prior.shape != conditional.shape:
        raise CurateError(f"both losses must be (n,) alike, got {prior.shape} and {conditional.shape}")
    finite = np.isfinite(prior) & np.isfinite(conditional)
    fall = np.full(len(prior), np.nan)
    fall[finite] = prior[finite].astype(np.float64) - conditional[finite].astype(np.float64)
    return fall
