"""What the report gathers from a run, against the tables read whole; and thumbnails of rows that cannot be had."""

import base64
import shutil
from dataclasses import replace
from io import BytesIO

import numpy as np
import polars as pl
import pytest
from PIL import Image

import curate
from curate.analysis.summary import galleries, score_stats
from curate.analysis.summary.concepts import concept_table
from curate.analysis.summary.picks import LIMITS
from curate.analysis.summary.report_data import report_request
from curate.analysis.summary.scan import scan_parts
from curate.analysis.summary.thumbnails import Place, thumbnails
from curate.execution.context import Context
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.hashing import tie
from curate.recipe.loading import load_recipe, parse_recipe
from curate.report.notable import notable_concepts
from curate.runs.folder import RunFolder
from tests.fixtures.calls import curate as command
from tests.fixtures.pictured import LABELS, ROWS, picture, pictured


@pytest.fixture(scope="module")
def run(decoding_here, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gather")
    own = {"filter": [], "weight": "none", "score": [{"file": {"path": str(folder / "own.parquet")}}]}
    uids = [f"s{i:06d}" for i in range(ROWS)]
    values = np.random.default_rng(1).random(ROWS).round(3)
    hard = pl.DataFrame({"uid": uids, "hard": values}).with_columns(same=2 * pl.col("hard"))
    hard.write_parquet(folder / "own.parquet")
    own["score"] = [{"file": str(folder / "own.parquet"), "higher_is": "harder"}]
    select = {"method": "window", "by": "hard", "drop_hardest": 0.1, "keep": 0.4}
    curate.run(parse_recipe(pictured(folder, **own, select=select)))
    return folder / "run"


@pytest.fixture(scope="module")
def context(run):
    with LocalEngine(1) as engine:
        yield with_parts(Context(load_recipe(run / "recipe.yaml"), RunFolder(run), engine))


@pytest.fixture(scope="module")
def seen(context):
    table = concept_table(context.run)
    listed = tuple(table["concept"].to_list())
    asked = report_request(context, listed, tuple(notable_concepts(table)))
    return scan_parts(context.run, report=asked, engine=context.engine)


@pytest.fixture(scope="module")
def rows(run):
    found = curate.open_run(run)
    said = found.decisions().drop("concept", "distance").join(found.scores(), on="uid", how="left")
    return said.join(found.samples().select("uid", "label"), on="uid")


def listed(seen, name, concept):
    return seen.picks.filter((pl.col("list") == name) & (pl.col("concept") == concept))["uid"].to_list()


def test_samples_of_concepts_are_the_first_of_the_whole_tables(seen, rows):
    alike = rows.filter(pl.col("reason").is_in(["kept", "over_budget"]))
    assert listed(seen, "hardest_kept", 0)
    for concept in rows["concept"].drop_nulls().unique():
        mine = alike.filter(pl.col("concept") == concept)
        typical = mine.sort("distance", "uid")["uid"].to_list()
        assert listed(seen, "typical", concept) == typical[:3]
        assert listed(seen, "most_typical", concept) == typical[:12]
        kept = mine.filter("keep").sort(-pl.col("hard"), "uid")["uid"].to_list()
        assert listed(seen, "hardest_kept", concept) == kept[:12]
        dropped = mine.filter(~pl.col("keep")).sort("hard", "uid")["uid"].to_list()
        dropped = [uid for uid in dropped if uid not in typical[:12]]
        assert listed(seen, "easiest_dropped", concept) == dropped[:12]


def test_what_chance_keeps_is_shown_as_a_draw(context, rows):
    table = concept_table(context.run)
    asked = report_request(context, (), tuple(notable_concepts(table)))
    seen = scan_parts(context.run, report=replace(asked, drawn=True))
    alike = rows.filter(pl.col("reason").is_in(["kept", "over_budget"]))
    alike = alike.with_columns(tie=pl.Series(tie(alike["uid"].to_list(), asked.seed)))
    assert {"hardest_kept", "easiest_dropped"} & set(seen.picks["list"]) == set()
    for concept in rows["concept"].drop_nulls().unique():
        mine = alike.filter(pl.col("concept") == concept)
        for name, some in (
            ("kept_drawn", mine.filter("keep")),
            ("dropped_drawn", mine.filter(~pl.col("keep"))),
        ):
            assert listed(seen, name, concept) == some.sort("tie", "uid")["uid"].to_list()[:12]
        far = mine.sort(-pl.col("distance"), "uid")["uid"].to_list()
        assert listed(seen, "farthest", concept) == far[:12]


def test_scores_of_what_is_shown_are_those_of_the_tables(context, seen, rows):
    shelf = galleries.shelve(context, seen.picks, seen.shown)
    told = {row["uid"]: row for row in rows.to_dicts()}
    assert len(shelf.samples) > 50
    for one in shelf.samples:
        found = {name: told[one.uid][name] for name in ("hard", "same", "distance")}
        assert (one.concept, dict(one.scores)) == (told[one.uid]["concept"], pytest.approx(found))


def test_duplicates_nearest_to_the_cut_come_first(seen, run):
    found = pl.read_parquet(run / "4_duplicates" / "part-*.parquet").filter(
        pl.col("duplicate_of").is_not_null()
    )
    expected = found.sort("similarity", "uid").head(LIMITS["near_cut"])
    shown = seen.picks.filter(pl.col("list") == "near_cut")
    assert len(shown) >= 10
    assert shown.select("uid", "other").rows() == expected.select("uid", "duplicate_of").rows()


def test_kept_twins_go_by_the_names_of_their_classes(seen, context, monkeypatch):
    picks = seen.picks.filter(pl.col("list") == "near_cut").head(1)
    other = picks["other"].item()
    assert other not in picks["uid"].to_list()
    monkeypatch.setattr(RunFolder, "class_names", lambda _: dict.fromkeys(LABELS, "named"))
    shelf = galleries.shelve(context, picks, seen.shown)
    assert shelf.samples[shelf.places[other]].label == "named"


def test_groups_and_smallest_uids_are_exact(seen, rows):
    expected = rows.group_by("label").agg(pl.len(), pl.col("keep").sum()).sort("label").rows()
    labels = seen.groups.filter(pl.col("by") == "label").sort("group")
    assert labels.select("group", "rows", "kept").rows() == expected
    alike = rows.filter(pl.col("reason").is_in(["kept", "over_budget"]))
    first = alike.group_by("concept").agg(pl.col("uid").min()).sort("concept").rows()
    assert seen.first.select("concept", "smallest_uid").sort("concept").rows() == first


def test_histograms_cuts_and_correlations(seen, context, rows):
    stats = score_stats.score_stats(seen.sample, seen.totals)
    found = {
        one.name: one
        for one in score_stats.shown_scores(stats, 1, context.recipe, seen.ends, {"hard": "harder"})
    }
    hard = found["hard"]
    values = rows.drop_nulls("hard").unique("uid")
    assert sum(hard.kept) == values["keep"].sum() and sum(hard.kept) + sum(hard.dropped) == hard.n == len(
        values
    )
    kept = rows.filter(pl.col("reason") == "kept")["hard"]
    assert hard.cuts == [(kept.min(), "select window"), (kept.max(), "select window")]
    names, square = score_stats.correlation(seen.sample)
    at = names.index("hard"), names.index("distance")
    expected = values.select(pl.corr("hard", "distance", method="spearman")).item()
    assert square[at[0]][at[1]] == square[at[1]][at[0]] == pytest.approx(expected, abs=1e-3)
    assert square[names.index("same")][at[0]] == 1.0


def test_a_sample_of_the_rows_stands_for_all(context):
    assert score_stats.correlation(pl.DataFrame({"keep": [], "a": [], "b": []})) == ([], [])
    sample = pl.DataFrame({"keep": [True, False], "a": [0.5, None]}, schema_overrides={"a": pl.Float32})
    totals = pl.DataFrame({"score": ["a"], "n": [10], "missing": [10], "low": [0.5], "high": [0.5]})
    stats = score_stats.score_stats(sample, totals)
    (one,) = score_stats.shown_scores(stats, 10, context.recipe, pl.DataFrame(schema={}), {})
    assert (one.n, one.missing, sum(one.kept), one.quantiles["median"]) == (10, 10, 10, 0.5)


def opened(uri):
    return Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))


