import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError
from tests.fixtures import trained_formulas
from tests.reference.el2n import el2n, errors
from tests.reference.grand import grand_linear, grand_mlp, relu_deltas
from tests.reference.losses import loss


def forward(x, layers):
    """Inputs of every layer, and the logits, of a ReLU network given as [(W, b), ...]."""
    inputs = [x]
    for weight, bias in layers[:-1]:
        inputs.append(np.maximum(inputs[-1] @ weight.T + bias, 0))
    weight, bias = layers[-1]
    return inputs, inputs[-1] @ weight.T + bias


def by_finite_differences(x, y, layers, bias=True, step=1e-5):
    """Gradient norm of one sample's loss, a parameter at a time."""
    total = 0.0
    for layer in layers:
        for parameter in layer[: 1 + bias]:
            for place in np.ndindex(parameter.shape):
                kept = parameter[place]
                ends = []
                for sign in (1, -1):
                    parameter[place] = kept + sign * step
                    ends.append(loss(forward(x[None], layers)[1], np.array([y]))[0])
                parameter[place] = kept
                total += ((ends[0] - ends[1]) / (2 * step)) ** 2
    return total**0.5


def network(rng, *widths):
    return [
        (rng.standard_normal((out, into)), rng.standard_normal(out))
        for into, out in itertools.pairwise(widths)
    ]


def closed_form(x, labels, layers, bias=True):
    inputs, logits = forward(x, layers)
    error = errors(logits, labels, of="logits")
    return grand_mlp(inputs, relu_deltas(error, [w for w, _ in layers[1:]], inputs[1:]), bias=bias)


def trained_form(x, labels, layers, bias=True):
    """The same by the formulas that heads are scored with."""
    inputs, logits = forward(x, layers)
    return trained_formulas.grand_of_layers(inputs, logits, labels, [w for w, _ in layers[1:]], bias)


def test_head_without_weights():
    """At W = 0 the score is only the length of the input."""
    x, labels = np.array([[3.0, 4.0]]), np.array([0])
    score = el2n(np.zeros((1, 2)), labels, of="logits")
    assert score[0] == pytest.approx(0.707107, abs=1e-6)
    assert grand_linear(score, x)[0] == pytest.approx(3.605551, abs=1e-6)
    assert grand_linear(score, x, bias=False)[0] == pytest.approx(3.535534, abs=1e-6)


def test_unit_inputs_say_what_el2n_says():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    score = el2n(x @ rng.standard_normal((6, 5)), rng.integers(0, 5, 40), of="logits")
    np.testing.assert_allclose(grand_linear(score, x) / score, 1.414214, atol=1e-6)


def test_hand_value_of_two_layers():
    x, labels, eye = np.array([[1.0, 0.0]]), np.array([0]), (np.eye(2), np.zeros(2))
    logits = forward(x, [eye, eye])[1]
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(p, [[0.731059, 0.268941]], atol=1e-6)
    assert el2n(p, labels)[0] == pytest.approx(0.380341, abs=1e-6)
    assert closed_form(x, labels, [eye, eye])[0] == pytest.approx(0.658769, abs=1e-6)
    assert trained_form(x, labels, [eye, eye])[0] == pytest.approx(0.658769, abs=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3), (3, 4, 4, 2)])
def test_finite_differences(widths, bias):
    rng = np.random.default_rng(len(widths))
    layers = network(rng, *widths)
    x, labels = rng.standard_normal((6, widths[0])), rng.integers(0, widths[-1], 6)
    got = closed_form(x, labels, layers, bias)
    want = [by_finite_differences(x[i], labels[i], layers, bias) for i in range(6)]
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(trained_form(x, labels, layers, bias), want, atol=1e-6)
    if len(widths) == 2:
        score = el2n(forward(x, layers)[1], labels, of="logits")
        np.testing.assert_allclose(grand_linear(score, x, bias=bias), got, rtol=1e-12)


@given(st.integers(0, 20), st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_seeds_batches_and_precision(n, seeds, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((n, 4)), rng.integers(0, 3, n)
    networks = [network(rng, 4, 5, 3) for _ in range(seeds)]
    apart = np.array([closed_form(x, labels, layers) for layers in networks]).reshape(seeds, n)
    hidden = np.stack([forward(x, layers)[0][1] for layers in networks])
    error = np.stack([errors(forward(x, layers)[1], labels, of="logits") for layers in networks])
    last = np.stack([layers[1][0] for layers in networks])
    deltas = relu_deltas(error, [last], [hidden])
    together = grand_mlp([x, hidden], deltas)
    np.testing.assert_allclose(together, apart, rtol=1e-12)
    for batch in (1, 7, 256):
        parts = [
            grand_mlp([x[part], hidden[:, part]], [delta[:, part] for delta in deltas])
            for part in (slice(i, i + batch) for i in range(0, n, batch))
        ]
        np.testing.assert_allclose(
            np.concatenate([*parts, np.empty((seeds, 0))], axis=1), together, atol=1e-9
        )
    single = grand_mlp(
        [x.astype(np.float32), hidden.astype(np.float32)], [delta.astype(np.float32) for delta in deltas]
    )
    np.testing.assert_allclose(single, together, rtol=2e-5, atol=2e-5)


def test_refuses():
    with pytest.raises(CurateError, match=r"must agree, got \(3,\), \(2, 4\)"):
        grand_linear(np.ones(3), np.ones((2, 4)))
    with pytest.raises(CurateError, match="one per layer, got 1 and 0"):
        grand_mlp([np.ones((1, 2))], [])
    with pytest.raises(CurateError, match=r"with one n, got \[1, 2\]"):
        grand_mlp([np.ones((1, 2))], [np.ones((2, 2))])
