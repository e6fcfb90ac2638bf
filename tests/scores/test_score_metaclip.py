"""MetaCLIP's balancing: matching against plain substrings, counts and draws against its algorithm, budgets, runs."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.api.select import select
from curate.errors import BudgetError, RecipeError, UsageError
from curate.hashing import hash_uids
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.scores.in_memory import score
from curate.scores.metaclip import by_count, drawn_below
from curate.scores.texts.matching import Matcher, read_entries, runs_of
from tests.fixtures.builders import planted, recipe_values, write_shards

ENTRIES = ["cat", "red car", "car", "sunset", "st. louis", "zebra"]


# --- matching --------------------------------------------------------------------------------------------------


def spaced(text):
    """As the published code spaces a text; runs of white space become one here."""
    for sign in ",.;:?!`":
        text = text.replace(sign, f" {sign} ")
    return f" {' '.join(text.split())} "


@pytest.mark.parametrize("ignore_case", [True, False])
@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.text("aBc ,.", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=6),
    st.text("aBc ,.\n", max_size=20),
)
def test_matching_is_that_of_substrings(ignore_case, entries, text):
    fold = str.lower if ignore_case else str
    first = {spaced(fold(one)): place for place, one in reversed(list(enumerate(entries)))}
    want = sorted(place for one, place in first.items() if one in spaced(fold(text)))
    assert Matcher(entries, ignore_case=ignore_case).found(text) == want


def test_entries_are_whole_words():
    matcher = Matcher(ENTRIES, ignore_case=True)
    assert matcher.found("A cat, in a RED car: scarcely St. Louis") == [0, 1, 2, 4]
    assert matcher.found("cats concatenate") == []
    assert Matcher(ENTRIES, ignore_case=False).found("Cat car") == [2]


def test_runs_are_what_a_matcher_finds():
    text = "a red car, a cat. a red cat"
    runs = runs_of(text, 3, ignore_case=True)
    assert runs == {
        "a",
        "red",
        "car",
        "cat",
        "a red",
        "red car",
        "a cat",
        "red cat",
        "a red car",
        "a red cat",
    }
    assert len(Matcher(sorted(runs), ignore_case=True).found(text)) == len(runs)


def test_files_of_entries(tmp_path):
    (tmp_path / "a.txt").write_text("Cat\n\n cat \nred   car\n", encoding="utf-8")
    assert read_entries(tmp_path / "a.txt", "s", ignore_case=True) == ["cat", "red car"]
    assert read_entries(tmp_path / "a.txt", "s", ignore_case=False) == ["Cat", "cat", "red car"]
    (tmp_path / "b.json").write_text('["Cat", "red car"]', encoding="utf-8")
    assert read_entries(tmp_path / "b.json", "s", ignore_case=False) == ["Cat", "red car"]
    for name, text, message in [
        ("c.txt", "\n \n", "holds no entries"), ("d.json", "{}", "must be a JSON list of texts"), ("e.json", "[", "is no JSON"),
    ]:  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=f"s: .*{name} {message}"):
            read_entries(tmp_path / name, "s", ignore_case=True)
    with pytest.raises(UsageError, match="there is no file"):
        read_entries(tmp_path / "none.txt", "s", ignore_case=True)


# --- the draw -----------------------------------------------------------------------------------------------------


def captions(n, seed=0):
    """Captions that say common and rare things, some of them nothing on the list."""
    rng = np.random.default_rng(seed)
    words = ["a red car", "a car", "a cat", "st. louis", "a house"]
    said = [
        " and ".join(rng.choice(words, rng.integers(1, 4), p=[0.2, 0.4, 0.25, 0.05, 0.1])) for _ in range(n)
    ]
    return [None if i % 17 == 5 else text for i, text in enumerate(said)]


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "entries.txt"
    path.write_text("\n".join(ENTRIES), encoding="utf-8")
    return str(path)


def frame_of(texts, uids=None):
    uids = [f"u{i}" for i in range(len(texts))] if uids is None else uids
    return pl.DataFrame({"uid": uids, "caption": texts}, schema={"uid": pl.String, "caption": pl.String})


def algorithm(frame, t, seed):
    """MetaCLIP's algorithm as published, on the entries; its random numbers are hashes. Returns kept uids and counts."""
    held = {
        uid: {one for one in ENTRIES if spaced(one) in spaced((text or "").lower())}
        for uid, text in frame.select("uid", "caption").iter_rows()
    }
    count = {one: sum(one in some for some in held.values()) for one in ENTRIES}
    kept = set()
    for uid, some in held.items():
        for one in some:
            u = ((int(hash_uids([uid], seed, "metaclip", spaced(one).strip())[0]) >> 12) + 0.5) * 2.0**-52
            if u < min(1.0, t / count[one]):
                kept.add(uid)
    return kept, count, held


