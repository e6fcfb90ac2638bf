"""The framework of stages: when one works, which parts it makes, what it leaves behind."""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest

from curate.execution.context import Context, Part
from curate.execution.engines.local import LocalEngine
from curate.execution.stage import Stage
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.sources.base import Columns, Shard

KIND = pa.schema([("value", pa.int64())])


@dataclass(frozen=True)
class Task:
    part: Part
    value: int
    out: Path
    fingerprint: str


def write(task):
    if task.value < 0:
        raise KeyboardInterrupt
    table = pa.table([[task.value]], schema=KIND)
    storage.write_parquet(task.out, table, KIND, task.fingerprint)
    return task.value


class Doubled(Stage):
    """Writes twice a number for each part."""

    name = "filter"
    value = 4

    def inputs(self):
        return [self.value, [part.name for part in self.parts]]

    @property
    def scratch(self):
        return self.run_folder.work / "doubled"

    def prepare(self):
        self.scratch.mkdir(parents=True)

    def tasks(self):
        (folder,) = self.marked
        return [
            Task(part, 2 * self.value, self.run_folder.part(folder, part.name), f"{self.value}")
            for part in self.parts
        ]

    @property
    def part(self):
        return write

    def finish(self, results):
        return {"sum": sum(results)}


@pytest.fixture
def context(tmp_path):
    shard = Shard("s", "s.parquet", "train", 1, "1")
    parts = tuple(Part(name, at, shard, Columns(), 0, 3, 3 * at, name) for at, name in enumerate("ab"))
    return Context(None, RunFolder(tmp_path), LocalEngine(1), parts)


def changed(value, **more):
    return type("Changed", (Doubled,), {"value": value, **more})


def test_a_stage_works_once(context):
    assert Doubled(context).run()
    folder = context.run.stage("filter")
    assert sorted(path.name for path in folder.glob("*.parquet")) == ["part-a.parquet", "part-b.parquet"]
    assert context.facts(folder) == {"sum": 16}
    assert context.run.fingerprint(folder) == storage.fingerprint("filter", 1, 4, ["a", "b"])
    assert context.worked == {"filter": {"parts": 2, "rows": 6}}
    assert not Doubled(context).scratch.exists()
    assert not Doubled(context).run()


def test_parts_that_are_gone_are_removed_and_the_others_stay(context):
    Doubled(context).run()
    kept = context.run.part(context.run.stage("filter"), "a").stat().st_mtime_ns
    fewer = replace(context, parts=context.parts[:1], worked={})
    assert Doubled(fewer).run()
    (left,) = context.run.stage("filter").glob("*.parquet")
    assert (left.name, left.stat().st_mtime_ns) == ("part-a.parquet", kept)
    assert fewer.worked == {"filter": {"parts": 0, "rows": 0}}
    assert fewer.facts(context.run.stage("filter")) == {"sum": 0}


@pytest.mark.parametrize("more", [{"version": 2}, {"hashed_as": "other"}, {"value": 5}])
def test_what_changes_a_fingerprint_makes_it_work_again(context, more):
    Doubled(context).run()
    assert changed(**({"value": 4} | more))(context).run()


def test_every_part_calls_for_parts_that_are_there(context):
    Doubled(context).run()
    assert changed(4, every_part=True, version=2)(context).run()
    assert context.facts(context.run.stage("filter")) == {"sum": 16}


def test_an_interrupted_stage_has_no_mark(context):
    Doubled(context).run()
    with pytest.raises(KeyboardInterrupt):
        changed(-1)(context).run()
    assert context.run.marker(context.run.stage("filter")) is None
