import numpy as np
import pytest

from curate.errors import CurateError
from curate.scores.in_memory import score
from curate.scores.learnability import learnability


def test_is_what_a_learner_loses_and_a_reference_does_not():
    learner, reference = np.random.default_rng(0).gamma(2, 1, (2, 50)).astype(np.float32)
    want = [float(a) - float(b) for a, b in zip(learner, reference, strict=True)]
    assert learnability(learner, reference).tolist() == want
    assert learnability(np.empty(0), np.empty(0)).shape == (0,)


def test_what_is_not_finite_has_none():
    wrong = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert np.isnan(learnability(wrong, np.ones(4))).tolist() == [True, True, True, False]
    assert np.isnan(learnability(np.ones(4), wrong)).tolist() == [True, True, True, False]


def test_in_memory_it_goes_by_columns():
    columns = {"a": np.array([3.0, 1.0]), "b": np.array([1.0, 1.5])}
    found = score(np.eye(2), {"learnability": {"learner": "a", "reference": "b"}}, columns=columns)
    assert found["learnability"].to_list() == [2.0, -0.5]


def test_refuses():
    with pytest.raises(CurateError, match=r"must be \(n,\) alike, got \(3,\) and \(2,\)"):
        learnability(np.zeros(3), np.zeros(2))
