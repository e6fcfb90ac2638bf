"""How probable it is that a label is wrong, or that an image belongs to no class: two detectors, kept apart.

`noise_label` is a score of the heads as a probability: how many labels are wrong is what confident learning counts, how
fast doubt grows with the score is fitted to which rows it counts (`scores/calibration.py`). `noise_ood` comes from the
pictures (`foreign.py`). `noise_prob` is that one or the other is the case. All are in [0, 1]; higher is noisier.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from curate.errors import UsageError
from curate.hashing import hash_uids
from curate.linalg import load_unit
from curate.scores.base import Score, ScoreColumn, Sources, embedding_parts, require_memory
from curate.scores.calibration import Logistic, fit_logistic
from curate.scores.columns import Column
from curate.scores.noise.foreign import FOLDS, PictureDetector, find_foreign
from curate.scores.noise.mixture import small_loss_noise
from curate.scores.reliability import hash_sample
from curate.scores.status import NONFINITE, OK, UNIMODAL, Codes, status_names

if TYPE_CHECKING:
    import polars as pl

    from curate.embedding.store import EmbeddingPart
    from curate.execution.context import Context
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output

__all__ = ["FIT_CELLS", "FIT_ROWS", "Noise", "doubtful", "label_noise"]

#: The picture detector is fitted to at most so many rows, and so many numbers (an eighth of a gigabyte in float64).
FIT_ROWS, FIT_CELLS = 100_000, 1 << 24
#: Measured with n = 1,000,000 (216): the mixture works on copies of the losses.
_ROW_BYTES = 230
#: From where on a value says that another class fits better: a margin below 0, a probability below one half.
_BORDERS = {"neg_aum": 0.0, "loss": float(np.log(2.0))}

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating[Any]]


class Noise(Score):
    """How probable it is that a label is wrong, or the image of no class, from a score of heads and the vectors.

    loss : the score that ranks rows; larger is more doubtful. linear : whether images of no class are looked for.
    """

    measures: ClassVar[str] = "probability that a label is wrong, or that the image belongs to no class"
    paper: ClassVar[str] = "Northcutt et al. 2021, arXiv:1911.00068; Albert et al. 2024, arXiv:2407.05528"
    cost: ClassVar[str] = "a curve over all rows; some logistic regressions on a sample"
    requires: ClassVar[str] = "a score of `heads`, and image vectors for images of no class"
    avoid: ClassVar[str] = "where classes overlap much: hard samples are then counted as wrong labels"
    place: ClassVar[int] = 6
    version: ClassVar[int] = 2
    outputs: ClassVar[Mapping[str, Column]] = {
        "noise_label": Column("noisier"), "noise_ood": Column("noisier"), "noise_prob": Column("noisier"),
    }  # fmt: skip

    family: Literal["noise"] = "noise"
    loss: str = "neg_aum"
    linear: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The score that ranks rows."""
        return (self.loss,)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the columns, without that of images of no class where it is turned off."""
        return {name: column for name, column in self.outputs.items() if self.linear or name != "noise_ood"}

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
        """Return the fingerprint of the table with the losses, and what its family found out about them."""
        folder = context.run.scores(columns[self.loss].folder)
        return [context.run.fingerprint(folder), _curve_in(context.facts(folder), self.loss)]

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        losses = samples.column("noise", self.loss)
        label, codes = label_noise(losses, self.loss, _curve_in(samples.facts.get("heads", {}), self.loss))
        status = np.where(np.isfinite(losses), status_names(codes), samples.why_missing((self.loss,)))
        columns = {"noise_label": label}
        if self.linear:
            columns["noise_ood"] = _foreign_in_memory(samples, losses, self.loss, label)
        return columns | {"noise_prob": _either(columns)}, status.astype(object)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts."""
        require_memory(context, "score: noise", sum(map(len, embedding_parts(context))), _ROW_BYTES)
        column = output.columns[self.loss]
        losses = _read(context, self.loss, column)
        curve = _curve_in(context.facts(context.run.scores(column.folder)), self.loss)
        label, codes = label_noise(losses.value, self.loss, curve)
        finite = np.isfinite(losses.value)
        status = np.where(finite | (losses.status == "ok"), status_names(codes), losses.status)
        columns = {"noise_label": label}
        if self.linear:
            columns["noise_ood"] = _foreign(context, losses, self.loss, label)
        columns["noise_prob"] = _either(columns)
        output.write_all({**columns, "noise_status": status})
        return {
            "scored": int((codes == OK).sum()),
            "loss": self.loss,
            "calibrated": curve is not None,
            "expected": {name: round(float(np.nansum(values)), 1) for name, values in columns.items()},
            "flagged": {name: int((values > 0.5).sum()) for name, values in columns.items()},
            "warnings": self._warnings(codes, curve, column.folder),
        }

    def _warnings(self, codes: Codes, curve: object, folder: str) -> list[str]:
        """Return what is to be known where the heads did not say how many labels are wrong."""
        if curve is not None or not (codes != NONFINITE).any():
            return []
        old = folder == "heads" and self.loss in ("neg_aum", "loss", "el2n")
        advice = (
            "heads of mlp or linear with labels and folds say it; those scored before they did are scored anew after "
            "3_scores/heads was removed"
            if old
            else "noise.loss neg_aum of heads comes with it"
        )
        if (codes == UNIMODAL).any():
            rows = f"{(codes != NONFINITE).sum():,}"
            what = f"how many labels are wrong was not counted for {self.loss} ({advice}), and its {rows}"
            return [f"{what} values are not two groups (or fewer than 50): there is no noise score"]
        return [
            f"how many labels are wrong was not counted for {self.loss}, two groups of it say so: {advice}"
        ]


