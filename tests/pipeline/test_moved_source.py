"""A source that moves, is reached by another path, or gets a second one: what was embedded stays."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import UsageError
from curate.pipeline import runner
from curate.pipeline.stages.source_changes import KnownShards
from curate.recipe.loading import parse_recipe
from curate.runs import dated
from curate.sources.base import Shard
from tests.fixtures.builders import planted, recipe_values, write_shards


def embedded(out):
    """Return inode and time of every embedded part."""
    parts = sorted((Path(out) / "1_embeddings").glob("part-*"))
    return {part.name: (part.stat().st_ino, part.stat().st_mtime_ns) for part in parts}


def run(glob, out, **changes):
    """Run as far as the decisions; return the uids that are kept."""
    runner.run(parse_recipe(recipe_values(glob, out, **changes)), until="select")
    return set(pl.read_parquet(f"{out}/5_decisions/part-*.parquet").filter("keep")["uid"])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The shards a, b and c in a folder, and a run of them."""
    folder = tmp_path_factory.mktemp("first")
    write_shards(folder / "data", planted(150), shards=3)
    for old, new in zip(sorted((folder / "data").iterdir()), "abc", strict=True):
        old.rename(folder / "data" / f"{new}.parquet")
    run(str(folder / "data" / "*.parquet"), folder / "run")
    return folder


@pytest.fixture
def copy(first, monkeypatch):
    """The folder of both, as the working folder; what a test changes is put back."""
    before = first.parent / "before"
    shutil.copytree(first, before, symlinks=True)
    monkeypatch.chdir(first)
    yield first
    shutil.rmtree(first)
    before.rename(first)


def more(folder, seed=7):
    """Write another shard, whose ids are its own."""
    rows = np.array([f"m{seed}-{number}" for number in range(50)])
    write_shards(folder, planted(50, seed=seed), shards=1, uid=False, extra={"id": rows})


@pytest.mark.parametrize(
    ("prepare", "glob"),
    [
        (lambda at: None, "data/*.parquet"),
        (lambda at: None, "data"),
        (lambda at: None, "data/{a,b,c}.parquet"),
        (lambda at: None, "**/data/*.parquet"),
        (lambda at: (at / "data").rename(at / "elsewhere"), "elsewhere/*.parquet"),
    ],
)
def test_the_same_shards_by_another_path_are_not_embedded_again(copy, prepare, glob):
    kept = set(pl.read_parquet("run/5_decisions/part-*.parquet").filter("keep")["uid"])
    before = embedded("run")
    prepare(copy)
    assert run(glob, "run") == kept
    assert embedded("run") == before


def test_a_shard_that_was_renamed_is_another_and_the_others_stay(copy):
    before = embedded("run")
    Path("data/a.parquet").rename("data/z.parquet")
    run("data/*.parquet", "run")
    after = embedded("run")
    assert len(after) == 3 and len(before.items() & after.items()) == 2
    shards = pl.read_parquet("run/5_decisions/part-*.parquet")["shard"]
    assert set(shards) == {"b.parquet", "c.parquet", "z.parquet"}


def test_a_wider_glob_and_a_second_source_are_growth(copy):
    before = embedded("run")
    more(copy / "more")
    kept = run("{data,more}/*.parquet", "run")
    assert before.items() < embedded("run").items()
    assert len(kept) == 60
    both = [
        {"path": "data/*.parquet", "uid": "id", "name": "old"},
        {"path": "more", "uid": "id", "name": "new"},
    ]
    wider = embedded("run")
    assert run("unused", "run", source=both) == kept
    assert embedded("run") == wider


def test_a_raised_limit_is_growth_and_a_lower_one_is_refused(copy):
    source = {"path": "data/*.parquet", "uid": "id"}
    assert (
        len(run("x", "limited", source=source | {"limit": 60}, select={"method": "random", "keep": 1.0})) > 50
    )
    run("x", "limited", source=source | {"limit": 100})
    run("x", "limited", source=source)
    assert pl.scan_parquet("limited/5_decisions/part-*.parquet").select(pl.len()).collect().item() == 150
    with pytest.raises(
        UsageError, match=r"limited was made differently: source.limit was None, is 60; name another"
    ):
        run("x", "limited", source=source | {"limit": 60})


def test_other_data_is_refused_before_anything_changes(copy):
    before = embedded("run"), Path("run/recipe.yaml").read_text()
    write_shards(copy / "other", planted(90, seed=3), shards=2)
    with pytest.raises(
        UsageError, match=r"^run was made differently: none of its 3 shards is in source.path other; "
    ):
        run("other", "run")
    assert (embedded("run"), Path("run/recipe.yaml").read_text()) == before
    with pytest.raises(UsageError, match=r"none of its 3 shards"):
        run("other", "run")  # asked twice, it is refused twice


