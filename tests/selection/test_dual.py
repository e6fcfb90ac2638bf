"""DUAL pruning: the distribution, the race against plain Python, how often rows are drawn, and what cannot be."""

import math

import numpy as np
import polars as pl
import pytest

from curate import select
from curate.errors import CurateError, RecipeError, UsageError
from curate.hashing import hash_uids, tie
from curate.selection.dual import ANCHORS, beta_shape, log_odds


def rows(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "uid": [f"u{i}" for i in range(n)],
            "dual": np.round(rng.gamma(0.5, 0.1, n), 4),
            "early_agreement": rng.beta(3, 1, n),
        }
    )


def by_definition(frame, count, seed, lean=4.0):
    """Return the uids that arrive first: -ln(u) / (score x density)."""
    uids = frame["uid"].to_list()
    draw = dict(zip(uids, hash_uids(uids, seed, "select", "draw").tolist(), strict=True))
    ties = dict(zip(uids, tie(uids, seed).tolist(), strict=True))
    score, p = (dict(zip(uids, frame[name], strict=True)) for name in ("dual", "early_agreement"))
    best = sorted(uids, key=lambda uid: (-score[uid], ties[uid]))[:ANCHORS]
    anchor, keep = np.mean([p[uid] for uid in best]), count / len(uids)
    b = 15 * (1 - anchor) * (1 - (1 - keep) ** (2 + lean))
    a = 16 - b
    arrival = {}
    for uid in uids:
        u = ((draw[uid] >> 12) + 0.5) * 2.0**-52
        weight = math.log(score[uid]) if score[uid] else -math.inf
        weight += (a - 1) * math.log(p[uid]) + (b - 1) * math.log1p(-p[uid])
        arrival[uid] = math.log(-math.log(u)) - weight
    return set(sorted(uids, key=lambda uid: (arrival[uid], ties[uid]))[:count])


@pytest.mark.parametrize("count", [0, 1, 30, 150, 200])
def test_the_race_is_the_definition(count):
    frame = rows()
    for seed in (0, 3):
        found = select(frame, "dual", count=count, seed=seed)
        assert set(found.filter("keep")["uid"]) == by_definition(frame, count, seed)
        assert found["keep"].sum() == count
    moved = select(frame.sample(fraction=1.0, shuffle=True, seed=1), "dual", count=count, seed=3)
    assert moved.sort("uid").equals(found.sort("uid"))


def test_the_less_is_kept_the_easier_it_is():
    assert beta_shape(0.5, 1.0) == (8.5, 7.5)
    shares = [beta_shape(0.5, keep)[0] for keep in (1.0, 0.5, 0.2, 0.05)]
    assert shares == sorted(shares)
    frame = rows(4_000).with_columns(dual=pl.lit(0.1))
    means = [
        select(frame, "dual", keep=keep).filter("keep")["early_agreement"].mean() for keep in (0.05, 0.5)
    ]
    assert means[0] > means[1]


def test_odds_are_those_of_the_distribution():
    p = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.exp(log_odds(p, (3.2, 1.7))), p**2.2 * (1 - p) ** 0.7, rtol=1e-12)
    assert np.isfinite(log_odds(np.array([0.0, 1.0]), (15.9, 0.1))).all()


def test_rows_of_no_score_come_last_and_those_without_one_are_drawn():
    frame = rows(100).with_columns(dual=pl.when(pl.int_range(100) < 50).then(0.0).otherwise(0.1))
    found = select(frame, "dual", count=50)
    assert not found["keep"][:50].any()
    lacks = frame.with_columns(early_agreement=pl.when(pl.int_range(100) % 4 > 0).then("early_agreement"))
    assert select(lacks, "dual", count=40).filter(pl.col("early_agreement").is_null())["keep"].sum() == 10


def test_refusals():
    with pytest.raises(RecipeError, match="needs two scores for method dual, got dual"):
        select(rows(), "dual", count=1, mean="dual")
    with pytest.raises(
        CurateError, match=r"select.mean of method dual must be a probability, in \[0, 1\], got 3"
    ):
        select(rows().with_columns(early_agreement=pl.lit(3.0)), "dual", count=1)
    with pytest.raises(UsageError, match="no column 'dual'"):
        select(rows().drop("dual"), "dual", count=1)
