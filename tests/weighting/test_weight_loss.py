import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError, RecipeError
from curate.weighting.effective_size import effective_by_group, effective_sample_size
from curate.weighting.loss import METHODS, cap_weights, focal_weights, loss_weights, shape

HAND = np.array([0.0, 1.0, 2.0, 4.0])
OUTLIER = np.array([0.0, 1.0, 2.0, 100.0])
TABLE = {
    ("linupper", 1.0): [0.123681, 0.203916, 0.336201, 0.336201],
    ("quadratic", 1.0): [0.146300, 0.309717, 0.397684, 0.146300],
    ("extremes", 1.0): [0.336201, 0.203916, 0.123681, 0.336201],
    ("linupper", 0.4): [0.034656, 0.120960, 0.422192, 0.422192],
    ("quadratic", 0.4): [0.048301, 0.314965, 0.588432, 0.048301],
    ("upper", 1.0): [0.150353, 0.193057, 0.247890, 0.408701],  # exp(0, 1/4, 1/2, 1), to sum 1
}
losses = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=1, max_size=30).map(np.array)
methods = st.sampled_from(METHODS[:4])


@pytest.mark.parametrize(("method", "r"), TABLE)
def test_table_by_hand(method, r):
    got = loss_weights(HAND, method, r=r, clip=None)
    np.testing.assert_allclose(got.weight, 4 * np.array(TABLE[method, r]), atol=4e-6)
    np.testing.assert_allclose(got.weight / 4, TABLE[method, r], atol=1e-6)


def test_effective_size_of_the_table():
    assert loss_weights(HAND, r=0.4, clip=None).effective == pytest.approx(2.686, abs=5e-4)


def test_layout_by_hand():
    assert shape(HAND, "extremes", 0.0, 4.0).tolist() == [1, 0.5, 0, 1]
    assert shape(HAND, "linupper", 0.0, 4.0, delta=2.0).tolist() == [0, 1, 2, 2]
    assert shape(HAND, "upper", 0.0, 4.0, delta=2.0).tolist() == [0, 0.5, 1, 2]
    assert shape(np.array([-1e308, 0, 1e308]), "quadratic", -1e308, 1e308).tolist() == [0, 1, 0]


def test_an_outlier_takes_most_unless_capped():
    plain = loss_weights(OUTLIER, r=0.4, clip=None).weight
    np.testing.assert_allclose(plain / 4, [0.0652, 0.0685, 0.0721, 0.7942], atol=5e-5)
    np.testing.assert_allclose(plain, [0.2608, 0.2741, 0.2882, 3.1769], atol=5e-5)
    assert loss_weights(OUTLIER, r=0.4).weight[3] / 4 == pytest.approx(0.7941, abs=5e-5)
    capped = loss_weights(OUTLIER, r=0.4, max_weight=2.0).weight
    assert capped[3] == 2.0 and capped.mean() == pytest.approx(1)
    np.testing.assert_allclose(capped[:3] / capped[0], plain[:3] / plain[0], rtol=0.01)


def by_definition(loss, method, r, delta, clip):
    lower, upper = np.quantile(loss, clip)
    if lower == upper:
        return np.ones(len(loss))
    h = 2 * delta * (np.clip(loss, lower, upper) - lower) / (upper - lower) - delta
    f = {
        "linupper": np.minimum(h + delta, delta), "quadratic": 1 - h**2 / delta**2, "extremes": abs(h),
        "upper": 0.5 * h + 0.5 * delta,
    }[method]  # fmt: skip
    return len(loss) * np.exp(f / r) / np.exp(f / r).sum()


