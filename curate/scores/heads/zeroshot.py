"""Heads that are given, not trained: class names by their text vectors, concepts by their centroids."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from curate.errors import CurateError, EmbeddingError
from curate.linalg import unit_rows
from curate.scores.heads.accumulators import Accumulator
from curate.scores.heads.batches import Batches, Rows
from curate.scores.heads.evaluation import Evaluation, fixed_threads, spread_over
from curate.scores.heads.folds import Ints, Label, Labelled, row_hashes
from curate.scores.heads.grand import grand
from curate.scores.heads.model import Group
from curate.scores.heads.result import HeadScores, collect
from curate.scores.status import NO_LABEL, OK, SINGLE_CLASS, first_status

__all__ = ["score_concepts", "zero_shot"]


class _Given(Group):
    """z = scale x V^T for unit rows V of classes; its weights are scale V, without a bias."""

    def __init__(self, vectors: torch.Tensor, scale: float) -> None:
        super().__init__([0], 0, len(vectors), momentum=0.0)
        self._weights = (vectors * scale).T.contiguous()

    def held_out(self, x: torch.Tensor, bounds: Sequence[int], place: int, out: torch.Tensor) -> torch.Tensor:
        torch.mm(x, self._weights, out=out)
        return out[:, :0]

    def gradient_norms(
        self,
        errors: torch.Tensor | None,
        el2n: torch.Tensor,
        squares: torch.Tensor,
        hidden: torch.Tensor,
        bounds: Sequence[int],
        place: int,
    ) -> torch.Tensor:
        return grand([el2n.square()], [squares], bias=False)


def zero_shot(
    rows: Rows,
    uids: Iterable[str],
    labels: Sequence[Label],
    classes: Sequence[str | int],
    class_vectors: npt.NDArray[np.floating],
    *,
    scale: float = 100.0,
    device: str = "cpu",
    workers: int | None = None,
) -> HeadScores:
    """Return scores of samples under softmax(scale x class_vectors^T): one pass, nothing trained, n_seeds = 1.

    classes : the label that each row of class_vectors (C, d) stands for, all different; scale : the model's
    exp(logit_scale). Labels that are no class are an error; None gives status "no_label". What hangs on training
    (std, forgetting, early_agreement) is NaN; grand is ||p - y|| ||x||, so it equals el2n.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise CurateError(f"the logit scale must be finite and > 0, got {scale}")
    place = {name: number for number, name in enumerate(classes)}
    unknown = next((label for label in labels if label is not None and label not in place), None)
    if unknown is not None:
        raise CurateError(
            f"every label must be one of the {len(place)} classes with a vector, got {unknown!r}"
        )
    if len(place) != len(classes) or class_vectors.shape != (len(classes), rows.dim):
        raise EmbeddingError(
            f"there must be one vector of length {rows.dim} per class, {len(place)} different classes, "
            f"got shape {class_vectors.shape}"
        )
    codes = np.fromiter((-1 if label is None else place[label] for label in labels), np.int64, len(labels))
    return _given(rows, uids, codes, list(classes), class_vectors, scale, device, workers)


def score_concepts(
    rows: Rows,
    uids: Iterable[str],
    concepts: Ints,
    centroids: npt.NDArray[np.floating],
    *,
    scale: float = 100.0,
    device: str = "cpu",
    workers: int | None = None,
) -> HeadScores:
    """Return `zero_shot` scores where the concept, of (n,), stands in for a label; -1 is a sample without one.

    centroids : (k, d), a row per concept.
    """
    return zero_shot(
        rows,
        uids,
        [None if concept < 0 else concept for concept in concepts.tolist()],
        range(len(centroids)),
        centroids,
        scale=scale,
        device=device,
        workers=workers,
    )


def _given(
    rows: Rows,
    uids: Iterable[str],
    codes: Ints,
    classes: list[str | int],
    class_vectors: npt.NDArray[np.floating],
    scale: float,
    device: str,
    workers: int | None,
) -> HeadScores:
    unit, good = unit_rows(class_vectors)
    if not good.all():
        raise EmbeddingError(
            f"class vectors must be finite and not zero, class {classes[int(np.argmin(good))]!r}"
        )
    hashes = row_hashes(uids, 0)
    if not len(hashes) == len(rows) == len(codes):
        raise CurateError(
            f"vectors, uids and labels must be as many, got {len(rows)}, {len(hashes)}, {len(codes)}"
        )
    status = np.where(codes < 0, NO_LABEL, OK if len(classes) > 1 else SINGLE_CLASS)
    if rows.status is not None:
        status = first_status(status, rows.status)
    chosen = np.flatnonzero(status == OK)
    chosen = chosen[np.argsort(hashes[chosen])]
    data = Labelled(chosen, codes[chosen], hashes[chosen], classes, status)
    sums = Accumulator(len(chosen), 1, 1)
    if len(chosen):
        batches = Batches(rows, chosen, data.hashes, normalise="l2", memory=0, device=device)
        group = _Given(torch.from_numpy(unit).to(batches.device), scale)
        label = torch.from_numpy(data.code).to(batches.device)
        evaluation = Evaluation(label, np.zeros((len(chosen), 1), np.uint8), [group], sums)
        with fixed_threads(), spread_over(workers, batches.device) as each:
            for start in batches.starts:
                evaluation.block(each, batches.block(start), start, epoch=1, scored=True, last=True)
    return collect(data, sums, [0], trained=False)
