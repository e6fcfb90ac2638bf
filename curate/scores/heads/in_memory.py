"""Heads trained on vectors in memory."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.errors import UsageError
from curate.scores.heads.folds import Ints
from curate.scores.heads.label_errors import errors_of
from curate.scores.heads.labels import columns
from curate.scores.heads.training import HeadSettings, train_heads
from curate.scores.status import status_names

if TYPE_CHECKING:
    from curate.scores.heads.heads import Heads
    from curate.scores.in_memory import Samples

__all__ = ["score_samples"]


class UnitRows:
    """Unit vectors in memory, as they are."""

    status = None

    def __init__(self, vectors: npt.NDArray[np.float32]) -> None:
        self._vectors = vectors

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self._vectors.shape[1])

    def __len__(self) -> int:
        return len(self._vectors)

    def take(self, positions: Ints) -> npt.NDArray[np.float32]:
        """Return the rows at `positions`."""
        return self._vectors[positions]


def score_samples(
    score: "Heads", samples: "Samples"
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
    """Return the columns of trained heads, and the status of each sample.

    Raises UsageError for heads that are not trained: they need the model, or the concepts of a run.
    """
    if score.kind not in ("mlp", "linear"):
        raise UsageError(f"score: heads of kind {score.kind} are computed in a run only; take mlp or linear")
    image = samples.require("heads", "image")
    nothing = samples.labels is None and not score.needed
    labels = [None] * len(samples) if nothing else samples.require("heads", "labels")
    named = [None if label is None else str(label) for label in labels]
    settings = HeadSettings(
        kind=score.kind, hidden=None if score.hidden == "auto" else score.hidden, n_seeds=score.seeds, epochs=score.epochs, cross_fit=score.folds,
        score_epochs=score.score_epochs, batch=None if score.batch == "auto" else score.batch, rate=score.rate,
        momentum=score.momentum, normalise=score.normalise, min_class=score.min_class, seed=samples.seed,
        first_seed=score.first_seed, device=samples.device, dynamics=score.dynamics, window=score.window,
    )  # fmt: skip
    scores = train_heads(UnitRows(image), samples.uids, named, settings)
    if score.folds and len(scores.classes):
        samples.facts["heads"] = {"label_errors": errors_of(scores, named).as_facts()}
    return columns(scores), status_names(scores.status)
