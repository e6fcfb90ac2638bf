"""`curate evaluate` on a run at a URL, from a machine that has nothing of it."""

import pytest

import curate
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.remotes import machine, names_at

N = 300


@pytest.mark.long
@pytest.mark.usefixtures("no_flush")
def test_a_run_at_a_url_is_judged_from_another_machine(tmp_path, monkeypatch, options, lake):
    glob = write_shards(
        tmp_path / "in", planted(N), extra={"label": [f"class {one % 3}" for one in range(N)]}
    )
    machine(tmp_path, monkeypatch, "first")
    url = "s3://lake/evaluated"
    remote = {"storage_options": options}
    run = curate.run(parse_recipe(recipe_values(glob, url, remote=remote)), until="select", progress=False)
    kept = run.kept()
    before = names_at(lake, url)
    machine(tmp_path, monkeypatch, "second")
    curate.run(parse_recipe(recipe_values(glob, url, remote=remote)), until="select", progress=False)
    found = curate.open_run(url).evaluate(steps=2, seeds=2, progress=False)
    assert found.summary["run"] == url
    files = ["cells.parquet", "evaluation.html", "evaluation.json", "rows.parquet"]
    more = {f"evaluation/{one}" for one in files}
    assert {name for name in set(names_at(lake, url)) - set(before) if not name.startswith("logs/")} == more
    assert curate.open_run(url).kept().equals(kept)
