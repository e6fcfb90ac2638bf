import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import CurateError
from curate.scores import status
from curate.scores.status import (
    STATUSES,
    embedding_status,
    first_status,
    label_status,
    status_names,
)
from tests.reference.status import value_status


def test_the_table_and_its_codes():
    """Codes are stored: a name keeps its number."""
    assert STATUSES == (
        "ok",
        "no_label",
        "single_class",
        "class_too_small",
        "nonfinite",
        "no_negatives",
        "no_text",
        "unimodal",
        "zero_norm",
    )
    for code, name in enumerate(STATUSES):
        assert getattr(status, name.upper()) == code
    assert status_names(np.arange(9, dtype=np.int8)).tolist() == list(STATUSES)


@given(st.lists(st.integers(-2, 4), max_size=14), st.integers(1, 4))
def test_labels_by_definition(labels, min_class):
    large = {c for c in labels if c >= 0 and labels.count(c) >= min_class}
    want = [
        "no_label"
        if c < 0
        else "class_too_small"
        if c not in large
        else "single_class"
        if len(large) < 2
        else "ok"
        for c in labels
    ]
    codes = label_status(np.array(labels, int), min_class)
    assert codes.dtype == np.int8 and status_names(codes).tolist() == want


def test_vectors_without_a_direction():
    rows = np.array([[1, 0], [0, 0], [np.inf, 0], [1e-200, 0], [1e300, 1e300], [np.nan, 0], [1e-11, 0]])
    want = ["ok", "zero_norm", "nonfinite", "zero_norm", "ok", "nonfinite", "ok"]
    assert status_names(embedding_status(rows)).tolist() == want
    assert embedding_status(np.empty((0, 3))).dtype == np.int8
    half = np.zeros((5000, 3), np.float16)
    half[1:] = 1
    assert np.flatnonzero(embedding_status(half)).tolist() == [0]


def test_first_and_values():
    values = value_status(np.array([0.0, np.nan, -np.inf]))
    assert values.dtype == np.int8 and status_names(values).tolist() == ["ok", "nonfinite", "nonfinite"]
    merged = first_status(values, np.array([1, 1, 0], np.int8))
    assert merged.dtype == np.int8 and status_names(merged).tolist() == ["no_label", "nonfinite", "nonfinite"]
    with pytest.raises(CurateError, match="min_class must be at least 1, got 0"):
        label_status(np.zeros(2, int), 0)
