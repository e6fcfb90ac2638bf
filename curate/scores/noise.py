"""Wrong labels on web data: two detectors that miss different samples.

Albert et al. 2024, "An accurate detection is not all you need to combat label noise in web-noisy
datasets" (arXiv:2407.05528): samples with a large loss (a mixture of two normal distributions, Arazo et
al. 2019, arXiv:1904.11238), and samples that a linear classifier tells from the clean ones. All columns
are probabilities in [0, 1]; higher is noisier.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from curate.errors import UsageError
from curate.hashing import hash_uids
from curate.linalg import load_unit, row_dots
from curate.scores.base import Score, ScoreColumn, Sources, embedding_parts, require_memory
from curate.scores.columns import Column
from curate.scores.reliability import hash_sample
from curate.scores.status import NONFINITE, OK, UNIMODAL, Codes, status_names

if TYPE_CHECKING:
    import polars as pl

    from curate.embedding.store import EmbeddingPart
    from curate.execution.context import Context
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = [
    "FIT_CELLS",
    "FIT_ROWS",
    "LinearDetector",
    "Mixture",
    "Noise",
    "fit_linear",
    "fit_mixture",
    "small_loss_noise",
]

#: A sample is called noisy where its posterior is above this.
NOISY = 0.95

#: The linear detector is fitted to at most so many rows, and so many numbers (an eighth of a gigabyte in float64).
FIT_ROWS, FIT_CELLS = 100_000, 1 << 24
#: Measured with n = 1,000,000 (216): the mixture works on copies of the losses.
_ROW_BYTES = 230

_FEWEST = 50  # losses a mixture is fitted to
_LEAST_VARIANCE = 1e-6  # added to variances of losses scaled to [0, 1]
_ROUNDS, _TOLERANCE = 500, 1e-9

Floats = npt.NDArray[np.float64]


class Noise(Score):
    """How probable it is that a label is wrong, from a column of losses and (linear) from the embeddings."""

    measures: ClassVar[str] = "probability that a label is wrong"
    paper: ClassVar[str] = "Albert et al. 2024, arXiv:2407.05528"
    cost: ClassVar[str] = "a mixture of two normals over all losses; a logistic regression on a sample"
    requires: ClassVar[str] = "losses, and image vectors for the linear detector"
    avoid: ClassVar[str] = "where losses are one group: nothing tells wrong labels from hard ones"
    place: ClassVar[int] = 6
    outputs: ClassVar[Mapping[str, Column]] = {
        "noise_small_loss": Column("noisier"), "noise_linear": Column("noisier"), "noise_prob": Column("noisier"),
    }  # fmt: skip

    family: Literal["noise"] = "noise"
    loss: str = "loss"
    linear: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The losses."""
        return (self.loss,)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the columns, without that of the linear detector where it is turned off."""
        return {
            name: column for name, column in self.outputs.items() if self.linear or name != "noise_linear"
        }

    def check_columns(self, found: Callable[[str, str], ScoreColumn]) -> None:
        """Raise UsageError unless the losses are a score that is higher where samples are harder."""
        column = found(self.loss, "score: noise.loss")
        if column.higher_is != "harder" or not column.folder:
            what = "a distance" if not column.folder else f"{column.higher_is} where it is higher"
            raise UsageError(
                f"score: noise.loss must be a column of losses, higher where harder; {self.loss!r} is {what}"
            )

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the fingerprint of the table with the losses."""
        return [context.run.fingerprint(context.run.scores(columns[self.loss].folder))]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        losses = samples.column("noise", self.loss)
        small, codes = small_loss_noise(losses)
        status = np.where(np.isfinite(losses), status_names(codes), samples.why_missing((self.loss,)))
        both, columns = small, {"noise_small_loss": small}
        if self.linear:
            linear = _linear_in_memory(samples, small)
            both = np.where(np.isfinite(linear), (small + linear) / 2, small)
            columns["noise_linear"] = linear
        return {**columns, "noise_prob": both}, status.astype(object)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        require_memory(context, "score: noise", sum(map(len, embedding_parts(context))), _ROW_BYTES)
        losses = _read(context, self.loss, output.columns[self.loss])
        small, codes = small_loss_noise(losses.value)
        linear = _linear(context, small, losses) if self.linear else np.full(len(small), np.nan)
        both = np.where(np.isfinite(linear), (small + linear) / 2, small)
        finite = np.isfinite(losses.value)
        status = np.where(finite | (losses.status == "ok"), status_names(codes), losses.status)
        given = {"noise_small_loss": small, "noise_prob": both, "noise_status": status}
        output.write_all(given | ({"noise_linear": linear} if self.linear else {}))
        warnings = []
        if (codes == UNIMODAL).any():
            margins = {"loss": "neg_aum", "pixels_loss": "pixels_neg_aum"}.get(self.loss)
            advice = f"; margins often are where losses are not: try noise.loss: {margins}" if margins else ""
            warnings.append(
                f"the {finite.sum():,} values of {self.loss} are not two groups (or fewer than 50): nothing tells "
                f"wrong labels from hard ones, and there is no noise score{advice}"
            )
        elif self.linear and len(small) and not np.isfinite(linear).any() and (codes == OK).any():
            warnings.append(
                "the linear detector has one class only to learn from; noise_prob is noise_small_loss"
            )
        return {"scored": int((codes == OK).sum()), "loss": self.loss, "warnings": warnings}


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions, the one with the lower mean first; all (2,) of float64."""

    weight: Floats
    mean: Floats
    variance: Floats

    def bimodal(self) -> bool:
        """Return whether the means differ by more than 2 pooled sd and both weights reach 1 %.

        Pooled: the root of the mean variance, weighted by the sizes of the components.
        """
        gap = float(self.mean[1] - self.mean[0])
        pooled = float(np.sqrt((self.weight * self.variance).sum()))
        return gap > 2 * pooled and float(self.weight.min()) >= 0.01

    def posterior(self, values: Floats) -> Floats:
        """Return the probability of the second component, (n,), non-decreasing in `values`.

        Beyond the two means it stays what it is there: else the tail of the wider component would claim
        the other end too, and the smallest losses of all would be called noisy.
        """
        x = np.clip(values, *self.mean)
        densities = _log_densities(self, x)
        posterior: Floats = np.exp(-np.logaddexp(0.0, densities[0] - densities[1]))
        return posterior


class LinearDetector(NamedTuple):
    """A logistic regression on features as they are: weight (d,), and bias."""

    weight: Floats
    bias: float

    def posterior(self, features: npt.NDArray[np.floating[Any]]) -> Floats:
        """Return the probability of being noisy, (n,); each row depends on its features (n, d) alone."""
        logits = row_dots(features, self.weight[None]) + self.bias
        posterior: Floats = np.exp(-np.logaddexp(0.0, -logits))
        return posterior


def small_loss_noise(loss: npt.NDArray[np.floating[Any]]) -> tuple[Floats, Codes]:
    """Return the posterior of the component with the larger losses, and the status of each row.

    loss : (n,), higher is harder. Finite losses are clipped to their 0.1 % and 99.9 % quantiles and
    scaled to [0, 1]. NaN for all, and `unimodal`, where there are fewer than 50, all are equal, or the
    mixture is not bimodal: never "half of the data is noisy".
    """
    values = loss.astype(np.float64)
    finite = np.isfinite(values)
    status = np.where(finite, UNIMODAL, NONFINITE)
    posterior = np.full(len(values), np.nan)
    scaled = _scaled(values[finite])
    if scaled is None:
        return posterior, status
    mixture = fit_mixture(scaled)
    if mixture.bimodal():
        status[finite] = OK
        posterior[finite] = mixture.posterior(scaled)
    return posterior, status


def fit_mixture(values: npt.NDArray[np.floating[Any]]) -> Mixture:
    """Return the mixture of two normal distributions fitted to `values`, (n,) in [0, 1], n >= 2.

    Expectation maximisation on sorted values, from a cut at the middle of the range, until the mean log
    likelihood gains less than 1e-9: the same for any order of rows and any number of threads.
    """
    x = np.sort(values.astype(np.float64))
    second = (x > (x[0] + x[-1]) / 2).astype(np.float64)
    likelihood = -np.inf
    mixture = _maximised(x, second)
    for _ in range(_ROUNDS):
        densities = _log_densities(mixture, x)
        both = np.logaddexp(densities[0], densities[1])
        now = float(both.mean())
        if now - likelihood < _TOLERANCE:
            break
        likelihood = now
        mixture = _maximised(x, np.exp(densities[1] - both))
    order = np.argsort(mixture.mean, kind="stable")
    return Mixture(mixture.weight[order], mixture.mean[order], mixture.variance[order])


def fit_linear(features: npt.NDArray[np.floating[Any]], noise: Floats) -> LinearDetector | None:
    """Return the linear detector fitted to rows that are called noisy above .95; None where all are alike.

    features : (n, d), finite; noise : (n,) in [0, 1]. Standardised features, balanced logistic
    regression. Its last bits depend on the order of rows and on the number of BLAS threads.
    """
    # scikit-learn takes a second to load and is not needed for the first detector
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    noisy = noise > NOISY
    if not noisy.any() or noisy.all():
        return None
    scaler = StandardScaler(copy=False)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(scaler.fit_transform(features.astype(np.float64)), noisy)
    weight = model.coef_[0] / scaler.scale_
    return LinearDetector(weight, float(model.intercept_[0] - (scaler.mean_ * weight).sum()))


def _scaled(values: Floats) -> Floats | None:
    """Return values clipped to their quantiles and scaled to [0, 1]; None where that says nothing."""
    if len(values) < _FEWEST:
        return None
    low, high = np.quantile(values, [0.001, 0.999])
    if not high > low:
        return None
    scaled: Floats = (np.clip(values, low, high) - low) / (high - low)
    return scaled


def _maximised(x: Floats, second: Floats) -> Mixture:
    """Return the mixture that fits best where `second` is the share of each value in component two."""
    shares = np.stack([1.0 - second, second])
    sizes = shares.sum(axis=1) + 10 * np.finfo(np.float64).eps
    mean = (shares * x).sum(axis=1) / sizes
    variance = (shares * (x - mean[:, None]) ** 2).sum(axis=1) / sizes + _LEAST_VARIANCE
    return Mixture(sizes / len(x), mean, variance)


def _log_densities(mixture: Mixture, x: Floats) -> Floats:
    """Return ln of weight x density of both components, (2, n)."""
    variance = mixture.variance[:, None]
    squares = (x - mixture.mean[:, None]) ** 2 / variance
    densities: Floats = np.log(mixture.weight)[:, None] - 0.5 * (np.log(2 * np.pi * variance) + squares)
    return densities


@dataclass(frozen=True)
class LinearTask:
    """One part to look at with the linear detector."""

    embeddings: Path
    detector: LinearDetector


@dataclass(frozen=True)
class Losses:
    """The losses of all samples, NaN where there is none, and why: names, null only if there is no reason."""

    value: npt.NDArray[np.float32]
    status: npt.NDArray[np.object_]
    hashes: npt.NDArray[np.uint64]


def _read(context: "Context", loss: str, column: ScoreColumn) -> Losses:
    """Return the losses of all parts, and one number per uid."""
    import polars as pl

    from curate.embedding.store import EmbeddingPart
    from curate.execution.context import require_same
    from curate.io import storage

    folder = context.run.scores(column.folder)
    values, statuses = [np.empty(0, np.float32)], [np.empty(0, object)]
    hashes = [np.empty(0, np.uint64)]
    for part in context.parts:
        path = context.run.part(folder, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["uid", loss, column.status]))
        uids = EmbeddingPart(context.run.part(context.run.embeddings, part.name)).uids()
        require_same(pl.Series(uids, dtype=pl.String), frame["uid"], path)
        values.append(frame[loss].cast(pl.Float32).fill_null(np.nan).to_numpy())
        statuses.append(_shared(frame[column.status]))
        hashes.append(hash_uids(uids, context.recipe.seed, "noise"))
    return Losses(np.concatenate(values), np.concatenate(statuses), np.concatenate(hashes))


def _shared(column: "pl.Series") -> npt.NDArray[np.object_]:
    """Return strings of which equal ones are one object: eight bytes a row."""
    import pyarrow as pa

    encoded = column.to_arrow().cast(pa.string()).dictionary_encode()
    names = np.array([*encoded.dictionary.to_pylist(), "nonfinite"], object)
    shared: npt.NDArray[np.object_] = names[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return shared


def _linear(context: "Context", small: Floats, losses: Losses) -> Floats:
    """Return the posterior of the linear detector, NaN where the first has none or there is no detector."""
    from curate.execution.context import log

    known = np.flatnonzero(np.isfinite(small))
    linear = np.full(len(small), np.nan)
    if not len(known):
        return linear
    parts = embedding_parts(context)
    limit = min(FIT_ROWS, FIT_CELLS // parts[0].dim)
    chosen = np.sort(known[hash_sample(losses.hashes[known], limit)])
    with threadpool_limits(1):  # last bits of its products depend on the threads
        detector = fit_linear(*_sample(parts, chosen, small))
    if detector is None:
        return linear
    log.info("score: noise: linear detector fitted to %s samples", f"{len(chosen):,}")
    files = [context.run.part(context.run.embeddings, part.name) for part in context.parts]
    found = context.map("score", "parts", _posterior, [LinearTask(file, detector) for file in files])
    linear[known] = np.concatenate(found)[known]
    return linear


def _sample(
    parts: "list[EmbeddingPart]", chosen: npt.NDArray[np.int64], small: Floats
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Return vectors and noise of the samples at `chosen` (ascending), in the order of their uids."""
    uids: list[str] = []
    vectors = np.empty((len(chosen), parts[0].dim), np.float32)
    start = 0
    for part in parts:
        stop = start + len(part)
        here = slice(*np.searchsorted(chosen, [start, stop]))
        places = chosen[here] - start
        vectors[here] = load_unit(part.take("image", places))
        uids += np.array(part.uids(), object)[places].tolist()
        start = stop
    order = sorted(range(len(uids)), key=uids.__getitem__)
    return vectors[order], small[chosen[order]]


def _posterior(task: LinearTask) -> Floats:
    """Return what the detector says of each row of a part."""
    from curate.embedding.store import EmbeddingPart

    part = EmbeddingPart(task.embeddings)
    posterior = np.empty(len(part))
    for start, block in part.blocks("image"):
        posterior[start : start + len(block)] = task.detector.posterior(block)
    return posterior


def _linear_in_memory(samples: "Samples", small: Floats) -> Floats:
    """Return the posterior of the linear detector, fitted to the samples that a run would choose."""
    image = samples.require("noise", "image")
    known, linear = np.flatnonzero(np.isfinite(small)), np.full(len(small), np.nan)
    if not len(known):
        return linear
    hashes = hash_uids(samples.uids, samples.seed, "noise")
    chosen = known[hash_sample(hashes[known], min(FIT_ROWS, FIT_CELLS // image.shape[1]))]
    chosen = np.array(sorted(chosen.tolist(), key=samples.uids.__getitem__), np.int64)
    with threadpool_limits(1):  # last bits of its products depend on the threads
        detector = fit_linear(image[chosen], small[chosen])
    if detector is not None:
        linear[known] = detector.posterior(image[known])
    return linear
