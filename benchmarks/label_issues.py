"""Wrong labels: heads and their count of wrong labels against cleanlab's `find_label_issues` and Datalab, from equal vectors and labels.

Vectors around one direction for each class, a tenth of the labels replaced by another class. Ours trains linear heads on
five folds (one seed, and ten, as the default has it), and counts wrong labels; flagged are so many rows, first by
`neg_aum`. cleanlab is given what its tutorials give it: out-of-fold probabilities of scikit-learn's LogisticRegression on
standardised vectors, five folds; then it flags, or Datalab does. The training is part of what is timed: both get vectors and labels.

Second, the counting alone, from the same probabilities.

AUROC, precision and recall are about the labels that were replaced.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import Comparison, Contender, arguments, call, compare, write

WRONG = 0.1
#: Rows, width, classes.
SIZES = {"toy": (600, 16, 4), "short": (20_000, 256, 20), "long": (100_000, 512, 100)}

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


def make(folder: Path, n: int, dim: int, n_classes: int) -> None:
    """Write vectors, labels, which of them are wrong, and probabilities to count from."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, n_classes, n)
    centres = rng.standard_normal((n_classes, dim), dtype=np.float32)
    x = centres[true] + np.sqrt(dim) / 4 * rng.standard_normal((n, dim), dtype=np.float32)
    wrong = rng.random(n) < WRONG
    label = np.where(wrong, (true + rng.integers(1, n_classes, n)) % n_classes, true)
    probs = rng.standard_normal((n, n_classes)) + 3 * (np.arange(n_classes) == true[:, None])
    probs = np.exp(probs) / np.exp(probs).sum(axis=1, keepdims=True)
    np.savez(folder / "data.npz", x=x, label=label, wrong=wrong, probs=probs)


def load(folder: str) -> tuple[Floats, Integers, npt.NDArray[np.bool_], Floats]:
    """Return vectors, labels, which are wrong, and probabilities; what judges is loaded here, before anything is timed."""
    import scipy.stats  # noqa: F401

    data = np.load(Path(folder, "data.npz"))
    return data["x"], data["label"], data["wrong"], data["probs"]


def with_curate(folder: str, seeds: int) -> Iterator[None]:
    """Train heads and flag as many rows as are counted."""
    from curate.linalg import unit_rows
    from curate.scores.heads.in_memory import UnitRows
    from curate.scores.heads.label_errors import errors_of
    from curate.scores.heads.training import HeadSettings, train_heads

    x, label, wrong, _ = load(folder)
    yield
    names = [str(one) for one in label]
    settings = HeadSettings(kind="linear", n_seeds=seeds)
    scores = train_heads(UnitRows(unit_rows(x)[0]), [f"{row:07d}" for row in range(len(x))], names, settings)
    count = errors_of(scores, names).count
    return judged(np.argsort(-scores.neg_aum)[:count], scores.neg_aum, wrong)


def out_of_fold(x: Floats, label: Integers) -> Floats:
    """Return the probabilities that a careful user of cleanlab makes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    probs: Floats = cross_val_predict(model, x, label, cv=5, method="predict_proba")
    return probs


def with_cleanlab(folder: str) -> Iterator[None]:
    """Train out of fold, then `find_label_issues`."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    x, label, wrong, _ = load(folder)
    yield
    probs = out_of_fold(x, label)
    found = find_label_issues(label, probs, return_indices_ranked_by="self_confidence")
    return judged(found, -get_label_quality_scores(label, probs), wrong)


def with_datalab(folder: str) -> Iterator[None]:
    """Train out of fold, then Datalab's check of labels."""
    import logging

    from cleanlab import Datalab

    x, label, wrong, _ = load(folder)
    yield
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        lab = Datalab(data={"label": label.tolist()}, label_name="label", verbosity=0)
        lab.find_issues(pred_probs=out_of_fold(x, label), issue_types={"label": {}})
    finally:
        logging.disable(before)
    issues = lab.get_issues("label")
    return judged(np.flatnonzero(issues["is_label_issue"]), -issues["label_score"].to_numpy(), wrong)


def judged(flagged: Integers, doubt: Floats, wrong: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return what was flagged against what is known."""
    from scipy.stats import rankdata

    ranks, n = rankdata(doubt), int(wrong.sum())
    area = (ranks[wrong].sum() - n * (n + 1) / 2) / n / (len(wrong) - n)
    right = int(wrong[flagged].sum())
    return {
        "flagged": len(flagged),
        "precision": round(right / max(1, len(flagged)), 4),
        "recall": round(right / n, 4),
        "AUROC": round(float(area), 4),
    }


def count_with_curate(folder: str) -> Iterator[None]:
    """Count wrong labels from given probabilities."""
    from curate.scores.heads.label_errors import confident_classes, count_errors, thresholds

    _, label, _, probs = load(folder)
    yield
    n_classes = probs.shape[1]
    limits = thresholds(probs[np.arange(len(label)), label], label, n_classes)
    confident = confident_classes(probs, limits)
    return {
        "counted": count_errors(label, confident, probs.argmax(axis=1), [*map(str, range(n_classes))]).count
    }


def count_with_cleanlab(folder: str) -> Iterator[None]:
    """Flag rows by confident learning from given probabilities."""
    from cleanlab.filter import find_label_issues

    _, label, _, probs = load(folder)
    yield
    return {"counted": int(find_label_issues(label, probs, filter_by="confident_learning").sum())}


def main(given: list[str] | None = None) -> None:
    """Measure finding, and counting alone."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int)
    options = parser.parse_args(given)
    rows, dim, n_classes = SIZES[options.size]
    rows = options.rows or rows
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), rows, dim, n_classes)
        found = measure(options.pairs, scratch, f"{rows:,} x {dim}, {n_classes} classes")
    write("label_issues", found, options)


def measure(pairs: int, folder: str, what: str) -> list[Comparison]:
    """Return both comparisons."""
    whole = compare(
        what,
        Contender("curate heads, one seed", call(__file__, "with_curate", folder=folder, seeds=1)),
        [
            Contender("curate heads, ten seeds", call(__file__, "with_curate", folder=folder, seeds=10)),
            Contender("cleanlab find_label_issues", call(__file__, "with_cleanlab", folder=folder)),
            Contender("cleanlab Datalab", call(__file__, "with_datalab", folder=folder)),
        ],
        pairs,
    )
    counting = compare(
        f"{what}: counting alone",
        Contender("curate count_errors", call(__file__, "count_with_curate", folder=folder)),
        [Contender("cleanlab find_label_issues", call(__file__, "count_with_cleanlab", folder=folder))],
        pairs,
    )
    return [whole, counting]


if __name__ == "__main__":
    main()
