"""Rows that go as noise, and rows that a floor keeps, before a method chooses."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import select
from curate.errors import BudgetError, RecipeError, UsageError
from curate.recipe.loading import parse_select
from curate.recipe.select import canonical
from curate.selection.rows.first import find_first, floor_needs, floor_of

METHODS = {
    "random": {},
    "density": {"prefer": "random"},
    "prototypes": {},
    "hardest": {"by": "el2n"},
    "easiest": {"by": "el2n"},
    "middle": {"by": "el2n"},
    "stratified": {"by": "el2n", "cutoff": "el2n"},
    "weighted": {"by": "el2n"},
    "quotas": {},
    "diversity": {},
    "d2": {"by": "el2n"},
    "dual": {"by": "el2n", "mean": "noise"},
    "triage": {"by": "el2n", "uncertainty": "noise"},
}


def frame(n=300, seed=0, classes="abcdefgh"):
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(1, 60, len(classes))
    label = rng.choice(list(classes), n, p=sizes / sizes.sum()).tolist()
    vector = rng.standard_normal((n, 6)).astype(np.float32)
    return pl.DataFrame(
        {
            "uid": [f"u{row}" for row in range(n)],
            "concept": rng.integers(0, 5, n),
            "distance": rng.uniform(0, 1, n),
            "label": [None if rng.random() < 0.05 else one for one in label],
            "el2n": rng.uniform(0, 1, n),
            "noise": rng.uniform(0, 1, n),
            "pinned": rng.random(n) < 0.03,
            "vector": vector / np.linalg.norm(vector, axis=1, keepdims=True),
        }
    )


def kept(found):
    return set(found.filter("keep")["uid"])


def in_order(rows, method):
    """Return the uids in the order that a floor goes by."""
    if method in ("hardest", "easiest"):
        rows = rows.sort("el2n", descending=method == "hardest")
        return rows["uid"].to_list()
    if method == "prototypes":
        return rows.sort("distance", descending=True)["uid"].to_list()
    if method in ("random", "density"):
        ranked = select(rows.drop("concept").with_columns(pinned=False), "random", count=0)
        return ranked.sort("rank")["uid"].to_list()
    return None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per", ["label", "concept"])
def test_a_floor_keeps_the_first_rows_of_each_group_and_the_method_chooses_the_rest(method, per):
    rows = frame()
    found = select(rows, method, count=60, floor=4, floor_per=per, **METHODS[method])
    assert found["keep"].sum() == 60
    groups = found.filter(pl.col(per).is_not_null()).group_by(per).agg(pl.len(), pl.col("keep").sum())
    assert (groups["keep"] >= groups["len"].clip(0, 4)).all()
    order = in_order(rows, method)
    if order is None:
        return
    group = dict(zip(rows["uid"], rows[per], strict=True))
    pinned = set(rows.filter("pinned")["uid"])
    taken = {name: sum(group[uid] == name for uid in pinned) for name in set(group.values()) - {None}}
    floor = set()
    for uid in order:
        name = group[uid]
        if name is not None and uid not in pinned and taken[name] < 4:
            taken[name] += 1
            floor.add(uid)
    as_pinned = rows.with_columns(pinned=pl.col("uid").is_in(list(pinned | floor)))
    assert kept(found) == kept(select(as_pinned, method, count=60, **METHODS[method]))


@pytest.mark.parametrize("method", METHODS)
def test_the_noisiest_rows_go_and_the_method_chooses_among_the_others(method):
    rows = frame()
    found = select(rows, method, count=60, drop_noise=0.2, noise_by="noise", **METHODS[method])
    worst = rows.filter(~pl.col("pinned")).sort("noise", descending=True)["uid"][:60]
    cut = found.filter(pl.col("reason") == "cutoff:noise")
    assert set(cut["uid"]) == set(worst)
    assert not cut["keep"].any()
    rest = rows.filter(~pl.col("uid").is_in(worst.to_list()))
    assert kept(found) == kept(select(rest, method, count=60, **METHODS[method]))
    assert found["keep"].sum() == 60


def test_all_keeps_what_is_left_of_noise():
    found = select(frame(), "all", drop_noise=0.25, noise_by="noise")
    assert dict(found["reason"].value_counts().iter_rows()) == {
        "kept": 225 - frame()["pinned"].sum(), "pinned": frame()["pinned"].sum(), "cutoff:noise": 75,
    }  # fmt: skip


def test_never_so_many_go_that_too_few_are_left():
    found = select(frame(), "random", count=280, drop_noise=0.5, noise_by="noise")
    assert found["keep"].sum() == 280
    assert (found["reason"] == "cutoff:noise").sum() == 20


def test_rows_without_the_score_are_no_noise():
    rows = frame().with_columns(
        noise=pl.when(pl.int_range(pl.len()) % 2 == 0).then("noise"), pinned=pl.lit(False)
    )
    found = select(rows, "random", count=10, drop_noise=0.9, noise_by="noise")
    gone = found.filter(pl.col("reason") == "cutoff:noise")
    assert gone["noise"].null_count() == 0
    assert len(gone) == 150


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_no_noise_as_in_a_run(value):
    rows = frame().with_columns(pinned=pl.lit(False))
    odd = pl.when(pl.int_range(pl.len()) < 50).then(value).otherwise("noise")
    found = select(rows.with_columns(noise=odd), "random", count=10, drop_noise=0.5, noise_by="noise")
    assert not (found["reason"][:50] == "cutoff:noise").any()
    assert (found["reason"] == "cutoff:noise").sum() == 150


def test_auto_in_memory_goes_without_labels():
    found = select(frame().drop("label"), "auto", count=60, drop_noise="none")
    assert found["keep"].sum() == 60


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 4)), st.sampled_from(["free", "pinned", "vouched", "gone"])
        ),
        max_size=25,
    ),
    st.integers(0, 30),
    st.integers(0, 25),
    st.sampled_from(["random", "all"]),
)
@settings(max_examples=300, deadline=None)
def test_no_other_row_goes_for_a_noisy_one_that_stays_or_went_before(rows, noisy, wanted, method):
    every = {
        "noise": np.array([np.nan if noise is None else noise for noise, _ in rows], np.float64),
        "tie": np.random.default_rng(0).permutation(len(rows)).astype(np.uint64),
        **{name: np.array([what == name for _, what in rows], np.bool_) for name in ("pinned", "vouched")},
    }
    gone = np.array([what == "gone" for _, what in rows], np.bool_)
    there = np.flatnonzero(~gone)
    blocks = [{name: values[at] for name, values in every.items()} for at in (there[:9], there[9:])]
    lost = {name: every[name][gone] for name in ("noise", "tie")}
    given = {"method": method, "drop_noise": "auto"} | ({"count": 1} if method == "random" else {})
    wanted = min(wanted, len(there))
    first = find_first(lambda *names: iter(blocks), parse_select(given), wanted, 0, noisy=noisy, gone=lost)
    order = sorted((-noise, every["tie"][i], i) for i, (noise, _) in enumerate(rows) if noise is not None)
    worst = [(i, rows[i][1]) for _, _, i in order[:noisy]]
    go = [i for i, what in worst if what == "free"]
    go = go if method == "all" else go[: len(there) - wanted]
    assert set(np.flatnonzero(first.cut(every) & ~gone).tolist()) == set(go)
    assert first.n_cut == len(go)
    assert first.n_held == sum(what in ("pinned", "vouched") for _, what in worst)
    assert first.n_gone == sum(what == "gone" for _, what in worst)


def test_noise_goes_before_the_floor():
    rows = frame().with_columns(pinned=pl.lit(False))
    found = select(rows, "random", count=60, drop_noise=0.3, noise_by="noise", floor="half")
    assert not found.filter(pl.col("reason") == "cutoff:noise")["keep"].any()
    left = found.filter(pl.col("reason") != "cutoff:noise").drop_nulls("label")
    groups = left.group_by("label").agg(pl.len(), pl.col("keep").sum())
    assert (groups["keep"] >= groups["len"].clip(0, floor_of("half", 60, len(groups)))).all()


@pytest.mark.parametrize("method", ["random", "density"])
def test_odds_are_unknown_where_a_floor_goes_ahead_of_a_draw(method):
    found = select(frame(), method, count=60, floor=4, **METHODS[method])
    drawn = found.filter(~pl.col("pinned"))
    assert drawn["inclusion_prob"].null_count() == len(drawn)
    sure = select(frame(), "prototypes", count=60, floor=4)
    assert (sure["inclusion_prob"] == sure["keep"].cast(float)).all()


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=8),
    st.integers(0, 60), st.integers(0, 20),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_floors_are_the_largest_that_can_be_paid(groups, free, floor):
    sizes = np.array([a for a, _ in groups])
    pinned = np.array([min(a, b) for a, b in groups])

    def total(each):
        return sum(max(0, min(size, each) - own) for size, own in zip(sizes, pinned, strict=True))

    needs, each = floor_needs(sizes, pinned, free, floor)
    assert each == max(one for one in range(floor + 1) if total(one) <= free or one == 0)
    assert needs.sum() == total(each)
    assert (needs + pinned <= sizes).all()


def test_a_floor_that_is_too_high_is_lowered_for_all_groups(caplog):
    rows = frame().with_columns(pinned=pl.lit(False))
    found = select(rows, "random", count=16, floor=10)
    assert "select.floor lowered from 10 to " in caplog.text
    assert found["keep"].sum() == 16
    least = found.drop_nulls("label").group_by("label").agg(pl.col("keep").sum(), pl.len())
    assert (least["keep"] >= least["len"].clip(0, 2)).all()


def test_the_order_of_rows_does_not_matter():
    rows = frame()
    given = {"count": 60, "floor": "half", "drop_noise": 0.1, "noise_by": "noise"}
    assert kept(select(rows, "random", **given)) == kept(select(rows[::-1], "random", **given))


def test_what_is_wrong_is_said():
    rows = frame().with_columns(pinned=pl.lit(False))
    with pytest.raises(UsageError, match="give a share or none here"):
        select(rows, "random", count=5, drop_noise="auto", noise_by="noise")
    with pytest.raises(UsageError, match="needs noise_by"):
        select(rows, "random", count=5, drop_noise=0.1)
    with pytest.raises(UsageError, match="no column 'label'"):
        select(rows.drop("label"), "random", count=5, floor="half")
    with pytest.raises(RecipeError, match=r"select\.floor"):
        select(rows, "random", count=5, floor="third")
    with pytest.raises(RecipeError, match=r"select\.floor"):
        select(rows, "random", count=5, floor=0)
    with pytest.raises(RecipeError, match=r"select\.drop_noise"):
        select(rows, "random", count=5, drop_noise=1.5, noise_by="noise")
    with pytest.raises(BudgetError, match="pinned"):
        select(rows.with_columns(pinned=pl.lit(True)), "random", count=5, floor=2)


def test_settings_count_in_fingerprints_only_where_they_are_set():
    plain = canonical(parse_select({"method": "random", "keep": 0.3}))
    assert not {"floor", "floor_per", "drop_noise", "noise_by"} & set(plain)
    given = canonical(parse_select({"method": "random", "keep": 0.3, "floor": "half", "drop_noise": "none"}))
    assert {**plain, "floor": "half"} == given


@pytest.mark.parametrize("per", ["source", "split"])
def test_groups_of_a_floor_may_be_sources_or_splits(per):
    rows = frame()
    renamed = rows.rename({"label": per}).with_columns(label=pl.lit("all the same"))
    by_label = select(rows, "random", count=60, floor=9)
    assert kept(select(renamed, "random", count=60, floor=9, floor_per=per)) == kept(by_label)
    with pytest.raises(UsageError, match=f"select: no column '{per}'"):
        select(rows, "random", count=60, floor=9, floor_per=per)
    assert select(rows, "auto", count=60, drop_noise="none", floor_per=per)["keep"].sum() == 60
