"""The flags of `filter` for scores and lists, in one line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.builders import planted
from tests.fixtures.calls import curate, own
from tests.fixtures.rescored import UIDS, copied, finished, kept, own_scores, written


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def run(made, tmp_path, monkeypatch):
    return copied(made, tmp_path, monkeypatch)


def plan(made, *flags):
    """Return the recipe that `filter` makes of these flags."""
    said = own(f"{made}/in/*.parquet", "new", "--dry-run", "--json", *flags)
    assert said.code == 0, said.err
    return json.loads(said.out)["recipe"]


def test_filter_takes_scores(made):
    flags = ["--score", "heads", "--score", "{fuse: {columns: {el2n: 1, distance: 2}}}"]
    recipe = plan(made, *flags, "--method", "hardest", "--by", "fused", "--weight", "inverse")
    assert [one if isinstance(one, str) else next(iter(one)) for one in recipe["score"]] == [
        "clip_score", "heads", "fuse",
    ]  # fmt: skip
    assert (recipe["select"]["method"], recipe["select"]["by"]) == ("hardest", "fused")
    assert recipe["weight"]["method"] == "inverse"
    assert plan(made)["select"]["method"] == "density"
    assert plan(made, "--where", "{by: distance, bottom: 90%}")["filter"][0]["bottom"] == 0.9
    assert plan(made, "--weight", "linupper", "--set", "weight.by=distance")["weight"]["by"] == "distance"


def test_filter_takes_lists_and_evaluation_sets(made):
    np.save("held_out.npy", planted(5).astype(np.float32))
    pq.write_table(pa.table({"uid": UIDS[:2]}), "pin.parquet")
    pq.write_table(pa.table({"uid": UIDS[2:4]}), "not.parquet")
    flags = ["--pin", "pin.parquet", "--exclude", "not.parquet", "--against", "held_out.npy"]
    recipe = plan(made, *flags, "--epsilon", "0.1")
    assert (recipe["pin"], recipe["exclude"]) == (["pin.parquet"], ["not.parquet"])
    assert [one["name"] for one in recipe["dedup"]["against"]] == ["held_out"]
    said = own(f"{made}/in/*.parquet", "new", "--against", "held_out.npy", "--dry-run")
    assert (said.code, "needs an epsilon for what is against held_out" in said.error) == (2, True)


def test_filter_takes_the_files_that_a_shell_makes_of_a_glob(made, run):
    files = sorted((made / "in").glob("*.parquet"))
    small = ["--vectors", "embedding", "--workers", "1", "--set", "memory=2GB", "--set", "source.uid=id"]
    small += ["--set", "cluster.concepts=8"]
    assert (
        curate(
            "filter", *files, "--out", "several", "--keep", "0.3", "--method", "density", "-q", *small
        ).code
        == 0
    )
    assert kept("several") == kept(run)
    assert len(kept(run)) == 45


def test_filter_by_a_score_in_one_line(made):
    flags = ["--score", f"{{file: {own_scores()}}}", "--method", "hardest", "--by", "mine"]
    said = own(f"{made}/in/*.parquet", "one", "--set", "source.uid=id", *flags, keep="10%")
    assert said.code == 0, said.err
    assert kept("one") == set(UIDS[-15:])
    assert written("one") == kept("one")
