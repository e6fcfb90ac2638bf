"""Rates, times left and memory: the numbers, the lines of a log, and rows as the unit wherever they are known."""

import subprocess
import sys
import time
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from curate import progress
from curate.api import progress as bars
from curate.api.bars import bars as drawn_bars
from curate.api.progress import progress_lines
from curate.cli import output
from curate.execution.units import rows_of_items
from curate.pipeline import runner
from curate.progress import Meter, Pace, PeakMemory, memory_in_use, pace
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_rate_and_time_left_against_the_definition():
    seen = [(10.0, 40), (12.0, 50), (30.0, 140)]
    found = pace("embed", seen, 340, "rows", 5)
    assert found == Pace("embed", 140, 340, "rows", per_s=5.0, left_s=40.0, memory=5)


@pytest.mark.parametrize("seen", [[(1.0, 0)], [(1.0, 0), (1.5, 10)], [(1.0, 7), (90.0, 7)]])
def test_nothing_is_told_of_a_rate_that_is_not_known(seen):
    found = pace("embed", seen, 100, "rows")
    assert (found.per_s, found.left_s) == (None, None)
    assert "/s" not in found.line()
    assert "left" not in found.line()


def test_the_rate_is_that_of_the_last_minute():
    clock = Clock()
    meter = Meter(clock, lambda: None)
    meter.update("embed", 0, 100_000, "rows")
    for _ in range(100):  # slow: a model is loaded
        clock.now += 1
        meter.update("embed", 1, 100_000, "rows")
    done = 1
    for _ in range(130):
        clock.now += 1
        done += 50
        found = meter.update("embed", done, 100_000, "rows")
    assert found.per_s == pytest.approx(50)
    assert found.left_s == pytest.approx((100_000 - done) / 50)


def test_counting_anew_is_measured_anew():
    clock = Clock()
    meter = Meter(clock, lambda: None)
    meter.update("select", 0, 10, "parts")
    clock.now += 10
    assert meter.update("select", 10, 10, "parts").per_s == 1.0
    clock.now += 1000
    assert meter.update("select", 0, 10, "parts").per_s is None, "the same unit and total, from the start"
    clock.now += 2
    assert meter.update("select", 8, 10, "parts").per_s == 4.0
    assert meter.update("select", 8, 99, "buckets").per_s is None
    assert meter.update("write", 3, 9, "files").per_s is None, "another stage is not this one"


def test_memory_is_asked_for_now_and_then():
    clock, asked = Clock(), []
    meter = Meter(clock, lambda: asked.append(1) or 7_000_000)
    for step in range(10):
        assert meter.update("embed", step, 10, "rows").memory == 7_000_000
    assert len(asked) == 1
    clock.now += progress.MEMORY_EVERY_S
    meter.update("embed", 10, 10, "rows")
    assert len(asked) == 2


def test_memory_is_that_of_all_processes():
    before = memory_in_use()
    code = "import sys; held = bytearray(b'x') * 150_000_000; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        during = memory_in_use()
        child.stdin.close()
    assert during - before > 120_000_000


def test_the_peak_is_that_of_the_time_inside_and_falls_behind_it():
    with PeakMemory(every_s=0.02) as first:
        held = np.ones(300_000_000, np.uint8)
        time.sleep(0.1)
        del held
    with PeakMemory(every_s=0.02) as second:
        time.sleep(0.1)
    assert first.bytes - second.bytes > 280_000_000


def test_the_peak_counts_processes_below():
    code = "import sys; held = bytearray(b'x') * 150_000_000; print(flush=True); sys.stdin.read()"
    with PeakMemory(every_s=60) as alone:
        pass
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        with PeakMemory(every_s=60) as both:
            pass
        child.stdin.close()
    assert both.bytes - alone.bytes > 120_000_000


def test_memory_that_cannot_be_told_ends_nothing():
    def broken():
        raise OSError("no /proc")

    with PeakMemory(broken, every_s=0.01) as peak:
        time.sleep(0.03)
    assert peak.bytes is None


