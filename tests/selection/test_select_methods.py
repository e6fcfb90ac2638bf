"""Selection by scores, groups and distances: a frame against what the definitions say in plain Python."""

import math
import re
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from curate.api.select import select
from curate.errors import BudgetError, CurateError, UsageError
from curate.hashing import hash_uids, tie
from curate.linalg import load_unit
from curate.selection.stratified import strata_budgets
from tests.fixtures.builders import planted

N, SEED, CONCEPTS = 230, 3, 8
LABELS = ["cat", "dog", None, "eel"]


@pytest.fixture(scope="module")
def frame():
    """Vectors in eight concepts, labels, and scores that some rows lack and that have ties."""
    rng = np.random.default_rng(0)
    labels = [LABELS[i] for i in rng.choice(4, N, p=[0.6, 0.25, 0.1, 0.05])]
    half = planted(N)
    unit = load_unit(half).astype(np.float64)
    likeness = unit @ unit[:CONCEPTS].T
    hard = pl.Series(np.round(rng.gamma(1.0, 1.0, N), 1))
    lacks = pl.int_range(N) % 13 == 0
    rows = pl.DataFrame(
        {
            "uid": [f"s{i:06d}" for i in range(N)],
            "concept": likeness.argmax(axis=1).astype(np.int32),
            "distance": (1 - likeness.max(axis=1)).astype(np.float32),
            "label": labels,
            "vector": half.astype(np.float32),
            "hard": hard,
            "noisy": np.round(rng.normal(size=N), 2),
            "good": -hard,
            "share": rng.random(N),
        }
    )
    rows = rows.with_columns(pl.when(~lacks).then(pl.col(name)).alias(name) for name in ("hard", "noisy"))
    return rows.sample(fraction=1.0, shuffle=True, seed=1)


def decide(frame, *, pin=(), **settings):
    pinned = frame.with_columns(pinned=pl.col("uid").is_in(list(pin)))
    return select(pinned, seed=SEED, higher_is={"good": "better"}, **settings)


def competing(decided):
    """Return the rows that were not dropped for a score they lack, in uid order."""
    return decided.filter(~pl.col("reason").str.starts_with("no_score:")).sort("uid")


def ordered(rows, key):
    """Return uids by (key, tie hash, uid)."""
    ties = dict(zip(rows["uid"], tie(rows["uid"].to_list(), SEED).tolist(), strict=True))
    named = dict(zip(rows["uid"], key, strict=True))
    return sorted(named, key=lambda uid: (named[uid], ties[uid], uid))


def draws(rows):
    return hash_uids(rows["uid"].to_list(), SEED, "select", "draw").tolist()


def half_up(value):
    return math.floor(value + Fraction(1, 2))


def kept(decided):
    return set(decided.filter("keep")["uid"])


def divided(rows, count, column="hard"):
    """Return the rows with and without a score, and how many of each are kept (proportional)."""
    scored, null = rows.filter(pl.col(column).is_not_null()), rows.filter(pl.col(column).is_null())
    n_null = half_up(Fraction(count * len(null), len(rows)))
    return scored, set(ordered(null, draws(null))[:n_null]), count - n_null


def expect(rows, method, count, **settings):
    scored, nulls, n = divided(rows, count, settings.get("by", "hard"))
    value = scored[settings.get("by", "hard")].to_list()
    down, up = ordered(scored, [-v for v in value]), ordered(scored, value)
    if method in ("hardest", "top"):
        chosen = down[:n]
    elif method == "easiest":
        chosen = up[:n]
    elif method == "window" and "offset" in settings:
        chosen = up[settings["offset"] : settings["offset"] + n]
    elif method == "window":
        skip = half_up(Fraction(str(settings["drop_hardest"])) * len(scored))
        chosen = down[skip : skip + n]
    else:
        start = math.floor(Fraction(str(settings["center"])) * len(scored) - Fraction(n, 2) + Fraction(1, 2))
        start = max(0, min(start, len(scored) - n))
        chosen = up[start : start + n]
    return set(chosen) | nulls


SPANS = [
    ("hardest", {}),
    ("easiest", {}),
    ("top", {}),
    ("window", {"drop_hardest": 0.1}),
    ("window", {"offset": 17}),
    ("middle", {"center": 0.3}),
    ("middle", {"center": 1.0}),
]


@pytest.mark.parametrize("count", [0, 1, 60])
@pytest.mark.parametrize(("method", "settings"), SPANS)
def test_spans_of_the_score(frame, method, settings, count):
    rows = competing(decide(frame, method=method, by="hard", count=count, **settings))
    assert len(rows) == N
    assert kept(rows) == expect(rows, method, count, **settings)
    free = rows.filter(pl.col("hard").is_not_null())
    assert free["inclusion_prob"].to_list() == free["keep"].cast(pl.Float64).to_list()


