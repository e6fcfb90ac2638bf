"""Stage `filter`: conditions, shares and lists over all samples of a run, and the order of reasons, against the definitions."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.errors import BudgetError, CurateError, UsageError
from curate.execution.context import Context
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.filtering.conditions import find_rules
from curate.hashing import tie
from curate.pipeline import runner
from curate.pipeline.stages.filter import check_recipe
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import DIM, planted, recipe_values, write_shards
from tests.fixtures.folders import changed, tables


def run(glob, out, **changes):
    runner.run(parse_recipe(recipe_values(glob, out, **changes)), until="select")
    return open_run(out)


def test_conditions_without_columns(tmp_path):
    glob = write_shards(tmp_path / "in", planted(100))
    select = {"keep": 0.3, "at_most": True}
    assert run(glob, tmp_path / "run", filter="1 = 1", select=select).decisions()["keep"].sum() == 30
    for condition in ("false", "1 = 2"):
        decisions = run(glob, tmp_path / "run", filter=condition, select=select).decisions()
        assert decisions["keep"].sum() == 0
        assert decisions["reason"].unique().to_list() == [f"filter:{condition}"]


def test_reasons_by_precedence(tmp_path):
    """A broken row, copies, rows that fail, near-copies and the rest: each has the reason that comes first."""
    rows = planted(60, copies=4)  # rows 56 to 59 copy 0 to 3
    rows[10] = np.nan
    rows[56] = rows[0]
    rows[20] = rows[21] + np.float16(0.002)
    glob = write_shards(tmp_path / "in", rows, uid=False, extra={"label": [str(i % 56) for i in range(60)]})
    source = {"path": glob, "label": "label"}
    found = run(glob, tmp_path / "run", source=source, filter=["label != '2'", "label != '30'"],
                dedup={"epsilon": 0.001}, select={"count": 20})  # fmt: skip
    both = found.decisions().join(found.samples().select("shard", "row", "label"), on=["shard", "row"])
    assert both.height == 60
    reason = {}
    for label, occurrence, why in both.select("label", "occurrence", "reason").iter_rows():
        reason[label, occurrence] = why
    assert reason["10", 0] == "unusable:bad_vector"
    assert [reason[str(i), 1] for i in range(4)] == ["exact_duplicate"] * 4, "also where its original fails"
    assert reason["2", 0] == "filter:label != '2'"
    assert reason["30", 0] == "filter:label != '30'"
    assert sorted({reason["20", 0], reason["21", 0]} & {"near_duplicate"}) == ["near_duplicate"]
    rest = [why for why in reason.values() if why in ("kept", "over_budget")]
    assert (len(rest), rest.count("kept")) == (60 - 1 - 4 - 2 - 1, 20)
    copies = both.filter(pl.col("occurrence") == 1)
    originals = both.filter(pl.col("occurrence") == 0).select("uid", "label")
    joined = copies.join(originals, left_on="duplicate_of", right_on="uid")
    assert joined["label"].to_list() == joined["label_right"].to_list()


def test_a_duplicate_names_a_row_that_passed(tmp_path):
    rows = planted(40)
    rows[30] = rows[5] + np.float16(0.001)
    rows[31] = rows[5] + np.float16(0.0015)
    glob = write_shards(tmp_path / "in", rows)
    found = run(
        glob, tmp_path / "run", filter="uid != 's000005'", dedup={"epsilon": 0.001}, select={"keep": 0.5}
    )
    near = found.decisions().filter(pl.col("reason") == "near_duplicate")
    assert set(near["duplicate_of"]) <= {"s000030", "s000031"}
    assert near.height == 1


def test_too_few_pass(tmp_path):
    glob = write_shards(tmp_path / "in", planted(50))
    with pytest.raises(
        BudgetError, match=r"select.keep 0.5 of 50 usable rows = 25, but only 10 rows .* 40 filtered"
    ):
        run(glob, tmp_path / "run", filter="uid < 's000010'", select={"keep": 0.5})


def test_not_finite_scores_do_not_pass(tmp_path):
    """Own vectors have no captions, so that the score is null: neither side of a comparison holds."""
    glob = write_shards(tmp_path / "in", planted(30, dim=DIM))
    for condition in ("clip_score >= -9", "clip_score < 9", "NOT clip_score > 0"):
        either = f"{condition} OR uid < ''"  # by itself it would be refused: no row can pass
        found = run(glob, tmp_path / "run", filter=either, select={"keep": 1, "at_most": True})
        assert found.decisions()["keep"].sum() == 0


# --- conditions on one score ------------------------------------------------------------------------------------

N = 90
UIDS = [f"s{i:06d}" for i in range(N)]
SCORE = [None if i % 10 == 3 else (math.inf if i == 5 else float(i * 7 % 23)) for i in range(N)]  # many ties
LABELS = [None if i % 13 == 1 else "xyz"[i % 3] for i in range(N)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    pl.DataFrame({"uid": UIDS, "s": SCORE, "t": [float(i) for i in range(N)]}).write_parquet(
        folder / "mine.parquet"
    )
    return write_shards(folder / "in", planted(N), shards=3, extra={"label": LABELS}), str(
        folder / "mine.parquet"
    )


@pytest.fixture(scope="module")
def out(data):
    """The folder of a run that all these tests go on with: what they do not change is not made again."""
    return Path(data[1]).parent / "run"


def settings(data, out, **changes):
    source = {"path": data[0], "uid": "id", "label": "label"}
    plain = {
        "source": source,
        "score": [{"file": data[1]}],
        "select": {"keep": 1, "at_most": True},
        "dedup": {},
    }
    return parse_recipe(recipe_values("", out, **(plain | changes)))


def filtered(values, until="filter"):
    runner.run(values, until=until)
    return pl.read_parquet(f"{values.run}/3_scores/filter/part-*").sort("uid")


def passing(data, out, *conditions, **changes):
    found = filtered(settings(data, out, filter=list(conditions), **changes))
    return {uid for uid, reason in found.select("uid", "filter_reason").iter_rows() if reason is None}


def known():
    return [i for i in range(N) if SCORE[i] is not None and math.isfinite(SCORE[i])]


def by_definition(rule, concept=None):
    """Which rows pass a rule, by sorting and counting, from the words of its docstring."""
    rows, seed_tie = known(), tie(UIDS, 0).tolist()
    null = {UIDS[i] for i in set(range(N)) - set(rows)} if rule.get("on_null") == "keep" else set()
    if "above" in rule:
        return {UIDS[i] for i in rows if SCORE[i] >= rule["above"]} | null
    if "below" in rule:
        return {UIDS[i] for i in rows if SCORE[i] < rule["below"]} | null
    if "quantile" in rule:
        group = {None: [0] * N, "label": LABELS, "concept": concept}[rule.get("per")]
        kept = set()
        for name in {g for g in group if g is not None}:
            inside = sorted((SCORE[i], i) for i in rows if group[i] == name)
            if inside:
                place = math.ceil(Fraction(str(rule["quantile"])) * (len(inside) - 1))
                kept |= {UIDS[i] for value, i in inside if value >= inside[place][0]}
        lost = {UIDS[i] for i in rows if group[i] is None} if rule.get("on_null") == "keep" else set()
        return kept | null | lost
    name = "top" if "top" in rule else "bottom"
    sign = -1 if name == "top" else 1
    base = N if rule.get("of") == "usable" else len(rows)
    count = math.floor(Fraction(str(rule[name])) * base + Fraction(1, 2))
    ordered = sorted(rows, key=lambda i: (sign * SCORE[i], seed_tie[i]))
    chosen = ordered[:count]
    if rule.get("ties") == "all" and chosen:
        chosen += [i for i in ordered[count:] if SCORE[i] == SCORE[chosen[-1]]]
    return {UIDS[i] for i in chosen} | null


RULES = [
    {"above": 11}, {"above": 22.5}, {"above": -1, "on_null": "keep"},
    {"below": 11}, {"below": 22.5, "on_null": "keep"}, {"below": -1},
    {"top": 0.3}, {"bottom": 0.3}, {"top": 0}, {"top": 1}, {"top": 0.305, "on_null": "keep"},
    {"top": 0.3, "of": "usable"}, {"bottom": 0.25, "ties": "all"}, {"top": 0.5, "ties": "all"},
    {"quantile": 0.5}, {"quantile": 0}, {"quantile": 1}, {"quantile": 0.73, "per": "label"},
    {"quantile": 0.5, "per": "concept"}, {"quantile": 0.9, "per": "label", "on_null": "keep"},
]  # fmt: skip


def passing_each(data, out, rules):
    """Return the rows that pass each rule by itself, as found over the scores of one run."""
    values = settings(data, out, filter=rules)
    runner.run(settings(data, out), until="score")
    found = find_rules(with_parts(Context(values, open_run(out).folder, LocalEngine(1))), values.filter)
    frame = pl.read_parquet(f"{out}/3_scores/mine/part-*").join(
        pl.read_parquet(f"{out}/2_concepts/assignments/part-*"), on="uid", maintain_order="left"
    )
    frame = frame.join(pl.DataFrame({"uid": UIDS, "label": LABELS}), on="uid", maintain_order="left")
    concept = frame.sort("uid")["concept"].to_list()
    return [set(frame.filter(rule.passes(frame))["uid"]) for rule in found], concept


def test_rules_by_definition(data, out, tmp_path):
    rules = [{"by": "s", **rule} for rule in RULES]
    found, concept = passing_each(data, out, rules)
    for passed, rule in zip(found, RULES, strict=True):
        assert passed == by_definition(rule, concept), rule
    shuffled = write_shards(tmp_path / "in", planted(N), shards=5, order=np.random.default_rng(0).permutation(N),
                            extra={"label": LABELS})  # fmt: skip
    assert passing_each((shuffled, data[1]), tmp_path / "other", rules)[0] == found
    for place in (3, 9, 14):
        assert passing(data, out, rules[place]) == found[place]


def test_a_rule_has_a_name(data, out):
    found = filtered(settings(data, out, filter=[{"by": "s", "quantile": 0.5, "per": "label"}, "t < 80"]))
    assert set(found["filter_reason"]) == {None, "filter:quantile 0.5 by s per label", "filter:t < 80"}


def test_a_share_does_not_depend_on_other_conditions(data, out):
    rule = {"by": "t", "top": 0.5}
    assert passing(data, out, "t < 60", rule) == {UIDS[i] for i in range(45, 60)}
    assert passing(data, out, rule, "t < 60") == {UIDS[i] for i in range(45, 60)}


def test_a_threshold_is_rounded_like_the_scores(tmp_path):
    pl.DataFrame({"uid": UIDS, "s": [0.7] * N}).write_parquet(tmp_path / "s.parquet")
    data = write_shards(tmp_path / "in", planted(N)), str(tmp_path / "s.parquet")
    plain = {"source": {"path": data[0], "uid": "id"}}
    for condition in ("s >= 0.7", {"by": "s", "above": 0.7}):
        assert len(passing(data, tmp_path / "run", condition, **plain)) == N
    assert passing(data, tmp_path / "run", {"by": "s", "above": 1e300}, **plain) == set()
    assert passing(data, tmp_path / "run", {"by": "s", "below": 0.7}, **plain) == set()
    assert len(passing(data, tmp_path / "run", {"by": "s", "below": 1e300}, **plain)) == N


def test_on_null_error_counts_by_status(data, out):
    with pytest.raises(
        CurateError, match=r"'above 3 by s': 10 of 90 samples have no s \(9 missing, 1 nonfinite\)"
    ):
        filtered(settings(data, out, filter={"by": "s", "above": 3, "on_null": "error"}))
    with pytest.raises(
        CurateError, match=r"7 of 90 samples have no t \(7 no_label\) and on_null is error; set on_"
    ):
        rule = {"by": "t", "quantile": 0.5, "per": "label", "on_null": "error"}
        filtered(settings(data, out, filter=rule))
    assert len(passing(data, out, {"by": "t", "above": 0, "on_null": "error"})) == N


NULL_RULES = [
    ("s < 1000", "s", {"missing": 9, "nonfinite": 1}),
    ("s < 1000 AND t >= 0", "s", {"missing": 9, "nonfinite": 1}),
    ("s < 1000 OR s IS NULL", None, {}),
    ("s IS NOT NULL", None, {}),
    ({"by": "s", "above": -1}, "s", {"missing": 9, "nonfinite": 1}),
    ({"by": "s", "above": -1, "on_null": "keep"}, None, {}),
    ({"by": "s", "below": 1000}, "s", {"missing": 9, "nonfinite": 1}),
    ({"by": "s", "below": 1000, "on_null": "keep"}, None, {}),
    ({"by": "t", "quantile": 0, "per": "label"}, "label", {None: 7}),
]


@pytest.mark.parametrize(("condition", "column", "expected"), NULL_RULES)
def test_rows_dropped_for_nulls_are_counted_by_reason(data, out, condition, column, expected, caplog):
    filtered(settings(data, out, filter=[condition]))
    folder = open_run(out).folder
    facts = folder.marker(folder.scores("filter"))["facts"]
    found = facts.get("nulls", [])
    assert {one["why"]: one["rows"] for one in found} == expected
    assert {one["column"] for one in found} == ({column} if column else set())
    said = f"{sum(expected.values())} of {N} rows have no {column}"
    assert (said in caplog.text) == bool(expected)
    assert ("nulls" in facts) == ("judged" in facts) == bool(expected)


def test_an_error_says_that_nulls_dropped_the_rows(data, out):
    said = r"only 80 rows are eligible .*filter: s < 1000: 10 of 90 rows have no s \(9 missing, 1 nonfinite\)"
    changes = {"filter": ["s < 1000"], "select": {"count": 85}}
    with pytest.raises(BudgetError, match=said):
        runner.run(settings(data, out, **changes), until="select")
    runner.run(settings(data, out, **(changes | {"filter": ["s < 1000 OR s IS NULL"]})), until="select")
    assert open_run(out).decisions()["keep"].sum() == 85


def test_more_than_there_is_a_score_for(data, out):
    with pytest.raises(
        BudgetError, match=r"'top 0.95 by s': 0.95 of 90 rows = 86 asked for, 80 have a score; ask for"
    ):
        filtered(settings(data, out, filter={"by": "s", "top": 0.95, "of": "usable"}))


def test_a_score_nobody_has(data, tmp_path):
    pl.DataFrame({"uid": UIDS, "s": [None] * N}, schema={"uid": pl.String, "s": pl.Float64}).write_parquet(
        tmp_path / "s.parquet"
    )
    for rule in ({"top": 0.5}, {"quantile": 0.5, "per": "label"}, {"quantile": 0.5}, {"above": 0}):
        assert passing((data[0], str(tmp_path / "s.parquet")), tmp_path / "run", {"by": "s", **rule}) == set()


def test_rules_need_scores(data, out):
    with pytest.raises(
        UsageError, match="filter 'above 3 by width': no score 'width'; there are distance, s, t"
    ):
        check_recipe(settings(data, out, filter={"by": "width", "above": 3}))
    with pytest.raises(UsageError, match=r"filter 'top 0.5 by el2n': no score 'el2n'; add heads to score"):
        check_recipe(settings(data, out, filter={"by": "el2n", "top": 0.5}))
    with pytest.raises(
        UsageError, match="filter 'above 1 by mine_status': 'mine_status' is no score to rank by"
    ):
        check_recipe(settings(data, out, filter={"by": "mine_status", "above": 1}))


def test_the_status_of_a_missing_score_is_of_its_family(data, out):
    values = settings(data, out, select={"keep": 0.1, "method": "hardest", "by": "s", "on_null": "drop"})
    found = filtered(values)["filter_reason"].to_list()
    assert [found[i] for i in (3, 4, 5)] == ["no_score:missing", None, "no_score:nonfinite"]


# --- what it depends on ---------------------------------------------------------------------------------------


def test_only_the_scores_it_reads_make_it_new(data, out):
    first = settings(data, out, filter="t < 80")
    runner.run(first, until="select")
    added = settings(data, out, filter="t < 80", score=[{"file": data[1]}, "clip_score"])
    assert runner.run(added, until="select").worked == ("score",)
    one = {"by": "t", "top": 0.5}
    assert "filter" in runner.run(settings(data, out, filter=one), until="filter").worked
    again = settings(data, out, filter=one | {"ties": "all"})
    assert "filter" in runner.run(again, until="filter").worked


@pytest.mark.long
def test_workers_and_memory_give_the_same_bytes(data, tmp_path):
    pins = tmp_path / "pin.txt"
    pins.write_text("s000003\ns000008\n")
    more = {"filter": [{"by": "s", "top": 0.5}, "t < 80"], "pin": str(pins), "dedup": {"epsilon": 0.3}}
    for name, changes in (("one", {}), ("two", {"workers": 2}), ("small", {"memory": "1GB"})):
        filtered(settings(data, tmp_path / name, **more, **changes), until="dedup")
    one = tables(tmp_path / "one")
    assert not changed(one, tables(tmp_path / "two"))
    assert not changed(one, tables(tmp_path / "small"))


# --- lists, leaks and pins ----------------------------------------------------------------------------------------


def with_leaks(monkeypatch, similarity):
    """Fake the family that compares with an evaluation set: a table of the given similarities by uid."""
    from curate.scores.base import Score
    from curate.scores.leakage import Against

    def compute(self, context, output):
        for part in context.parts:
            uids = pl.read_parquet(context.run.part(context.run.assignments, part.name))["uid"]
            values = np.array([similarity.get(uid, np.nan) for uid in uids], np.float32)
            status = ["ok" if uid in similarity else "no_vectors" for uid in uids]
            output.write(part, {output.schema.names[1]: values, output.schema.names[2]: status})
        return {"scored": len(similarity)}

    monkeypatch.setattr(Against, "check", Score.check)  # the set is not there
    monkeypatch.setattr(Against, "inputs", Score.inputs)
    monkeypatch.setattr(Against, "compute", compute)


def test_leaks_are_above_the_threshold_in_exact_decimals(data, tmp_path, monkeypatch):
    near = np.float32(0.93)
    over = np.nextafter(near, np.float32(2))
    assert float(near) > 0.93 > float(np.nextafter(near, np.float32(0)))
    with_leaks(monkeypatch, {"s000001": near, "s000002": np.nextafter(near, np.float32(0)), "s000003": over})
    dedup = {"epsilon": 0.5, "against": [{"path": "eval.npy", "epsilon": 0.07}]}
    found = filtered(settings(data, tmp_path / "run", dedup=dedup))
    leaked = found.filter(pl.col("filter_reason").is_not_null())
    assert leaked.select("uid", "filter_reason", "pinned").rows() == [
        (uid, "leak:eval", False) for uid in ("s000001", "s000003")
    ]
    wide = settings(data, tmp_path / "run", dedup={"epsilon": 0.5, "against": "eval.npy"})
    assert filtered(wide)["filter_reason"].to_list().count("leak:eval") == 3


def test_the_order_of_reasons_and_what_pins_pass(data, tmp_path, monkeypatch, caplog):
    with_leaks(monkeypatch, dict.fromkeys([UIDS[i] for i in (0, 1, 2, 3, 13)], 0.99))
    (tmp_path / "out.txt").write_text("s000000\ns000023\ns000050\n")
    (tmp_path / "pin.txt").write_text("s000002\ns000033\ns000034\ns000070\n")
    values = settings(
        data, tmp_path / "run", filter="t > 20", exclude=str(tmp_path / "out.txt"), pin=str(tmp_path / "pin.txt"),
        dedup={"epsilon": 0.1, "against": "eval.npy", "prefer": "score:s"},
    )  # fmt: skip
    found = filtered(values)
    reason = dict(found.select("uid", "filter_reason").iter_rows())
    got = [reason[UIDS[i]] for i in (0, 1, 10, 23, 43, 50, 60)]
    assert got == ["excluded", "leak:eval", "filter:t > 20", "excluded", "no_score:missing", "excluded", None]
    assert [reason[UIDS[i]] for i in (2, 33, 34, 70)] == [None] * 4
    assert found.filter("pinned")["uid"].to_list() == [UIDS[i] for i in (2, 33, 34, 70)]
    told = "filter: 2 pinned samples stay that a condition, a leak or a missing score would have dropped"
    assert told in caplog.text
    facts = json.loads((tmp_path / "run/3_scores/filter/_done.json").read_text())["facts"]
    failed = found["filter_reason"].is_not_null().sum()
    want = {"failed": failed, "excluded": 3, "leaked": 3, "pinned": 4, "pinned_although": 2}
    assert {name: facts[name] for name in want} == want


def test_pinned_rows_are_no_duplicates_but_have_some(tmp_path):
    rows = planted(40)
    for i in (30, 31, 32):
        rows[i] = rows[5] + np.float16(0.001) * (i - 29)
    glob = write_shards(tmp_path / "in", rows)
    (tmp_path / "pin.txt").write_text("s000031\ns000032\n")
    for mode in ("greedy", "reference"):
        values = parse_recipe(recipe_values(
            glob, tmp_path / mode, dedup={"epsilon": 0.01, "mode": mode}, pin=str(tmp_path / "pin.txt"),
            cluster={"concepts": 1},
        ))  # fmt: skip
        runner.run(values, until="dedup")
        found = pl.read_parquet(f"{tmp_path}/{mode}/4_duplicates/part-*")
        of = dict(found.select("uid", "duplicate_of").iter_rows())
        assert of["s000031"] is of["s000032"] is None
        assert {of["s000005"], of["s000030"]} <= {"s000031", "s000032", "s000005", "s000030"}
        assert None not in (of["s000005"], of["s000030"])
        if mode == "greedy":
            assert {of["s000005"], of["s000030"]} <= {"s000031", "s000032"}


def test_a_share_to_drop_is_of_the_rows_that_can_be_dropped(tmp_path):
    rows = planted(100, near=40)
    glob = write_shards(tmp_path / "in", rows)
    (tmp_path / "pin.txt").write_text("".join(f"s{i:06d}\n" for i in [*range(20), *range(60, 80)]))
    dropped = {}
    for name, pin in (("with", str(tmp_path / "pin.txt")), ("without", [])):
        values = parse_recipe(recipe_values(
            glob, tmp_path / name, dedup={"epsilon": {"drop": 0.2}, "mode": "reference"}, pin=pin,
            cluster={"concepts": 1},
        ))  # fmt: skip
        runner.run(values, until="dedup")
        of = pl.read_parquet(f"{tmp_path}/{name}/4_duplicates/part-*").filter(
            pl.col("duplicate_of").is_not_null()
        )
        dropped[name] = set(of["uid"])
    assert {len(uids) for uids in dropped.values()} == {20}
    assert not dropped["with"] & set((tmp_path / "pin.txt").read_text().split())
