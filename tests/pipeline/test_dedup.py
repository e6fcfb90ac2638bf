"""Stage `dedup`: what a run makes of its near-duplicates, against the definition."""

import json

import numpy as np
import polars as pl
import pytest

from curate import open_run
from curate.analysis.explain import explain, opened
from curate.analysis.near_duplicates import sampled
from curate.analysis.plan import pairs, plan
from curate.analysis.summary.summary import summarize
from curate.analysis.verify.verify import check_run
from curate.deduplication.similarity import pair_similarities
from curate.errors import UsageError
from curate.hashing import tie
from curate.linalg import load_unit
from curate.pipeline import runner
from curate.pipeline.stages import dedup
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

N, NEAR, EPSILON = 240, 30, 0.01


def captions_of(n):
    """Every other near-copy has the caption of its original, with white space around it."""
    said = [f"picture {row % 7}" for row in range(n)]
    for place, row in enumerate(range(N - NEAR, N)):
        said[row] = f" {said[place]}\n" if place % 2 else f"another {place}"
    return said


def compared(run):
    """Return the compared rows with caption, and their vectors."""
    frame = run.duplicates().join(run.samples().select("uid", "caption"), on="uid", maintain_order="left")
    stored = pl.concat(pl.read_ipc(path) for path in sorted(run.folder.embeddings.glob("part-*")))
    stored = frame.select("uid").join(stored, on="uid", maintain_order="left")
    return frame, load_unit(np.stack(stored["image"].to_list()).astype(np.float16))


def check_greedy(run, epsilon, *, by_caption=False, confirmed=None):
    """Check that kept rows are no pairs, and that every other one is a pair with the kept row it names.

    A pair : of one concept, nearer than epsilon, with one caption where that counts, and confirmed.
    """
    frame, vectors = compared(run)
    concept, kept = frame["concept"].to_numpy(), frame["duplicate_of"].is_null().to_numpy()
    caption = frame["caption"].fill_null("").str.strip_chars().to_numpy()
    place = {uid: row for row, uid in enumerate(frame["uid"])}

    def is_pair(i, j):
        near = pair_similarities(vectors, np.array([i]), np.array([j]))[0] > 1 - epsilon
        alike = not by_caption or caption[i] == caption[j]
        return near and alike and concept[i] == concept[j] and (confirmed is None or confirmed(i, j))

    rows = np.flatnonzero(kept)
    for i in rows:
        for j in rows[(rows > i) & (vectors[rows] @ vectors[i] > 1 - epsilon - 1e-4)]:
            assert not is_pair(i, j)
    for row in np.flatnonzero(~kept):
        other = place[frame["duplicate_of"][int(row)]]
        assert kept[other] and is_pair(row, other)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dedup")
    captions = captions_of(N)
    write_shards(folder / "in", planted(N, near=NEAR), shards=2, extra={"caption": captions})
    return folder


def decide(place, name, **dedup):
    values = recipe_values(
        f"{place}/in/*.parquet", place / name, score=[], dedup={"epsilon": EPSILON} | dedup
    )
    values["source"] |= {"caption": "caption"}
    values["select"] = {"method": "all"}
    runner.run(parse_recipe(values))
    return open_run(place / name)


@pytest.fixture(scope="module")
def apart(place):
    return decide(place, "apart", across_captions=False)


def test_near_duplicates_with_different_captions_stay(place, apart):
    everywhere = decide(place, "everywhere")
    check_greedy(everywhere, EPSILON)
    check_greedy(apart, EPSILON, by_caption=True)
    n_apart, n_all = (run.duplicates()["duplicate_of"].count() for run in (apart, everywhere))
    assert 0 < n_apart < n_all


def test_what_looks_at_a_run_compares_the_same_captions(apart):
    assert check_run(apart.folder.path).violations == []
    row = apart.duplicates().drop_nulls("duplicate_of").row(0, named=True)
    said = explain(apart.folder.path, row["uid"])["duplicate"]
    assert said["of"] == row["duplicate_of"]
    caption = dict(apart.samples().select("uid", "caption").iter_rows())
    for pair in pairs(apart.folder.path, 20):
        assert caption[pair["one"]["uid"]].strip() == caption[pair["other"]["uid"]].strip()
    own = next(one for one in plan(apart.folder.path)["epsilon"] if one["epsilon"] == EPSILON)
    assert own["at_least"] == own["at_most"] == apart.duplicates()["duplicate_of"].count()


def test_verify_sees_a_duplicate_with_another_caption(place, apart):
    wrong = decide(place, "wrong")
    recipe = wrong.folder.recipe
    recipe.write_text(recipe.read_text().replace("across_captions: true", "across_captions: false"))
    said = "\n".join(check_run(wrong.folder.path).violations)
    assert "duplicate_of must be a row with the same caption (dedup.across_captions)" in said


