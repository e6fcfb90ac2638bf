"""A source that grows: only what is new is worked on, fitted parts stay, drift is told, shipped rows go ahead."""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.clustering import kmeans
from curate.clustering.drift import drift, far_by_chance, reach, shares_moved
from curate.io import storage
from curate.ordering.cutoff import nth_smallest
from curate.ordering.keys import ahead
from curate.pipeline import runner
from curate.pipeline.stages import dedup, read
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from curate.selection.density import Density
from curate.selection.diversity import Cosine, medoid, select_diverse
from curate.selection.rows import choose
from curate.selection.rows.order import Order, with_order
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.folders import changed, tables

ROWS = 50  # of a shard


def values(folder, out, **changes):
    """The settings of a run over what is in `folder`; some concepts are large enough to be split."""
    own = {"cluster": {"concepts": 20}, "dedup": {"epsilon": 0.01, "max_concept": 60}}
    return recipe_values(str(folder / "*.parquet"), out, **(own | changes))


def run(settings, until="select", **how):
    """Run as far as the decisions; return what was worked on, by stage, and the stages that had work."""
    stages = runner.run(parse_recipe(settings), until=until, **how).worked
    times = storage.read_json(Path(settings["run"]) / ".work" / "times.json") or {}
    return SimpleNamespace(stages=stages, worked={name: one.get("worked") for name, one in times.items()})


def facts(out, folder):
    return RunFolder(Path(out)).marker(Path(out) / folder)["facts"]


def decisions(out):
    return pl.read_parquet(Path(out) / "5_decisions" / "part-*.parquet")


@pytest.fixture(scope="module", autouse=True)
def no_flush():
    """Flushing to the disk takes most of the time of small runs, and nothing is killed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_sync", lambda path: None)
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Eleven shards; the last one is of rows that lie in few concepts, with near-duplicates of the first ones."""
    folder = tmp_path_factory.mktemp("all")
    rows = planted(11 * ROWS, near=30, clusters=20)
    rows[10 * ROWS : 10 * ROWS + 20] = planted(2000, clusters=20, seed=0)[:20]
    write_shards(folder, np.concatenate([rows[30 : 10 * ROWS], rows[:30], rows[10 * ROWS :]]), shards=11)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def grown(shards, tmp_path_factory):
    """A run of ten shards to which the eleventh came; what the second run did, and the tables before it."""
    base = tmp_path_factory.mktemp("grown")
    source = base / "in"
    source.mkdir()
    for path in shards[:10]:
        shutil.copy2(path, source)
    settings = values(source, base / "run")
    run(settings)
    shutil.copytree(base / "run", base / "before")
    shutil.copy2(shards[10], source)
    said = run(settings)
    return SimpleNamespace(base=base, source=source, settings=settings, said=said)


def test_only_the_new_shard_is_read_embedded_and_assigned(grown):
    one = {"parts": 1, "rows": ROWS}
    assert grown.said.worked["read"] == one | {"new": 1, "changed": 0, "removed": 0}
    assert grown.said.worked["embed"] == one
    assert grown.said.worked["cluster"] == one
    compared = grown.said.worked["dedup"]
    assert compared["concepts"] > 0 and compared["concepts_reused"] > 0
    assert 0 < compared["rows"] < 11 * ROWS


def test_the_result_is_that_of_a_full_run_with_the_same_fit(grown, tmp_path):
    out = tmp_path / "full"
    shutil.copytree(
        grown.base / "run" / "2_concepts", out / "2_concepts", ignore=shutil.ignore_patterns("_*", "ass*")
    )
    shutil.copy2(grown.base / "run" / "recipe.yaml", out)
    said = run(values(grown.source, out))
    assert said.worked["embed"]["parts"] == 11 and said.worked["dedup"]["concepts_reused"] == 0
    assert facts(grown.base / "run", "4_duplicates")["dropped"] > 20  # there is something that could differ
    assert changed(tables(grown.base / "run"), tables(out)) == []
    assert facts(out, "4_duplicates") == facts(grown.base / "run", "4_duplicates")


@contextlib.contextmanager
def last_shard(grown, write=None):
    """Without the eleventh shard, or with what `write` writes in its place."""
    path = sorted(grown.source.iterdir())[10]
    kept = path.read_bytes()
    path.unlink()
    if write is not None:
        write(path)
    yield
    path.write_bytes(kept)