def test_hardest_follows_the_direction_of_a_column_and_top_its_values(frame):
    rows = competing(decide(frame, method="hardest", by="good", count=50))
    hardest = kept(rows)
    assert hardest == set(ordered(rows, rows["good"].to_list())[:50])
    top = kept(decide(frame, method="top", by="good", count=50))
    assert top == set(ordered(rows, [-v for v in rows["good"]])[:50])
    assert not hardest & top


def test_hardest_by_distance(frame):
    rows = competing(decide(frame, method="hardest", by="distance", count=40))
    assert kept(rows) == set(ordered(rows, [-v for v in rows["distance"]])[:40])


@pytest.mark.parametrize("beta", [0.0, 0.15])
def test_stratified(frame, beta):
    rows = competing(
        decide(frame, method="stratified", by="hard", count=70, strata=7, beta=beta, cutoff="noisy")
    )
    scored, nulls, n = divided(rows, 70)
    n_cut = half_up(Fraction(str(beta)) * len(scored))
    noisiest = ordered(scored, [-v for v in scored["noisy"]])[:n_cut]
    left = scored.filter(~pl.col("uid").is_in(noisiest))
    values = np.sort(left["hard"].to_numpy())
    low, high = values[math.floor(0.01 * (len(values) - 1))], values[math.ceil(0.99 * (len(values) - 1))]
    share = (np.clip(left["hard"].to_numpy(), low, high) - low) / (high - low) * 7
    stratum = np.minimum(share.astype(int), 6)
    sizes = np.bincount(stratum, minlength=7)
    budget = strata_budgets(n, sizes)
    chosen = set()
    for s in range(7):
        inside = left.filter(pl.Series(stratum == s))
        chosen |= set(ordered(inside, draws(inside))[: budget[s]])
    assert kept(rows) == chosen | nulls
    assert set(rows.filter(pl.col("reason") == "cutoff:noisy")["uid"]) == set(noisiest)
    for uid, s in zip(left["uid"], stratum, strict=True):
        row = rows.row(by_predicate=pl.col("uid") == uid, named=True)
        assert row["inclusion_prob"] == pytest.approx(budget[s] / sizes[s])
    assert rows.filter(pl.col("uid").is_in(noisiest))["inclusion_prob"].to_list() == [0.0] * n_cut


def test_weighted_is_a_race(frame):
    rows = competing(decide(frame, method="weighted", by="hard", count=60, gamma=2.0))
    scored, nulls, n = divided(rows, 60)
    uniform = [((int(d) >> 12) + 0.5) * 2.0**-52 for d in draws(scored)]
    finish = [
        math.inf if v == 0 else math.log(-math.log(u)) - 2.0 * math.log(v)
        for u, v in zip(uniform, scored["hard"], strict=True)
    ]
    both = list(zip(finish, draws(scored), strict=True))
    assert kept(rows) == set(ordered(scored, both)[:n]) | nulls
    assert rows.filter(pl.col("hard").is_not_null())["inclusion_prob"].null_count() == len(scored)
    with pytest.raises(CurateError, match="'good', which must be at least 0"):
        decide(frame, method="weighted", by="good", count=60)


def oracle_quotas(sizes, count, floor):
    floors = [min(size, floor) for size in sizes]
    rest, room = count - sum(floors), [s - f for s, f in zip(sizes, floors, strict=True)]
    exact = [Fraction(rest * r, max(1, sum(room))) for r in room]
    quota = [f + math.floor(e) for f, e in zip(floors, exact, strict=True)]
    order = sorted(range(len(sizes)), key=lambda i: (-(exact[i] - math.floor(exact[i])), i))
    for i in order[: count - sum(quota)]:
        quota[i] += 1
    return quota


@pytest.mark.parametrize("per", ["label", "concept"])
@pytest.mark.parametrize("prefer", ["hardest", "random"])
def test_quotas(frame, per, prefer):
    rows = competing(decide(frame, method="quotas", per=per, count=60, min_per_group=3, prefer=prefer))
    names = sorted(rows[per].drop_nulls().unique()) + ([None] if per == "label" else [])
    groups = [rows.filter(pl.col(per).eq_missing(pl.lit(name))) for name in names]
    quota = oracle_quotas([len(group) for group in groups], 60, 3)
    chosen = set()
    for group, n in zip(groups, quota, strict=True):
        key = [-v for v in group["distance"]]
        if prefer == "random":
            key = hash_uids(group["uid"].to_list(), SEED, "select", "random").tolist()
        chosen |= set(ordered(group, key)[:n])
        probability = n / len(group)
        if prefer == "random":
            np.testing.assert_allclose(group["inclusion_prob"].to_numpy(), probability, rtol=1e-6)
    assert kept(rows) == chosen
    with pytest.raises(BudgetError, match=r"floors of .* groups add up"):
        decide(frame, method="quotas", per=per, count=10, min_per_group=30)


