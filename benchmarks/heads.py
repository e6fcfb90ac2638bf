"""Heads as they are trained by default, and `preset: fast`, against scikit-learn with cleanlab and against a plain loop of torch.

All get vectors and labels of which a fifth is wrong (each another class at random; `--flip next`: the next class), and give an
order of the rows; AUROC says how well wrong labels come first. The vectors are made, around one direction for each class;
with `--run RUN` they are those of a run over Fashion-MNIST (`label_noise.py`), the first so many rows by uid.

- cleanlab: out-of-fold probabilities of LogisticRegression, five folds, then `find_label_issues`; on vectors as they are, and
  standardised as its tutorials have it (which costs more rounds of the solver).
- the loop trains what heads are by default, ten seeds of five folds, one model after the other: whole shuffled minibatches
  taken by `index_select`, autograd, SGD, one thread, and after each epoch the margin and EL2N of the rows that the model
  never saw. `linear` is the same for linear heads, ours and the loop.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import Contender, arguments, call, compare, write

WRONG, SEEDS, EPOCHS, FOLDS = 0.2, 10, 5, 5
#: Rows, width, classes.
SIZES = {"toy": (600, 16, 4), "short": (20_000, 128, 10), "long": (20_000, 512, 100)}
#: Cores decide nothing here: all work in one thread.
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]
Truth = npt.NDArray[np.bool_]


def make(n: int, dim: int, n_classes: int) -> tuple[Floats, Codes]:
    """Return vectors around one direction for each class, and their classes."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, n_classes, n)
    centres = rng.standard_normal((n_classes, dim), dtype=np.float32)
    return centres[true] + np.sqrt(dim) / 4 * rng.standard_normal((n, dim), dtype=np.float32), true


def of_run(run: Path, n: int) -> tuple[Floats, Codes]:
    """Return the vectors and classes of the first rows of a run, by uid."""
    from label_noise import load

    rows, uids, labels = load(run)
    first = np.argsort(np.array(uids))[:n]
    return rows.take(first), np.unique(np.array(labels)[first].astype(str), return_inverse=True)[1]


def flip(true: Codes, how: str) -> tuple[Codes, Truth]:
    """Return labels of which a fifth is another class, and which."""
    rng, n, n_classes = np.random.default_rng(1), len(true), int(true.max()) + 1
    wrong = np.isin(np.arange(n), rng.choice(n, round(WRONG * n), replace=False))
    step = 1 if how == "next" else rng.integers(1, n_classes, n)
    return np.where(wrong, (true + step) % n_classes, true), wrong


def read(folder: str) -> tuple[npt.NDArray[np.float32], Codes, Truth]:
    """Return unit vectors, labels, and which are wrong; what judges an order is loaded here, before anything is timed."""
    import sklearn.metrics  # noqa: F401

    data = np.load(Path(folder, "data.npz"))
    x = data["x"].astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True), data["label"], data["wrong"]


def judged(doubt: Floats, wrong: Truth) -> dict[str, float]:
    """Return how well an order finds the wrong labels."""
    from sklearn.metrics import roc_auc_score

    return {"AUROC": round(float(roc_auc_score(wrong, doubt)), 4)}


def with_heads(folder: str, **settings: Any) -> Iterator[None]:  # noqa: ANN401
    """Score the rows as `curate.score` does, with one worker."""
    from curate.scores.heads.heads import Heads
    from curate.scores.heads.in_memory import UnitRows
    from curate.scores.heads.training import HeadSettings, train_heads

    x, label, wrong = read(folder)
    yield
    score = Heads(**settings)
    chosen = HeadSettings(
        kind=score.kind,
        hidden=None if score.hidden == "auto" else score.hidden,
        n_seeds=score.seeds,
        epochs=score.epochs,
        workers=1,
    )
    uids, names = [f"{row:07d}" for row in range(len(x))], [f"{code:04d}" for code in label]
    return judged(train_heads(UnitRows(x), uids, names, chosen).neg_aum, wrong)


