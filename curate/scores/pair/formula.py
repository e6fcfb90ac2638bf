"""Contrastive scores: how well a pair stands out among the pairs of its batch.

For a batch of B pairs S = image @ text.T, s = 1 / temperature, and the row softmax P = softmax(s S)
over the admissible columns of a row (itself, and all that are no copy of its caption or image):

====================  ================================================================  =========
nce_i2t               lse_j(s S_ij) - s S_ii, in [0, inf)                               harder
nce_t2i               the same down the columns                                         harder
nce                   mean of the two                                                   harder
nce_norm              nce - ln b, b admissible columns: comparable across batch sizes   harder
neg_clip_loss         -temperature x nce, in (-inf, 0] (raw; depends on b)              better
neg_clip_loss_norm    -temperature x nce_norm                                           better
pair_el2n_i2t, _t2i   ||P_i - e_i||, in [0, sqrt 2)                                     harder
pair_grand            s ||sum_j P_ij v_j - v_i||: gradient of nce_i2t by the image      harder
====================  ================================================================  =========

InfoNCE and its gradient: Radford et al. 2021, arXiv:2103.00020; negCLIPLoss: Wang et al. 2024,
arXiv:2405.19547; EL2N and GraNd: Paul et al. 2021, arXiv:2107.07075.

The B x B products are never stored: tiles of rows x columns pass through running maxima and sums. A
row's own column stays out of these and is added at the end in float64, so that the loss of an easy
pair is a small number and not the difference of two large ones.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from curate.errors import CurateError, RecipeError
from curate.linalg import row_dots
from curate.scores.pair.tiles import LOWEST, Copies, Running, add_tile
from curate.scores.status import NO_NEGATIVES, NO_TEXT, OK, Codes, embedding_status, first_status

__all__ = ["OWN_TEMPERATURE", "PairScores", "batches", "pair_scores", "score_batch"]

#: Temperature for vectors whose model is not known: that at which CLIP models end (a scale of 100).
OWN_TEMPERATURE = 0.01

_TILE = (512, 1024)  # rows x columns of a tile; fixed, because the last bits depend on it
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]
Precision = Literal["float32", "float64"]


class PairScores(NamedTuple):
    """The columns of the module's table, each (n,) float64 and NaN where a pair has no negatives.

    Columns that were not asked for are None. n_obs : (n,) int64, batches a value is the mean of.
    """

    nce_i2t: Floats
    nce_t2i: Floats
    nce: Floats
    nce_norm: Floats
    neg_clip_loss: Floats
    neg_clip_loss_norm: Floats
    pair_el2n_i2t: Floats | None
    pair_el2n_t2i: Floats | None
    pair_grand: Floats | None
    n_obs: npt.NDArray[np.int64]


def batches(
    hashes: npt.NDArray[np.uint64], batch: int, repeats: int = 1
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yield (repeat, rows) so that each repeat deals all rows into batches of equal size.

    hashes : (n,) a 64-bit number per row, from its uid and the seed. A repeat orders the rows by a
    mix of hash and repeat and cuts them into ceil(n / batch) runs whose sizes differ by at most one: a
    short last batch would be easier than the others. rows : (b,) int64, in that order, so that neither
    batches nor the order inside them depend on how rows are stored (rows of equal hash apart).

    >>> [rows.tolist() for _, rows in batches(np.arange(7, dtype=np.uint64), 3)]
    [[3, 5, 4], [1, 2], [6, 0]]
    """
    if batch < 1 or repeats < 1:
        raise RecipeError(f"score.pair: batch and repeats must be at least 1, got {batch} and {repeats}")
    if len(hashes) == 0:
        return
    for repeat in range(repeats):
        order = np.argsort(_mixed(hashes, repeat), kind="stable")
        for rows in np.array_split(order, -(-len(hashes) // batch)):
            yield repeat, rows


def _mixed(hashes: npt.NDArray[np.uint64], repeat: int) -> npt.NDArray[np.uint64]:
    """Return other 64-bit numbers for each repeat, different for different hashes (splitmix64)."""
    z = hashes.astype(np.uint64) + np.uint64((repeat + 1) * _GOLDEN & (1 << 64) - 1)
    z = (z ^ z >> np.uint64(30)) * np.uint64(_MIX_1)
    z = (z ^ z >> np.uint64(27)) * np.uint64(_MIX_2)
    return z ^ z >> np.uint64(31)


def pair_scores(
    image: Vectors,
    text: Vectors,
    hashes: npt.NDArray[np.uint64],
    *,
    temperature: float,
    batch: int = 4096,
    repeats: int = 5,
    has_text: npt.NDArray[np.bool_] | None = None,
    caption: Integers | None = None,
    picture: Integers | None = None,
    el2n: bool = True,
    grand: bool = False,
    precision: Precision = "float32",
) -> tuple[PairScores, Codes]:
    """Return the pair scores of all rows, averaged over repeats, and the status of each row.

    image, text : (n, d) unit rows of one model. hashes : see `batches`. has_text : (n,) False where
    there is no caption (`no_text`); rows that are not finite or have no direction are `nonfinite` and
    `zero_norm`. None of these is anyone's negative. A row without negatives in all repeats is
    `no_negatives`; else its scores are the means over the repeats in which it had some. The other
    arguments are those of `score_batch`. Values belong to the set of rows: row order changes nothing.

    >>> eye, hashes = np.eye(2, dtype=np.float32), np.arange(2, dtype=np.uint64)
    >>> scores, status = pair_scores(eye, eye, hashes, temperature=1.0)
    >>> scores.nce.round(6), status
    (array([0.313262, 0.313262]), array([0, 0], dtype=int8))
    """
    n = _length(image, text, hashes, has_text, caption, picture)
    text_codes = embedding_status(text)
    if has_text is not None:
        text_codes[~has_text] = NO_TEXT
    status = first_status(embedding_status(image), text_codes)
    usable = np.flatnonzero(status == OK)
    wanted = {"pair_el2n_i2t": el2n, "pair_el2n_t2i": el2n, "pair_grand": grand, "n_obs": False}
    sums = {name: np.zeros(n) for name in PairScores._fields if wanted.get(name, True)}
    n_obs = np.zeros(n, np.int64)
    for _, places in batches(hashes[usable], batch, repeats):
        rows = usable[places]
        got = score_batch(
            image[rows],
            text[rows],
            temperature=temperature,
            caption=None if caption is None else caption[rows],
            picture=None if picture is None else picture[rows],
            el2n=el2n,
            grand=grand,
            precision=precision,
        )
        seen = got.n_obs > 0
        n_obs[rows] += got.n_obs
        for name, total in sums.items():
            total[rows[seen]] += getattr(got, name)[seen]
    status[(n_obs == 0) & (status == OK)] = NO_NEGATIVES
    counts = np.where(n_obs > 0, n_obs, np.nan)
    columns: dict[str, Any] = dict.fromkeys(PairScores._fields)
    columns |= {name: total / counts for name, total in sums.items()}
    return PairScores(**columns | {"n_obs": n_obs}), status


def score_batch(
    image: Vectors,
    text: Vectors,
    *,
    temperature: float,
    caption: Integers | None = None,
    picture: Integers | None = None,
    el2n: bool = True,
    grand: bool = False,
    precision: Precision = "float32",
    tile: tuple[int, int] = _TILE,
) -> PairScores:
    """Return the scores of the pairs of one batch (the module's table).

    image, text : (b, d) finite unit rows; temperature : > 0, 1 / exp(logit scale) of the model.
    caption, picture : (b,) codes; rows with an equal code are copies, and a copy is no negative; a
    negative code equals none. el2n, grand : whether to compute these columns. One matrix product of
    b x b x d, two with grand; memory is that of a tile and of a few numbers per row, whatever b is.
    float32 at temperature 0.01 is within 1e-4 (nce) of exact; float64 is for tests. Last bits depend
    on `tile` and on the number of BLAS threads. Raises RecipeError and CurateError for bad arguments.

    >>> eye = np.eye(3, dtype=np.float32)
    >>> scores = score_batch(eye, eye, temperature=1.0)
    >>> scores.nce.round(6), scores.pair_el2n_i2t.round(6)
    (array([0.551445, 0.551445, 0.551445]), array([0.519149, 0.519149, 0.519149]))
    """
    n = _length(image, text, caption, picture)
    if not 0 < temperature < np.inf:
        raise RecipeError(f"score.pair.temperature must be > 0 and finite, got {temperature}")
    if precision not in LOWEST:
        raise RecipeError(f"precision must be float32 or float64, got {precision!r}")
    scale = 1.0 / temperature
    own = scale * row_dots(image, text) if n else np.empty(0)
    rows, columns = Running.empty(n, el2n), Running.empty(n, el2n)
    gradient = np.full(n, np.nan) if grand else None
    copies = Copies(caption, picture)
    buffers = np.empty((2, tile[0] * min(tile[1], max(n, 1))), precision)
    for top in range(0, n, tile[0]):
        down = slice(top, min(n, top + tile[0]))
        left = image[down].astype(precision) * scale
        pull = np.zeros((len(left), text.shape[1])) if grand else None
        for start in range(0, n, tile[1]):
            across = slice(start, min(n, start + tile[1]))
            right = text[across].astype(precision, copy=False)
            shape = (len(left), len(right))
            values, spare = (flat[: shape[0] * shape[1]].reshape(shape) for flat in buffers)
            np.matmul(left, right.T, out=values)
            for i, j in copies.inside(down, across):
                values[i, j] = -np.inf
            add_tile(values, spare, rows, columns, down, across, right, pull)
        if gradient is not None and pull is not None:
            _, sure, factor = rows.softmax(own[down], down)
            step = pull * factor[:, None] - sure[:, None] * text[down]
            gradient[down] = scale * np.sqrt(row_dots(step, step))
    return _scores(own, rows, columns, gradient, copies.admissible(n), temperature)


def _scores(
    own: Floats,
    rows: Running,
    columns: Running,
    gradient: Floats | None,
    admissible: npt.NDArray[np.int64],
    temperature: float,
) -> PairScores:
    """Return the scores from the sums; NaN where a row has no admissible column but its own."""
    none = admissible < 2
    losses, el2n = [], []
    for side in (rows, columns):
        loss, sure, factor = side.softmax(own)
        losses.append(np.where(none, np.nan, loss))
        if side.squares is not None:
            el2n.append(np.where(none, np.nan, np.sqrt(sure**2 + side.squares * factor**2)))
    if gradient is not None:
        gradient[none] = np.nan
    nce = (losses[0] + losses[1]) / 2
    nce_norm = nce - np.log(admissible)
    return PairScores(
        losses[0],
        losses[1],
        nce,
        nce_norm,
        -temperature * nce,
        -temperature * nce_norm,
        el2n[0] if el2n else None,
        el2n[1] if el2n else None,
        gradient,
        np.where(none, 0, 1),
    )


def _length(image: Vectors, text: Vectors, *columns: npt.NDArray[Any] | None) -> int:
    """Return how many rows there are; raise CurateError unless all arguments agree."""
    if image.ndim != 2 or image.shape != text.shape:
        raise CurateError(f"image and text must be (n, d) alike, got {image.shape} and {text.shape}")
    for column in columns:
        if column is not None and column.shape != (len(image),):
            raise CurateError(f"a column of {len(image)} pairs must be ({len(image)},), got {column.shape}")
    return len(image)