def test_diversity_is_farthest_first_in_every_concept(frame):
    rows = competing(decide(frame, method="diversity", count=60))
    groups = [rows.filter(concept=concept) for concept in sorted(rows["concept"].unique())]
    quota = oracle_quotas([len(group) for group in groups], 60, 1)
    for group, n in zip(groups, quota, strict=True):
        e = np.array(group["vector"].to_list(), np.float64)
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        distance = 1 - e @ e.T
        taken = [int(np.argmin(distance.sum(axis=1)))]
        while len(taken) < n:
            nearest = distance[:, taken].min(axis=1)
            nearest[taken] = -1
            taken.append(int(nearest.argmax()))
        names = [group["uid"][i] for i in taken]
        assert group.filter("keep").sort("rank")["uid"].to_list() == names
        assert sorted(group["rank"]) == list(range(1, len(group) + 1))


def test_density_prefers_a_score(frame):
    rows = competing(decide(frame, method="density", prefer="score:good", keep=0.3))
    for _, group in rows.group_by("concept"):
        by_score = ordered(group, [-v for v in group["good"]])
        assert group.sort("rank")["uid"].to_list() == by_score
    dropped = decide(frame, method="density", prefer="score:hard", keep=0.3)
    assert (dropped["reason"] == "no_score:null").sum() == frame["hard"].null_count() > 0


@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_null_policies(frame, policy):
    decided = decide(frame, method="hardest", by="hard", count=80, on_null=policy)
    null = decided.filter(pl.col("hard").is_null())
    assert len(null) > 5
    if policy == "keep":
        assert null["keep"].all()
        assert null["inclusion_prob"].to_list() == [1.0] * len(null)
    else:
        assert set(null["reason"]) == {"no_score:null"}
    assert len(kept(decided)) == 80


def test_rows_without_a_score_can_be_an_error(frame):
    with pytest.raises(CurateError, match="18 of 230 rows have no score"):
        decide(frame, method="hardest", by="hard", count=80, on_null="error")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"method": "window", "by": "good", "offset": 200, "count": 60},
            "60 rows asked for after 200 others",
        ),
        (
            {"method": "stratified", "by": "good", "beta": 0.9, "cutoff": "good", "count": 100},
            "left after select.beta",
        ),
        ({"method": "hardest", "by": "hard", "on_null": "keep", "count": 3}, "without one are kept"),
        ({"method": "random", "count": 2, "pin": ("s000001", "s000002", "s000003")}, "2 .* 3 are pinned"),
    ],
)
def test_what_does_not_fit_is_an_error(frame, settings, said):
    with pytest.raises(BudgetError, match=said):
        decide(frame, **settings)


# --- every method ------------------------------------------------------------------------------------------------

METHODS = [
    {"method": "density"},
    {"method": "random"},
    {"method": "prototypes", "balance": 0.5},
    {"method": "hardest", "by": "hard"},
    {"method": "top", "by": "hard"},
    {"method": "stratified", "by": "hard", "beta": 0.2, "cutoff": "noisy"},
    {"method": "stratified", "by": "hard", "beta": 0.9, "cutoff": "noisy"},
    {"method": "weighted", "by": "hard"},
    {"method": "quotas", "per": "label"},
    {"method": "quotas", "per": "concept"},
    {"method": "balanced"},
    {"method": "diversity"},
    {"method": "d2", "by": "hard", "k": 3},
    {"method": "dual", "by": "hard", "mean": "share"},
    {"method": "triage", "by": "hard", "uncertainty": "noisy", "misconception": True},
    {"method": "middle", "by": "good"},
    {"method": "window", "by": "hard", "offset": 500},
    {"method": "window", "by": "hard", "drop_hardest": 0.9},
]
NAMES = ["-".join(map(str, settings.values())) for settings in METHODS]


