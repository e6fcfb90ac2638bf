"""The log of a run folder: JSON lines of what was said, what each stage took, and how it ended."""

import json
import logging

import polars as pl
import pytest

from curate.errors import BudgetError, RunError
from curate.io import storage
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs import logs
from curate.runs.folder import FORMAT_VERSION
from tests.fixtures.builders import planted, recipe_values, write_shards


def recipe(folder, **changes):
    return parse_recipe(recipe_values(str(folder / "in" / "*.parquet"), folder / "run", **changes))


def lines(folder):
    """The lines of every invocation, the oldest first."""
    return [
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted((folder / "run" / "logs").glob("*.jsonl"))
    ]


def test_what_a_run_said_and_took(tmp_path, caplog):
    write_shards(tmp_path / "in", planted(60))
    with caplog.at_level(logging.INFO, "curate"):
        runner.run(recipe(tmp_path))
    (said,) = lines(tmp_path)
    assert said[0]["message"].startswith("begins: curate ") and said[-1]["message"] == "ends: done"
    stages = {line["stage"]: line for line in said if "stage" in line}
    assert list(stages) == list(runner.STAGES)
    assert (
        stages["embed"]["rows"] == 60
        and stages["embed"]["seconds"] >= 0
        and stages["embed"]["peak_memory"] > 1e7
    )
    shown = [record.getMessage() for record in caplog.records if record.name == "curate"]
    assert [line["message"] for line in said[1:-1] if "stage" not in line] == shown
    assert not any("is done" in message for message in shown), "the terminal has its own line per stage"
    frame = pl.concat([pl.read_ndjson(path) for path in (tmp_path / "run" / "logs").glob("*.jsonl")])
    assert frame.filter(pl.col("stage") == "select")["rows"].to_list() == [60]
    runner.run(recipe(tmp_path))
    assert [line["message"] for line in lines(tmp_path)[1]][1:] == ["ends: done"], "nothing was to do"


def test_how_a_run_failed(tmp_path):
    write_shards(tmp_path / "in", planted(60))
    with pytest.raises(BudgetError) as failure:
        runner.run(recipe(tmp_path, select={"method": "density", "count": 99}))
    end = lines(tmp_path)[0][-1]
    assert (end["level"], end["message"]) == ("error", f"ends: {failure.value}")


def test_old_logs_go_and_a_log_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "KEPT_LOGS", 3)
    for _ in range(5):
        with logs.log_to(tmp_path / "logs"):
            pass
    assert len(list((tmp_path / "logs").iterdir())) == 3
    (tmp_path / "file").write_text("no folder")
    with logs.log_to(tmp_path / "file"):
        logging.getLogger("curate").info("said")


def test_the_loggers_are_as_they_were(tmp_path):
    logger = logging.getLogger("curate")
    before = logger.level, list(logger.handlers)
    with pytest.raises(KeyboardInterrupt), logs.log_to(tmp_path):
        raise KeyboardInterrupt
    assert (logger.level, list(logger.handlers)) == before
    assert (
        json.loads(next(tmp_path.iterdir()).read_text().splitlines()[-1])["message"]
        == "ends: KeyboardInterrupt"
    )


def test_a_folder_of_a_later_format_is_refused(tmp_path):
    write_shards(tmp_path / "in", planted(60))
    runner.run(recipe(tmp_path))
    path = tmp_path / "run" / "manifest.json"
    manifest = storage.read_json(path)
    storage.write_record(path, manifest | {"format_version": FORMAT_VERSION + 1})
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"run has format_version 2, this curate knows 1: upgrade curate"):
        runner.run(recipe(tmp_path))
    assert path.read_bytes() == before
