"""Judges: what they learn, that weights count, and that nothing but rows and seed decides."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from curate.evaluation.judges import LabelJudge, PairJudge, network, perceptron
from curate.scores.heads.evaluation import fixed_threads

CLASSES = 3


@pytest.fixture(autouse=True)
def one_thread():
    with fixed_threads():
        yield


def points(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    return (rng.standard_normal((n, 6)) + 3 * np.eye(6)[labels]).astype(np.float32), labels


def labelled(labels=None, steps=60):
    (train, own), (test, judged) = points(300, 0), points(200, 1)
    own = own if labels is None else labels
    return LabelJudge(
        perceptron, torch.from_numpy(train), torch.from_numpy(test), own, judged, CLASSES, steps=steps
    )


def paired(steps=40):
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]

    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    images = unit(rng.standard_normal((300, 8)))
    texts = unit(images + 0.2 * images @ turn + 0.3 * rng.standard_normal((300, 8)))
    return PairJudge(images[:200], texts[:200], images[200:], texts[200:], steps)


def test_more_wrong_labels_are_a_worse_network():
    _, right = points(300, 0)
    wrong = right.copy()
    wrong[:150] = (wrong[:150] + 1) % CLASSES
    rows = np.arange(300)
    good, bad = (labelled(one).measure(rows, 0)["accuracy"] for one in (right, wrong))
    assert good > 0.9
    assert bad < good - 0.1


@pytest.mark.parametrize("judge", [labelled(), paired()], ids=["labels", "pairs"])
def test_equal_weights_are_no_weights_and_zero_weights_are_no_rows(judge):
    rows = np.arange(150)
    plain = judge.measure(rows, 3)
    assert judge.measure(rows, 3, np.full(150, 7.0, np.float32)) == pytest.approx(plain)
    heavy = np.where(rows < 75, 1.0, 0.01).astype(np.float32)
    assert judge.measure(rows, 3, heavy) != plain


def test_rows_of_little_weight_do_little_harm():
    _, labels = points(300, 0)
    labels[150:] = (labels[150:] + 1) % CLASSES
    judge, rows = labelled(labels), np.arange(300)
    light = np.where(rows < 150, 1.0, 0.001).astype(np.float32)
    assert judge.measure(rows, 0, light)["accuracy"] > judge.measure(rows, 0)["accuracy"] + 0.1


@pytest.mark.parametrize("judge", [labelled(steps=15), paired(15)], ids=["labels", "pairs"])
def test_results_depend_on_rows_and_seed_alone(judge):
    rows = np.arange(100)
    alone = [judge.measure(rows, seed) for seed in range(4)]
    torch.manual_seed(123)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: judge.measure(rows, seed), range(4)))
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_training_brings_pairs_together():
    judge = paired(200)
    before = PairJudge(judge.images, judge.texts, judge.test_images, judge.test_texts, 0).measure(
        np.arange(200), 0
    )
    after = judge.measure(np.arange(200), 0)
    assert after["recall_1"] > before["recall_1"]


def test_a_network_reads_pictures_as_they_are_prepared():
    labels = np.arange(60) % 2
    pictures = np.full((60, 1, 8, 8), 100, np.uint8)
    pictures[labels == 1, :, :4] = 180
    images = torch.from_numpy(pictures)
    judge = LabelJudge(network, images, images, labels, labels, 2, lambda batch: batch.float() / 100 - 1, 12)
    assert judge.measure(np.arange(60), 0)["accuracy"] == 1
