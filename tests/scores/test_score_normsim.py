import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import EmbeddingError
from curate.linalg import row_dots, unit_rows
from curate.scores import normsim
from curate.scores.normsim import normsim_2, normsim_inf


def unit(n, d, seed):
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d)))[0]


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_by_definition(n, m, d, seed):
    x, target = unit(n, d, seed), unit(m, d, seed + 1)
    dots = np.array(
        [[float(np.clip(row_dots(x[[i]], target[[j]])[0], -1, 1)) for j in range(m)] for i in range(n)]
    )
    dots = dots.reshape(n, m)
    np.testing.assert_array_equal(normsim_inf(x, target), dots.max(axis=1).astype(np.float32))
    want = [np.linalg.norm(row) for row in dots]
    np.testing.assert_allclose(normsim_2(x, target), want, atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    x, target = unit(50, 8, 0), np.concatenate([unit(30, 8, 1), unit(3, 8, 1)])
    whole = normsim_inf(x, target), normsim_2(x, target)
    monkeypatch.setattr(normsim, "_ROWS", 7)
    monkeypatch.setattr(normsim, "_TARGETS", 4)
    np.testing.assert_array_equal(normsim_inf(x, target), whole[0])
    np.testing.assert_allclose(normsim_2(x, target), whole[1], rtol=1e-12)
    moved = np.random.default_rng(0).permutation(33)
    np.testing.assert_array_equal(normsim_inf(x, target[moved]), whole[0])


def test_edges():
    x = unit(3, 4, 0)
    np.testing.assert_allclose(normsim_inf(x, x), 1, atol=1e-7)
    np.testing.assert_allclose(normsim_inf(x, -x[:1])[:1], -1, atol=1e-7)
    np.testing.assert_allclose(normsim_2(x, np.repeat(x[:1], 9, axis=0))[0], 3, rtol=1e-6)
    assert normsim_inf(x[:0], x).shape == normsim_2(x[:0], x).shape == (0,)
    for bad in (x[:0], x[:, :2]):
        with pytest.raises(EmbeddingError, match="at least one target"):
            normsim_inf(x, bad)
        with pytest.raises(EmbeddingError, match="at least one target"):
            normsim_2(x, bad)