def test_captions_that_are_to_count_must_be_there(place):
    values = recipe_values(f"{place}/in/*.parquet", place / "none", score=[], select={"method": "all"})
    values["source"] |= {"caption": None}
    values["dedup"] = {"epsilon": EPSILON, "across_captions": False}
    with pytest.raises(
        UsageError, match=r"dedup\.across_captions false needs captions: the source has no capt"
    ):
        runner.run(parse_recipe(values))


def test_a_run_without_dedup_says_what_a_sample_has(place, caplog):
    caplog.set_level("INFO", logger="curate")
    run = decide(place, "none looked for", epsilon="none")
    found = json.loads(run.folder.near_sample.read_text())
    stored = pl.concat(pl.read_ipc(path) for path in sorted(run.folder.embeddings.glob("part-*")))
    vectors = load_unit(np.stack(stored["image"].to_list()).astype(np.float16))
    concept = dict(
        pl.read_parquet(f"{run.folder.assignments}/part-*.parquet").select("uid", "concept").iter_rows()
    )
    concepts = np.array([concept[uid] for uid in stored["uid"]])
    order = np.lexsort((stored["uid"].to_list(), tie(stored["uid"].to_list(), 0)))
    nearest = [-1.0] * N
    for place_, row in enumerate(order):
        others = [other for other in order[:place_] if concepts[other] == concepts[row]]
        if others:
            pairs_of = pair_similarities(vectors, np.full(len(others), row), np.array(others))
            nearest[row] = float(pairs_of.max())
    assert found["rows"] == N
    for epsilon, share in found["within"].items():
        assert share == np.mean([one > 1 - float(epsilon) for one in nearest])
    assert "dedup: near-duplicates stay; of 240 rows" in caplog.text
    assert json.loads((run.folder.duplicates / "_done.json").read_text())["facts"] == {}
    summary = summarize(run.folder)
    assert summary.near_sample == summary.as_dict()["near_sample"] == found
    assert "Near-duplicates stay; of 240 rows" in (run.folder.report / "report.html").read_text()


def test_a_sample_is_of_whole_concepts(place, monkeypatch):
    run = open_run(place / "everywhere") if (place / "everywhere").exists() else decide(place, "everywhere")
    monkeypatch.setattr(sampled, "ROWS", 50)
    found = sampled.look(opened(run.folder.path))
    assert found["rows"] == 50


def test_a_dedup_that_takes_much_says_so(place, caplog):
    run = decide(place, "much", epsilon=0.6)
    noted = run.folder.marker(run.folder.duplicates)["facts"]
    assert noted["share"] > 1 / 3
    share = f"dedup: {100 * noted['share']:.1f} % of the rows compared are near-duplicates at epsilon 0.6"
    assert share in caplog.text
    assert any(one.startswith(share) for one in summarize(run.folder).warnings)
    page = (run.folder.report / "report.html").read_text()
    assert f"240 rows were compared, {noted['dropped']} dropped at epsilon 0.6." in page and share in page


def test_the_report_says_what_other_epsilons_drop(place, apart):
    page = (apart.folder.report / "report.html").read_text()
    found = {one["epsilon"]: one for one in plan(apart.folder.path)["epsilon"]}
    for epsilon in (0.001, 0.05):
        least, most = found[epsilon]["at_least"], found[epsilon]["at_most"]
        number = f"{least} to {most}" if least != most else most
        assert f'<th scope="row">{epsilon}</th><td class="n">{number}</td>' in page


def test_workers_share_the_concepts_even_where_one_bucket_would_hold_them(place, monkeypatch):
    """In one bucket all concepts are compared by one process, whatever workers there are; what is found is the same."""
    buckets, plan_of = [], dedup._plan

    def noted(*given):
        groups = plan_of(*given)
        buckets.append(groups.n_buckets)
        return groups

    monkeypatch.setattr(dedup, "_plan", noted)
    monkeypatch.setattr(dedup, "_BUCKET_ROWS", 20)
    found = []
    for workers in (1, 2):
        values = recipe_values(
            f"{place}/in/*.parquet", place / f"shared-{workers}", score=[], dedup={"epsilon": EPSILON}
        )
        values |= {"select": {"method": "all"}, "workers": workers}
        runner.run(parse_recipe(values), until="dedup")
        found.append(open_run(place / f"shared-{workers}").duplicates().sort("uid"))
    assert buckets[0] == 1 < buckets[1]
    assert found[0].equals(found[1])
    assert found[0]["duplicate_of"].count() > 0
