"""Small classes with wrong labels, and the scores of heads by the trainer alone: what runs and frames must agree with."""

import numpy as np

from curate.linalg import load_unit, unit_rows
from curate.scores.registry import columns_of

SMALL = {"seeds": 2, "epochs": 2, "folds": 2, "hidden": 8, "batch": 16, "min_class": 3}
N = 120


def clusters(n=N, dim=8, n_classes=3, seed=0):
    """Gaussian classes, a tenth of the labels flipped: float16 vectors and labels."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((n_classes, dim))
    code = rng.integers(0, n_classes, n)
    x = centres[code] + rng.standard_normal((n, dim))
    flip = rng.permutation(n)[: n // 10]
    code[flip] = (code[flip] + 1) % n_classes
    return x.astype(np.float16), [f"class {one}" for one in code]


def names(n=N):
    return [f"s{i:06d}" for i in range(n)]


class Stored:
    """Vectors as a run stores and reads them."""

    status = None

    def __init__(self, vectors):
        self.rows = load_unit(unit_rows(vectors)[0].astype(np.float16))
        self.dim = self.rows.shape[1]

    def __len__(self):
        return len(self.rows)

    def take(self, positions):
        return self.rows[positions]


def directly(vectors, labels, **changes):
    """The same from the library, on arrays."""
    from curate.scores.heads.training import HeadSettings, train_heads

    values = {
        "n_seeds": 2,
        "epochs": 2,
        "cross_fit": 2,
        "hidden": 8,
        "batch": 16,
        "min_class": 3,
        "workers": 1,
    }
    return train_heads(Stored(vectors), names(len(vectors)), labels, HeadSettings(**values | changes))


def same_columns(table, want):
    """Whether every column of a table is what the library says, exactly; nulls where it has NaN."""
    for name in columns_of("heads"):
        got = table[name].to_numpy()
        np.testing.assert_array_equal(got, getattr(want, name), err_msg=name)
        assert not table[name].is_nan().any(), name
    assert table["n_obs"].to_list() == want.n_obs.tolist()
    predicted = [None if code < 0 else str(want.classes[code]) for code in want.pred_label]
    assert table["pred_label"].to_list() == predicted
