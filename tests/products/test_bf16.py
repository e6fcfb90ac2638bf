import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.linalg import unit_rows
from curate.products import bf16


def numbers(keys):
    return (keys.astype(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 70), st.sampled_from([1, 2, 31, 128, 700]), st.integers(0, 2**16),
    st.sampled_from([1e-30, 1e-6, 0.01, 1.0]), st.booleans(),
)  # fmt: skip
def test_products_err_by_no_more_than_their_slack(n, m, d, seed, size, beside):
    """The float64 product and sum lie within slack and half a step of what bfloat16 says."""
    rng = np.random.default_rng(seed)
    x = (unit_rows(rng.standard_normal((n, d)) ** 3)[0] * np.float32(size)).astype(np.float32)
    y = unit_rows(rng.standard_normal((m, d)) + 3 * x[rng.integers(0, n, m)] / size)[0]
    added = rng.standard_normal(m).astype(np.float32) if beside else None
    left, right = bf16.Rounded.of(x), bf16.Right(bf16.Rounded.of(y), added)
    keys = right.keys(left.with_ones() if beside else left.values, slice(0, bf16.whole_groups(m)))
    assert keys.shape == (n, bf16.whole_groups(m))
    exact = x.astype(np.float64) @ y.astype(np.float64).T + (0 if added is None else added.astype(np.float64))
    said = numbers(keys[:, :m])
    step = np.abs(said) * 2.0**-8
    assert (np.abs(exact - said) <= step + right.slack(left)[:, None]).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([1, 5, 64]), st.sampled_from([1e-7, 1e-3, 0.1]))
def test_the_largest_of_each_row_reaches_its_cut(seed, d, noise):
    rng = np.random.default_rng(seed)
    x = unit_rows(rng.standard_normal((20, d)))[0]
    y = unit_rows(x[rng.integers(0, 3, 50)] + noise * rng.standard_normal((50, d)))[0]
    left, right = bf16.Rounded.of(x), bf16.Right(bf16.Rounded.of(y))
    keys = right.keys(left.values, slice(0, 64))
    keys[:, 50:] = -(2**15)
    keys = keys.reshape(20, bf16.GROUPS, -1)
    tops = keys.max(axis=1)
    cut = bf16.cut_keys(bf16.largest_bound(tops.max(axis=1), right.slack(left)))
    row, column = bf16.reaching(keys, tops, np.where(cut > 0, cut, np.int16(2**15 - 1)))
    best = (x.astype(np.float64) @ y.astype(np.float64).T).argmax(axis=1)
    found = set(zip(row.tolist(), column.tolist(), strict=True))
    assert all((one, best[one]) in found for one in np.flatnonzero(cut > 0).tolist())


@given(st.floats(2.0**-90, 4.0), st.floats(-1e-3, 1e-3))
def test_numbers_at_or_above_a_bound_have_no_smaller_key(bound, more):
    import torch

    number = np.float32(max(bound * (1 + abs(more)), np.nextafter(np.float32(bound), np.float32(9))))
    key = torch.tensor([float(number)]).bfloat16().view(torch.int16).numpy()
    assert key[0] >= bf16.cut_keys(np.array([bound]))[0]
    assert bf16.value_below(key)[0] <= number


def test_torch_is_loaded_only_where_it_pays(monkeypatch):
    import sys

    monkeypatch.setattr(bf16, "fast_precisions", lambda: frozenset({"bfloat16"}))
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would raise
    bf16.expect(bf16.LOAD_FROM - 1)
    with pytest.raises(ImportError):
        bf16.expect(bf16.LOAD_FROM)
    monkeypatch.setattr(bf16, "fast_precisions", frozenset)
    bf16.expect(2 * bf16.LOAD_FROM)
    assert not bf16.ready()
