"""Selection by scores, groups and distances, and weights: a run against what the definitions say in plain Python."""

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from builders import planted, recipe_values, write_shards

from curate import open_run
from curate.errors import BudgetError, CurateError, UsageError
from curate.hashing import hash_uids, tie
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.selection.stratified import strata_budgets
from curate.weighting.effective_size import effective_sample_size
from curate.weighting.loss import loss_weights

N, SEED = 240, 3
LABELS = ["cat", "dog", None, "eel"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with vectors, labels, and a table of scores that lacks some rows and has ties."""
    folder = tmp_path_factory.mktemp("methods")
    rng = np.random.default_rng(0)
    labels = [LABELS[i] for i in rng.choice(4, N, p=[0.6, 0.25, 0.1, 0.05])]
    write_shards(folder / "in", planted(N, near=10), extra={"label": labels})
    ids = [f"s{i:06d}" for i in range(N)]
    hard = np.round(rng.gamma(1.0, 1.0, N), 1)
    noisy = np.round(rng.normal(size=N), 2)
    table = pl.DataFrame({"id": ids, "hard": hard, "noisy": noisy})
    table.filter(pl.int_range(N) % 13 != 0).write_parquet(folder / "mine.parquet")
    table.select("id", good=-pl.col("hard")).write_parquet(folder / "good.parquet")
    return folder


def recipe(place, *, name="run", out=None, weight=None, pin=(), shards="in", **select):
    score = [
        {"file": f"{place}/mine.parquet", "on": "id", "on_missing": "null"},
        {"file": f"{place}/good.parquet", "on": "id", "higher_is": "better"},
    ]
    values = recipe_values(
        f"{place}/{shards}/*.parquet", out or place / name, select=select, seed=SEED, score=score
    )
    values["source"] |= {"label": "label"}
    return parse_recipe(values | {"weight": weight, "pin": list(pin)})


def decide(place, **given):
    asked = recipe(place, **given)
    runner.run(asked, until="select")
    return open_run(asked.run)


def competing(run):
    """Return the rows that reached selection, in uid order, with their scores."""
    reasons = pl.col("reason")
    rows = run.decisions().filter(
        reasons.is_in(["kept", "over_budget", "pinned"]) | reasons.str.starts_with("cutoff:")
    )
    scores = run.scores().drop("concept", "distance")
    return rows.join(scores, on="uid", how="left").join(
        run.samples().select("uid", "label"), on="uid", how="left"
    ).sort("uid")  # fmt: skip


def ordered(rows, key):
    """Return uids by (key, tie hash, uid)."""
    ties = dict(zip(rows["uid"], tie(rows["uid"].to_list(), SEED).tolist(), strict=True))
    named = dict(zip(rows["uid"], key, strict=True))
    return sorted(named, key=lambda uid: (named[uid], ties[uid], uid))


def draws(rows):
    return hash_uids(rows["uid"].to_list(), SEED, "select", "draw").tolist()


def half_up(value):
    return math.floor(value + Fraction(1, 2))


def kept(run):
    return set(run.decisions().filter("keep")["uid"])


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
def test_spans_of_the_score(place, method, settings, count):
    run = decide(place, method=method, by="hard", count=count, **settings)
    rows = competing(run)
    assert kept(run) == expect(rows, method, count, **settings)
    assert run.decisions()["random_control"].sum() == count
    free = rows.filter(pl.col("hard").is_not_null())
    assert free["inclusion_prob"].to_list() == free["keep"].cast(pl.Float32).to_list()


def test_hardest_follows_the_direction_of_a_column_and_top_its_values(place):
    run = decide(place, method="hardest", by="good", count=50)
    rows, hardest = competing(run), kept(run)
    assert hardest == set(ordered(rows, rows["good"].to_list())[:50])
    top = kept(decide(place, method="top", by="good", count=50))
    assert top == set(ordered(rows, [-v for v in rows["good"]])[:50])
    assert not hardest & top


def test_hardest_by_distance_needs_no_family(place):
    run = decide(place, method="hardest", by="distance", count=40)
    rows = competing(run)
    assert kept(run) == set(ordered(rows, [-v for v in rows["distance"]])[:40])


@pytest.mark.parametrize("beta", [0.0, 0.15])
def test_stratified(place, beta):
    run = decide(place, method="stratified", by="hard", count=70, strata=7, beta=beta, cutoff="noisy")
    rows = competing(run)
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
    assert kept(run) == chosen | nulls
    assert set(rows.filter(pl.col("reason") == "cutoff:noisy")["uid"]) == set(noisiest)
    for uid, s in zip(left["uid"], stratum, strict=True):
        row = rows.row(by_predicate=pl.col("uid") == uid, named=True)
        assert row["inclusion_prob"] == pytest.approx(budget[s] / sizes[s])
    assert rows.filter(pl.col("uid").is_in(noisiest))["inclusion_prob"].to_list() == [0.0] * n_cut


def test_weighted_is_a_race(place):
    run = decide(place, method="weighted", by="hard", count=60, gamma=2.0)
    rows = competing(run)
    scored, nulls, n = divided(rows, 60)
    uniform = [((int(d) >> 12) + 0.5) * 2.0**-52 for d in draws(scored)]
    finish = [
        math.inf if v == 0 else math.log(-math.log(u)) - 2.0 * math.log(v)
        for u, v in zip(uniform, scored["hard"], strict=True)
    ]
    both = list(zip(finish, draws(scored), strict=True))
    assert kept(run) == set(ordered(scored, both)[:n]) | nulls
    assert scored["inclusion_prob"].null_count() == len(scored)
    with pytest.raises(CurateError, match="'good', which must be at least 0"):
        decide(place, method="weighted", by="good", count=60)


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
def test_quotas(place, per, prefer):
    run = decide(place, method="quotas", per=per, count=60, min_per_group=3, prefer=prefer)
    rows = competing(run)
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
    assert kept(run) == chosen
    with pytest.raises(BudgetError, match=r"floors of .* groups add up"):
        decide(place, method="quotas", per=per, count=10, min_per_group=30)


def test_diversity_is_farthest_first_in_every_concept(place):
    run = decide(place, method="diversity", count=60)
    rows = competing(run)
    vectors = {}
    for path in sorted((run.folder.path / "1_embeddings").glob("*.arrow")):
        table = pa.ipc.open_file(path).read_all().to_pydict()
        half = np.array(table["image"], np.float16).astype(np.float64)
        vectors |= dict(zip(table["uid"], half / np.linalg.norm(half, axis=1, keepdims=True), strict=True))
    groups = [group.sort("uid") for _, group in rows.group_by("concept") if len(group)]
    groups.sort(key=lambda group: group["concept"][0])
    quota = oracle_quotas([len(group) for group in groups], 60, 1)
    for group, n in zip(groups, quota, strict=True):
        e = np.array([vectors[uid] for uid in group["uid"]])
        distance = 1 - e @ e.T
        taken = [int(np.argmin(distance.sum(axis=1)))]
        while len(taken) < n:
            nearest = distance[:, taken].min(axis=1)
            nearest[taken] = -1
            taken.append(int(nearest.argmax()))
        names = [group["uid"][i] for i in taken]
        assert group.filter("keep").sort("rank")["uid"].to_list() == names
        assert sorted(group["rank"]) == list(range(1, len(group) + 1))


def test_density_prefers_a_score(place):
    run = decide(place, method="density", prefer="score:good", keep=0.3)
    for _, group in competing(run).group_by("concept"):
        by_score = ordered(group, [-v for v in group["good"]])
        assert group.sort("rank")["uid"].to_list() == by_score
    dropped = decide(place, method="density", prefer="score:hard", keep=0.3).decisions()
    assert (dropped["reason"] == "no_score:missing").sum() > 0


@pytest.mark.parametrize(("policy", "lost"), [("keep", "over_budget"), ("drop", "no_score:missing")])
def test_null_policies(place, policy, lost):
    run = decide(place, method="hardest", by="hard", count=80, on_null=policy)
    rows = run.decisions().join(run.scores().select("uid", "hard"), on="uid", how="left")
    null = rows.filter(pl.col("hard").is_null() & (pl.col("reason") != "near_duplicate"))
    assert len(null) > 5
    if policy == "keep":
        assert null["keep"].all()
        assert null["inclusion_prob"].to_list() == [1.0] * len(null)
    else:
        assert set(null["reason"]) == {lost}
    assert len(kept(run)) == 80


def test_nulls_that_are_an_error_leave_the_earlier_decision(place):
    before = decide(place, method="hardest", by="hard", count=80)
    table = before.decisions()
    with pytest.raises(CurateError, match=r"rows have no hard \(missing: \d+\), and select.on_null is error"):
        decide(place, method="hardest", by="hard", count=80, on_null="error")
    assert open_run(before.folder.path).decisions().equals(table)


def test_the_manifest_says_what_became_of_rows_without_a_score(place):
    run = decide(place, method="hardest", by="hard", count=80)
    facts = run.folder.marker(run.folder.decisions)["facts"]
    null = competing(run).filter(pl.col("hard").is_null())
    assert facts["without_score"] == {
        "rows": len(null), "kept": null["keep"].sum(), "statuses": {"missing": len(null)}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ({"method": "hardest", "by": "harrd", "keep": 0.3}, "select.by: no score 'harrd'"),
        ({"method": "hardest", "by": "el2n", "keep": 0.3}, "no score 'el2n'; add heads to score"),
        ({"method": "hardest", "by": "mine_status", "keep": 0.3}, "is no score to rank by"),
        (
            {"method": "stratified", "by": "hard", "keep": 0.3, "beta": 0.1},
            "select.cutoff: no score 'neg_aum'",
        ),
    ],
)
def test_a_score_that_is_not_there(place, select, said):
    with pytest.raises(UsageError, match=said):
        decide(place, **select)


@pytest.mark.parametrize(
    ("select", "said"),
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
    ],
)
def test_what_does_not_fit_is_an_error(place, select, said):
    with pytest.raises(BudgetError, match=said):
        decide(place, **select)


# --- pinned rows -------------------------------------------------------------------------------------------------

METHODS = [
    {"method": "density"},
    {"method": "random"},
    {"method": "prototypes", "balance": 0.5},
    {"method": "hardest", "by": "hard"},
    {"method": "stratified", "by": "hard", "beta": 0.2, "cutoff": "noisy"},
    {"method": "weighted", "by": "hard"},
    {"method": "quotas", "per": "label"},
    {"method": "quotas", "per": "concept"},
    {"method": "diversity"},
]


@pytest.mark.parametrize("select", METHODS, ids=lambda select: "-".join(map(str, select.values())))
def test_pinned_rows_are_kept_and_counted(place, select):
    pinned = [f"s{i:06d}" for i in (0, 1, 2, 13, 26, 100, 235)]
    (place / "pins.txt").write_text("\n".join(pinned))
    run = decide(place, pin=[f"{place}/pins.txt"], count=60, **select)
    decisions = run.decisions()
    assert set(decisions.filter(pl.col("reason") == "pinned")["uid"]) == set(pinned)
    assert decisions["keep"].sum() == 60 == decisions["random_control"].sum()
    assert decisions.filter(pl.col("uid").is_in(pinned))["keep"].all()
    assert set(decisions.filter("keep")["reason"]) == {"kept", "pinned"}
    concepts = run.concepts()
    assert concepts["kept"].sum() == 60
    for concept, group in competing(run).group_by("concept"):
        ranks = group.sort("rank")
        assert ranks["rank"].to_list() == list(range(1, len(group) + 1))
        n_pinned = (group["reason"] == "pinned").sum()
        assert (ranks["reason"][:n_pinned] == "pinned").all(), "first in their concept"
        line = concepts.row(by_predicate=pl.col("concept") == concept[0], named=True)
        assert (line["kept"], line["n_eligible"]) == (group["keep"].sum(), len(group))
        if select["method"] == "density":
            assert line["budget"] == line["kept"]


def test_more_pinned_rows_than_asked_for(place):
    (place / "pins.txt").write_text("s000001\ns000002\ns000003\n")
    with pytest.raises(BudgetError, match=r"select\.count 2, but 3 rows are pinned"):
        decide(place, pin=[f"{place}/pins.txt"], method="random", count=2)


# --- weights -----------------------------------------------------------------------------------------------------


def weights(run):
    rows = run.decisions().filter("keep").join(run.scores().drop("concept", "distance"), on="uid", how="left")
    return rows.sort("uid")


@pytest.mark.parametrize("method", ["linupper", "quadratic", "extremes", "focal"])
def test_weights_by_loss(place, method):
    weight = {"method": method, "by": "hard", "max_weight": 3.0} | ({} if method == "focal" else {"r": 0.5})
    run = decide(place, weight=weight, method="random", count=100)
    rows = weights(run)
    expected = loss_weights(
        rows["hard"].cast(pl.Float64).fill_null(float("nan")).to_numpy(), method, r=0.5, max_weight=3.0
    )
    found = rows["weight"].fill_null(float("nan")).to_numpy()
    np.testing.assert_allclose(found, expected.weight, rtol=1e-6)
    assert rows["weight"].null_count() == rows["hard"].null_count() > 0
    assert rows["weight"].mean() == pytest.approx(1, rel=1e-6)
    facts = run.folder.marker(run.folder.decisions)["facts"]["weights"]
    assert facts["effective"] == pytest.approx(effective_sample_size(found), rel=1e-6)
    assert facts["nonfinite"] == rows["hard"].null_count()
    assert (run.decisions().filter(~pl.col("keep"))["weight"] == 0).all()
    by_concept = run.concepts()
    for concept, group in rows.group_by("concept"):
        line = by_concept.row(by_predicate=pl.col("concept") == concept[0], named=True)
        known = group["weight"].drop_nulls().to_numpy()
        assert line["effective"] == pytest.approx(effective_sample_size(known), rel=1e-5)


def test_inverse_weights_undo_the_selection(place):
    run = decide(place, weight={"method": "inverse"}, method="stratified", by="good", count=80, strata=5)
    rows = weights(run)
    product = rows["weight"] * rows["inclusion_prob"]
    assert product.to_numpy() == pytest.approx(product[0], rel=1e-5)
    assert rows["weight"].mean() == pytest.approx(1, rel=1e-6)
    assert rows["weight"].n_unique() > 1
    with pytest.raises(UsageError, match=r"weight\.method inverse needs the probability"):
        decide(place, weight={"method": "inverse"}, method="weighted", by="hard", count=80)
    with pytest.raises(CurateError, match="has none in closed form"):
        decide(
            place, weight={"method": "inverse"}, method="prototypes", prefer="random", balance=0.5, count=80
        )


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_concept_weights_are_what_pruning_would_keep(place, temperature):
    """All rows kept: a concept weighs what density pruning at `budget` would keep of it (F9)."""
    weight = {"method": "concept", "budget": 0.3, "temperature": temperature}
    run = decide(place, weight=weight, method="random", keep=1.0, of="eligible")
    pruned = decide(place, name="pruned", method="density", keep=0.3, of="eligible").concepts()
    rows = weights(run)
    total = len(rows)
    for concept, group in rows.group_by("concept"):
        line = pruned.row(by_predicate=pl.col("concept") == concept[0], named=True)
        each = line["budget"] / line["n_eligible"] * total / pruned["budget"].sum()
        assert group["weight"].mean() == pytest.approx(each, rel=1e-5)
        if temperature is None:
            assert group["weight"].to_numpy() == pytest.approx(each, rel=1e-5)
        else:
            far = np.exp(group["distance"].to_numpy().astype(float) / temperature)
            np.testing.assert_allclose(group["weight"], far / far.mean() * each, rtol=1e-4)
    assert rows["weight"].mean() == pytest.approx(1, rel=1e-6)


def test_weights_of_nothing(place):
    run = decide(place, weight={"method": "linupper", "by": "hard"}, method="random", count=0)
    assert run.decisions()["weight"].sum() == 0


# --- the same for any split and number of workers ------------------------------------------------------------------


@pytest.mark.parametrize("select", [*METHODS, {"method": "middle", "by": "good"}], ids=str)
def test_decisions_do_not_depend_on_how_rows_are_stored(place, tmp_path, select):
    from curate.analysis.verify.verify import decisions_digest

    if not (place / "other").exists():
        order = np.random.default_rng(5).permutation(N)
        rng = np.random.default_rng(0)
        labels = [LABELS[i] for i in rng.choice(4, N, p=[0.6, 0.25, 0.1, 0.05])]
        write_shards(place / "other", planted(N, near=10), shards=5, order=order, extra={"label": labels})
    weight = {"method": "focal", "by": "good"} if select["method"] != "weighted" else "concept"
    one = decide(place, weight=weight, count=60, **select)
    two = decide(place, name="resplit", shards="other", weight=weight, count=60, **select)
    assert decisions_digest(one.folder.path) == decisions_digest(two.folder.path)
