"""Scores of the course of training: formulas, what is kept of epochs, and trained heads against heads of each epoch."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from curate.errors import UsageError
from curate.recipe import Heads
from curate.recipe.loading import parse_recipe
from curate.scores.heads.course import (
    ALPHA,
    LAMBDA,
    MARGIN,
    Course,
    course_columns,
    kl_change,
    ldr_temperature,
)
from curate.scores.in_memory import score
from curate.scores.registry import require_score
from tests.fixtures.trained_heads import SMALL, N, clusters, directly, names
from tests.reference.dynamics import mdl_hardness
from tests.reference.losses import softmax

ALL = ("mdl", "tdds", "dual", "aldr")


# Formulas


def test_the_change_of_predictions_is_that_of_the_published_code():
    rng = np.random.default_rng(0)
    now, before = (4 * rng.standard_normal((50, 5)) for _ in range(2))
    p, q = softmax(now), softmax(before)
    want = np.abs(p * (np.log(p) - np.log(q))).sum(axis=1)
    got = kl_change(torch.from_numpy(now), torch.from_numpy(before)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert kl_change(torch.from_numpy(now), torch.from_numpy(now)).tolist() == [0.0] * 50


def test_the_temperature_is_the_definition():
    rng = np.random.default_rng(1)
    logits, label = 3 * rng.standard_normal((40, 4)), rng.integers(0, 4, 40)
    before = rng.uniform(0.5, 1.0, 40)
    got = ldr_temperature(torch.from_numpy(logits), torch.from_numpy(label), torch.from_numpy(before)).numpy()
    for row in range(40):
        z = [logits[row, k] + (0.0 if k == label[row] else MARGIN) for k in range(4)]
        (p,) = softmax(np.array([z]) / before[row])
        certain = sum(one * np.log(one / 0.25) for one in p)
        assert got[row] == pytest.approx(LAMBDA * (1 - certain / (ALPHA * np.log(4))), rel=1e-12)
    assert (got >= LAMBDA / 2).all()
    assert (got <= LAMBDA).all()
    even = ldr_temperature(torch.zeros(1, 3), torch.tensor([0]), torch.ones(1, dtype=torch.float64))
    assert float(even[0]) == pytest.approx(LAMBDA, abs=2e-3), "nothing is known of the row"


# What is kept of epochs


def fed(p_label, change, looks, window):
    """Feed (E, seeds, n) values to a course of all scores in two blocks of rows."""
    epochs, seeds, n = p_label.shape
    course = Course(ALL, n, seeds, window)
    for at in (slice(0, n // 2), slice(n // 2, n)):
        for seed in range(seeds):
            for look in looks[:, seed, at]:
                course.add_look(at, look)
            for epoch in range(1, epochs + 1):
                moved = None if epoch == 1 else change[epoch - 2, seed, at]
                course.add_epoch(at, seed, epoch, p_label[epoch - 1, seed, at], moved)
    return course.columns()


@pytest.mark.parametrize(("epochs", "window"), [(3, 3), (7, 3), (7, 7), (9, 4)])
def test_windows_are_those_of_all_epochs(epochs, window):
    rng = np.random.default_rng(epochs)
    seeds, n = 3, 11
    p_label, looks = rng.random((epochs, seeds, n)).astype(np.float32), rng.random((5, seeds, n))
    change = rng.random((epochs - 1, seeds, n)).astype(np.float32)
    found = fed(p_label, change, looks, window)
    first = range(epochs - window + 1)
    dual = [
        np.mean([(1 - p_label[k : k + window, s].mean(axis=0)) * p_label[k : k + window, s].std(axis=0, ddof=1) for k in first], axis=0)
        for s in range(seeds)
    ]  # fmt: skip
    np.testing.assert_allclose(found["dual"], np.mean(dual, axis=0), rtol=1e-5)
    total = np.zeros((seeds, n))
    for k in first:
        part = change[k : k + window - 1].astype(np.float64)
        total += 0.9 * 0.1 ** (first[-1] - k) * np.linalg.norm(part - part.mean(axis=0), axis=0)
    np.testing.assert_allclose(found["tdds"], total.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["mdl_hardness"], mdl_hardness(looks.reshape(-1, n)), rtol=1e-12)


def test_a_row_without_finite_values_has_no_score_and_a_bad_seed_does_not_count():
    p_label = np.full((4, 2, 3), 0.5, np.float32)
    p_label[1:] = 0.75
    p_label[:, :, 0], p_label[2, 0, 1] = np.nan, np.nan
    change = np.ones((3, 2, 3), np.float32)
    change[0] = 2.0
    change[:, :, 0], change[1, 0, 1] = np.nan, np.nan
    found = fed(p_label, change, p_label[:1], 4)
    for name in ("dual", "tdds", "mdl_hardness"):
        assert np.isnan(found[name][0]), name
        assert found[name][1] == found[name][2] > 0, name


def test_no_rows():
    assert {name: len(values) for name, values in Course(ALL, 0, 2, 3).columns().items()} == dict.fromkeys(
        course_columns(ALL), 0
    )


@pytest.mark.parametrize("labels", [[None] * 3, ["cat", "dog", "cat"]])
def test_rows_of_which_none_is_trained_on_have_the_columns(labels):
    """Without labels, or with classes that are too small."""
    rng = np.random.default_rng(0)
    family = Heads(**{**SMALL, "epochs": 4}, dynamics=(*ALL, "calibrated"))
    found = score(rng.standard_normal((3, 8)).astype(np.float32), family, labels=labels)
    for name in course_columns((*ALL, "calibrated")):
        assert found[name].null_count() == 3, name


# Trained heads


@pytest.fixture(scope="module", params=["mlp", "linear"])
def trained(request):
    """One seed on two classes: what `p_label` says of each epoch is all of a prediction."""
    kind = {"kind": request.param, "n_seeds": 1, "batch": 16}
    vectors, labels = clusters(n_classes=2)
    by_epoch = [
        directly(vectors, labels, epochs=epoch, **kind).p_label.astype(np.float64) for epoch in range(1, 6)
    ]
    return np.array(by_epoch), directly(vectors, labels, epochs=5, dynamics=ALL, window=3, **kind)


def test_dual_of_heads_is_that_of_heads_of_each_epoch(trained):
    p_label, found = trained
    windows = [p_label[k : k + 3] for k in range(3)]
    want = np.mean([(1 - one.mean(axis=0)) * one.std(axis=0, ddof=1) for one in windows], axis=0)
    np.testing.assert_allclose(found.course["dual"], want, rtol=1e-3, atol=1e-7)


def test_tdds_of_heads_is_that_of_heads_of_each_epoch(trained):
    p_label, found = trained
    p = np.clip(np.stack([p_label, 1 - p_label], axis=2), 1e-12, 1)
    change = np.abs(p[1:] * (np.log(p[1:]) - np.log(p[:-1]))).sum(axis=2)
    want = np.zeros(N)
    for k in range(3):
        part = change[k : k + 2]
        want = 0.1 * want + 0.9 * np.linalg.norm(part - part.mean(axis=0), axis=0)
    np.testing.assert_allclose(found.course["tdds"], want, rtol=5e-2, atol=2e-4)


def test_temperatures_of_heads_are_those_of_heads_of_each_epoch(trained):
    p_label, found = trained
    value = np.full(N, LAMBDA)
    for p in np.clip(p_label, 1e-7, 1 - 1e-7):
        z = (np.log(p) - np.log1p(-p) - MARGIN) / value
        q = 1 / (1 + np.exp(-z))
        certain = (q * np.log(q) + (1 - q) * np.log1p(-q)) / np.log(2) + 1
        value = LAMBDA * (1 - certain / ALPHA)
    np.testing.assert_allclose(found.course["aldr_lambda"], value, atol=2e-3)


def test_mdl_of_one_step_is_that_of_the_first_epoch():
    vectors, labels = clusters()
    one = directly(vectors, labels, batch=4 * N, epochs=1, dynamics=("mdl",))
    np.testing.assert_allclose(one.course["mdl_hardness"], 1 - one.p_label, atol=1e-6)
    more = directly(vectors, labels, batch=16, epochs=1, dynamics=("mdl",))
    assert more.course["mdl_hardness"].mean() > (1 - more.p_label).mean(), "early looks know less"


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_other_columns_stay_as_they_are_and_workers_and_batches_change_nothing(kind):
    vectors, labels = clusters()
    plain = directly(vectors, labels, kind=kind, epochs=4)
    more = directly(vectors, labels, kind=kind, epochs=4, dynamics=ALL)
    for one in dataclasses.fields(plain):
        if one.name != "course":
            np.testing.assert_array_equal(getattr(plain, one.name), getattr(more, one.name), err_msg=one.name)
    assert not plain.course
    again = directly(vectors, labels, kind=kind, epochs=4, dynamics=ALL, workers=2, memory=0)
    for name, values in more.course.items():
        np.testing.assert_array_equal(values, again.course[name], err_msg=name)
        assert np.isfinite(values).all()


# As a family


def test_columns_of_the_family():
    vectors, labels = clusters()
    labels[:2] = [None] * 2
    family = Heads(**{**SMALL, "epochs": 4}, dynamics=["dual", "mdl"])
    found = score(vectors, family, labels=labels, uids=names())
    want = directly(vectors, labels, epochs=4, dynamics=("dual", "mdl"))
    for name in ("mdl_hardness", "dual"):
        np.testing.assert_array_equal(found[name].to_numpy(), want.course[name])
    assert found["dual"].null_count() == 2
    assert found.columns[-3:] == ["mdl_hardness", "dual", "heads_status"]
    assert "dual" not in score(vectors, Heads(**SMALL), labels=labels, uids=names()).columns
    assert isinstance(found, pl.DataFrame)


def test_fingerprints_are_those_of_before_without_the_setting():
    old = Heads(**SMALL).fingerprinted()
    assert not {"dynamics", "window"} & set(old)
    assert Heads(**SMALL, window=5).fingerprinted() == old
    assert Heads(**{**SMALL, "epochs": 4}, dynamics=["dual"]).fingerprinted()["window"] == 4


def test_a_column_that_a_setting_adds_is_named_with_it():
    values = {
        "run": "r",
        "source": {"path": "a.parquet"},
        "score": ["heads"],
        "select": {"method": "dual", "keep": 0.3},
    }
    with pytest.raises(
        UsageError, match=r"select.by: no score 'dual'; heads: \{dynamics: \[dual\]\} in score adds it"
    ):
        require_score(parse_recipe(values), "dual", "select.by")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dynamics": ["dual"]}, r"window must be at most epochs \(2\) for dual, got 4"),
        ({"dynamics": ["dual", "dual"]}, "dynamics must be different, got dual, dual"),
        ({"dynamics": ["mdl"], "kind": "concepts"}, "dynamics are of heads that are trained"),
        ({"dynamics": ["aum"]}, "'dual', 'aldr' or 'calibrated'"),
        ({"window": 2}, "greater than or equal to 3"),
    ],
)
def test_refusals(settings, said):
    with pytest.raises(ValidationError, match=said):
        Heads(**SMALL, **settings)