def test_results_of_concepts_are_not_taken_for_those_of_other_rows(grown, tmp_path):
    """Ended when results were written, then back to the shards of before: nothing of the night between is left."""
    out = tmp_path / "run"
    shutil.copytree(grown.base / "before", out)
    settings = grown.settings | {"run": str(out)}

    def stop(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    real = dedup._bring_all_back
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "_bring_all_back", stop)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    with last_shard(grown):
        said = run(settings)
    assert said.worked["dedup"]["concepts"] > 0
    assert changed(tables(grown.base / "before"), tables(out)) == []


# --- shards -------------------------------------------------------------------------------------------------


def test_new_changed_and_removed_shards_are_told_apart(shards, tmp_path, caplog):
    source = tmp_path / "in"
    source.mkdir()
    for path in shards[:3]:
        shutil.copy2(path, source)
    settings = values(source, tmp_path / "run")
    run(settings, "read")
    shutil.copy2(shards[3], source)
    shutil.copy2(shards[4], source / shards[0].name)
    (source / shards[1].name).unlink()
    caplog.set_level(logging.INFO, "curate")
    said = run(settings, "read")
    assert "read: 150 rows in 3 shards (1 new, 1 changed, 1 removed)" in caplog.messages
    assert said.worked["read"] == {"parts": 2, "rows": 2 * ROWS, "new": 1, "changed": 1, "removed": 1}


def test_a_shard_rewritten_with_the_same_name_size_and_time_is_noticed(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    path = source / "a.parquet"

    def write(number):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.full(8, number, np.float32)), 4)
        pq.write_table(pa.table({"id": ["x", "y"], "embedding": vectors}), path, compression="none")
        os.utime(path, ns=(10**18, 10**18))
        return path.stat().st_size, path.stat().st_mtime_ns

    settings = values(source, tmp_path / "run")
    first = write(1.5)
    run(settings, "read")
    assert run(settings, "read").stages == ()
    assert write(2.5) == first
    assert run(settings, "read").worked["read"]["changed"] == 1


def test_files_in_a_new_folder_change_no_other(shards, tmp_path):
    days = [tmp_path / "in" / day for day in ("2026-11-01", "2026-11-02")]
    recipe = parse_recipe(recipe_values(str(tmp_path / "in" / "*" / "*.parquet"), tmp_path / "run"))
    for day in days:
        day.mkdir(parents=True)
    shutil.copy2(shards[0], days[0])
    before, _ = read.find_parts(recipe, tmp_path / "cache.json")
    shutil.copy2(shards[1], days[1])
    after, _ = read.find_parts(recipe, tmp_path / "cache.json")
    assert [part.shard.name for part in before] == [f"2026-11-01/{shards[0].name}"]
    assert after[0].name == before[0].name and len(after) == 2


def test_vector_files_that_are_added_leave_the_parts_before_as_they_are(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    settings = recipe_values(
        str(source / "*.parquet"),
        tmp_path / "run",
        embed={"files": str(source / "*.npy")},
        cluster={"concepts": 2},
    )
    for number in range(3):
        pq.write_table(
            pa.table({"id": [f"{number}-{row}" for row in range(4)]}), source / f"{number}.parquet"
        )
        np.save(source / f"{number}.npy", planted(4, seed=number))
        if number:
            said = run(settings, "embed")
    assert said.worked["embed"] == {"parts": 1, "rows": 4}


# --- drift --------------------------------------------------------------------------------------------------


def test_no_drift_raises_no_alarm(grown):
    found = facts(grown.base / "run", "2_concepts")
    assert found["drift"]["new_rows"] == ROWS and found["drift"]["figure"] < 0.03
    assert found["warnings"] == [] and found["drift"]["warning"] is None


def test_drift_is_warned_of_and_a_refit_proposed(grown, tmp_path, caplog):
    out = tmp_path / "run"
    shutil.copytree(grown.base / "before", out)
    strange = planted(ROWS, seed=77)

    def write(path):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(strange.reshape(-1)), strange.shape[1])
        pq.write_table(pa.table({"id": [f"x{row}" for row in range(ROWS)], "embedding": vectors}), path)

    settings = grown.settings | {"run": str(out)}
    centroids = (out / "2_concepts" / "centroids.parquet").read_bytes()
    with last_shard(grown, write):
        run(settings, "cluster")
        assert (out / "2_concepts" / "centroids.parquet").read_bytes() == centroids
        found = facts(out, "2_concepts")
        assert found["drift"]["figure"] > 0.1 and found["drift"]["far"] > 0.1
        assert found["warnings"] == [found["drift"]["warning"]]
        assert any(
            "drifted" in said and said.endswith("fit the concepts anew with --refit")
            for said in caplog.messages
        )
        run(settings, "cluster", refit=True)
    assert facts(out, "2_concepts")["drift"]["new_rows"] == 0
    assert (out / "2_concepts" / "centroids.parquet").read_bytes() != centroids