@given(losses, methods, st.sampled_from([0.3, 1.0, 5.0]), st.sampled_from([0.5, 1.0]), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_by_definition_and_laws(loss, method, r, delta, seed):
    got = loss_weights(loss, method, r=r, delta=delta)
    np.testing.assert_allclose(got.weight, by_definition(loss, method, r, delta, (0.01, 0.99)), rtol=1e-6)
    assert got.weight.mean() == pytest.approx(1) and 1 - 1e-9 <= got.effective <= len(loss) * (1 + 1e-12)
    moved = np.random.default_rng(seed).permutation(len(loss))
    assert loss_weights(loss[moved], method, r=r, delta=delta).weight.tolist() == got.weight[moved].tolist()
    scaled = loss_weights(4 * loss, method, r=r, delta=delta).weight
    np.testing.assert_allclose(scaled, got.weight, rtol=1e-9)
    mirrored = loss_weights(-loss, method, r=r, delta=delta).weight
    if method in ("linupper", "upper"):
        order = np.argsort(loss, kind="stable")
        assert (np.diff(got.weight[order]) >= -1e-12).all()
    else:
        np.testing.assert_allclose(mirrored, got.weight, rtol=1e-6)


def test_upper_is_a_softmax_of_the_losses():
    """With r at half the range of the losses, the weights are exp(loss / range) times a constant."""
    weight = loss_weights(HAND, "upper", r=0.25, clip=None).weight
    np.testing.assert_allclose(weight, 4 * np.exp(HAND) / np.exp(HAND).sum(), rtol=1e-12)


def test_linupper_is_flat_above_the_middle():
    weight = loss_weights(np.linspace(0, 1, 101), clip=None).weight
    assert np.ptp(weight[50:]) < 1e-12 and (np.diff(weight[:51]) > 0).all()


@given(losses, methods, st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_that_are_not_finite_count_nowhere(loss, method, bad, data):
    place = data.draw(st.integers(0, len(loss)))
    got = loss_weights(np.insert(loss, place, bad), method)
    assert np.isnan(got.weight[place]) and not got.valid[place] and got.status[place] == "nonfinite"
    want = loss_weights(loss, method)
    assert np.delete(got.weight, place).tolist() == want.weight.tolist() and got.effective == want.effective
    assert set(np.delete(got.status, place)) == {"ok"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", [[0.7], [0.1] * 9, [0.0, 0.0], [-3.0] * 4])
def test_equal_losses_weigh_one(method, loss):
    assert loss_weights(np.array(loss), method, max_weight=1.0).weight.tolist() == [1.0] * len(loss)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows_and_only_bad_rows(method):
    assert loss_weights(np.array([]), method).weight.tolist() == []
    got = loss_weights(np.array([np.nan, np.inf]), method)
    assert np.isnan(got.weight).all() and got.effective == 0


@pytest.mark.parametrize("method", METHODS[:4])
def test_a_tiny_temperature_stays_finite(method):
    weight = loss_weights(np.array([0.0, 0, 1, 1, 0.3]), method, r=1e-6, clip=None).weight
    assert np.isfinite(weight).all() and weight.mean() == pytest.approx(1)


def test_focal():
    p = np.array([0.9, 0.5, 0.0])
    want = (1 - p) ** 2
    np.testing.assert_allclose(focal_weights(p), want * 3 / want.sum(), rtol=1e-12)
    known = loss_weights(-np.log(np.array([0.9, 0.5, 1e-9])), "focal", gamma=2.0).weight
    np.testing.assert_allclose(known, want * 3 / want.sum(), rtol=1e-6)
    assert focal_weights(np.ones(3)).tolist() == [1, 1, 1]
    assert focal_weights(p, gamma=0.0).tolist() == [1, 1, 1]
    assert focal_weights(p, max_weight=1.5).max() == 1.5
    with pytest.raises(CurateError, match=r"must be in \[0, 1\]"):
        focal_weights(np.array([1.1]))


def cap_by_iteration(weight, cap):
    weight, fixed = weight.copy(), np.zeros(len(weight), bool)
    while (weight > cap * (1 + 1e-12)).any():
        fixed |= weight > cap * (1 + 1e-12)
        weight[fixed] = cap
        rest = len(weight) - cap * fixed.sum()
        weight[~fixed] *= rest / weight[~fixed].sum()
    return weight


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), st.sampled_from([1.0, 1.1, 1.5, 3.0, 50.0]))
@settings(max_examples=150, deadline=None)
def test_cap_by_iteration(raw, cap):
    weight = np.array(raw) / np.mean(raw)
    got = cap_weights(weight, cap)
    assert got.max() <= max(cap, 1 + 1e-9) and got.mean() == pytest.approx(1)
    if cap > 1:
        np.testing.assert_allclose(got, cap_by_iteration(weight, cap), rtol=1e-6)
    else:
        np.testing.assert_allclose(got, 1)


def test_cap_where_the_others_are_zero():
    assert cap_weights(np.array([0.0, 0.0, 3.0]), 2.0).tolist() == [0.5, 0.5, 2.0]
    assert cap_weights(np.array([0.0, 0.0, 3.0]), 1.0).tolist() == [1, 1, 1]
    assert cap_weights(np.array([]), 1.0).tolist() == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "linear"}, "weight.method must be one of linupper, .*got 'linear'"),
        ({"r": 0}, "weight.r must be a finite number > 0, got 0"),
        ({"r": np.nan}, "weight.r must be .*, got nan"),
        ({"delta": -1}, "weight.delta must be .*, got -1"),
        ({"gamma": -1}, "weight.gamma must be .*, got -1"),
        ({"clip": (0.9, 0.1)}, "weight.clip must be two quantiles"),
        ({"max_weight": 0.5}, "weight.max_weight must be at least 1, got 0.5"),
        ({"max_weight": np.nan}, "weight.max_weight must be at least 1, got nan"),
    ],
)
def test_refusals(setting, message):
    with pytest.raises(RecipeError, match=message):
        loss_weights(HAND, **setting)
    if "max_weight" in setting:
        with pytest.raises(RecipeError, match=message):
            cap_weights(HAND, setting["max_weight"])


@given(st.lists(st.floats(0, 1e200), max_size=20))
def test_effective_size_by_definition(weights):
    weight = np.array(weights)
    top = weight.max(initial=0)
    want = (weight / top).sum() ** 2 / ((weight / top) ** 2).sum() if top else 0
    assert effective_sample_size(weight) == pytest.approx(want)


def test_effective_size_by_group():
    weight, group = np.array([1.0, 3, 1, np.nan, 0]), np.array([2, 0, 2, 2, 4])
    assert effective_by_group(weight, group, 5).tolist() == [1, 0, 2, 0, 0]
    assert effective_by_group(weight[:0], group[:0], 0).tolist() == []
    for wrong in (-1.0, np.inf):
        with pytest.raises(CurateError, match="finite and at least 0"):
            effective_sample_size(np.array([wrong]))
