"""Many decisions cost a selection little."""

import time

import numpy as np
import pytest

from curate import open_run
from curate.overrides.store import Decision, Overrides
from curate.pipeline import rescore, runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards


@pytest.mark.long
@pytest.mark.parametrize(("rows", "dim"), [(1_000_000, 16)])
def test_twenty_thousand_decisions_on_a_million_rows_add_less_than_a_fifth(tmp_path, rows, dim):
    glob = write_shards(tmp_path / "in", planted(rows, dim=dim, clusters=200), shards=8)
    values = recipe_values(
        glob,
        tmp_path / "run",
        cluster={"concepts": 200},
        dedup={},
        select={"method": "density", "keep": 0.3},
        memory="4GB",
    )
    runner.run(parse_recipe(values), until="select")
    folder = open_run(tmp_path / "run").folder
    uids = [f"s{i:06d}" for i in np.random.default_rng(0).permutation(rows)[:20_000]]
    people, seconds = Overrides(folder, "ann"), {False: [], True: []}
    for turn in range(6):
        decided = turn % 2 == 1
        if decided:
            people.decide(
                Decision(uid, ("keep", "drop", "not_duplicate")[i % 3]) for i, uid in enumerate(uids)
            )
        start = time.process_time()
        rescore.select_run(
            rescore.chosen_recipe(folder.where, settings={"select.keep": 0.31 + turn / 100, "workers": 1})
        )
        seconds[decided].append(time.process_time() - start)
        if decided:
            kept = open_run(folder.path).decisions().filter(reason="kept:override")
            assert kept.height == -(-20_000 // 3)
            people.undo()
    assert np.median(seconds[True]) < 1.2 * np.median(seconds[False]), seconds
