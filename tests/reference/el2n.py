"""EL2N: how far the predicted probabilities are from the label (Paul et al. 2021, arXiv:2107.07075).

The L2 norm, not its square: with several seeds, the mean of norms and the mean of squares rank
differently. For two classes EL2N is sqrt 2 (1 - p_y), so it ranks as the loss does; unlike the loss it
is bounded.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError
from tests.reference.losses import check_labels, softmax

__all__ = ["el2n", "el2n_bounds", "errors"]

Floats = npt.NDArray[np.float64]


def el2n(
    outputs: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]] | npt.NDArray[np.floating[Any]],
    *,
    of: Literal["probs", "logits"] = "probs",
) -> Floats:
    """Return the EL2N score ||p - y|| of each sample, averaged over models; (n,) in [0, sqrt 2].

    outputs : (n, C) or (n_models, n, C), probabilities whose rows sum to 1, or logits. labels : (n,)
    codes in [0, C), negative where there is none, or (n, C) probabilities (soft labels). Higher is
    harder. Norm first, then the mean over the models whose value is finite; NaN where no model has
    one, where there is no label, and for a single class. Each row by itself, in float64.
    Raises CurateError for shapes or labels that do not fit.

    >>> el2n(np.array([[[1.0, 0.0], [0.5, 0.5]]]), np.array([0, 0])).round(3)
    array([0.   , 0.707])
    """
    error = errors(outputs, labels, of=of)
    norms: Floats = np.sqrt((error * error).sum(axis=-1))
    if norms.ndim == 1:
        return norms
    seen = np.isfinite(norms)
    total = np.where(seen, norms, 0.0).sum(axis=0)
    mean: Floats = total / np.where(seen.any(axis=0), seen.sum(axis=0), np.nan)
    return mean


def errors(
    outputs: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]] | npt.NDArray[np.floating[Any]],
    *,
    of: Literal["probs", "logits"] = "probs",
) -> Floats:
    """Return p - y, the gradient of the loss by the logits: float64 of the shape of `outputs`.

    Arguments as `el2n`; NaN in rows that have no score. From logits, the label's entry is minus the
    sum of the others, so that it keeps its digits where p_y is nearly 1.

    >>> errors(np.array([[0.7, 0.2, 0.1]]), np.array([1]))
    array([[ 0.7, -0.8,  0.1]])
    """
    if of not in ("probs", "logits"):
        raise CurateError(f"of must be probs or logits, got {of!r}")
    error = softmax(outputs) if of == "logits" else outputs.astype(np.float64)
    if labels.ndim == 2:
        if labels.shape != error.shape[-2:]:
            raise CurateError(f"soft labels must be {error.shape[-2:]}, got {labels.shape}")
        error -= labels
        unknown = np.zeros(len(labels), np.bool_)
    else:
        codes = labels.astype(np.int64)
        check_labels(error, codes)
        unknown = codes < 0
        rows = np.flatnonzero(~unknown)
        own = codes[rows]
        if of == "logits":
            error[..., rows, own] = 0.0
            error[..., rows, own] = -error[..., rows, :].sum(axis=-1)
        else:
            error[..., rows, own] -= 1.0
    bad = unknown | (error.shape[-1] < 2) | ~np.isfinite(error).all(axis=-1)
    error[bad] = np.nan
    return error


def el2n_bounds(p_label: Floats, n_classes: int) -> tuple[Floats, Floats]:
    """Return the least and the largest EL2N that a probability of the label admits.

    p_label : (...) in [0, 1]. (1 - p) sqrt(C / (C - 1)) where the rest is spread evenly, (1 - p) sqrt 2
    where one class has it all; equal for two classes.

    >>> [bound.round(6).tolist() for bound in el2n_bounds(np.array([0.4]), 3)]
    [[0.734847], [0.848528]]
    """
    if n_classes < 2:
        raise CurateError(f"EL2N needs at least 2 classes, got {n_classes}")
    rest = 1.0 - p_label
    return rest * np.sqrt(n_classes / (n_classes - 1)), rest * np.sqrt(2.0)
