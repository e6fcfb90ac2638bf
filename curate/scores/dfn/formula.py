"""What a filter makes of vectors, in float64: adapted vectors, the cosine of a pair, its loss against a background.

Rows are computed in blocks of one size, the last one filled up, so that a value does not depend on the rows around it.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from curate.linalg import row_dots

__all__ = ["MOST_SCALE", "adapted", "label_losses", "pair_scores"]

#: The most that cosines are multiplied by before a softmax, as in CLIP.
MOST_SCALE = 100.0
#: Rows per product.
BLOCK = 256
#: A background vector that is as similar as this to one's own is the same picture or caption, and no negative.
SAME = 1.0 - 1e-6

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]


def adapted(vectors: Floats, weight: Floats, bias: Floats) -> Doubles:
    """Return vectors under an adapter, or under several of them at once (Fang et al. 2023, arXiv:2309.17425; residual maps).

    vectors : (n, d) unit rows. weight : (k, d, d), bias : (k, d), of k members, the residual weight in them already.
    Returns (n, k d) unit rows, so that the cosine of two of them is the mean cosine over members: each member's
    normalised ``x + x @ weight.T + bias``, one beside the other, divided by sqrt(k).

    >>> adapted(np.array([[0.6, 0.8]]), np.zeros((1, 2, 2)), np.array([[0.0, -0.8]])).round(6)
    array([[1., 0.]])
    """
    members, d = bias.shape
    maps = np.ascontiguousarray(weight.astype(np.float64).transpose(2, 0, 1).reshape(d, members * d))
    out = np.empty((len(vectors), members * d))
    for rows, block in _blocks(vectors):
        moved = block @ maps + np.tile(block, members) + bias.astype(np.float64).reshape(-1)
        split = moved.reshape(len(block), members, d)
        split = split / np.maximum(np.sqrt(np.square(split).sum(axis=2, keepdims=True)), 1e-12)
        out[rows] = (split / math.sqrt(members)).reshape(len(block), -1)[: rows.stop - rows.start]
    return out


def pair_scores(
    image: Floats, text: Floats, background_image: Floats, background_text: Floats, scale: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the cosine of each pair, higher fits better, and its contrastive loss, lower fits better.

    image, text : (n, d) unit rows. background_image, background_text : (m, d), what each pair is held against; those
    equal to the pair's own picture or caption are left out. scale : what cosines are multiplied by.
    The loss is the mean over both directions of ``log(exp(s c) + sum_j exp(s b_j)) - s c`` with the cosine c of the pair
    and b_j of picture and background caption (caption and background picture): InfoNCE (van den Oord et al. 2018,
    arXiv:1807.03748) with the background as negatives, so that a row's value is its own. Returns (n,) and (n,) float32.

    >>> one = np.eye(2)
    >>> [np.round(v.astype(float), 3).tolist() for v in pair_scores(one, one, one, one, 1.0)]
    [[1.0, 1.0], [0.313, 0.313]]
    """
    cosine = np.clip(row_dots(image, text), -1.0, 1.0)
    loss = np.zeros(len(image))
    if len(background_image):
        i2t = _rest(image, text, background_text, scale)
        t2i = _rest(text, image, background_image, scale)
        own = scale * cosine
        loss = (np.logaddexp(own, i2t) + np.logaddexp(own, t2i)) / 2 - own
    return cosine.astype(np.float32), loss.astype(np.float32)


def label_losses(
    image: Floats, weight: Floats, bias: Floats, label: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the probability of each row's label under a linear head, higher fits better, and its cross entropy.

    image : (n, d). weight : (C, d), bias : (C,). label : (n,) in [0, C). Returns (n,) and (n,) float32.

    >>> [np.round(v.astype(float), 3).tolist() for v in label_losses(np.eye(2), np.zeros((2, 2)), np.zeros(2), np.array([0, 1]))]
    [[0.5, 0.5], [0.693, 0.693]]
    """
    loss = np.empty(len(image))
    wide = weight.astype(np.float64).T
    for rows, block in _blocks(image):
        logits = (block @ wide + bias.astype(np.float64))[: rows.stop - rows.start]
        own = logits[np.arange(len(logits)), label[rows]]
        loss[rows] = _log_sum_exp(logits) - own
    loss = np.maximum(loss, 0.0)
    return np.exp(-loss).astype(np.float32), loss.astype(np.float32)


def _rest(query: Floats, other: Floats, background: Floats, scale: float) -> Doubles:
    """Return log sum exp over the background that is not the row's own `other`, (n,); -inf where nothing is left."""
    wide = np.ascontiguousarray(background.astype(np.float64).T)
    found = np.empty(len(query))
    for (rows, block), (_, own) in zip(_blocks(query), _blocks(other), strict=True):
        logits = scale * (block @ wide)
        logits[own @ wide > SAME] = -np.inf
        found[rows] = _log_sum_exp(logits)[: rows.stop - rows.start]
    return found


def _log_sum_exp(logits: Doubles) -> Doubles:
    most = logits.max(axis=1)
    safe = np.where(np.isfinite(most), most, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(logits - safe[:, None]).sum(axis=1)) + safe)


def _blocks(vectors: Floats) -> Iterator[tuple[slice, Doubles]]:
    """Yield the rows of each block, and the block filled up to its size with its first row."""
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, min(start + BLOCK, len(vectors)))
        block = vectors[rows].astype(np.float64)
        missing = BLOCK - len(block)
        yield rows, np.concatenate([block, np.repeat(block[:1], missing, axis=0)]) if missing else block
