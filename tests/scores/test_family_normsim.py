"""Scores by a target set in memory: by definition, and the edges."""

import numpy as np
import polars as pl
import pytest

from curate.linalg import load_unit, unit_rows
from curate.recipe import NormSim
from curate.scores.in_memory import score
from tests.fixtures.builders import DIM, planted

FAMILY = NormSim.model_validate({"target": "target.npy"})


def target(n=40):
    return 3 * np.random.default_rng(5).standard_normal((n, DIM))


def by_hand(vectors, given):
    dots = load_unit(vectors).astype(float) @ unit_rows(given)[0].astype(float).T
    return dots.max(axis=1), np.sqrt((dots**2).sum(axis=1))


@pytest.mark.parametrize("n", [1, 40])
def test_by_definition(n):
    vectors = planted(150)
    table = score(vectors, FAMILY, target=target(n))
    assert table.columns == ["uid", "normsim_inf", "normsim_2", "normsim_status"]
    largest, length = by_hand(vectors, target(n))
    np.testing.assert_allclose(table["normsim_inf"].to_numpy(), largest, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["normsim_2"].to_numpy(), length, rtol=1e-5)
    assert set(table["normsim_status"]) == {"ok"}
    assert [table.schema[name] for name in table.columns[1:3]] == [pl.Float32, pl.Float32]


@pytest.mark.parametrize("n", [0, 1])
def test_one_row_and_none(n):
    table = score(planted(150)[:n], FAMILY, target=target())
    assert len(table) == n
    assert table.columns == ["uid", "normsim_inf", "normsim_2", "normsim_status"]
