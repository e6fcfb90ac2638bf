"""Calibration: epsilon is a quantile of distances, and shares say whether the model can tell copies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.deduplication.calibration import BEYOND, MOST_NEAR, Calibration, calibrate, epsilon_for

DISTANCES = st.lists(st.floats(1e-5, 0.9), min_size=1, max_size=60)


@given(DISTANCES, st.floats(0.01, 0.99))
def test_epsilon_is_the_quantile_rounded_up_to_three_digits(distances, recall):
    found, wanted = epsilon_for(np.array(distances), recall), float(np.quantile(distances, recall))
    assert wanted * (1 - 1e-6) <= found <= wanted * 1.011
    assert len(f"{found:.12g}".replace("0.", "").lstrip("0").split("e")[0].replace(".", "")) <= 3


@pytest.mark.parametrize(("distances", "epsilon"), [([], 1e-6), ([0.0, 0.0], 1e-6), ([1.5, 1.5], 0.999)])
def test_epsilon_stays_where_it_can_be(distances, epsilon):
    assert epsilon_for(np.array(distances), 0.9) == epsilon


@given(DISTANCES, st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.1, 0.9))
def test_shares_count_the_nearest_samples(copies, nearest, recall):
    to_copies = 1 - np.array(copies, np.float32)[None]
    to_nearest = 1 - np.array(nearest, np.float32)
    found = calibrate(to_copies, to_nearest, recall)
    assert found.epsilon == epsilon_for(1 - to_copies.astype(np.float64), recall)
    distance = [1 - float(one) for one in to_nearest]
    assert found.near == sum(one < found.epsilon for one in distance) / len(nearest)
    within = sum(one < BEYOND * found.epsilon for one in distance) / len(nearest)
    assert found.beyond == pytest.approx(within - found.near)
    assert (found.images, found.copies, found.recall) == (len(nearest), len(copies), recall)


def test_an_image_alone_in_its_concept_has_nothing_near():
    found = calibrate(np.full((2, 3), 0.9, np.float32), np.array([np.nan, 0.95], np.float32), 0.9)
    assert (found.near, found.beyond) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("near", "beyond", "tells"), [(0.03, 0.3, True), (0.4, 0.04, True), (0.4, 0.2, False), (0.0, 0.0, True)]
)
def test_a_model_cannot_tell_copies_where_much_is_as_near_and_much_just_beyond(near, beyond, tells):
    found = Calibration(0.01, 250, 750, 0.9, near, beyond)
    assert found.tells_copies == tells and MOST_NEAR == 0.05
    assert found.proposing == (0.01 if tells else 0.04)
    assert Calibration(0.5, 250, 750, 0.9, near, beyond).proposing < 1
