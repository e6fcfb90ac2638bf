"""The table of edge cases, a row each, and what scores are for: wrong labels come out on top."""

import numpy as np

from curate.hashing import hash_uids
from curate.scores.fuse import normalise
from curate.scores.heads.dynamics import Moments
from curate.scores.noise.noise import label_noise
from curate.scores.pair.formula import batches, pair_scores
from curate.scores.reliability import mean_spearman, spearman_brown
from curate.scores.status import label_status, status_names
from tests.reference.dynamics import forgetting, neg_aum
from tests.reference.el2n import el2n, errors
from tests.reference.grand import grand_linear, grand_mlp
from tests.reference.losses import loss, margin_logit, p_label
from tests.reference.status import value_status


def supervised(logits, labels):
    """All columns of a head, and the status of each row."""
    error = errors(logits, labels, of="logits")
    columns = {
        "el2n": el2n(logits, labels, of="logits"),
        "grand": grand_mlp([np.ones((len(logits), 2))], [error]),
        "loss": loss(logits, labels),
        "p_label": p_label(logits, labels),
        "neg_aum": neg_aum(margin_logit(logits, labels)[None]),
    }
    return columns, status_names(label_status(labels))


def unit_pairs(n, d=6):
    rng = np.random.default_rng(n)
    image, text = rng.standard_normal((2, n, d))
    return [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (image, text)]


def paired(image, text, **more):
    hashes = hash_uids(map(str, range(len(image))), 0)
    got, status = pair_scores(image, text, hashes, temperature=0.07, **more)
    return got.nce, status_names(status).tolist()


def test_single_class():
    columns, status = supervised(np.zeros((3, 1)), np.zeros(3, int))
    assert all(np.isnan(values).all() for values in columns.values())
    assert status.tolist() == ["single_class"] * 3
    assert set(status_names(label_status(np.full(4, 7)))) == {"single_class"}


def test_class_with_one_sample():
    labels = np.array([0, 0, 1, 1, 2])
    assert status_names(label_status(labels, 2)).tolist() == ["ok"] * 4 + ["class_too_small"]
    assert set(status_names(label_status(labels))) == {"ok"}


def test_missing_label():
    columns, status = supervised(np.eye(3), np.array([0, -1, 2]))
    for values in columns.values():
        assert np.isfinite(values).tolist() == [True, False, True]
    assert status.tolist() == ["ok", "no_label", "ok"]
    assert paired(*unit_pairs(3))[1] == ["ok"] * 3


def test_logits_that_are_not_finite():
    logits = np.stack([np.eye(3), np.eye(3)])
    logits[0, 1, 0], logits[:, 2, 1] = np.nan, np.inf
    labels = np.arange(3)
    seeds = [loss(z, labels) for z in logits]
    moments = sum(map(Moments.of, seeds), Moments.zeros(3))
    assert moments.n_obs.tolist() == [2, 1, 0]
    assert status_names(value_status(moments.means())).tolist() == ["ok", "ok", "nonfinite"]
    assert el2n(logits, labels, of="logits")[1] == el2n(logits[1], labels, of="logits")[1]
    assert set(status_names(label_noise(np.full(60, np.nan), "loss", None)[1])) == {"nonfinite"}


def test_batch_of_one_and_short_last_batch():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((257, 4)), rng.integers(0, 4, 257)
    whole, _ = supervised(logits, labels)
    for size in (1, 7, 256):
        parts = [supervised(logits[i : i + size], labels[i : i + size])[0] for i in range(0, 257, size)]
        for name, values in whole.items():
            np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), values, atol=1e-9)
    values, status = paired(*unit_pairs(1))
    assert np.isnan(values).all() and status == ["no_negatives"]
    assert {len(rows) for _, rows in batches(np.arange(257, dtype=np.uint64), 256)} == {128, 129}


def test_all_scores_equal():
    assert normalise(np.full(5, 3.0)).tolist() == normalise(np.full(5, 3.0), "minmax").tolist() == [0.5] * 5
    assert np.isnan(mean_spearman(np.ones((3, 5)), np.arange(5, dtype=np.uint64)))


def test_all_negative_scores():
    assert normalise(np.array([-3.0, -2.0, -1.0]), "minmax").tolist() == [0, 0.5, 1]


def test_probability_of_exactly_zero():
    assert el2n(np.array([[0.0, 1.0]]), np.array([0])) <= np.sqrt(2) + 1e-15
    columns, _ = supervised(np.array([[-2000.0, 2000.0]]), np.array([0]))
    assert columns["loss"] == [4000] and columns["p_label"] == [0]


def test_duplicates():
    image, text = unit_pairs(4)
    image[1], text[1] = image[0], text[0]
    text = image.copy()
    plain, masked = paired(image, text)[0], paired(image, text, caption=np.array([5, 5, 6, 7]))[0]
    assert plain[0] >= np.log(2) and masked[0] < plain[0] - 0.6


