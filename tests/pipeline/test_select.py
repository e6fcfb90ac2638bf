"""Stage `select`: a run decides as a frame of the same rows, and writes what must hold whatever the method."""

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.explain import explain
from curate.api.select import select
from curate.errors import BudgetError, CurateError, UsageError
from curate.hashing import hash_uids, tie
from curate.pipeline import runner
from curate.recipe.loading import load_recipe, parse_recipe
from curate.selection.registry import selectors
from curate.weighting.effective_size import effective_sample_size
from curate.weighting.loss import loss_weights
from curate.weighting.soft_cap import soft_cap_counts
from tests.fixtures.builders import planted, recipe_values, write_shards

N, SEED = 260, 3
UNUSABLE, COPIES = 4, 12
LABELS = ["cat", "dog", None, "eel"]
PINNED = [f"s{i:06d}" for i in (13, 14, 26, 52, 100, 130, 200)]
#: Scores, named as the stage names columns of its own.
SCORES = ["position", "score", "group", "tie", "part"]


def sources(folder, name, shards, order=None):
    """Write vectors of which some are copies, near-copies and unusable, with labels."""
    rows = planted(N, copies=COPIES, near=15)
    rows[40 : 40 + UNUSABLE] = 0
    rng = np.random.default_rng(0)
    labels = [LABELS[i] for i in rng.choice(4, N, p=[0.6, 0.25, 0.1, 0.05])]
    labels[N - COPIES :] = labels[:COPIES]
    write_shards(folder / name, rows, shards=shards, order=order, extra={"label": labels})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Vectors, labels, and a table of scores that lacks some rows and has ties."""
    folder = tmp_path_factory.mktemp("select")
    sources(folder, "in", 3)
    rng = np.random.default_rng(0)
    scores = {name: rng.gamma(1.0, 1.0, N).round(1) for name in SCORES}
    table = pl.DataFrame({"id": [f"s{i:06d}" for i in range(N)], **scores})
    table.filter(pl.int_range(N) % 13 != 0).write_parquet(folder / "mine.parquet")
    share = pl.col("group") / (1 + pl.col("group"))
    table.select("id", share=share, good=-pl.col("position")).write_parquet(folder / "good.parquet")
    (folder / "pins.txt").write_text("\n".join(PINNED))
    return folder


def decide(place, *, name="run", shards="in", weight=None, pin=True, workers=1, **settings):
    score = [
        {"file": f"{place}/mine.parquet", "on": "id", "on_missing": "null"},
        {"file": f"{place}/good.parquet", "on": "id", "higher_is": "better"},
    ]
    values = recipe_values(
        f"{place}/{shards}/*.parquet", place / name, select=settings, seed=SEED, score=score, weight=weight,
        pin=[f"{place}/pins.txt"] if pin else [], limits={"unusable": "10%"}, workers=workers,
    )  # fmt: skip
    values["source"] |= {"label": "label"}
    asked = parse_recipe(values)
    runner.run(asked, until="select")
    return open_run(asked.run)


def competing(decisions):
    """Return the rows that reached selection."""
    reason = pl.col("reason")
    return decisions.filter(
        reason.is_in(["kept", "over_budget", "pinned"]) | reason.str.starts_with("cutoff:")
    )


def frame_of(run, place):
    """Return the rows that reached selection (or lack its score), in another order, with all that methods read."""
    decisions = run.decisions().filter(~pl.col("reason").str.contains("duplicate|unusable|filter"))
    scores = run.scores().drop("concept", "distance")
    vectors = pl.read_parquet(f"{place}/in/*.parquet").select(uid="id", vector="embedding")
    inter = run.concepts().select("concept", "d_inter")
    frame = decisions.select("uid", "concept", "distance", "inclusion_prob", "keep", "rank", "reason")
    frame = frame.join(scores, on="uid", how="left").join(
        run.samples().select("uid", "label", "source", "split").unique("uid"), on="uid", how="left"
    )
    frame = frame.join(vectors, on="uid", how="left").join(inter, on="concept", how="left")
    pinned = pl.col("uid").is_in(PINNED)
    return frame.with_columns(pinned=pinned).sample(fraction=1.0, shuffle=True, seed=1)


METHODS = [
    {"method": "density", "temperature": 0.05, "keep": 0.37, "of": "input"},
    {"method": "density", "prefer": "score:position", "min_per_concept": 3, "complexity": "inter", "keep": 0.2},
    {"method": "density", "prefer": "random", "min_per_concept": 4, "temperature": 0.005},
    {"method": "density", "count": 500, "at_most": True},
    {"method": "density", "min_per_concept": 0, "count": len(PINNED)},
    {"method": "random", "keep": 0.37, "of": "eligible"},
    {"method": "prototypes", "balance": 0.5, "prefer": "easiest", "keep": 0.37, "of": "usable"},
    {"method": "hardest", "by": "position"},
    {"method": "easiest", "by": "group", "on_null": "keep", "count": 80},
    {"method": "top", "by": "tie", "on_null": "drop"},
    {"method": "window", "by": "part", "offset": 20},
    {"method": "window", "by": "score", "drop_hardest": 0.9, "count": 500, "at_most": True},
    {"method": "middle", "by": "position", "center": 0.3},
    {"method": "stratified", "by": "score", "beta": 0.2, "cutoff": "part", "strata": 7},
    {"method": "stratified", "by": "score", "strata": 5, "ends": (0.0, 1.0), "floor": 12, "floor_per": "source"},
    {"method": "weighted", "by": "tie", "gamma": 2},
    {"method": "quotas", "per": "label", "prefer": "random"},
    {"method": "quotas", "min_per_group": 4},
    {"method": "balanced"},
    {"method": "balanced", "prefer": "score:good", "keep": 0.2, "floor": 3, "floor_per": "source"},
    {"method": "metaclip", "by": "score", "on_null": "drop"},
    {"method": "diversity"},
    {"method": "diversity", "start": "isolated", "min_per_concept": 3, "count": 0, "pin": False},
    {"method": "d2", "by": "position"},
    {"method": "d2", "by": "score", "k": 3, "gamma_r": 4, "drop_noise": 0.1, "noise_by": "position", "floor": 3},
    {"method": "dual", "by": "tie", "mean": "share"},
    {"method": "triage", "by": "score", "uncertainty": "part", "misconception": True},
    {"method": "triage", "by": "position", "uncertainty": "part", "count": 500, "at_most": True},
    {"method": "random", "floor": "half", "keep": 0.37},
    {"method": "density", "floor": 5, "floor_per": "concept", "prefer": "random"},
    {"method": "stratified", "by": "score", "cutoff": "part", "floor": 3, "drop_noise": 0.1, "noise_by": "position"},
    {"method": "diversity", "floor": "half", "drop_noise": 0.2, "noise_by": "good"},
    {"method": "weighted", "by": "tie", "floor": 9, "drop_noise": 0.3, "noise_by": "good"},
]  # fmt: skip


@pytest.mark.parametrize("settings", METHODS, ids=lambda one: "-".join(map(str, one.values())))
def test_a_run_decides_as_a_frame_does(place, settings):
    given = settings if "keep" in settings else {"count": 60} | settings
    run = decide(place, **given)
    frame, decisions = frame_of(run, place), run.decisions()
    pinned = PINNED if settings.get("pin", True) else []
    funnel(decisions)
    n_kept = size(decisions, given)
    asked = {name: one for name, one in settings.items() if name not in ("keep", "of", "count", "pin")}
    frame = frame.with_columns(pl.col("pinned") & bool(pinned))
    got = select(frame, count=given.get("count", n_kept), seed=SEED, higher_is={"good": "better"}, **asked)
    assert got["keep"].to_list() == frame["keep"].to_list()
    assert got["rank"].to_list() == frame["rank"].to_list()
    same = frame["reason"].str.replace("no_score:missing", "no_score:null")
    assert got["reason"].to_list() == same.to_list()
    assert got["inclusion_prob"].cast(pl.Float32).to_list() == frame["inclusion_prob"].to_list() or (
        "no_score:missing" in frame["reason"]
    )
    assert set(decisions.filter(reason="pinned")["uid"]) == set(pinned)
    concepts_add_up(run, settings)
    facts_of_nulls(run, settings)


def size(decisions, given):
    """Check how many rows are kept, and how many by chance beside them; return it."""
    n_kept, usable = decisions["keep"].sum(), N - UNUSABLE
    left = competing(decisions)
    if "keep" in given:
        base = {"input": N, "usable": usable, "eligible": len(left)}[given.get("of", "usable")]
        assert n_kept == math.floor(Fraction(str(given["keep"])) * base + Fraction(1, 2))
    elif not given.get("at_most"):
        assert n_kept == given["count"]
    else:
        assert n_kept < given["count"]
    assert (decisions["keep"] == decisions["reason"].is_in(["kept", "pinned"])).all()
    assert decisions["weight"].to_list() == decisions["keep"].cast(pl.Float32).to_list()
    uids = left["uid"].to_list()
    numbers, ties = hash_uids(uids, SEED, "select", "control").tolist(), tie(uids, SEED).tolist()
    control = [uid for _, _, uid in sorted(zip(numbers, ties, uids, strict=True))][:n_kept]
    by_chance = decisions.filter("random_control")
    assert sorted(by_chance["uid"]) == sorted(control), "the same for every method"
    assert len(by_chance) == n_kept
    return n_kept


def funnel(decisions):
    """Check what became of rows that do not reach selection."""
    reason = decisions["reason"]
    assert len(decisions) == N
    assert reason.str.starts_with("unusable").sum() == UNUSABLE
    assert (reason == "exact_duplicate").sum() == COPIES
    near = decisions.filter(reason == "near_duplicate")
    assert near["rank"].null_count() == len(near) > 0


def concepts_add_up(run, settings):
    concepts, decisions = run.concepts(), run.decisions()
    assert concepts["kept"].sum() == decisions["keep"].sum() == facts_of(run)["kept"]
    for (concept,), group in competing(decisions).group_by("concept"):
        ranks = group.sort("rank")
        assert ranks["rank"].to_list() == list(range(1, len(group) + 1))
        n_pinned = (group["reason"] == "pinned").sum()
        assert (ranks["reason"][:n_pinned] == "pinned").all(), "first in their concept"
        line = concepts.row(by_predicate=pl.col("concept") == concept, named=True)
        assert line["n_eligible"] == len(group)
        assert line["kept"] == line["budget"] == group["keep"].sum()
        noise = (group["reason"] == f"cutoff:{settings.get('noise_by')}").sum()
        assert line["at_cap"] == (
            line["kept"] == len(group) - (noise if settings["method"] == "density" else 0)
        )
    if settings["method"] == "density":
        assert concepts["probability"].sum() == pytest.approx(1)
        first = facts_of(run)["pinned"] + facts_of(run).get("first", {}).get("floor_rows", 0)
        assert concepts["target"].sum() + first == pytest.approx(concepts["budget"].sum())
    else:
        assert concepts["probability"].null_count() == len(concepts)


def facts_of(run):
    return run.folder.marker(run.folder.decisions)["facts"]


def facts_of_nulls(run, settings):
    """The manifest says what became of rows without a score."""
    facts = facts_of(run)
    if "by" not in settings or settings.get("on_null") == "drop":
        assert "without_score" not in facts
        return
    rows = competing(run.decisions()).join(run.scores().drop("concept", "distance"), on="uid", how="left")
    needed = [settings[name] for name in ("by", "cutoff") if name in settings]
    has_none = pl.any_horizontal(pl.col(name).is_null() for name in needed)
    null = rows.filter(has_none & (pl.col("reason") != "pinned"))
    assert len(null) > 5
    found = facts["without_score"]
    if "floor" in settings:  # of those, some went as noise, and a floor keeps some
        assert 0 < found["rows"] <= len(null)
        assert found["statuses"] == {"missing": found["rows"]}
        return
    assert found == {"rows": len(null), "kept": null["keep"].sum(), "statuses": {"missing": len(null)}}


def test_every_method_is_among_these():
    # objects needs pictures with boxes: test_score_run_objects.py
    assert {one["method"] for one in METHODS} == set(selectors()) - {"all", "auto", "objects"}


def test_a_floor_is_kept_and_said_and_budgets_need_no_method(place):
    """Complexity says the same whatever the method; probability and target are density's own."""
    floors = decide(place, pin=False, method="density", count=60, min_per_concept=4, temperature=0.005)
    concepts = floors.concepts()
    floor = np.minimum(4, concepts["n_eligible"].to_numpy())
    assert (concepts["budget"].to_numpy() >= floor).all()
    assert concepts["at_floor"].to_list() == (concepts["budget"].to_numpy() == floor).tolist()
    assert concepts["at_floor"].any()
    random = decide(place, pin=False, method="random", count=60).concepts()
    same = ["concept", "n_eligible", "d_intra", "d_inter", "complexity"]
    assert concepts.select(same).equals(random.select(same))


