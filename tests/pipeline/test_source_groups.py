"""Columns of the user's own rows in a run: quotas, floors, mixtures, scores, spared rows and counts, against a frame of the rows."""

import json
import shutil

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from curate import open_run
from curate.analysis.explain import explain
from curate.api.select import select
from curate.errors import RecipeError, UsageError
from curate.filtering.column_tables import as_texts
from curate.hashing import hash_uids
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.recipe.select import ScoreFilter
from tests.fixtures.builders import planted, recipe_values, write_shards

pytestmark = pytest.mark.usefixtures("no_flush")

N = 240
UIDS = [f"s{i:06d}" for i in range(N)]


def values():
    rng = np.random.default_rng(0)
    return {
        "language": [None if i % 31 == 5 else ("en", "de", "", "fr")[n] for i, n in enumerate(rng.choice(4, N, p=[0.6, 0.2, 0.1, 0.1]))],
        "width": rng.integers(64, 1024, N).tolist(),
        "punsafe": [None if i % 40 == 7 else float(one) for i, one in enumerate(rng.random(N).round(3))],
        "year": [float(2020 + i % 3) for i in range(N)],
        "tags": [["a"] * (i % 4) + ["b"] * (i % 2) for i in range(N)],
    }  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two sources: one in a folder per year of crawling, one whose second shard lacks the column `language`."""
    folder = tmp_path_factory.mktemp("groups")
    rows, extra = planted(N, near=10), values()
    order = np.arange(160)
    write_shards(folder / "web" / "crawl=2023", rows, shards=1, order=order[:80], extra=extra)
    write_shards(folder / "web" / "crawl=2024", rows, shards=1, order=order[80:], extra=extra)
    write_shards(folder / "photos", rows, shards=2, order=np.arange(160, N), extra=extra)
    lacking = folder / "photos" / "train-00001-of-00002.parquet"
    pq.write_table(pq.read_table(lacking).drop(["language"]), lacking)
    return folder


def recipe(place, out, **changes):
    source = [
        {"path": f"{place}/web/*/*.parquet", "uid": "id", "name": "web"},
        {"path": f"{place}/photos/*.parquet", "uid": "id", "name": "photos"},
    ]
    made = {"source": source, "score": [], "write": {"schemas": "apart"}, **changes}
    return parse_recipe(recipe_values("", out, **made))


def decide(place, out, until="select", **changes):
    if not out.exists():
        shutil.copytree(place / "run", out)
    runner.run(recipe(place, out, **changes), until=until)
    return open_run(out)


@pytest.fixture(scope="module", autouse=True)
def embedded(place):
    runner.run(recipe(place, place / "run"), until="dedup")


def truth():
    """What each row holds, as groups see it: the second shard of the photos has no language."""
    frame = pl.DataFrame({"uid": UIDS, **values()}, strict=False)
    number = pl.int_range(N)
    return frame.with_columns(
        language=pl.when((number < 200) & (pl.col("language") != "")).then("language"),
        source=pl.when(number < 160).then(pl.lit("web")).otherwise(pl.lit("photos")),
        crawl=pl.when(number < 160).then(pl.when(number < 80).then(pl.lit("2023")).otherwise(pl.lit("2024"))),
        year=pl.col("year").cast(pl.Int64).cast(pl.String),
        width=pl.col("width").cast(pl.String),
    )


def competing(run):
    """The rows that reached selection, with their values."""
    decisions = run.decisions().filter(pl.col("reason").is_in(["kept", "over_budget", "spared", "pinned"]))
    return decisions.join(truth(), on="uid", how="left")


def noted(run):
    return json.loads((run.folder.decisions / "_done.json").read_text())["facts"]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "quotas", "per": "language", "min_per_group": 3},
        {"method": "quotas", "per": "language", "shares": {"en": 0.3, "fr": 0.4}, "prefer": "hardest"},
        {"method": "quotas", "per": "source.year", "shares": {2020: 0.5, 2021: 0.25}},
        {"method": "quotas", "per": "crawl", "shares": {"2024": 0.5}},
        {"method": "quotas", "per": "source", "shares": {"web": "50%", "photos": "50%"}},
        {"method": "random", "floor": 9, "floor_per": "language"},
        {"method": "hardest", "by": "distance", "floor": 7, "floor_per": "crawl"},
    ],
)
def test_a_run_decides_as_a_frame_does(place, tmp_path, settings):
    run = decide(place, tmp_path / "run", select={**settings, "count": 70})
    rows = competing(run)
    assert rows["keep"].sum() == 70
    bare = {
        name: one.removeprefix("source.") if isinstance(one, str) else one for name, one in settings.items()
    }
    frame = rows.select("uid", "concept", "distance", "language", "source", "crawl", "year").sample(
        fraction=1.0, shuffle=True, seed=2
    )
    want = select(frame, bare.pop("method"), count=70, **bare)
    assert set(want.filter("keep")["uid"]) == set(rows.filter("keep")["uid"])


def test_a_group_that_is_too_small_is_told_and_the_number_is_exact(place, tmp_path):
    shares = {"fr": 0.5, "de": 0.2}
    run = decide(
        place, tmp_path / "run", select={"method": "quotas", "per": "language", "shares": shares, "count": 60}
    )
    facts, rows = noted(run), competing(run)
    small = int((rows["language"] == "fr").sum())
    assert small < 30 and facts["kept"] == 60
    assert (
        f"shares cannot be met: fr: {small} of 30 rows are there; the other groups keep more"
        in facts["warnings"][0]
    )
    missing = int(truth()["language"].null_count())
    assert (
        f"{missing} of {N} rows have no language (40 of them in 1 shards without that column)"
        in facts["warnings"][1]
    )
    mixed = {one["group"]: one for one in facts["mixture"]["groups"]}
    assert mixed["fr"] == {"group": "fr", "share": 0.5, "rows": small, "kept": small}
    left = 60 - small  # what fr lacks goes by 0.2 to 0.3
    assert abs(mixed["de"]["kept"] - left * 0.4) < 1
    assert sum(one["kept"] for one in facts["mixture"]["groups"]) == 60


def test_what_would_decide_otherwise(place, tmp_path):
    asked = {"method": "quotas", "per": "language", "shares": {"fr": 0.3, "en": 0.1}, "prefer": "hardest"}
    run = decide(place, tmp_path / "run", select={**asked, "count": 60}, until="select")
    rows = competing(run)
    for uid in (rows.filter("keep")["uid"][0], rows.filter(~pl.col("keep"))["uid"][0]):
        flip = explain(run.folder.path, uid)["flip"]
        frame = rows.select("uid", "concept", "distance", "language")
        before = rows.filter(pl.col("uid") == uid)["keep"][0]
        for count, kept in ((flip["count"], not before), (flip["count"] + (1 if before else -1), before)):
            found = select(
                frame, "quotas", count=count, **{name: one for name, one in asked.items() if name != "method"}
            )
            assert found.filter(pl.col("uid") == uid)["keep"][0] == kept


@pytest.mark.long
def test_neither_workers_nor_the_order_of_shards_change_it(place, tmp_path):
    asked = {"select": {"method": "quotas", "per": "language", "shares": {"en": 0.2}, "count": 50}}
    first = decide(place, tmp_path / "one", **asked).decisions()
    second = decide(place, tmp_path / "two", workers=2, memory="3GB", **asked).decisions()
    assert first.equals(second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": {"method": "quotas", "per": "langage", "count": 9}}, "select.per: the source has no column 'langage'; there are .*language"),
        ({"select": {"method": "quotas", "per": "width", "count": 9}}, "select.per: 'width' is a column of the run, .*source.width is the one of the source"),
        ({"select": {"method": "quotas", "per": "tags", "count": 9}}, "select.per: 'tags' holds lists"),
        ({"select": {"method": "random", "floor": 2, "floor_per": "lang", "count": 9}}, "select.floor_per: the source has no column 'lang'"),
        ({"select": {"method": "quotas", "per": "source", "shares": {"wep": 0.5}, "count": 9}}, "select.shares: there is no source 'wep'; there are photos, web"),
        ({"select": {"method": "quotas", "per": "split", "shares": {"test": 0.5}, "count": 9}}, "select.shares: there is no split 'test'; there are train"),
        ({"report": {"by": ["langage"]}}, "report.by: the source has no column 'langage'"),
        ({"score": [{"source": {"column": "punsafee", "higher_is": "noisier"}}]}, "score: source.column of punsafee: the source has no column"),
        ({"score": [{"source": {"column": "language", "higher_is": "better"}}]}, "'language' must be a column of numbers, it is String"),
        ({"score": [{"source": {"column": "width", "higher_is": "better"}}]}, "width has a column 'width', and so has the samples; rename one"),
        ({"score": [{"source": {"column": "punsafe", "higher_is": "better", "name": "keep"}}]}, "keep has a column 'keep', and so has the decisions; rename"),
        ({"select": {"method": "hardest", "by": "source.punsafe", "count": 9}}, r"add \{source: \{column: source.punsafe, higher_is: better\}\} to score"),
        ({"filter": [{"by": "distance", "below": 0.5, "spare": 0}]}, r"filter.*spare must be in \(0, 1\], got 0"),
        ({"score": [{"source": {"column": "width"}}]}, "higher_is is missing"),
        ({"score": [{"source": {"column": "punsafe", "higher_is": "noisier", "name": "uid"}}]}, "name must be letters, .* got 'uid'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_any_work(place, tmp_path, changes, message):
    with pytest.raises((UsageError, RecipeError), match=message):
        runner.run(recipe(place, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_score_may_be_called_as_a_count(place, tmp_path):
    score = [{"source": {"column": "punsafe", "higher_is": "noisier", "name": "n"}}]
    run = decide(place, tmp_path / "run", score=score, select={"method": "hardest", "by": "n", "count": 9})
    uid = run.decisions().filter("keep")["uid"].sort()[0]
    found = {one["score"]: one for one in explain(run.folder.path, uid)["scores"]}
    value, every = dict(zip(UIDS, values()["punsafe"], strict=True))[uid], run.scores()["n"].drop_nulls()
    lower, same = (every < value).sum(), (every == value).sum()
    assert found["n"]["percentile"] == pytest.approx(100 * (lower + same / 2) / len(every))


def test_bytes_that_are_no_text_name_no_group():
    assert as_texts(pl.Series("a", [b"web", None])).to_list() == ["web", None]
    with pytest.raises(UsageError, match="'image' cannot name groups of rows: Binary that is no text"):
        as_texts(pl.Series("image", [b"\xff\xd8"]))


def test_a_name_without_rows_is_said_where_groups_are_found(place, tmp_path):
    with pytest.raises(
        UsageError, match=r"select\.shares: no row is of 'es'; there are de, en, fr, no language"
    ):
        decide(
            place,
            tmp_path / "run",
            select={"method": "quotas", "per": "language", "shares": {"es": 0.5}, "count": 9},
        )


SCORES = [
    {"source": {"column": "punsafe", "higher_is": "noisier"}},
    {"source": {"column": "source.width", "higher_is": "better", "name": "size"}},
    {"fuse": {"name": "both", "columns": {"punsafe": -1, "size": 1}, "higher_is": "better"}},
]


def test_columns_as_scores(place, tmp_path):
    asked = {"method": "hardest", "by": "punsafe", "count": 30, "on_null": "drop"}
    run = decide(
        place, tmp_path / "run", score=SCORES, select=asked, filter=["punsafe < 0.9", {"by": "size", "top": 0.9}],
        cluster={"concepts": 8},
    )  # fmt: skip
    rows = pl.DataFrame({"uid": UIDS, **values()}, strict=False)
    found = run.scores().join(rows, on="uid", validate="1:1", suffix="_given")
    assert found["punsafe"].equals(found["punsafe_given"], check_names=False)
    assert found["size"].to_list() == found["width"].cast(pl.Float64).to_list()
    assert set(found.filter(pl.col("punsafe").is_null())["punsafe_status"]) == {"null"}
    assert found["both"].null_count() == found["punsafe"].null_count() == 6
    kept, size = (
        run.decisions().filter("keep")["uid"],
        found["size"].sort(descending=True)[round(0.9 * N) - 1],
    )
    fits = found.filter((pl.col("punsafe") < 0.9) & (pl.col("size") >= size))
    reached = competing(run)["uid"]
    worst = fits.filter(pl.col("uid").is_in(reached.implode())).sort("punsafe", descending=True).head(30)
    assert worst["punsafe"].min() >= 0 and set(kept) == set(worst["uid"])


def test_conditions_on_columns_as_they_stand(place, tmp_path):
    conditions = [
        "language = 'en'", "source.width >= 256", "punsafe < 0.7", "array_length(tags) > 1", "array_contains(tags, 'a')"
    ]  # fmt: skip
    run = decide(place, tmp_path / "run", filter=conditions, select={"method": "all"})
    given = pl.DataFrame({"uid": UIDS, **values()}, strict=False).with_columns(language=truth()["language"])
    passes = (
        (pl.col("language") == "en") & (pl.col("width") >= 256) & (pl.col("punsafe") < 0.7)
        & (pl.col("tags").list.len() > 1) & pl.col("tags").list.contains("a")
    )  # fmt: skip
    kept = run.decisions().filter(~pl.col("reason").str.starts_with("filter:"))["uid"]
    assert set(kept) == set(given.filter(passes)["uid"])


def test_a_share_of_what_a_condition_drops_is_spared(place, tmp_path):
    spare, conditions = 0.3, [{"by": "punsafe", "below": 0.5, "spare": "30%"}, {"by": "size", "above": 300}]
    run = decide(place, tmp_path / "run", score=SCORES, filter=conditions, dedup={}, select={"method": "all"})
    rows = pl.DataFrame({"uid": UIDS, **values()}, strict=False)
    drawn = pl.Series("drawn", (hash_uids(UIDS, 0, "spare") < int(spare * 2**64)).tolist())
    rows = rows.with_columns(drawn)
    failed = (pl.col("punsafe") >= 0.5) & pl.col("drawn")
    want = rows.select(
        "uid",
        reason=pl.when((pl.col("punsafe") < 0.5) | failed)
        .then(pl.when(pl.col("width") < 300).then(pl.lit("filter:above 300 by size")).otherwise(
            pl.when(failed).then(pl.lit("spared")).otherwise(pl.lit("kept"))))
        .otherwise(pl.lit("filter:below 0.5 by punsafe")),
    )  # fmt: skip
    got = dict(run.decisions().select("uid", "reason").rows())
    assert got == dict(want.rows())
    count = int((want["reason"] == "spared").sum())
    assert 0 < count < (rows["punsafe"] >= 0.5).sum() * 0.5
    facts = json.loads((run.folder.scores("filter") / "_done.json").read_text())["facts"]
    assert facts["spared"] == {"below 0.5 by punsafe": count}
    assert run.summary()["counts"]["spared"] == count
    told = explain(run.folder.path, next(uid for uid, reason in got.items() if reason == "spared"))
    assert told["filter"]["condition"] == "below 0.5 by punsafe"


def test_what_is_not_spared_has_the_old_fingerprint():
    condition = ScoreFilter(by="distance", below=0.5)
    assert "spare" not in condition.as_fingerprinted()
    assert condition.model_copy(update={"spare": 0.1}).as_fingerprinted()["spare"] == 0.1


def test_counts_by_a_column(place, tmp_path):
    run = decide(
        place,
        tmp_path / "run",
        until="report",
        report={"by": ["language", "crawl"]},
        filter=["distance < 0.4"],
    )
    decisions = run.decisions().join(truth(), on="uid", how="left")
    groups = run.summary()["groups"]
    for name in ("language", "crawl"):
        want = decisions.drop_nulls(name).group_by(name).agg(pl.len(), pl.col("keep").sum())
        assert {(row["group"], row["rows"], row["kept"]) for row in groups[name]} == set(want.rows())
    page = (run.folder.report / "report.html").read_text()
    assert 'data-groups="language"' in page and 'data-groups="crawl"' in page
    plain = open_run(decide(place, tmp_path / "plain").folder.path)
    assert "language" not in plain.summary()["groups"]
    assert "report" not in (plain.folder.path / "recipe.yaml").read_text()
