"""Decisions of people are respected: their rows are kept, dropped or lifted, counts stay exact, and others compete as ever."""

import numpy as np
import polars as pl
import pytest

from curate import open_run, schema
from curate.analysis.explain import explain
from curate.analysis.verify.verify import check_run
from curate.errors import BudgetError
from curate.io import storage
from curate.overrides.store import Decision, Overrides
from curate.pipeline import rescore, runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

N, COPIES, NEAR, UNUSABLE = 240, 8, 14, 3


@pytest.fixture(scope="module", autouse=True)
def _fast(no_flush):
    """Flush nothing."""


def made(folder, name="run", **settings):
    """Run on vectors of which some are copies, near-copies, unusable and failed; return the run."""
    vectors = planted(N, copies=COPIES, near=NEAR)
    vectors[40 : 40 + UNUSABLE] = 0
    labels = ["cat" if i % 3 else "dog" for i in range(N)]
    labels[N - COPIES :] = labels[:COPIES]
    extra = {"label": labels, "size": [float(i % 50) for i in range(N)]}
    glob = write_shards(folder / "in", vectors, extra=extra)
    values = recipe_values(
        glob, folder / name, filter=["size >= 4"], select={"method": "random", "keep": 0.4}, limits={"unusable": "10%"},
        **settings,
    )  # fmt: skip
    values["source"] |= {"label": "label"}
    runner.run(parse_recipe(values))
    return open_run(folder / name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("people"))


@pytest.fixture
def people(run):
    """Decisions about the run; what a test decides is taken back after it."""
    own = Overrides(run.folder, "ann")
    yield own
    while own.undo():
        pass


def again(run, **settings):
    """Select anew; return the decisions of occurrence 0 by uid."""
    rescore.select_run(rescore.chosen_recipe(run.path, settings=settings))
    return rows_of(run)


def rows_of(run):
    frame = run.decisions().filter(pl.col("occurrence") == 0)
    return {row["uid"]: row for row in frame.to_dicts()}


def some(run, reason, n=1):
    found = run.decisions().filter(pl.col("reason").str.starts_with(reason) & (pl.col("occurrence") == 0))
    assert len(found) >= n, reason
    return found["uid"].sort().head(n).to_list()


def test_each_kind_of_row_is_kept_dropped_or_lifted_and_the_budget_is_exact(run, people):
    before = again(run)
    failed, [left] = some(run, "filter:", 2), some(run, "over_budget")
    kept, [near, other] = some(run, "kept", 3), some(run, "near_duplicate", 2)
    [broken] = some(run, "unusable:")
    people.decide([Decision(uid, "keep") for uid in (*failed, left, near, broken)])
    people.decide([*(Decision(uid, "drop") for uid in kept), Decision(other, "not_duplicate")])
    after = again(run)
    reasons = {uid: after[uid]["reason"] for uid in after}
    assert {reasons[uid] for uid in (*failed, left, near)} == {"kept:override"}
    assert {reasons[uid] for uid in kept} == {"dropped:override"}
    assert reasons[broken].startswith("unusable:")
    assert reasons[other] in ("kept", "over_budget")
    assert after[near]["duplicate_of"] is None and after[other]["duplicate_of"] is None
    n = sum(row["keep"] for row in after.values())
    assert n == sum(row["keep"] for row in before.values()) == round(0.4 * (N - UNUSABLE) + 1e-9)
    decided = {*failed, left, near, broken, other, *kept}
    same = {uid for uid in after if uid not in decided}
    settled = ("filter", "near", "exact", "unusable")
    assert all(reasons[u] == before[u]["reason"] for u in same if before[u]["reason"].startswith(settled))
    changed = [u for u in same if after[u]["keep"] != before[u]["keep"]]
    assert all(reasons[u] in ("kept", "over_budget") for u in changed)
    facts = run.folder.marker(run.folder.decisions)["facts"]
    noted = {
        name: facts["overrides"][name] for name in ("keep", "drop", "not_duplicate", "unknown", "unusable")
    }
    assert noted == {"keep": 5, "drop": 3, "not_duplicate": 1, "unknown": 0, "unusable": 1}
    assert facts["overridden"] == 3