def places(context, numbers):
    samples = {}
    for part in context.parts:
        frame = pl.read_parquet(context.run.part(context.run.samples, part.name))
        samples |= {uid: Place(part.index, row) for uid, row in frame.select("uid", "row").iter_rows()}
    return {f"s{i:06d}": samples[f"s{i:06d}"] for i in numbers}


def test_thumbnails_are_those_of_the_rows(context):
    found = thumbnails(context, places(context, [200, 3, 4, 7, 90]))
    assert set(found) == {"s000200", "s000007", "s000090"}  # 3 is broken, 4 is null
    for number in (200, 7, 90):
        image = opened(found[f"s{number:06d}"])
        assert image.size == (96, 48)
        expected = Image.open(BytesIO(picture(number))).getpixel((5, 5))
        assert np.abs(np.subtract(image.convert("RGB").getpixel((40, 20)), expected)).max() < 12


def test_a_source_that_is_gone_leaves_words_in_place_of_pictures(run, context, tmp_path):
    source = run.parent / "in"
    hidden = tmp_path / "in"
    shutil.move(source, hidden)
    try:
        assert thumbnails(context, places(context, [7])) == {}
        said = command("report", run, "--concept", 0, "--json")
        assert said.code == 0 and "_concept-0.html" in said.out
        html = (run / "7_report" / "_concept-0.html").read_text()
        assert "data:image" not in html and "picture 1" in html
        assert command("verify", run).code == 0  # the page is none of its files
    finally:
        shutil.move(hidden, source)
    changed = source / min(path.name for path in source.iterdir())
    before = changed.read_bytes()
    changed.write_bytes(before + b"more")
    try:  # its rows may be others now
        assert set(thumbnails(context, places(context, [7, 200]))) == {"s000200"}
    finally:
        changed.write_bytes(before)


