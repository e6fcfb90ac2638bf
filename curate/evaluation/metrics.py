"""How good predictions on held-out rows are, as numbers in which more is better, but for the calibration error."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["RECALLS", "calibration_error", "class_recalls", "label_metrics", "ranks", "recall_metrics"]

#: Recall of pairs is measured among this many nearest.
RECALLS = (1, 5, 10)
#: Bins of confidence, all of one width (Guo et al. 2017).
_BINS = 15

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


def class_recalls(predicted: Ints, labels: Ints) -> npt.NDArray[np.float64]:
    """Return the share of rows of each class that are predicted right, for the classes among `labels`, ascending.

    >>> class_recalls(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 3]))
    array([0.5, 1. , 0. ])
    """
    _, place = np.unique(labels, return_inverse=True)
    rows = np.bincount(place)
    return np.asarray(np.bincount(place, weights=predicted == labels, minlength=len(rows)) / rows)


def calibration_error(probabilities: Floats, labels: Ints) -> float:
    """Return the expected calibration error: how far confidence is from accuracy, on average over 15 bins.

    probabilities : (n, classes). Rows are in bins of the highest probability, bins weighted by their rows. Guo et al.
    2017, arXiv:1706.04599.

    >>> calibration_error(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]))
    0.3
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=_BINS)
    return round(float(np.abs(gaps).sum() / len(labels)), 12)


def label_metrics(logits: Floats, labels: Ints) -> dict[str, float]:
    """Return accuracy, balanced accuracy, the recall of the worst class and the calibration error.

    logits : (n, classes). labels : (n,) of codes, n at least 1. Balanced accuracy is the mean of the recalls of classes.

    >>> label_metrics(np.array([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), np.array([0, 0, 1, 1]))["balanced_accuracy"]
    0.75
    """
    predicted = logits.argmax(axis=1)
    recalls = class_recalls(predicted, labels)
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recalls.mean()),
        "worst_class": float(recalls.min()),
        "calibration_error": calibration_error(raised / raised.sum(axis=1, keepdims=True), labels),
    }


def ranks(likeness: Floats) -> dict[str, Ints]:
    """Return how many others are nearer than one's own, for both ways.

    likeness : (n, n), of image i to caption j; a pair is on the diagonal.

    >>> found = ranks(np.array([[0.5, 0.9], [0.1, 0.7]]))
    >>> found["image_to_text"], found["text_to_image"]
    (array([1, 0]), array([0, 1]))
    """
    own = np.diag(likeness)
    return {
        "image_to_text": (likeness > own[:, None]).sum(axis=1),
        "text_to_image": (likeness > own).sum(axis=0),
    }


def recall_metrics(before: Mapping[str, Ints], recalls: Sequence[int] = RECALLS) -> dict[str, float]:
    """Return recall at 1, 5 and 10: the mean of both ways, then each.

    before : of `ranks`.
    """
    ways = {f"{way}_{k}": float((rank < k).mean()) for way, rank in before.items() for k in recalls}
    both = {f"recall_{k}": sum(ways[f"{way}_{k}"] for way in before) / len(before) for k in recalls}
    return both | ways
