"""The command `score` on a finished run: what is shown, added, replaced, and left as it was."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import open_run
from curate.analysis.verify.verify import verify_run
from curate.errors import UsageError
from curate.pipeline import rescore
from tests.fixtures.calls import curate
from tests.fixtures.folders import changed, tables
from tests.fixtures.rescored import UIDS, N, kept, own_scores, whole

#: Every test works in a folder with a copy of a finished run.
pytestmark = pytest.mark.usefixtures("copied_run")


def test_score_shows_what_there_is(copied_run):
    said = curate("score", "run")
    assert said.code == 0
    header, line = said.out.splitlines()
    assert header.split() == [
        "family",
        "column",
        "higher",
        "is",
        "scored",
        "missing",
        "because",
        "reliability",
    ]
    assert line.split() == ["clip_score", "clip_score", "better", "0", "150", "no_text", "150", "-"]
    assert said.err.splitlines()[-1] == (
        "decide with: curate select run --method hardest --by distance --keep 0.5"
    )
    told = json.loads(curate("score", "run", "--json", "-q").out)
    assert told == {
        "run": "run", "worked": [],
        "scores": [{"family": "clip_score", "column": "clip_score", "higher_is": "better", "scored": 0,
                    "missing": {"no_text": 150}, "reliability": None}],
    }  # fmt: skip


def test_a_file_of_scores_is_added_and_decides(copied_run):
    before = tables(copied_run)
    flags = ["--file", own_scores(), "--higher-is", "easier", "--columns", "mine", "--name", "ours"]
    said = curate("score", "run", *flags)
    assert said.code == 0
    added = changed(before, tables(copied_run))
    assert added
    assert all(name.startswith("3_scores/ours/") for name in added)
    assert said.out.splitlines()[-1].split() == ["ours", "mine", "easier", "150", "0", "-"]
    assert verify_run("run")["changed"] == [], "a new family leaves shards and decisions what they are"
    assert curate("select", "run", "--method", "hardest", "--by", "mine", "--count", "7", "-q").code == 0
    assert kept() == set(UIDS[:7]), "the hardest of an easier score are the smallest"
    assert open_run("run").scores().sort("uid")["mine"].to_list() == list(range(N))


def test_scores_that_cannot_be_had_leave_the_run_as_it_was(copied_run):
    before, file = whole(copied_run), own_scores(100)
    said = curate("score", "run", "--file", file)
    assert said.code in (1, 2)
    assert "50" in said.error
    assert changed(before, whole(copied_run)) == []
    said = curate("score", "run", "--file", file, "--on-missing", "null", "--json", "-q")
    [mine] = [row for row in json.loads(said.out)["scores"] if row["column"] == "mine"]
    assert (mine["scored"], sum(mine["missing"].values())) == (100, 50)


def test_scores_made_anew_are_told(copied_run):
    assert curate("score", "run", "--file", own_scores(), "-q").code == 0
    assert curate("run", "run/recipe.yaml", "-q").code == 0
    assert verify_run("run")["changed"] == []
    pq.write_table(pa.table({"uid": UIDS, "mine": np.ones(N)}), "mine.parquet")
    assert curate("score", "run", "-q").code == 0
    assert verify_run("run")["changed"] == ["score/mine"]
    assert "warning: score/mine changed after the shards" in curate("inspect", "run").err
    assert curate("run", "run/recipe.yaml", "-q").code == 0
    assert verify_run("run")["changed"] == []


def test_scores_that_cannot_be_made_anew_stay_as_they_were(copied_run):
    assert curate("score", "run", "--file", own_scores(), "-q").code == 0
    assert curate("run", "run/recipe.yaml", "-q").code == 0
    before = whole(copied_run)
    own_scores(100)
    assert curate("score", "run").code in (1, 2)
    assert changed(before, whole(copied_run)) == []
    assert verify_run("run")["changed"] == []


def test_families_are_added_kept_or_replaced(copied_run):
    def folders(*entries):
        return rescore.scored_recipe("run", entries).score

    recipe = rescore.scored_recipe("run", [{"heads": {"seeds": 3}}, "pair"])
    assert [family.folder for family in recipe.score] == ["clip_score", "heads", "pair"]
    Path("run/recipe.yaml").write_text(recipe.to_yaml())
    assert folders() == recipe.score
    assert folders("heads", "pair", "clip_score") == recipe.score, "named alone they keep their settings"
    heads = folders({"heads": {"kind": "linear"}})[1]
    assert (heads.kind, heads.seeds) == ("linear", 10), "settings replace settings"
    with pytest.raises(UsageError, match="must name each family once, got pair twice"):
        folders("pair", "pair")
    [*_, first, second] = folders({"file": "a.parquet"}, {"file": "a.parquet", "name": "b"})
    assert (first.folder, second.folder) == ("a", "b")