EMPTY = [
    {"method": "density"},
    {"method": "stratified", "beta": 0.9, "cutoff": "score", "by": "position"},
    {"method": "diversity"},
    *(pytest.param(one, marks=pytest.mark.long) for one in (
        {"method": "random"},
        {"method": "prototypes", "balance": 0.5},
        {"method": "quotas", "per": "label"},
        {"method": "quotas", "per": "concept"},
        {"method": "hardest", "by": "position"},
        {"method": "top", "by": "position"},
        {"method": "weighted", "by": "position"},
        {"method": "window", "offset": 500, "by": "position"},
        {"method": "window", "drop_hardest": 0.9, "by": "position"},
    )),
]  # fmt: skip


@pytest.mark.parametrize("settings", EMPTY, ids=str)
def test_an_empty_source(place, settings):
    if not (place / "empty").exists():
        empty = pl.Series([], dtype=pl.String)
        write_shards(place / "empty", planted(1)[:0], extra={"label": empty})
    run = decide(place, name="nothing", shards="empty", pin=False, weight="concept", keep=0.3, **settings)
    assert len(run.decisions()) == len(run.concepts()) == 0


SPLIT = [
    {"method": "density"},
    {"method": "weighted", "by": "position"},
    *(pytest.param(one, marks=pytest.mark.long) for one in (
        {"method": "random"},
        {"method": "prototypes", "balance": 0.5},
        {"method": "hardest", "by": "position"},
        {"method": "stratified", "by": "position", "beta": 0.2, "cutoff": "score"},
        {"method": "quotas", "per": "label"},
        {"method": "quotas", "per": "concept"},
        {"method": "middle", "by": "good"},
    )),
    {"method": "diversity"},
]  # fmt: skip


