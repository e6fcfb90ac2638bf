"""Scores in memory: rows without one, what they lack (tests/pipeline compares them with a run)."""

import numpy as np
import polars as pl
import pytest

from curate.errors import UsageError
from curate.recipe import ClipScore, Heads
from curate.scores.in_memory import score
from tests.fixtures.builders import planted

N = 120


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    image = planted(N).astype(np.float32)
    text = (image + 0.3 * rng.standard_normal(image.shape)).astype(np.float32)
    captions = [None if n % 9 == 8 else f"caption {n % 50}" for n in range(N)]
    text[[caption is None for caption in captions]] = np.nan
    labels = [None if n % 17 == 16 else "abc"[n % 3] for n in range(N)]
    return image, text, captions, labels


def test_rows_without_a_direction_have_no_score(data):
    image, text, _, _ = data
    vectors = image.copy()
    vectors[3], vectors[5] = 0, np.inf
    got = score(vectors, ClipScore(), text=np.nan_to_num(text, nan=1.0))
    assert got["uid"].to_list()[:2] == ["0", "1"]
    assert got["clip_score_status"][3] == "zero_norm" and got["clip_score_status"][5] == "nonfinite"
    assert got["clip_score"].is_null().to_numpy().nonzero()[0].tolist() == [3, 5]


def test_columns_of_a_frame(data):
    frame = pl.DataFrame({"uid": ["a", "b", "c"], "prior": [3.0, 2.0, None], "conditional": [2.0, 2.5, 1.0]})
    got = score(frame, {"color": {"prior": "prior", "conditional": "conditional"}})
    assert got.rows() == [("a", 1.0, "ok"), ("b", -0.5, "ok"), ("c", None, "nonfinite")]


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ("clip_score", "clip_score needs text; give it to curate.score"),
        ("heads", "heads needs labels"),
        (Heads(kind="concepts"), "heads of kind concepts are computed in a run only"),
        ("pixels", "pixels is computed in a run only"),
        ("noise", "noise needs the column 'neg_aum'; there are none"),
        ("hedas", "'hedas' is no family of scores; there are clip_score, pair"),
    ],
)
def test_what_is_missing_is_named(data, families, message):
    with pytest.raises(UsageError, match=message):
        score(data[0], families)


def test_one_entry_for_each_sample(data):
    with pytest.raises(UsageError, match="labels must have one entry for each of 120 samples, got 1"):
        score(data[0], "heads", labels=["a"])
    with pytest.raises(UsageError, match="uids must be 120 different names, got 1"):
        score(data[0], "heads", uids=["a"] * N)
