"""The benchmark of scale at toy size: what it writes is about the run that it made."""

import importlib
import json
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]


def test_a_toy_run_is_measured(tmp_path):
    out = tmp_path / "scale.json"
    given = ["--rows", "1500", "--dim", "16", "--k", "8", "--memory", "2GB", "--set", "workers=1"]
    importlib.import_module("scale").main(
        [*given, "--folder", str(tmp_path), "--keep-run", "--json", str(out)]
    )
    found = json.loads(out.read_text())
    (folder,) = tmp_path.glob("scale-*")
    assert (found["rows"], found["dim"], found["concepts"]) == (1500, 16, 8)
    assert 0.5 < found["processor_s"] == round(found["user_s"] + found["system_s"], 2)
    assert 50e6 < found["peak_private_bytes"] < 2e9
    assert found["looks"] >= 2 and found["processes"] >= 1
    assert found["disk_vectors_bytes"] >= 1500 * 16 * 2
    assert found["disk_run_bytes"] == importlib.import_module("scale").size_of(folder / "run") > 0
    assert {"embed", "cluster", "dedup", "select", "write"} <= set(found["stages_wall_s"])


def test_a_run_that_fails_leaves_nothing(tmp_path):
    scale = importlib.import_module("scale")
    try:
        scale.main(["--rows", "200", "--dim", "4", "--folder", str(tmp_path), "--set", "select.kepe=1"])
    except SystemExit as end:
        assert "failed" in str(end.code)
    else:
        raise AssertionError("the run did not fail")
    assert list(tmp_path.iterdir()) == []