@pytest.mark.parametrize("settings", SPLIT, ids=str)
def test_decisions_do_not_depend_on_how_rows_are_stored(place, settings):
    from curate.analysis.verify.verify import decisions_digest

    if not (place / "other").exists():
        sources(place, "other", 5, np.random.default_rng(5).permutation(N))
    weight = {"method": "focal", "by": "good"} if settings["method"] != "weighted" else "concept"
    one = decide(place, pin=False, weight=weight, count=60, **settings)
    two = decide(place, name="split", shards="other", pin=False, weight=weight, count=60, **settings)
    assert decisions_digest(one.folder.path) == decisions_digest(two.folder.path)


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "hardest", "by": "harrd"}, "select.by: no score 'harrd'"),
        ({"method": "hardest", "by": "el2n"}, "no score 'el2n'; add heads to score"),
        ({"method": "hardest", "by": "mine_status"}, "is no score to rank by"),
        ({"method": "stratified", "by": "part", "beta": 0.1}, "select.cutoff: no score 'neg_aum'"),
        ({"method": "weighted", "by": "part", "weight": "inverse"}, r"weight\.method inverse needs the prob"),
        *(
            ({"method": method, "by": column}, f"select.by: .*'{column}'")
            for method in ("hardest", "top", "weighted")
            for column in ("caption_length", "label", "mine_status", "concept")
        ),
    ],
)
def test_what_is_no_score_is_refused_before_any_work(place, settings, said):
    with pytest.raises(UsageError, match=said):
        decide(place, name="never", keep=0.3, **settings)
    assert not (place / "never").exists()


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (
            {"method": "prototypes", "prefer": "random", "balance": 0.9, "weight": "inverse"},
            CurateError,
            "has none in closed form",
        ),
        ({"method": "window", "offset": 200, "by": "good"}, BudgetError, "after 200 others"),
        (
            {"method": "hardest", "by": "part", "on_null": "error"},
            CurateError,
            r"rows have no part \(missing: \d+\), and select.on_null is error",
        ),
        (
            {"method": "random", "count": 2, "pin": True},
            BudgetError,
            r"select\.count 2, but 7 rows are pinned",
        ),
    ],
)
def test_an_error_leaves_the_decisions_before_finished(place, settings, error, said):
    before = decide(place, pin=False, method="random", count=50)
    kept, mark = before.decisions(), before.folder.marker(before.folder.decisions)
    with pytest.raises(error, match=said):
        decide(place, **{"pin": False, "count": 60} | settings)
    after = open_run(place / "run")
    assert after.decisions().equals(kept)
    assert after.folder.marker(after.folder.decisions) == mark