def test_others_are_as_if_the_recipe_had_pinned_and_excluded_the_same_rows(run, people, tmp_path):
    again(run)
    named = set(run.decisions()["duplicate_of"].drop_nulls())  # others would be compared with another row
    pins, out = (
        [uid for uid in some(run, why, 30) if uid not in named][:4] for why in ("over_budget", "kept")
    )
    (tmp_path / "pin.txt").write_text("\n".join(pins))
    (tmp_path / "out.txt").write_text("\n".join(out))
    listed = again(run, pin=[f"{tmp_path}/pin.txt"], exclude=[f"{tmp_path}/out.txt"])
    assert {listed[uid]["reason"] for uid in (*pins, *out)} == {"pinned", "excluded"}
    again(run, pin=[], exclude=[])
    people.decide([*(Decision(u, "keep") for u in pins), *(Decision(u, "drop") for u in out)])
    decided = again(run)
    asked = {**dict.fromkeys(pins, "kept:override"), **dict.fromkeys(out, "dropped:override")}
    assert {uid: row | {"reason": asked.get(uid, row["reason"])} for uid, row in listed.items()} == decided


def test_nothing_but_the_decisions_is_made_anew_and_taking_all_back_gives_the_same_bytes(run, people):
    again(run)
    tables = sorted(run.folder.path.glob("[0-5]_*/**/part-*"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tables}
    people.decide([Decision(some(run, "kept")[0], "drop")])
    again(run)
    for path, (when, data) in before.items():
        if "5_decisions" not in str(path):
            assert (path.stat().st_mtime_ns, path.read_bytes()) == (when, data)
    people.undo()
    again(run)
    assert {path: path.read_bytes() for path in tables} == {path: data for path, (_, data) in before.items()}
    assert not (run.folder.decisions / "_overrides").exists()


def test_keeping_a_copy_keeps_the_sample_that_stands_for_it(run, people):
    again(run)
    copies = run.samples().filter(pl.col("copy_of").is_not_null() & (pl.col("copy_of") != pl.col("uid")))
    row = copies.row(0, named=True)
    people.decide([Decision(row["uid"], "keep")])
    after = again(run)
    assert after[row["uid"]]["reason"] == "exact_duplicate"
    assert after[row["copy_of"]]["reason"] == "kept:override"
    people.decide([Decision(row["copy_of"], "not_duplicate")])  # says nothing of whether it is kept
    assert again(run)[row["copy_of"]]["reason"] == "kept:override"
    people.decide([Decision(row["copy_of"], "drop")])
    assert again(run)[row["copy_of"]]["reason"] == "dropped:override"


def test_the_checks_of_a_run_hold_and_notice_what_is_not_as_people_decided(run, people):
    again(run)
    people.decide([Decision(some(run, "filter:")[0], "keep"), Decision(some(run, "kept")[0], "drop")])
    again(run)
    assert check_run(run.path).violations == []
    path = next(run.folder.decisions.glob("part-*.parquet"))
    whole = path.read_bytes()
    frame = pl.read_parquet(path)
    others = pl.when(pl.col("reason") == "over_budget").then(pl.lit("dropped:override")).otherwise("reason")
    table = frame.with_columns(others.alias("reason")).to_arrow().cast(schema.DECISIONS)
    storage.write_parquet(path, table, schema.DECISIONS, "other")
    mark = run.folder.marker(run.folder.decisions)
    run.folder.mark(run.folder.decisions, mark["fingerprint"], mark["facts"])
    assert "dropped:override must be the rows that people decided to drop" in "".join(
        check_run(run.path).violations
    )
    path.write_bytes(whole)
    run.folder.mark(run.folder.decisions, mark["fingerprint"], mark["facts"])


def test_explain_says_who_decided_and_that_no_keep_changes_it(run, people):
    again(run)
    [kept], [near] = some(run, "kept"), some(run, "near_duplicate")
    of = rows_of(run)[near]["duplicate_of"]
    people.decide([Decision(kept, "keep"), Decision(of, "drop")])
    again(run)
    found = explain(run.path, kept)
    assert found["decision"]["reason"] == "kept:override"
    assert [(one["by"], one["what"]) for one in found["overrides"]] == [("ann", "keep")]
    assert found["flip"] == {"keep": None, "why": "people keep it, at any keep"}
    assert "people dropped it" in explain(run.path, of)["flip"]["why"]
    assert [(one["uid"], one["what"]) for one in explain(run.path, near)["overrides"]] == [(of, "drop")]
    explain(run.path, some(run, "over_budget")[0])


def test_more_kept_by_people_than_asked_for_is_an_error_and_leaves_the_run_as_it_was(run, people):
    before = again(run)
    people.decide([Decision(uid, "keep") for uid in (*some(run, "kept", 90), *some(run, "over_budget", 20))])
    with pytest.raises(BudgetError, match="rows are pinned or kept by people"):
        again(run)
    assert rows_of(run) == before


def test_uids_of_no_row_and_newer_decisions_are_said(run, people, caplog):
    again(run)
    people.decide([Decision("nobody", "drop")])
    from curate.analysis.summary.summary import stage_warnings

    assert any("people decided since" in text for text in stage_warnings(run.folder))
    again(run)
    assert "1 samples are not in the run, such as nobody" in caplog.text
    assert not any("people decided since" in text for text in stage_warnings(run.folder))


@pytest.mark.parametrize("select", [
    {"method": "density", "prefer": "hardest", "keep": 0.3}, {"method": "density", "count": 400, "at_most": True},
    {"method": "all"},
])  # fmt: skip
@pytest.mark.parametrize("weight", [None, {"method": "concept"}])
def test_methods_and_weights_take_what_people_decided(run, people, select, weight):
    before = again(run)
    rng = np.random.default_rng(1)
    usable = sorted(uid for uid, row in before.items() if not row["reason"].startswith(("unusable", "exact")))
    drawn = rng.permutation(usable)[:45].tolist()
    keep, drop, lift = drawn[:15], drawn[15:30], drawn[30:]
    kinds = [("keep", keep), ("drop", drop), ("not_duplicate", lift)]
    people.decide([Decision(uid, what) for what, uids in kinds for uid in uids])
    own = {f"select.{name}": value for name, value in select.items()} | {"weight": weight}
    after = again(run, **own)
    assert {after[uid]["reason"] for uid in keep} == {"kept:override"}
    assert {after[uid]["reason"] for uid in drop} == {"dropped:override"}
    assert "near_duplicate" not in {after[uid]["reason"] for uid in lift}
    assert check_run(run.path).violations == []


def written(run):
    return pl.read_parquet(f"{run.path}/6_filtered/*.parquet").rows_by_key("id", named=True, unique=True)


def test_labels_put_right_stand_beside_the_old_ones_or_in_their_place(run, people):
    rescore.select_run(rescore.chosen_recipe(run.path), write=True)
    before, digests = written(run), {p.name: p.read_bytes() for p in run.folder.filtered.glob("*.parquet")}
    decided = run.folder.fingerprint(run.folder.decisions)
    cat, dog, other = (
        next(u for u in before if before[u]["label"] == name) for name in ("cat", "dog", "cat")
    )
    other = next(u for u in before if u not in (cat, dog))
    decisions = [("wrong_label", cat, "eel"), ("wrong_label", dog, None), ("right_label", other, None)]
    people.decide([Decision(uid, what, before[uid]["label"], new) for what, uid, new in decisions])
    rescore.select_run(rescore.chosen_recipe(run.path), write=True)
    after = written(run)
    assert run.folder.fingerprint(run.folder.decisions) == decided  # nothing is decided anew for a label
    assert [after[u]["label_corrected"] for u in (cat, dog, other)] == ["eel", None, None]
    assert [after[u]["label_check"] for u in (cat, dog, other)] == ["wrong", "wrong", "right"]
    assert sum(row["label_check"] is not None for row in after.values()) == 3
    assert {u: {k: row[k] for k in before[u]} for u, row in after.items()} == before
    rescore.select_run(rescore.chosen_recipe(run.path, settings={"write.relabel": "in_place"}), write=True)
    placed = written(run)
    assert placed == {u: row | ({"label": "eel"} if u == cat else {}) for u, row in before.items()}
    assert check_run(run.path).violations == []
    people.undo()
    rescore.select_run(rescore.chosen_recipe(run.path, settings={"write.relabel": "beside"}), write=True)
    assert {p.name: p.read_bytes() for p in run.folder.filtered.glob("*.parquet")} == digests
