import numpy as np
import pytest

from curate.scores.dfn.formula import adapted, label_losses, pair_scores


def unit(rng, n, d=6):
    rows = rng.standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_adapted_by_definition():
    rng = np.random.default_rng(0)
    rows, weight, bias = unit(rng, 300), rng.standard_normal((2, 6, 6)), rng.standard_normal((2, 6))
    found = adapted(rows, weight, bias)
    for row, got in zip(rows, found, strict=True):
        parts = []
        for member in range(2):
            moved = row + np.array([row @ weight[member][i] for i in range(6)]) + bias[member]
            parts.append(moved / np.linalg.norm(moved))
        np.testing.assert_allclose(got, np.concatenate(parts) / np.sqrt(2), atol=1e-12)


def test_one_member_of_nothing_changes_nothing():
    rows = unit(np.random.default_rng(1), 5)
    np.testing.assert_allclose(adapted(rows, np.zeros((1, 6, 6)), np.zeros((1, 6))), rows, atol=1e-15)
    assert adapted(rows[:0], np.zeros((1, 6, 6)), np.zeros((1, 6))).shape == (0, 6)


def test_pair_scores_by_definition():
    rng = np.random.default_rng(2)
    image, text = unit(rng, 40), unit(rng, 40)
    back = image[30:], text[30:]  # the last pairs are in the background themselves
    score, loss = pair_scores(image, text, *back, 9.0)
    for i in range(40):
        own = 9.0 * float(image[i] @ text[i])
        i2t = [own] + [9.0 * float(image[i] @ back[1][j]) for j in range(10) if i != 30 + j]
        t2i = [own] + [9.0 * float(text[i] @ back[0][j]) for j in range(10) if i != 30 + j]
        want = (np.log(np.exp(i2t).sum()) + np.log(np.exp(t2i).sum())) / 2 - own
        assert score[i] == pytest.approx(own / 9.0, abs=1e-6)
        assert loss[i] == pytest.approx(want, abs=1e-5)


def test_a_row_has_its_score_whatever_is_around_it():
    rng = np.random.default_rng(3)
    image, text = unit(rng, 600).astype(np.float32), unit(rng, 600).astype(np.float32)
    weight, bias = 0.3 * rng.standard_normal((2, 6, 6)), np.zeros((2, 6))

    def scored(rows):
        u, v = adapted(image[rows], weight, bias), adapted(text[rows], weight, bias)
        back = adapted(image[:50], weight, bias), adapted(text[:50], weight, bias)
        return np.stack(pair_scores(u, v, *back, 30.0), 1)

    whole = scored(np.arange(600))
    turned = rng.permutation(600)
    assert np.array_equal(scored(turned), whole[turned])
    for rows in (turned[:1], turned[:255], turned[:257]):
        assert np.array_equal(scored(rows), whole[rows])


def test_edges_of_pair_scores():
    one = np.eye(3)
    score, loss = pair_scores(one, one, one[:0], one[:0], 100.0)  # nothing to be held against
    assert score.tolist() == [1, 1, 1]
    assert loss.tolist() == [0, 0, 0]
    score, loss = pair_scores(one[:1], one[:1], one[:1], one[:1], 100.0)  # but the pair itself
    assert (score.tolist(), loss.tolist()) == ([1.0], [0.0])
    assert [len(part) for part in pair_scores(one[:0], one[:0], one, one, 1.0)] == [0, 0]
    # A scale of 100 overflows float32 without care.
    assert np.isfinite(pair_scores(one, -one, one, -one, 100.0)[1]).all()


def test_label_losses_by_definition():
    rng = np.random.default_rng(4)
    image, weight, bias, label = (
        unit(rng, 7),
        rng.standard_normal((4, 6)),
        rng.standard_normal(4),
        rng.integers(0, 4, 7),
    )
    p, loss = label_losses(image, weight, bias, label)
    for i in range(7):
        logits = np.array([weight[c] @ image[i] + bias[c] for c in range(4)])
        want = np.exp(logits[label[i]]) / np.exp(logits).sum()
        assert p[i] == pytest.approx(want, abs=1e-6)
        assert loss[i] == pytest.approx(-np.log(want), abs=1e-5)