@pytest.mark.parametrize(
    ("n", "k", "dim"),
    [
        (700, 30, 16),
        (300, 17, 128),
        pytest.param(1000, 32, 64, marks=pytest.mark.long),
        pytest.param(4000, 20, 32, marks=pytest.mark.long),
    ],
)
def test_rows_like_those_at_fitting_are_no_drift(n, k, dim):
    """Also where concepts are so small that their 99th percentile says little about other rows."""
    rows = planted(n + 400, seed=3, dim=dim, clusters=40).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    fit = kmeans.fit(rows[:n].copy(), k, seed=0)

    def figure(new):
        concept, distance = kmeans.assign(new, fit.centroids)
        count = np.bincount(concept, minlength=len(fit.sizes))
        far = np.bincount(concept[distance > reach(fit.p99, fit.sizes)[concept]], minlength=len(count))
        return drift(fit.sizes, fit.sizes, count, far, fit.sizes)

    assert figure(rows[n:].copy()).figure < 0.03
    other = np.random.default_rng(0).standard_normal((60, dim)).astype(np.float32)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    mixed = figure(np.concatenate([rows[n : n + 340], other]))
    assert mixed.far > mixed.far_by_chance + 0.05 and mixed.figure > 0.05


def test_chances_are_those_of_drawing_at_random():
    rng = np.random.default_rng(0)
    draws = np.sort(rng.random((4000, 21)), axis=1)
    beyond = [rng.random() > row[:20][(99 * 20 + 99) // 100 - 1] for row in draws]  # of 20, beyond the 20th
    assert np.mean(beyond) == pytest.approx(far_by_chance(np.array([20]))[0], abs=0.05)
    share = np.array([0.5, 0.3, 0.15, 0.05])
    fitted = (share * 1000).astype(np.int64)
    found = []
    for _ in range(300):
        gone = rng.multivariate_hypergeometric(fitted, 200)
        found.append(shares_moved(fitted, fitted - gone, rng.multinomial(300, share)))
    moved, chance = np.mean(found, axis=0)
    assert moved == pytest.approx(chance, rel=0.15)


def test_all_rows_in_another_concept_move_the_shares_by_their_part():
    same = np.array([100, 100, 0])
    assert shares_moved(same, same, np.array([0, 0, 200]))[0] == 0.5
    assert shares_moved(same, np.array([100, 0, 0]), np.zeros(3, int))[0] == 0.5
    assert drift(same, same, np.zeros(3, int), np.zeros(3, int), same).figure == 0.0


# --- shipped rows -------------------------------------------------------------------------------------------

KEYS = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=30)


@given(KEYS, st.integers(0, 30))
def test_ahead_keeps_the_shipped_rows_first(rows, n_keep):
    key = np.array([row[0] << 40 for row in rows], np.uint64)
    first = np.array([row[1] for row in rows])
    ties = np.arange(len(rows), dtype=np.uint64)
    cut = nth_smallest(lambda: iter([(ahead(key, first), ties)]), min(n_keep, len(rows)))
    kept = [] if cut is None else [i for i in range(len(rows)) if (int(ahead(key, first)[i]), i) <= cut]
    expected = sorted(range(len(rows)), key=lambda i: (not first[i], key[i], i))[:n_keep]
    assert kept == sorted(expected)


@pytest.mark.parametrize("n_keep", [0, 1, 3, 4, 6, 9])
def test_diversity_goes_on_from_the_shipped_rows(n_keep):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((9, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tie, uid = np.arange(9, dtype=np.uint64), np.array(list("abcdefghi"))
    first = np.isin(np.arange(9), [2, 5, 6, 8])
    got = select_diverse(vectors, tie, uid, n_keep, first=first)
    rows = np.flatnonzero(first) if n_keep < 4 else np.arange(9)
    taken = [int(rows[medoid(Cosine(vectors[rows]))])] if n_keep < 4 else [2, 5, 6, 8]
    distance = 1 - vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    while len(taken) < n_keep:
        left = [row for row in rows if row not in taken]
        taken.append(int(max(left, key=lambda row: distance[row, taken].min())))
    assert np.flatnonzero(got).tolist() == sorted(taken[:n_keep])
    assert sorted(got[got > 0]) == list(range(1, n_keep + 1))


def test_pinned_rows_come_before_shipped_ones():
    frame = pl.DataFrame(
        {"uid": list("abcd"), "distance": [0.9, 0.1, 0.2, 0.8], "pinned": [False, True, False, False]}
    )
    shipped = SimpleNamespace(ahead=lambda uids: np.array([uid == "c" for uid in uids]))
    order = Order(Density(keep=0.3), 0, shipped=shipped)
    ranked = with_order(frame, order).sort("key")
    assert ranked["uid"].to_list() == ["b", "c", "a", "d"]


@pytest.fixture(scope="module")
def shipping(grown):
    """The run of ten shards, and the eleventh with shipped rows ahead."""
    out = grown.base / "shipping"
    shutil.copytree(grown.base / "before", out)
    settings = values(grown.source, out, select={"keep": 0.3, "shipped": True})
    run(settings)
    return SimpleNamespace(out=out, settings=settings)


def test_no_shipped_row_is_dropped_unless_its_budget_shrinks(grown, shipping):
    before = decisions(grown.base / "before").filter("keep").select("uid", "concept")
    after = before.select("uid").join(decisions(shipping.out), on="uid", how="left")
    plain = before.select("uid").join(decisions(grown.base / "run"), on="uid", how="left")
    assert (~plain["keep"]).sum() > (~after["keep"]).sum()  # without it, some flip
    assert after["reason"].is_in(["kept", "over_budget"]).all()  # no near-duplicate of a new row
    budget = pl.read_parquet(shipping.out / "5_decisions" / "_concepts" / "concepts.parquet")
    shrunk = (
        before["concept"]
        .value_counts(name="had")
        .join(budget, on="concept")
        .filter(pl.col("budget") < pl.col("had"))
    )
    lost = after.filter(~pl.col("keep"))
    assert set(lost["concept"]) <= set(shrunk["concept"])
    assert len(lost) == (shrunk["had"] - shrunk["budget"]).sum()
    said = facts(shipping.out, "5_decisions")["shipped"]
    assert said == {
        "rows": len(before), "kept": len(before) - len(lost), "flipped": len(lost), "over_budget": len(lost), "gone": 0
    }  # fmt: skip


def test_a_run_that_is_repeated_or_ended_midway_has_the_same_rows_before_it(
    grown, shipping, tmp_path, monkeypatch
):
    assert run(shipping.settings).stages == ()
    out = tmp_path / "run"
    shutil.copytree(grown.base / "before", out)
    settings = shipping.settings | {"run": str(out)}
    with monkeypatch.context() as patch:
        patch.setattr(choose, "random_control", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(settings)
    run(settings)
    assert changed(tables(shipping.out), tables(out)) == []
    (
        next((out / "5_decisions").glob("part-*"))
    ).unlink()  # made again from the rows shipped then, not from its own
    assert run(settings).stages == ("select",)
    assert changed(tables(shipping.out), tables(out)) == []


def test_rows_of_another_run_go_ahead(grown, shipping, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(grown.base / "run", out)
    run(shipping.settings | {"run": str(out), "select": {"keep": 0.3, "shipped": str(grown.base / "before")}})
    kept = [decisions(folder).filter("keep")["uid"].sort() for folder in (out, shipping.out)]
    assert kept[0].equals(kept[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["select.shipped=true", "select.method=window", "select.by=distance", "select.offset=1"],
            "method window",
        ),
        (["select.shipped=nowhere"], "select.shipped: nowhere is not a run folder"),
        (["cluster.drift_warn=0.2"], "needs drift_warn up to drift_refit"),
        (["select.shipped=true", "weight=inverse"], "weight.method inverse"),
    ],
)
def test_wrong_settings_are_refused(grown, tmp_path, changes, message):
    (tmp_path / "recipe.yaml").write_text(parse_recipe(values(grown.source, tmp_path / "run")).to_yaml())
    said = curate(
        "run", tmp_path / "recipe.yaml", *(item for change in changes for item in ("--set", change))
    )
    assert said.code == 2 and message in said.error, said.err