def with_cleanlab(folder: str, standardised: bool) -> Iterator[None]:
    """Predict out of fold, then find label issues."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, label, wrong = read(folder)
    yield
    model = LogisticRegression(max_iter=1000)
    if standardised:
        model = make_pipeline(StandardScaler(), model)
    probs = cross_val_predict(model, x, label, cv=FOLDS, method="predict_proba")
    flagged = find_label_issues(label, probs, n_jobs=1)
    return {"flagged": int(flagged.sum()), **judged(-get_label_quality_scores(label, probs), wrong)}


def with_loop(folder: str, hidden: int) -> Iterator[None]:
    """Train one model after the other; hidden 0 is a linear model."""
    import torch
    from sklearn.model_selection import StratifiedKFold

    torch.set_num_threads(1)
    x, label, wrong = read(folder)
    yield
    rows, y = torch.from_numpy((x - x.mean(0)) / x.std(0)), torch.from_numpy(label)
    margin, el2n = torch.zeros(len(x)), torch.zeros(len(x))
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        for seen, held in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, label):
            _one_model(rows, y, torch.from_numpy(seen), torch.from_numpy(held), hidden, margin, el2n)
    return judged(-margin.numpy(), wrong)


def _one_model(rows: Any, y: Any, seen: Any, held: Any, hidden: int, margin: Any, el2n: Any) -> None:  # noqa: ANN401
    """Train a model on some rows, and add what it says of the others after each epoch."""
    import torch

    from curate.scores.heads.training import HeadSettings

    dim, n_classes, batch = rows.shape[1], int(y.max()) + 1, HeadSettings().batch_for(len(rows))
    layers = [torch.nn.Linear(dim, hidden or n_classes)]
    layers += [torch.nn.ReLU(), torch.nn.Linear(hidden, n_classes)] if hidden else []
    model = torch.nn.Sequential(*layers)
    optimiser = torch.optim.SGD(model.parameters(), lr=1 / dim, momentum=0.9)
    mine, label, others, own = rows[seen], y[seen], rows[held], y[held]
    for _ in range(EPOCHS):
        order = torch.randperm(len(seen))
        for start in range(0, len(seen), batch):
            some = order[start : start + batch]
            loss = torch.nn.functional.cross_entropy(model(mine.index_select(0, some)), label[some])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        with torch.inference_mode():
            z = model(others)
            p = torch.softmax(z, 1)
            el2n[held] += (p - torch.nn.functional.one_hot(own, n_classes)).norm(dim=1)
            best = z.scatter(1, own[:, None], -torch.inf).amax(1)
            margin[held] += z.gather(1, own[:, None])[:, 0] - best


def main(given: list[str] | None = None) -> None:
    """Measure the default heads, and linear ones."""
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, help="a run whose vectors are taken")
    parser.add_argument("--flip", choices=["random", "next"], default="random")
    options = parser.parse_args(given)
    n, dim, n_classes = SIZES[options.size]
    x, true = make(n, dim, n_classes) if options.run is None else of_run(options.run, n)
    label, wrong = flip(true, options.flip)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "data.npz"), x=x, label=label, wrong=wrong)
        what = f"{len(x):,} x {x.shape[1]}, {len(np.unique(true))} classes"

        def way(name: str, function: str, **more: Any) -> Contender:  # noqa: ANN401
            return Contender(name, call(__file__, function, folder=folder, **more), environment=ONE)

        from curate.scores.heads.training import HeadSettings

        found = compare(
            what,
            way("heads", "with_heads"),
            [
                way("heads, preset fast", "with_heads", preset="fast"),
                way("cleanlab", "with_cleanlab", standardised=False),
                way("cleanlab, standardised", "with_cleanlab", standardised=True),
                way("plain loop", "with_loop", hidden=HeadSettings().hidden_for(len(x))),
            ],
            options.pairs,
        )
        linear = compare(
            f"{what}, linear",
            way("linear heads", "with_heads", kind="linear"),
            [way("plain loop", "with_loop", hidden=0)],
            options.pairs,
        )
    write("heads", [found, linear], options)


if __name__ == "__main__":
    main()