@pytest.mark.parametrize("t", [0.5, 7, 20, 90, 10_000])
def test_a_t_keeps_what_the_algorithm_keeps(listed, t):
    frame = frame_of(captions(300))
    table = score(frame, {"metaclip": {"entries": listed}}, seed=3)
    kept, count, held = algorithm(frame, t, 3)
    assert set(table.filter(pl.col("metaclip_t") < t)["uid"]) == kept
    for row in table.iter_rows(named=True):
        some = held[row["uid"]]
        assert row["metaclip_entries"] == (len(some) or None)
        assert row["metaclip_rarest"] == (min(count[one] for one in some) if some else None)
    text = dict(frame.iter_rows())
    want = {uid: "ok" if held[uid] else "no_match" if text[uid] else "no_text" for uid in text}
    assert dict(zip(table["uid"], table["metaclip_status"], strict=True)) == want
    assert set(want.values()) == {"ok", "no_match", "no_text"}


def test_the_odds_are_those_of_the_paper(listed):
    """Over many seeds a pair is kept as often as 1 - prod (1 - min(1, t / c))."""
    frame, t = frame_of(captions(60)), 6
    _, count, held = algorithm(frame, t, 0)
    times = np.zeros(60)
    for seed in range(150):
        drawn = score(frame, {"metaclip": {"entries": listed}}, seed=seed)["metaclip_t"] < t
        times += drawn.fill_null(False).to_numpy()
    odds = [1 - np.prod([1 - min(1, t / count[one]) for one in held[uid]]) for uid in frame["uid"]]
    np.testing.assert_allclose(times / 150, odds, atol=4 * 0.5 / np.sqrt(150))


def test_tail_rows_are_always_kept(listed):
    frame = frame_of(captions(300))
    table = score(frame, {"metaclip": {"entries": listed}}, seed=1)
    for t in table["metaclip_rarest"].drop_nulls().unique():
        tail = table.filter(pl.col("metaclip_rarest") <= t)
        assert (tail["metaclip_t"] < t).all()


def test_order_changes_nothing_and_words_of_the_captions_serve(listed):
    frame = frame_of(captions(200))
    turned = frame.sample(fraction=1.0, shuffle=True, seed=4)
    for asked in ({"entries": listed}, {"least": 3, "ngram": 2}):
        found = score(frame, {"metaclip": asked})
        assert found.equals(score(turned, {"metaclip": asked}).sort(pl.col("uid").str.slice(1).cast(int)))
    own = score(frame, {"metaclip": {"least": 3, "ngram": 2}})
    runs = [runs_of(text or "", 2, ignore_case=True) for text in frame["caption"]]
    often = {run for some in runs for run in some if sum(run in other for other in runs) >= 3}
    assert own["metaclip_entries"].to_list() == [len(some & often) or None for some in runs]


@pytest.mark.parametrize("texts", [[], [None], ["nothing"], ["cat"]])
def test_edges(listed, texts):
    table = score(frame_of(texts), {"metaclip": {"entries": listed}})
    assert table["metaclip_t"].null_count() == sum(text != "cat" for text in texts)


def test_counts_that_are_noted():
    assert by_count(np.array([], np.int64)) == []
    found = by_count(np.array([0, 1, 1, 999, 1000, 1009, 98765]))
    assert found == [[1, 2], [999, 1], [1000, 2], [98700, 1]]
    assert [drawn_below(found, t) for t in (0.5, 1, 999, 1e9)] == [(6, 0), (4, 2), (3, 3), (0, 6)]