def label_noise(values: Values, name: str, curve: tuple[float, float] | None) -> tuple[Floats, Codes]:
    """Return how probable it is that each label is wrong, (n,), and the status of each row.

    values : (n,), of the score `name`, larger where more doubtful; NaN where there is none. curve : slope and intercept that
    the heads found for this score; where there are none, the two groups that values may fall into (`mixture.py`) stand in
    for their count, of which rows that fit their label best are none.
    """
    if curve is not None:
        status = np.where(np.isfinite(values), OK, NONFINITE)
        return Logistic(*curve).probability(values), status
    posterior, status = small_loss_noise(values)
    there = np.isfinite(posterior)
    if not there.any():
        return posterior, status
    if name.removeprefix("pixels_") in _BORDERS:
        posterior = posterior * doubtful(values, name, posterior)
    return np.where(there, fit_logistic(values[there], posterior[there]).probability(values), np.nan), status


def doubtful(values: Values, name: str, label: Floats) -> npt.NDArray[np.bool_]:
    """Return the rows whose label does not fit, (n,): another class fits better, or it is more likely wrong than right.

    values : (n,), of the score `name`. label : (n,), the probability that the label is wrong.
    """
    border = _BORDERS.get(name.removeprefix("pixels_"))
    return label > 0.5 if border is None else np.asarray(values > border, np.bool_)


def _curve_in(facts: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Return slope and intercept that a family noted for one of its scores."""
    found = ((facts.get("label_errors") or {}).get("calibration") or {}).get(name)
    return None if found is None else (float(found[0]), float(found[1]))


def _either(columns: Mapping[str, Floats]) -> Floats:
    """Return the probability that the label is wrong or the image foreign."""
    right = np.ones(len(columns["noise_label"]))
    for values in columns.values():
        right = right * (1 - values)
    return 1 - right


# --- over the parts of a run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureTask:
    """One part to look at with the picture detector. hashes : (n,), which say the fold of each row."""

    embeddings: Path
    detector: PictureDetector
    hashes: npt.NDArray[np.uint64]


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


def _fold(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return which detector judges each row: the one that was fitted without it."""
    return (hashes % np.uint64(FOLDS)).astype(np.int64)


def _foreign(context: "Context", losses: Losses, loss: str, label: Floats) -> Floats:
    """Return how probable it is that each image is of no class; 0 where there is no group of them, NaN as `label`."""
    from curate.execution.context import log

    known = np.flatnonzero(np.isfinite(label))
    foreign = np.where(np.isfinite(label), 0.0, np.nan)
    if not len(known):
        return foreign
    parts = embedding_parts(context)
    limit = min(FIT_ROWS, FIT_CELLS // parts[0].dim)
    chosen = np.sort(known[hash_sample(losses.hashes[known], limit)])
    vectors, order = _sample(parts, chosen)
    chosen = chosen[order]
    detector = _fitted(vectors, losses.value[chosen], loss, label[chosen], losses.hashes[chosen])
    if detector is None:
        return foreign
    log.info("score: noise: images of no class are looked for by %s samples", f"{len(chosen):,}")
    tasks, start = [], 0
    for part, embedded in zip(context.parts, parts, strict=True):
        file = context.run.part(context.run.embeddings, part.name)
        tasks.append(PictureTask(file, detector, losses.hashes[start : start + len(embedded)]))
        start += len(embedded)
    foreign[known] = np.concatenate(context.map("score", "parts", _posterior, tasks))[known]
    return foreign


def _fitted(
    vectors: npt.NDArray[np.float32], values: Values, loss: str, label: Floats, hashes: npt.NDArray[np.uint64]
) -> PictureDetector | None:
    with threadpool_limits(1):  # last bits of its products depend on the threads
        return find_foreign(vectors, doubtful(values, loss, label), _fold(hashes))


def _sample(
    parts: "list[EmbeddingPart]", chosen: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return vectors of the samples at `chosen` (ascending) in the order of their uids, and that order."""
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
    order = np.array(sorted(range(len(uids)), key=uids.__getitem__), np.int64)
    return vectors[order], order


def _posterior(task: PictureTask) -> Floats:
    """Return what the detector says of each row of a part."""
    from curate.embedding.store import EmbeddingPart

    part, fold = EmbeddingPart(task.embeddings), _fold(task.hashes)
    posterior = np.empty(len(part))
    for start, block in part.blocks("image"):
        rows = slice(start, start + len(block))
        posterior[rows] = task.detector.posterior(block, fold[rows])
    return posterior


def _foreign_in_memory(samples: "Samples", losses: Values, loss: str, label: Floats) -> Floats:
    """Return how probable it is that each image is of no class, by the samples that a run would choose."""
    image = samples.require("noise", "image")
    known, foreign = np.flatnonzero(np.isfinite(label)), np.where(np.isfinite(label), 0.0, np.nan)
    if not len(known):
        return foreign
    hashes = hash_uids(samples.uids, samples.seed, "noise")
    chosen = known[hash_sample(hashes[known], min(FIT_ROWS, FIT_CELLS // image.shape[1]))]
    chosen = np.array(sorted(chosen.tolist(), key=samples.uids.__getitem__), np.int64)
    detector = _fitted(image[chosen], losses[chosen], loss, label[chosen], hashes[chosen])
    if detector is not None:
        foreign[known] = detector.posterior(image[known], _fold(hashes[known]))
    return foreign