# --- weights -----------------------------------------------------------------------------------------------------


def weights(run):
    rows = run.decisions().filter("keep").join(run.scores().drop("concept", "distance"), on="uid", how="left")
    return rows.sort("uid")


@pytest.mark.parametrize("method", ["linupper", "quadratic", "extremes", "focal"])
def test_weights_by_loss(place, method):
    weight = {"method": method, "by": "position", "max_weight": 3.0} | (
        {} if method == "focal" else {"r": 0.5}
    )
    run = decide(place, weight=weight, pin=False, method="random", count=100)
    rows = weights(run)
    expected = loss_weights(
        rows["position"].cast(pl.Float64).fill_null(float("nan")).to_numpy(), method, r=0.5, max_weight=3.0
    )
    found = rows["weight"].fill_null(float("nan")).to_numpy()
    np.testing.assert_allclose(found, expected.weight, rtol=1e-6)
    assert rows["weight"].null_count() == rows["position"].null_count() > 0
    assert rows["weight"].mean() == pytest.approx(1, rel=1e-6)
    facts = facts_of(run)["weights"]
    assert facts["effective"] == pytest.approx(effective_sample_size(found), rel=1e-6)
    assert facts["nonfinite"] == rows["position"].null_count()
    assert (run.decisions().filter(~pl.col("keep"))["weight"] == 0).all()
    by_concept = run.concepts()
    for concept, group in rows.group_by("concept"):
        line = by_concept.row(by_predicate=pl.col("concept") == concept[0], named=True)
        known = group["weight"].drop_nulls().to_numpy()
        assert line["effective"] == pytest.approx(effective_sample_size(known), rel=1e-5)


