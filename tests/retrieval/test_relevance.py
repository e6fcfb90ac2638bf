"""Formulas of relevance against versions from the definition, loops and all, then their laws and edges."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curate.retrieval import relevance as formulas
from curate.retrieval.precision import cut_for

COSINES = st.floats(-1, 1, width=32)


def tables(rows=4, columns=6):
    return arrays(np.float64, (rows, columns), elements=COSINES)


@given(tables(), tables(3, 5), tables(2, 6), tables(2, 5), st.sampled_from([0.01, 0.034, 1.0]))
def test_relevance_is_bayes_over_lifts(cosines, _, bank, bank_ground, heat):
    ground = np.concatenate([bank_ground, bank_ground])
    where = formulas.location(ground, heat)
    other = formulas.something_else(formulas.log_lift(bank, formulas.location(bank_ground, heat), heat))
    found = formulas.posterior(formulas.log_lift(cosines, where, heat), other)

    def lift(cosine, background):
        return math.exp(cosine / heat) / (sum(math.exp(one / heat) for one in background) / len(background))

    for image in range(cosines.shape[1]):
        lifts = [lift(cosines[name, image], ground[name]) for name in range(len(cosines))]
        rest = sum(lift(bank[text, image], bank_ground[text]) for text in range(len(bank))) / len(bank)
        for name, one in enumerate(lifts):
            assert found[name, image] == pytest.approx(one / (sum(lifts) + rest), rel=1e-6, abs=1e-12)
    assert (found >= 0).all() and (found.sum(axis=0) <= 1 + 1e-12).all()


@given(tables(3, 4), arrays(np.float64, (14, 4), elements=COSINES))
def test_surplus_is_over_the_ten_nearest_texts(cosines, bank):
    found = formulas.surplus(cosines, bank)
    for image in range(4):
        nearest = sorted(bank[:, image], reverse=True)[:10]
        for name in range(3):
            assert found[name, image] == pytest.approx(cosines[name, image] - sum(nearest) / 10)
    assert np.array_equal(formulas.best_surplus(cosines, bank), found.max(axis=1))


def test_a_query_that_likes_all_images_alike_has_no_lift():
    flat = np.full((1, 5), 0.7)
    assert formulas.log_lift(flat, formulas.location(flat, 0.01), 0.01) == pytest.approx(0)


@given(tables(1, 5), st.floats(-0.5, 0.5))
def test_the_map_depends_on_the_query_not_on_where_its_cosines_lie(cosines, shift):
    first = formulas.log_lift(cosines, formulas.location(cosines, 0.05), 0.05)
    moved = cosines + shift
    assert formulas.log_lift(moved, formulas.location(moved, 0.05), 0.05) == pytest.approx(first, abs=1e-6)


def test_no_images():
    none = np.empty((2, 0))
    assert formulas.best_surplus(none, np.empty((3, 0))).tolist() == [-2.0, -2.0]
    assert formulas.posterior(none, np.empty(0)).shape == (2, 0)


@pytest.mark.parametrize("covered, least, most", [(1.0, 0.5, 1.0), (0.5, 0.25, 0.5), (0.0, 0.0, 0.0)])
def test_where_captions_decide(covered, least, most):
    found = formulas.by_captions(np.linspace(0, 1, 5), np.full(5, covered))
    assert (found[0], found[-1]) == (least, most) and (np.diff(found) >= 0).all()


@given(st.lists(st.floats(0, 1, width=16), max_size=12), st.floats(0.05, 0.95))
def test_a_cut_for_a_precision_is_the_least_that_has_it(values, wanted):
    values = np.array(values)
    good = [cut for cut in values if values[values >= cut].mean() >= wanted]
    found = cut_for(values, wanted)
    assert found == (min(good) if good else None)