# --- selection ------------------------------------------------------------------------------------------------------


def test_the_method_keeps_an_exact_number_by_the_draw(listed):
    frame = frame_of(captions(300))
    table = frame.join(
        score(frame, {"metaclip": {"entries": listed}}, seed=3), on="uid", maintain_order="left"
    )
    rows = table.with_columns(concept=pl.lit(0, pl.Int32), distance=pl.lit(0.5, pl.Float32))
    decided = select(rows, method="metaclip", count=90, seed=3)
    kept = set(decided.filter("keep")["uid"])
    values = table.drop_nulls("metaclip_t").sort("metaclip_t")
    assert kept == set(values["uid"][:90])
    t = float(values["metaclip_t"][90])
    assert kept == algorithm(frame, t, 3)[0]  # MetaCLIP at the t that keeps so many
    # A frame has no statuses; a run says no_score:no_match.
    assert all(
        why.startswith("no_score:") for why in decided.filter(pl.col("metaclip_t").is_null())["reason"]
    )
    assert set(decided.filter("keep")["inclusion_prob"]) == {None}
    with pytest.raises(BudgetError, match="300 rows asked for, 270 can be kept"):
        select(rows, method="metaclip", count=300)


def test_a_run_says_t_and_heads_and_what_matches_nothing(tmp_path, listed, caplog):
    n = 120
    said = captions(n)
    said[7] = "long " * 90 + "sunset"
    glob = write_shards(tmp_path / "in", planted(n), extra={"caption": said})
    values = recipe_values(
        glob, tmp_path / "run", score=["caption", {"metaclip": {"entries": listed}}], cluster={"concepts": 3}, dedup={},
        select={"method": "metaclip", "count": 40},
    )  # fmt: skip
    with caplog.at_level("INFO"):
        runner.run(parse_recipe(values), until="select")
    run = open_run(tmp_path / "run")
    uids = [f"s{i:06d}" for i in range(n)]
    memory = score(frame_of(said, uids), {"metaclip": {"entries": listed}})
    table = pl.read_parquet(tmp_path / "run/3_scores/metaclip/*.parquet").sort("uid")
    assert table.equals(memory.sort("uid"))
    assert table.filter(pl.col("uid") == "s000007")["metaclip_rarest"].to_list() == [1.0]  # at its end
    reasons = dict(run.decisions().select("uid", "reason").iter_rows())
    want = {"no_match": "no_score:no_match", "no_text": "no_score:no_text"}
    for uid, status in table.select("uid", "metaclip_status").iter_rows():
        assert reasons[uid] in ({want[status]} if status in want else {"kept", "over_budget"})
    assert sum(one == "kept" for one in reasons.values()) == 40
    cut = table.filter(pl.col("uid").is_in([uid for uid, why in reasons.items() if why == "kept"]))[
        "metaclip_t"
    ].max()
    _, count, _ = algorithm(frame_of(said, uids), 1, 0)
    head = sum(one > cut for one in count.values())
    tail, none = sum(0 < one <= cut for one in count.values()), sum(one == 0 for one in count.values())
    told = [record.message for record in caplog.records if "metaclip: t is" in record.message]
    assert len(told) == 1
    assert told[0].startswith(
        f"select: metaclip: t is {cut:,.4g}; {head} entries have more captions (head, drawn), {tail} "
    )
    assert told[0].endswith(f"have fewer (tail, all kept), {none} have none")
    assert any("captions hold none of the 6 entries: no_match" in record.message for record in caplog.records)
    assert not (tmp_path / "run/.work/score-metaclip").exists()


def test_what_is_refused(tmp_path, listed):
    values = recipe_values("a.parquet", tmp_path / "run", select={"method": "metaclip", "keep": 0.5})
    from curate.pipeline.stages.select import check_recipe

    with pytest.raises(UsageError, match="no score 'metaclip_t'; add metaclip to score"):
        check_recipe(parse_recipe(values))
    with pytest.raises(RecipeError, match=r"score\.metaclip\.entries"):
        parse_recipe(values | {"score": [{"metaclip": {"entries": "list.csv"}}]})