def test_inverse_weights_undo_the_selection(place):
    given = {"method": "stratified", "by": "good", "count": 80, "strata": 5}
    rows = weights(decide(place, weight={"method": "inverse"}, pin=False, **given))
    product = rows["weight"] * rows["inclusion_prob"]
    assert product.to_numpy() == pytest.approx(product[0], rel=1e-5)
    assert rows["weight"].mean() == pytest.approx(1, rel=1e-6)
    assert rows["weight"].n_unique() > 1


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_concept_weights_are_what_pruning_would_keep(place, temperature):
    """All rows kept: a concept weighs what density pruning at `budget` would keep of it (F9)."""
    weight = {"method": "concept", "budget": 0.3, "temperature": temperature}
    rows = weights(decide(place, weight=weight, pin=False, method="random", keep=1.0, of="eligible"))
    pruned = decide(place, pin=False, method="density", keep=0.3, of="eligible").concepts()
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


def test_weights_by_draws_with_a_soft_cap(place):
    """A row's draws depend on its uid and score, and on no order of rows or parts."""
    settings = {"method": "soft_cap", "by": "score", "penalty": 0.3, "temperature": 0.5, "draws": 500}
    run = decide(place, pin=False, method="random", keep=0.5, weight=settings)
    rows = run.kept().join(run.scores().select("uid", by="score"), on="uid", maintain_order="left")
    rows = rows.sort("uid", descending=True)
    by = rows["by"].cast(pl.Float64).fill_null(np.nan).to_numpy() / 0.5
    want = soft_cap_counts(by, 500, 0.3, hash_uids(rows["uid"], SEED, "weight"))
    assert rows["weight"].is_null().to_list() == np.isnan(by).tolist() and np.isnan(by).any()
    np.testing.assert_allclose(rows["weight"].fill_null(0) / np.isfinite(by).sum() * 500, want, rtol=1e-6)
    assert want.max() > 3 and facts_of(run)["weights"]["nonfinite"] == np.isnan(by).sum()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_weights_of_few_rows(place, count):
    by_score = decide(
        place, pin=False, method="random", count=count, weight={"method": "linupper", "by": "good"}
    )
    assert by_score.decisions()["weight"].sum() == pytest.approx(count)
    by_concept = decide(
        place, pin=False, method="random", count=count, weight={"method": "concept", "budget": 0.1}
    )
    assert by_concept.decisions()["weight"].sum() == pytest.approx(count)