def test_zero_norm():
    image, text = unit_pairs(4)
    image[2], text[3] = 0, 0
    values, status = paired(image, text)
    assert status == ["ok", "ok", "zero_norm", "zero_norm"] and np.isnan(values[2:]).all()


def test_missing_caption():
    image, text = unit_pairs(4)
    values, status = paired(image, text, has_text=np.array([True, False, True, True]))
    assert status[1] == "no_text" and np.isnan(values).tolist() == [False, True, False, False]


def test_fewer_than_a_batch_and_none():
    assert paired(*unit_pairs(3), batch=4096)[1] == ["ok"] * 3
    values, status = paired(np.empty((0, 6), np.float32), np.empty((0, 6), np.float32))
    assert values.shape == (0,) and status == []
    columns, status = supervised(np.empty((0, 3)), np.empty(0, int))
    assert all(column.shape == (0,) for column in columns.values()) and len(status) == 0
    assert forgetting(np.empty((2, 0), bool)).shape == label_noise(np.empty(0), "loss", None)[0].shape == (0,)


def test_zero_is_an_ordinary_number():
    """Seed 0, epoch 0 and label code 0."""
    assert forgetting(np.array([[True], [False]])).tolist() == [1]
    assert supervised(np.eye(2), np.zeros(2, int))[1].tolist() == ["single_class"] * 2
    assert np.isfinite(supervised(np.eye(2), np.array([0, 1]))[0]["el2n"]).all()
    first = next(batches(np.arange(9, dtype=np.uint64), 4, 2))
    assert first[0] == 0


def test_shuffled_rows():
    image, text = unit_pairs(40)
    hashes = hash_uids(map(str, range(40)), 0)
    moved = np.random.default_rng(0).permutation(40)
    plain = pair_scores(image, text, hashes, temperature=0.07, batch=9)[0]
    again = pair_scores(image[moved], text[moved], hashes[moved], temperature=0.07, batch=9)[0]
    np.testing.assert_array_equal(again.nce_norm, plain.nce_norm[moved])


def trained(x, labels, n_classes, seeds, epochs=5, batch=128, rate=0.1):
    """Train linear heads from zero, a seed each with its own order; yield the logits of every epoch."""
    n, d = x.shape
    rngs = [np.random.default_rng(seed) for seed in range(seeds)]
    weight, bias = np.zeros((seeds, n_classes, d)), np.zeros((seeds, 1, n_classes))
    hot = np.eye(n_classes)[labels]
    for _ in range(epochs):
        orders = np.stack([rng.permutation(n) for rng in rngs])
        for start in range(0, n, batch):
            rows = orders[:, start : start + batch]
            logits = x[rows] @ weight.transpose(0, 2, 1) + bias
            powers = np.exp(logits - logits.max(axis=2, keepdims=True))
            error = (powers / powers.sum(axis=2, keepdims=True) - hot[rows]) / rows.shape[1]
            weight -= rate * error.transpose(0, 2, 1) @ x[rows]
            bias -= rate * error.sum(axis=1, keepdims=True)
        yield x @ weight.transpose(0, 2, 1) + bias


def test_wrong_labels_are_the_hardest_until_aum_takes_them_out():
    """10 % flipped labels fill the hardest tenth by EL2N; a cut by AUM leaves few of them there."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    n, d, n_classes = 5000, 32, 10
    centres = rng.standard_normal((n_classes, d))
    centres *= 3 / np.linalg.norm(centres, axis=1, keepdims=True)
    truth = rng.integers(0, n_classes, n)
    x = centres[truth] + rng.standard_normal((n, d))
    flipped = np.zeros(n, bool)
    flipped[rng.permutation(n)[: n // 10]] = True
    labels = np.where(flipped, (truth + rng.integers(1, n_classes, n)) % n_classes, truth)
    margins = []
    for logits in trained(x, labels, n_classes, 10):
        margins.append(margin_logit(logits, labels))
    score = el2n(logits, labels, of="logits")
    assert roc_auc_score(flipped, score) > 0.95
    hardest = score.argsort()[n - n // 10 :]
    assert flipped[hardest].mean() > 0.8
    aum = neg_aum(np.stack(margins, axis=1))
    left = aum.argsort()[: n - n // 10]
    hardest_left = left[score[left].argsort()[len(left) - len(left) // 10 :]]
    assert flipped[hardest_left].mean() < 0.2
    each = np.stack([el2n(z, labels, of="logits") for z in logits])
    reliability = mean_spearman(each, hash_uids(map(str, range(n)), 0))
    assert 0.5 < reliability <= spearman_brown(reliability, 10) <= 1
    grand = grand_linear(each, x).mean(axis=0)
    assert roc_auc_score(flipped, grand) > 0.95