@pytest.mark.parametrize("settings", METHODS, ids=NAMES)
def test_pinned_rows_are_kept_and_counted(frame, settings):
    """Also where they lack the score, or lie in what the method leaves out."""
    pinned = [f"s{i:06d}" for i in (0, 1, 2, 13, 26, 100, 225)]
    if settings in METHODS[-2:] or settings.get("beta") == 0.9:
        settings = settings | {"at_most": True}
    decided = decide(frame, pin=pinned, count=60, **settings)
    assert set(decided.filter(pl.col("reason") == "pinned")["uid"]) == set(pinned)
    assert decided["keep"].sum() == 60 or settings.get("at_most")
    assert decided.filter(pl.col("uid").is_in(pinned))["keep"].all()
    assert set(decided.filter("keep")["reason"]) == {"kept", "pinned"}
    for _, group in competing(decided).group_by("concept"):
        ranks = group.sort("rank")
        assert ranks["rank"].to_list() == list(range(1, len(group) + 1))
        n_pinned = (group["reason"] == "pinned").sum()
        assert (ranks["reason"][:n_pinned] == "pinned").all(), "first in their concept"


@pytest.mark.parametrize("settings", METHODS, ids=NAMES)
def test_decisions_do_not_depend_on_the_order_of_rows(frame, settings):
    count = {"at_most": True} if settings in METHODS[-2:] or settings.get("beta") == 0.9 else {}
    one = decide(frame, count=60, **settings, **count)
    two = decide(frame.sample(fraction=1.0, shuffle=True, seed=5), count=60, **settings, **count)
    assert one.sort("uid").equals(two.sort("uid"))


@pytest.mark.parametrize("settings", METHODS, ids=NAMES)
def test_nothing_to_keep(frame, settings):
    decided = decide(frame, count=0, **settings)
    assert len(decided) == N
    assert decided["keep"].sum() == 0
    assert decided["inclusion_prob"].drop_nulls().max() in (0, None)


@pytest.mark.parametrize("settings", METHODS, ids=NAMES)
def test_no_rows(frame, settings):
    decided = decide(frame.clear(), keep=0.3, **settings)
    assert decided.height == 0
    assert decided.columns[-4:] == ["keep", "reason", "rank", "inclusion_prob"]


@pytest.mark.parametrize("settings", METHODS, ids=NAMES)
def test_at_most_keeps_what_a_method_leaves(frame, settings):
    n_scored = frame["hard"].len() - frame["hard"].null_count()
    skipped = half_up(Fraction(str(settings.get("drop_hardest", settings.get("beta", 0)))) * n_scored)
    if "offset" in settings:
        skipped = n_scored
    if settings["method"] == "triage":
        with pytest.raises(BudgetError, match=r"can keep \d+ of 212 at most") as caught:
            decide(frame, count=N, **settings)
        skipped = n_scored - int(re.search(r"can keep (\d+) of", str(caught.value))[1])
    decided = decide(frame, count=500, at_most=True, **settings)
    assert decided["keep"].sum() == N - skipped


@pytest.mark.parametrize(
    "column", ["position", "score", "group", "tie", "part", "key", "draw", "cutoff", "number", "pinned_by"]
)
def test_columns_that_have_the_names_of_own_ones(column):
    rng = np.random.default_rng(1)
    values = pl.Series(column, rng.gamma(1.0, 1.0, N))
    frame = pl.DataFrame({"uid": [f"s{i:06d}" for i in range(N)], "position": rng.uniform(size=N)})
    frame = frame.with_columns(values)
    decided = decide(frame, method="hardest", by=column, count=40)
    assert kept(decided) == set(frame.sort(column, descending=True)["uid"][:40])
    assert decided[column].equals(frame[column])


def test_the_odds_of_pinned_rows_do_not_matter(frame):
    """A draw refuses negative odds, but a pinned row is not drawn."""
    rows = frame.with_columns(signed=pl.col("hard") - 1)
    negative = rows.filter(pl.col("signed") < 0)["uid"].to_list()
    given = {"method": "weighted", "by": "signed", "count": len(negative) + 10}
    assert decide(rows, pin=negative, **given)["keep"].sum() == len(negative) + 10
    with pytest.raises(CurateError, match="must be at least 0"):
        decide(rows, **given)


def test_a_score_that_is_not_there(frame):
    with pytest.raises(UsageError, match="select: no column 'harrd'; there are uid, concept"):
        decide(frame, method="hardest", by="harrd", keep=0.3)
    with pytest.raises(UsageError, match="select: no column 'neg_aum'"):
        decide(frame, method="stratified", by="hard", keep=0.3, beta=0.1)


# --- methods without a score ----------------------------------------------------------------------------------------


def smallest(uids, numbers, n):
    order = sorted(range(len(uids)), key=lambda i: (int(numbers[i]), int(tie([uids[i]], SEED)[0]), uids[i]))
    return [uids[i] for i in order[:n]]