def test_a_log_gets_a_line_every_half_minute_at_most(capsys):
    clock = Clock()
    report = progress_lines(clock, output.note)
    for step in range(100):
        report("embed", step, 100, "rows")
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("embed: 30 of 100 rows (30 %), 1.0 rows/s, 70 s left, ")
    assert lines[0].endswith("B")


@pytest.mark.parametrize(
    ("passed", "shown"),
    [(0, "0:00:30"), (5.2, "0:00:25"), (29.9, "0:00:01"), (31.5, "-:--:--"), (-10, "-:--:--")],
)
def test_a_bar_counts_the_time_left_down_and_tells_none_that_is_not_known(passed, shown):
    clock, text = Clock(), StringIO()
    with drawn_bars(Console(file=text, force_terminal=True, width=120), clock) as report:
        report("embed", 0, 400, "rows")
        if passed >= 0:  # what eight workers finish together is no pace by itself
            clock.now += 10
            for done in range(30, 101, 10):
                report("embed", done, 400, "rows")
            clock.now += passed
        report("read", 5, 5, "parts")
    last = [line for line in Text.from_ansi(text.getvalue()).plain.splitlines() if "embed" in line][-1]
    assert f"{100 if passed >= 0 else 0}/400 rows {shown}" in last
    assert ("10 rows/s" in last) == (passed >= 0)
    assert "read" not in last


def test_a_notebook_without_widgets_gets_lines(monkeypatch, capsys):
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=shell))
    monkeypatch.setattr(bars, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(bars, "find_spec", lambda name: None)
    with bars.shown(True) as report:
        report("embed", 1, 2, "rows")
    said = capsys.readouterr()
    assert said.err.startswith("embed: 1 of 2 rows (50 %)")
    assert said.out == ""


def test_what_is_quick_or_finished_is_not_told(capsys):
    clock = Clock()
    report = progress_lines(clock, output.note)
    report("read", 0, 5, "rows")
    clock.now += 29
    report("read", 4, 5, "rows")
    clock.now += 100
    report("read", 5, 5, "rows")
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(bars, "LINE_EVERY_S", 0.0)
    for quiet in (True, False):
        with output.progress(quiet=quiet) as report:
            report("embed", 1, 2, "rows")
        assert bool(capsys.readouterr().err) is not quiet


@dataclass(frozen=True)
class Item:
    part: object = None
    out: object = None
    pieces: object = None


@dataclass(frozen=True)
class Rows:
    rows: object


@pytest.mark.parametrize(
    ("items", "rows"),
    [
        ([Item(part=Rows(5)), Item(part="a")], [5, 3]),
        ([Item(out=Path("2/part-a.parquet")), Item(out=Path("part-b-0001.arrow"))], [3, 0]),
        ([Item(pieces=(Rows([1, 2]), Rows([7]))), Item(pieces=())], [3, 0]),
        ([Item(part="a"), Item(part="unknown")], None),
        ([Item(out=Path("bucket-0.arrow"))], None),
        ([Item(part="b-0001")], None),
        ([3], None),
        ([], None),
    ],
)
def test_rows_of_items(items, rows):
    assert rows_of_items(items, {"a": 3, "b-0001": 0}) == rows


def test_stages_count_rows_where_they_know_them(tmp_path):
    glob = write_shards(tmp_path / "in", planted(90), shards=2)
    reports = []
    values = recipe_values(glob, tmp_path / "run")
    runner.run(parse_recipe(values), progress=lambda *report: reports.append(report))
    rows = {stage: total for stage, done, total, unit in reports if unit == "rows" and done == total}
    assert (
        rows.items()
        >= {"read": 90, "embed": 90, "cluster": 90, "dedup": 90, "select": 90, "write": 27}.items()
    )
    for stage, done, total, unit in reports:
        assert 0 <= done <= total, (stage, unit)
