"""The flags of `filter` for scores and lists, in one line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.builders import planted
from tests.fixtures.calls import curate, own
from tests.fixtures.rescored import UIDS, kept, own_scores, written

#: Every test works in a folder with a copy of a finished run.
pytestmark = pytest.mark.usefixtures("copied_run")


def plan(finished_run, *flags):
    """Return the recipe that `filter` makes of these flags."""
    said = own(f"{finished_run}/in/*.parquet", "new", "--dry-run", "--json", *flags)
    assert said.code == 0, said.err
    return json.loads(said.out)["recipe"]


def test_filter_takes_scores(finished_run):
    flags = ["--score", "heads", "--score", "{fuse: {columns: {el2n: 1, distance: 2}}}"]
    recipe = plan(finished_run, *flags, "--method", "hardest", "--by", "fused", "--weight", "inverse")
    assert [one if isinstance(one, str) else next(iter(one)) for one in recipe["score"]] == [
        "clip_score", "heads", "fuse",
    ]  # fmt: skip
    assert (recipe["select"]["method"], recipe["select"]["by"]) == ("hardest", "fused")
    assert recipe["weight"]["method"] == "inverse"
    assert plan(finished_run)["select"]["method"] == "density"
    assert plan(finished_run, "--where", "{by: distance, bottom: 90%}")["filter"][0]["bottom"] == 0.9
    assert (
        plan(finished_run, "--weight", "linupper", "--set", "weight.by=distance")["weight"]["by"]
        == "distance"
    )


def test_filter_takes_lists_and_evaluation_sets(finished_run):
    np.save("held_out.npy", planted(5).astype(np.float32))
    pq.write_table(pa.table({"uid": UIDS[:2]}), "pin.parquet")
    pq.write_table(pa.table({"uid": UIDS[2:4]}), "not.parquet")
    flags = ["--pin", "pin.parquet", "--exclude", "not.parquet", "--against", "held_out.npy"]
    recipe = plan(finished_run, *flags, "--epsilon", "0.1")
    assert (recipe["pin"], recipe["exclude"]) == (["pin.parquet"], ["not.parquet"])
    assert [one["name"] for one in recipe["dedup"]["against"]] == ["held_out"]
    said = own(f"{finished_run}/in/*.parquet", "new", "--against", "held_out.npy", "--dry-run")
    assert (said.code, "needs an epsilon for what is against held_out" in said.error) == (2, True)


def test_filter_takes_the_files_that_a_shell_makes_of_a_glob(finished_run, copied_run):
    files = sorted((finished_run / "in").glob("*.parquet"))
    small = ["--vectors", "embedding", "--workers", "1", "--set", "memory=2GB", "--set", "source.uid=id"]
    small += ["--set", "cluster.concepts=8"]
    assert (
        curate(
            "filter", *files, "--out", "several", "--keep", "0.3", "--method", "density", "-q", *small
        ).code
        == 0
    )
    assert kept("several") == kept(copied_run)
    assert len(kept(copied_run)) == 45


def test_filter_by_a_score_in_one_line(finished_run):
    flags = ["--score", f"{{file: {own_scores()}}}", "--method", "hardest", "--by", "mine"]
    said = own(f"{finished_run}/in/*.parquet", "one", "--set", "source.uid=id", *flags, keep="10%")
    assert said.code == 0, said.err
    assert kept("one") == set(UIDS[-15:])
    assert written("one") == kept("one")
