from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import BudgetError, RecipeError
from curate.linalg import load_unit, row_dots
from curate.selection.diversity import Cosine, farthest_first, isolated, medoid, select_diverse

LINE = [0, 1, 1.1, 5, 9]


@dataclass
class Line:
    """|x - y| on a line; proposals off by up to `error`."""

    points: np.ndarray
    error: float = 0.0

    @property
    def n(self):
        return len(self.points)

    def exact(self, row, others):
        return np.abs(self.points[others] - self.points[row])

    def propose(self, row):
        noise = np.random.default_rng(row).uniform(-self.error, self.error, self.n)
        return self.exact(row, np.arange(self.n)) + noise

    def sums(self):
        return np.abs(self.points[:, None] - self.points).sum(axis=1)


def test_by_hand():
    metric = Line(np.array(LINE))
    assert isolated(metric) == 4 and medoid(metric) == 2
    assert farthest_first(metric, 3, 4).tolist() == [4, 0, 3]
    assert farthest_first(metric, 3, 2).tolist() == [2, 4, 3]


def by_definition(distance, n_keep, start):
    taken = [start]
    while len(taken) < n_keep:
        free = [i for i in range(len(distance)) if i not in taken]
        taken.append(max(free, key=lambda i: (min(distance[i][j] for j in taken), -i)))
    return taken[:n_keep]


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=20), st.sampled_from([0.0, 0.4, 3.0, 100.0]), st.data()
)
@settings(max_examples=150, deadline=None)
def test_by_definition_whatever_is_proposed(points, error, data):
    metric = Line(np.array(points, float), error)
    distance = np.abs(metric.points[:, None] - metric.points)
    start, n_keep = data.draw(st.integers(0, len(points) - 1)), data.draw(st.integers(0, len(points)))
    got = farthest_first(metric, n_keep, start).tolist()
    assert got == by_definition(distance, n_keep, start)
    assert len(set(got)) == n_keep
    nearest = [min((d for j, d in enumerate(row) if j != i), default=0) for i, row in enumerate(distance)]
    assert isolated(metric) == int(np.argmax(nearest))


def unit(n, d, seed, copies=False):
    rows = np.random.default_rng(seed).standard_normal((n, d))
    if copies and n > 1:
        rows[n // 2 :] = rows[: n - n // 2]
    return load_unit(rows.astype(np.float32))


@given(
    st.integers(1, 24), st.integers(1, 6), st.booleans(), st.sampled_from(["medoid", "isolated"]),
    st.integers(0, 10**6), st.data(),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_vectors_by_definition_in_any_order(n, d, copies, start, seed, data):
    vectors, rng = unit(n, d, seed, copies), np.random.default_rng(seed)
    tie, uid = rng.integers(0, 4, n).astype(np.uint64), np.array([f"u{i:02d}" for i in range(n)])
    n_keep = data.draw(st.integers(0, n))
    place = select_diverse(vectors, tie, uid, n_keep, start)
    assert sorted(place[place > 0].tolist()) == list(range(1, n_keep + 1))
    order = np.lexsort((uid, tie))
    x = vectors[order]
    distance = [np.clip(1 - row_dots(x, x[i : i + 1]), 0, 2).tolist() for i in range(n)]
    if n_keep:
        first = int(np.flatnonzero(place[order] == 1)[0])
        want = by_definition(distance, n_keep, first)
        assert np.argsort(place[order], kind="stable")[n - n_keep :].tolist() == want
        if start == "medoid":
            sums = np.sum(distance, axis=1)
            assert sums[first] == pytest.approx(sums.min(), abs=1e-5)
    moved = rng.permutation(n)
    again = select_diverse(vectors[moved], tie[moved], uid[moved], n_keep, start)
    assert again.tolist() == place[moved].tolist()
    if n_keep:
        less = select_diverse(vectors, tie, uid, n_keep - 1, start)
        assert (np.where(place == n_keep, 0, place) == less).all()


def test_proposals_stay_within_their_error():
    metric = Cosine(unit(300, 64, 0))
    everyone = np.arange(300)
    for row in range(0, 300, 30):
        assert np.abs(metric.propose(row) - metric.exact(row, everyone)).max() <= metric.error
    full = np.array([metric.exact(row, everyone).sum() for row in range(300)])
    np.testing.assert_allclose(metric.sums(), full, atol=1e-4)


def test_each_exact_distance_is_computed_once():
    class Counting(Cosine):
        def exact(self, row, others):
            asked.append(len(others))
            return super().exact(row, others)

    for copies, most in ((False, 4), (True, 100)):
        asked = []
        farthest_first(Counting(unit(200, 8, 1, copies)), 100, 0)
        assert sum(asked) <= most * 200


def test_copies_come_last_and_never_twice():
    x = load_unit(np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32))
    place = select_diverse(x, np.arange(4, dtype=np.uint64), np.array(list("abcd")), 4)
    assert place.tolist() == [1, 3, 4, 2]


def test_refusals():
    x, tie, uid = unit(3, 2, 0), np.arange(3, dtype=np.uint64), np.array(list("abc"))
    for wrong in (-1, 4):
        with pytest.raises(BudgetError, match="there are 3"):
            select_diverse(x, tie, uid, wrong)
        with pytest.raises(BudgetError, match="there are 5"):
            farthest_first(Line(np.array(LINE)), 6, 0)
    with pytest.raises(RecipeError, match="medoid or isolated, got 'first'"):
        select_diverse(x, tie, uid, 1, "first")
    assert select_diverse(x[:0], tie[:0], uid[:0], 0).tolist() == []


def greedy_coverage(similarity, n_keep):
    """Facility location, the other way to cover: only here, to compare with."""
    best, taken, gains = np.zeros(len(similarity)), [], []
    for _ in range(n_keep):
        gain = [np.maximum(best, row).sum() - best.sum() for row in similarity]
        row = max((i for i in range(len(gain)) if i not in taken), key=lambda i: (round(gain[i], 9), -i))
        taken.append(row)
        gains.append(gain[row])
        best = np.maximum(best, similarity[row])
    return taken, gains


def test_facility_location_by_hand():
    similarity = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0.1, 0], [0.1, 0.1, 1, 0.2], [0, 0, 0.2, 1]])
    taken, gains = greedy_coverage(similarity, 3)
    assert taken == [0, 2, 3] and gains == pytest.approx([2.0, 1.1, 0.8])
