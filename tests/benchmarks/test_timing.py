"""What `benchmarks/timing` measures, of processes whose cost is known."""

import json
import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]
from timing import Contender, arguments, call, compare, write
from timing.turns import run

SPIN = "import time; e = time.process_time() + {0}\nwhile time.process_time() < e: pass\n"
SCRIPT = """
import subprocess, sys, time
from pathlib import Path

def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def prepared(before, after):
    spin(before)
    yield
    spin(after)
    return {"answer": 42}

def plain(log, name):
    with Path(log).open("a") as file:
        file.write(name)

def broken():
    raise ValueError("no such thing")
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "some_script.py"
    path.write_text(SCRIPT)
    return path


def test_processor_seconds_of_a_command_count_its_children_and_memory_is_the_sum_of_all():
    held = "x = bytearray(60_000_000); "
    child = held + SPIN.format(0.4)
    code = held + f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    turn = run(Contender("both", [sys.executable, "-c", code]))
    assert 0.4 <= turn.processor < 1.5
    assert turn.wall >= 0.4
    assert 120e6 <= turn.memory < 200e6


def test_of_a_function_only_what_follows_its_first_yield_is_timed(script):
    turn = run(Contender("one", call(script, "prepared", before=0.5, after=0.2)))
    assert 0.19 <= turn.processor < 0.4
    assert turn.facts == {"answer": 42}
    assert run(Contender("one", call(script, "prepared", before=0.2, after=0), whole=True)).processor > 0.2


def test_contenders_run_in_turns_and_what_is_not_fresh_is_removed(script, tmp_path):
    log, left = tmp_path / "log", tmp_path / "left"
    a, b = (Contender(name, call(script, "plain", log=log, name=name)) for name in "ab")
    left.mkdir()
    seen = Contender(
        "c", [sys.executable, "-c", "pass"], fresh=[left], facts=lambda: {"there": left.exists()}
    )
    found = compare("order", a, [b, seen], pairs=2, warm=True)
    assert log.read_text() == "ababab"
    assert [len(turns) for turns in found.turns.values()] == [2, 2, 2]
    assert found.turns["c"][0].facts == {"there": False}


def test_ratios_are_theirs_by_ours_pair_by_pair(script):
    ours = Contender("ours", call(script, "prepared", before=0, after=0.1))
    theirs = Contender("theirs", call(script, "prepared", before=0, after=0.3))
    found = compare("ratio", ours, [theirs], pairs=2)
    expected = [
        b.processor / a.processor for a, b in zip(found.turns["ours"], found.turns["theirs"], strict=True)
    ]
    assert found.ratios("theirs") == pytest.approx(expected)
    assert all(2 < ratio < 4.5 for ratio in expected)


def test_a_peer_that_fails_or_lacks_something_is_left_out_with_its_reason_but_ours_must_run(script, tmp_path):
    ours = Contender("ours", call(script, "prepared", before=0, after=0.01))
    broken = Contender("broken", call(script, "broken"))
    found = compare("some", ours, [broken, Contender("peer", "it has no wheel | here")], pairs=1)
    options = arguments(None).parse_args(["--toy", "--json", str(tmp_path / "out" / "made.json")])
    record = write("made", [found], options)
    assert json.loads((tmp_path / "out" / "made.json").read_text()) == record
    assert found.skipped["broken"] == "failed: ValueError: no such thing (exit status 1)"
    table = (tmp_path / "out" / "made.md").read_text()
    assert "| some | peer | not run: it has no wheel / here |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    assert re.fullmatch(r"[0-9a-f]{10}\+?|unknown", record["commit"])
    with pytest.raises(SystemExit, match="broken failed: ValueError: no such thing"):
        compare("none", broken, [ours], pairs=1)


def test_the_number_of_pairs_follows_the_size():
    parser = arguments("what it does")
    assert [parser.parse_args(given).pairs for given in ([], ["--short"], ["--toy"], ["--short", "--pairs", "9"])] == [
        5, 3, 1, 9,
    ]  # fmt: skip
