"""Mixtures of groups: against whole rows by hand, a search for the factor, and what must hold of every mixture."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.api.select import select
from curate.errors import BudgetError, UsageError
from curate.selection.mixture import InMixture, mixture, weights_of
from curate.selection.rows.counterfactual import nearest_flip

BOUNDS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6
)


def by_definition(weights, lower, upper, total):
    """Return clip(t weight, lower, upper) for the t, found by halving, at which it adds up to `total`."""
    share = np.array([float(weight) for weight in weights])

    def at(t):
        return np.where(share > 0, np.clip(t * share, lower, upper), lower)

    low, high = 0.0, 1e4
    for _ in range(70):  # the sum rises with t
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() < total else (low, middle)
    return at(high)


@pytest.mark.parametrize(
    ("shares", "sizes", "total", "want"),
    [
        ({"web": 0.5, "photos": 0.5}, {"photos": 100, "web": 100}, 10, {"photos": 5, "web": 5}),
        ({"web": 0.5, "photos": 0.5}, {"photos": 2, "web": 100}, 10, {"photos": 2, "web": 8}),
        ({"web": 0.5}, {"books": 30, "news": 10, "web": 99}, 80, {"books": 30, "news": 10, "web": 40}),
        ({"web": 0.2}, {"books": 30, "news": 10, "web": 99}, 10, {"books": 6, "news": 2, "web": 2}),
        ({"web": 0.6, "photos": 0.2}, {"photos": 50, "web": 3, "x": 50}, 23, {"photos": 10, "web": 3, "x": 10}),
        ({"web": 1.0, "x": 0.0}, {"web": 9, "x": 9}, 4, {"web": 4, "x": 0}),
        ({"a": 0.5, "b": 0.5}, {"a": 5, "b": 5}, 3, {"a": 2, "b": 1}),
        ({"a": 0.5, "b": 0.5}, {"a": 5, "b": 5}, 0, {"a": 0, "b": 0}),
        ({"a": 1 / 3, "b": 1 / 3}, {"a": 5, "b": 5, "c": 0}, 10, {"a": 5, "b": 5, "c": 0}),
    ],
)  # fmt: skip
def test_by_hand(shares, sizes, total, want):
    names, upper = list(sizes), np.array(list(sizes.values()))
    found = mixture(weights_of(shares, names, upper), np.zeros_like(upper), upper, total, names)
    assert dict(zip(names, found.tolist(), strict=True)) == want


@settings(deadline=None)
@given(BOUNDS, st.data())
def test_by_search_and_its_laws(groups, data):
    weights = [Fraction(weight, 7) for weight, _, _ in groups]
    lower = np.array([min(one, other) for _, one, other in groups])
    upper = np.array([max(one, other) for _, one, other in groups])
    rising = np.array([weight > 0 for weight in weights])
    most = int(lower.sum() + (upper - lower)[rising].sum())
    total = data.draw(st.integers(int(lower.sum()), most))
    names = [f"g{place}" for place in range(len(groups))]
    found = mixture(weights, lower, upper, total, names)
    assert found.sum() == total and (found >= lower).all() and (found <= upper).all()
    exact = by_definition(weights, lower, upper, total)
    assert np.abs(found - exact).max() < 1 + 1e-6
    assert (found[~rising] == lower[~rising]).all()


@settings(deadline=None)
@given(BOUNDS, st.data())
def test_a_row_is_asked_about_at_every_number(groups, data):
    weights = tuple(Fraction(weight, 7) for weight, _, _ in groups)
    lower = np.array([min(one, other) for _, one, other in groups])
    upper = np.array([max(one, other) for _, one, other in groups])
    pinned = lower // 2
    group = data.draw(st.integers(0, len(groups) - 1))
    if upper[group] == pinned[group]:
        return
    place = data.draw(st.integers(1, int(upper[group] - pinned[group])))
    row = InMixture(weights, pinned, lower, upper, group, place)
    ((first, last),) = row.stretches
    for count in range(first, last + 1):
        assert row.side(count) in (0, 1 if row.keeps(count) else -1)
    now = data.draw(st.integers(first, last))
    other = [count for count in range(first, last + 1) if row.keeps(count) != row.keeps(now)]
    flip = nearest_flip(row, now)
    assert (flip is None) == (not other)
    assert flip is None or abs(flip.count - now) == min(abs(count - now) for count in other)


def test_what_cannot_be():
    half, names = [Fraction(1, 2)] * 2, ["a", "b"]
    with pytest.raises(BudgetError, match=r"9 rows are to keep, the groups with a share \(a, b\) have 7"):
        mixture(half, np.array([0, 0]), np.array([3, 4]), 9, names)
    with pytest.raises(BudgetError, match="add up to 5, more than the 4 rows to keep"):
        mixture(half, np.array([3, 2]), np.array([3, 4]), 4, names)
    with pytest.raises(UsageError, match=r"select\.shares: no row is of 'wep'; there are photos, web"):
        weights_of({"wep": 0.5}, ["photos", "web"], np.array([1, 2]))


def frame(n=400):
    rng = np.random.default_rng(0)
    kinds = rng.choice(["web", "photos", "books", None], n, p=[0.7, 0.1, 0.15, 0.05])
    return pl.DataFrame(
        {
            "uid": [f"u{i}" for i in range(n)], "kind": kinds, "pinned": [i % 50 == 0 for i in range(n)],
            "distance": rng.random(n), "concept": rng.integers(0, 5, n),
        }
    )  # fmt: skip


def test_a_frame_by_shares():
    data = frame()
    settings = {"per": "kind", "shares": {"web": 0.25, "photos": "25%"}, "min_per_group": 0}
    found = select(data, "quotas", count=100, prefer="hardest", **settings)
    assert found.sample(fraction=1.0, shuffle=True, seed=3).sort("uid")["keep"].sum() == 100
    again = select(
        data.sample(fraction=1.0, shuffle=True, seed=3), "quotas", count=100, prefer="hardest", **settings
    )
    assert again.sort("uid").equals(found.sort("uid"))
    kept = dict(found.filter("keep")["kind"].value_counts().iter_rows())
    sizes = dict(data["kind"].value_counts().iter_rows())
    assert kept["web"] == 25 and kept["photos"] == 25
    rest = sizes["books"] + sizes[None]
    assert abs(kept["books"] - 50 * sizes["books"] / rest) < 1
    for kind in ("web", "photos"):  # pinned ones, then the hardest: the farthest
        rows = found.filter((pl.col("kind") == kind) & ~pl.col("pinned"))
        assert rows.filter("keep")["distance"].min() > rows.filter(~pl.col("keep"))["distance"].max()
    assert found.filter("pinned")["keep"].all()


def test_drawn_rows_know_their_odds():
    found = select(frame(), "quotas", count=100, per="kind", shares={"web": 0.5}, prefer="random")
    web = found.filter((pl.col("kind") == "web") & ~pl.col("pinned"))
    assert web["inclusion_prob"].n_unique() == 1
    assert web["inclusion_prob"].sum() == pytest.approx(web["keep"].sum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per": "kind", "shares": {"web": 0.8, "photos": 0.4}}, "shares that add up to more than 0 and at most 1, got 1.2"),
        ({"per": "kind", "shares": {"web": 0}}, "more than 0 and at most 1, got 0"),
        ({"per": "kind", "shares": {"web": -1}}, r"shares.web must be in \[0, 1\], got -1"),
        ({"shares": {"web": 0.5}}, "takes shares with per label, source, split or a column, got per concept"),
        ({"per": "kidn", "shares": {"web": 0.5}}, "no column 'kidn'"),
        ({"per": "kind", "shares": {"wep": 0.5}}, "no row is of 'wep'; there are books, photos, web, no kind"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        select(frame(), "quotas", count=50, **settings)


def test_an_old_recipe_has_the_old_fingerprint():
    from curate.recipe import canonical
    from curate.selection.quotas import Quotas

    assert "shares" not in canonical(Quotas(keep=0.3))
    assert canonical(Quotas(keep=0.3, per="source", shares={"web": 0.5}))["shares"] == {"web": 0.5}