def test_random_takes_the_smallest_hashes(frame):
    uids = frame["uid"].to_list()
    n_keep = math.floor(Fraction(3, 10) * N + Fraction(1, 2))
    wanted = set(smallest(uids, hash_uids(uids, SEED, "select", "random"), n_keep))
    assert kept(decide(frame, method="random", keep=0.3)) == wanted


@pytest.mark.parametrize("balance", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prefer", ["hardest", "easiest"])
def test_prototypes_take_floors_and_then_the_best_of_all(frame, balance, prefer):
    rows = competing(decide(frame, method="prototypes", count=61, balance=balance, prefer=prefer))
    uids, distance = rows["uid"].to_list(), rows["distance"].to_numpy().astype(np.float64)
    concept = rows["concept"].to_numpy()
    sign = -1 if prefer == "hardest" else 1
    ties = tie(uids, SEED)
    order = sorted(range(len(uids)), key=lambda i: (sign * distance[i], int(ties[i]), uids[i]))
    each = math.floor(Fraction(str(balance)) * 61 / len(set(concept)))
    chosen = [i for c in set(concept) for i in [i for i in order if concept[i] == c][:each]]
    chosen += [i for i in order if i not in set(chosen)][: 61 - len(chosen)]
    assert kept(rows) == {uids[i] for i in chosen}


@pytest.mark.parametrize("method", ["density", "random", "prototypes"])
@pytest.mark.parametrize("count", [0, 1, 57, N])
def test_each_concept_is_kept_from_the_front(frame, method, count):
    more = {"prefer": "hardest"} if method == "density" else {}
    decided = decide(frame, method=method, count=count, **more)
    assert decided["keep"].sum() == count
    assert set(decided["reason"]) <= {"kept", "over_budget"}
    assert (decided["keep"] == (decided["reason"] == "kept")).all()
    for _, group in decided.group_by("concept"):
        ranks = group.sort("rank")
        assert ranks["rank"].to_list() == list(range(1, len(group) + 1))
        assert ranks["keep"].to_list() == sorted(ranks["keep"], reverse=True)
        if method != "random":
            assert ranks["distance"].to_list() == sorted(group["distance"], reverse=True)


def test_another_seed_is_another_draw_of_the_same_size(frame):
    first = kept(select(frame, "random", count=50, seed=SEED))
    second = kept(select(frame, "random", count=50, seed=SEED + 1))
    assert len(first) == len(second) == 50
    assert 0 < len(first & second) < 45


@pytest.mark.parametrize(
    "name", ["key", "tie", "score", "draw", "noise", "cutoff", "group", "floor_group", "part"]
)
def test_columns_may_have_the_names_of_what_methods_add(frame, name):
    """A column of the user's rows, or a score, that is called as the selection calls its own."""
    mine = frame.drop("vector").with_columns(mine=pl.col("label").fill_null("none"), wrong=pl.col("good"))
    same = mine.rename({"mine": name})
    for settings in (
        {"method": "quotas", "per": "mine", "shares": {"cat": 0.2}},
        {"method": "random", "floor": 4, "floor_per": "mine"},
        {"method": "stratified", "by": "share", "cutoff": "noisy", "floor": 4, "floor_per": "mine"},
    ):
        renamed = {key: name if value == "mine" else value for key, value in settings.items()}
        want, got = (decide(some, count=60, **one) for some, one in ((mine, settings), (same, renamed)))
        assert got["keep"].to_list() == want["keep"].to_list()
    settings = {"method": "dual", "by": "hard", "mean": "share", "drop_noise": 0.3, "count": 60}
    want = decide(mine, noise_by="wrong", **settings)
    got = decide(mine.drop("mine").rename({"wrong": name}), noise_by=name, **settings)
    assert got["keep"].to_list() == want["keep"].to_list()


def test_groups_of_numbers_and_truth_values_have_names(frame):
    rows = frame.drop("vector").with_columns(
        year=pl.when(pl.int_range(N) % 5 > 0).then(2020.0 + pl.int_range(N) % 3),
        flag=pl.int_range(N) % 4 == 0,
    )
    kept = decide(rows, method="quotas", per="year", shares={"2020": 0.5, "2021": 0.25}, count=40).filter(
        "keep"
    )
    assert (kept["year"] == 2020).sum() == 20
    assert (kept["year"] == 2021).sum() == 10
    kept = decide(rows, method="quotas", per="flag", shares={"true": 0.75}, count=40).filter("keep")
    assert kept["flag"].sum() == 30
    with pytest.raises(UsageError, match="no row is of '1999'; there are 2020, 2021, 2022"):
        decide(rows, method="quotas", per="year", shares={"1999": 0.5}, count=40)