def test_a_sampler_in_a_loader_draws_what_is_kept(place):
    from torch.utils.data import DataLoader

    from curate.torch import sampler

    run = decide(place, pin=False, method="random", count=20)
    decisions = run.decisions()
    kept = set(decisions.filter("keep")["uid"])
    uids = sorted(decisions["uid"].to_list(), reverse=True)
    drawn = sampler(run.folder.path, uids, num_samples=400)
    seen = {uid for batch in DataLoader(uids, batch_size=50, sampler=drawn) for uid in batch}
    assert len(kept) == 20
    assert seen == kept


def test_all_keeps_what_is_left(place):
    run = decide(place, method="all")
    decisions = run.decisions()
    reasons = set(decisions["reason"])
    assert {"kept", "pinned", "near_duplicate"} <= reasons and "over_budget" not in reasons
    assert decisions["keep"].to_list() == decisions["reason"].is_in(["kept", "pinned"]).to_list()
    budgets = run.concepts()
    assert budgets["kept"].to_list() == budgets["n_eligible"].to_list()
    uid = decisions.filter(pl.col("reason") == "kept")["uid"][0]
    assert explain(run.path, uid)["flip"]["why"].startswith("method all keeps every row that passes")
    frame = frame_of(run, place)
    got = select(frame, "all", seed=SEED)
    assert got["keep"].all()
    assert got["rank"].to_list() == frame["rank"].to_list()


def test_a_score_that_no_row_has_is_no_draw(place):
    pl.DataFrame({"id": ["no such uid"], "gone": [1.0]}).write_parquet(place / "none.parquet")
    values = recipe_values(
        f"{place}/in/*.parquet", place / "run", seed=SEED, limits={"unusable": "10%"}, pin=[f"{place}/pins.txt"],
        score=[{"file": f"{place}/none.parquet", "on": "id", "on_missing": "null"}],
        select={"method": "hardest", "by": "gone", "keep": 0.3},
    )  # fmt: skip
    values["source"] |= {"label": "label"}
    wanted = r"eligible rows has the score 'gone' \(\w+: \d+\), by which method hardest"
    with pytest.raises(CurateError, match=wanted):
        runner.run(parse_recipe(values), until="select")


@pytest.mark.parametrize("method", [{"method": "density"}, {"method": "stratified", "by": "score"}])
def test_a_run_with_floors_and_without_noise_is_whole_and_can_be_asked(place, method):
    composed = {"floor": 4, "floor_per": "concept", "drop_noise": 0.2, "noise_by": "good"}
    run = decide(place, name="asked", count=60, **composed, **method)
    runner.run(load_recipe(run.folder.recipe))
    assert run.verify()["rows"] == N
    notes = " ".join(run.plan()["notes"])
    assert "drop_noise took out" in notes
    assert "floors are left out" in notes
    decisions = run.decisions()
    noise = decisions.filter(pl.col("reason") == "cutoff:good")
    assert len(noise) == facts_of(run)["first"]["noise"] > 0
    why = explain(run.path, noise["uid"][0])["flip"]["why"]
    assert f"one of the {len(noise)} rows with the worst good" in why
    kept = decisions.filter(pl.col("reason") == "kept")["uid"][0]
    assert "act before the method" in explain(run.path, kept)["flip"]["why"]


@pytest.mark.long
def test_rows_are_the_same_for_any_number_of_workers(place):
    rows = [
        decide(place, name=f"workers{n}", method="diversity", count=60, floor="half", drop_noise=0.2, noise_by="good",
               workers=n).digest()
        for n in (1, 3)
    ]  # fmt: skip
    assert rows[0] == rows[1]


def test_auto_leaves_out_what_is_not_there(place, caplog):
    """There are no heads: nothing goes as noise, and that is said; labels have their floor."""
    run = decide(place, name="auto", method="auto", count=60, pin=False)
    assert "no score says which labels or captions are wrong" in caplog.text
    assert facts_of(run)["first"] == {
        "noise_by": None, "noise": 0, "floor_per": "label", "floor": 10, "groups": 3, "floor_rows": 30,
    }  # fmt: skip
    assert run.decisions()["keep"].sum() == 60