def test_the_report_is_written_anew_on_demand(run):
    page = run / "7_report" / "report.html"
    before = page.read_text()
    page.write_text("spoilt")
    said = command("report", run)
    assert said.code == 0 and said.out == f"{page}\n"
    assert not list(page.parent.glob("_concept-*"))  # those were of the decisions before
    assert page.read_text().count("data:image") == before.count("data:image") > 50
    assert command("verify", run).code == 0


def test_the_report_is_opened_where_there_is_a_screen(run, monkeypatch):
    opened, page = [], run / "7_report" / "report.html"
    monkeypatch.setattr("curate.review.server.webbrowser.open", opened.append)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    said = command("report", run, "--concept", 0, "--open")
    assert (said.code, opened) == (0, [])
    assert said.err.splitlines()[-1] == (
        f"there is no screen here; to see the rows in a browser elsewhere: curate review {run}"
    )
    monkeypatch.setenv("DISPLAY", ":0")
    said = command("report", run, "--concept", 0, "--open")
    assert (said.code, said.out, opened) == (
        0,
        f"{page.parent / '_concept-0.html'}\n",
        [f"{page.parent.as_uri()}/_concept-0.html"],
    )


def test_wrong_requests(run, tmp_path):
    assert command("report", tmp_path).error == f"{tmp_path} is not a run folder: it has no recipe.yaml"
    assert command("report", run, "--concept", 8).error == f"--concept 8: {run} has 0 to 7"
    assert command("report", run, "--concept", "x").code == 2


def test_shelves_hold_each_sample_once(context, seen):
    shelf = galleries.shelve(context, seen.picks, seen.shown)
    uids = [sample.uid for sample in shelf.samples]
    assert len(set(uids)) == len(uids) and set(seen.picks["other"].drop_nulls()) <= set(uids)
    assert all(len(sample.caption) <= galleries.CAPTION_CHARACTERS for sample in shelf.samples)