def test_a_first_try_that_failed_does_not_occupy_its_folder(copy):
    recipe = parse_recipe(recipe_values("data/*.parquet", "tried"))
    runner.run(recipe, until="read")
    write_shards(copy / "other", planted(90, seed=3), shards=2)
    assert run("other", "tried")
    assert pl.scan_parquet("tried/5_decisions/part-*.parquet").select(pl.len()).collect().item() == 90


def shard(name, content, url=None, **more):
    """Return a shard that was hashed."""
    return Shard(name, url or f"/{name}", "train", 1, "1-1", content=content, **more)


def test_a_name_that_says_what_rows_hold_is_not_taken_over():
    saved, prints = [{"shard": {"name": "year=2023/a", "url": "/x"}}], {"/x": ["1-1", "x"]}
    for name, called in [("year=2024/a", "year=2024/a"), ("sub/year=2023/a", "year=2023/a"), ("a", "a")]:
        assert KnownShards(saved, prints, [name]).name(shard(name, "x", "/x")) == called
    saved = [{"shard": {"name": "cats/00000", "url": "/x"}}]
    folder = shard("dogs/00000", "x", "/x", format="folder")
    assert KnownShards(saved, prints, ["dogs/00000"]).name(folder) == "dogs/00000"


names = st.sampled_from("abcd")
contents = st.sampled_from("1234")
urls = st.sampled_from(["/1", "/2", "/3", "/4"])
shards = st.dictionaries(names, st.tuples(urls, contents)).map(
    lambda found: {
        name: one for name, one in found.items() if [u for u, _ in found.values()].count(one[0]) == 1
    }
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(shards, shards)
def test_names_stay_unique_and_content_is_never_mistaken(before, now):
    saved = [{"shard": {"name": name, "url": url}} for name, (url, _) in before.items()]
    known = KnownShards(saved, {url: ["", content] for url, content in before.values()}, now)
    called = {name: known.name(shard(name, content, url)) for name, (url, content) in now.items()}
    assert len(set(called.values())) == len(now)
    for name, other in called.items():
        assert other == name or before[other] == now[name], "another name only for the same file and content"
        same = [old for old, one in before.items() if one == now[name]]
        assert other == (name if not same or same[0] in now else same[0])


# --- run folders are no source --------------------------------------------------------------------------------


@pytest.mark.parametrize("glob", ["", "/**/*.parquet", "/*/*.parquet", "/{data,run}/*.parquet", "/*"])
def test_a_run_folder_below_the_source_is_no_part_of_it(copy, glob):
    for out in ("run", "inner/second"):
        run(f"{copy}{glob}", copy / out)
        decisions = pl.scan_parquet(f"{out}/5_decisions/part-*.parquet")
        assert decisions.select(pl.len()).collect().item() == 150


@pytest.mark.parametrize("glob", ["", "/**/*.parquet", "/{data,store/0_samples,dated/store/*}/*.parquet"])
def test_what_dated_runs_share_is_no_part_of_the_source_that_they_lie_in(copy, glob):
    """The parts in their `store` lie in no run; a folder of that name with data of its own is one of the source."""
    (copy / "store" / "0_samples").mkdir(parents=True)
    more(copy / "store" / "0_samples")
    recipe = parse_recipe(recipe_values(f"{copy}{glob}", copy / "dated"))
    for _ in range(2):
        path = dated.new_run("dated")
        runner.run(recipe.model_copy(update={"run": str(path)}))
        dated.commit("dated", path)
        decided = pl.scan_parquet(f"{path}/5_decisions/part-*.parquet")
        assert decided.select(pl.len()).collect().item() == 200
    assert Path("dated/store/keys").is_dir()


def test_what_a_run_wrote_is_a_source_where_it_is_named(copy):
    runner.run(parse_recipe(recipe_values("data/*.parquet", "run")))
    kept = run("run/6_filtered", "second", select={"method": "random", "keep": 1.0})
    assert len(kept) == len(list(pl.read_parquet("run/6_filtered/*.parquet").iter_rows()))


def test_a_folder_with_a_recipe_of_its_own_is_no_run(copy):
    os.makedirs("data/logs")  # noqa: PTH103
    Path("data/recipe.yaml").write_text("pancakes: 3\n")
    more(copy / "data" / "logs")
    run("data", "third")
    assert pl.scan_parquet("third/5_decisions/part-*.parquet").select(pl.len()).collect().item() == 200
