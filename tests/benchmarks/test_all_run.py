"""Every benchmark is imported, tells what it takes, and runs at toy size, so that none rots."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]
import peers
from timing import put_between, summary

SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("[!_]*.py"))


def driver_module():
    spec = importlib.util.spec_from_file_location("benchmarks_main", BENCHMARKS / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPARING = set(driver_module().there())
#: Those whose toy size takes more than some seconds; and what others are given, so that it does not.
LONG = {"label_issues", "published", "duplicates", "embedding", "scale", "fixed_costs"}
GIVEN = {"duplicates": ["--only", "concepts"]}


@pytest.fixture
def driver():
    return driver_module()


@pytest.fixture
def inside(monkeypatch):
    """Contenders run in this process, and no environment of a peer counts as made."""
    monkeypatch.setenv("TIMING_INSIDE", "1")
    monkeypatch.setattr(peers, "ENVIRONMENTS", Path("/nonexistent"))


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "synthetic"])
def test_every_script_imports_and_tells_what_it_takes(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    module = importlib.import_module(name)
    assert module.__doc__
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code in (0, None)
    assert "usage:" in capsys.readouterr().out


def toy(name, tmp_path, more=()):
    """Run a benchmark at toy size; return its comparisons."""
    out = tmp_path / "found.json"
    importlib.import_module(name).main(["--toy", "--json", str(out), *more])
    return json.loads(out.read_text())["comparisons"]


def failures(comparisons):
    """Return what went wrong: contenders that failed, and comparisons in which ours did not run."""
    idle = [one["name"] for one in comparisons if not one["turns"][one["ours"]]]
    return idle + [why for one in comparisons for why in one["skipped"].values() if why.startswith("failed")]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in LONG else name
        for name in sorted(COMPARING - {"published"})
    ],
)
def test_it_runs_at_toy_size(name, inside, tmp_path):
    comparisons = toy(name, tmp_path)
    assert comparisons and failures(comparisons) == []


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_a_part_of_it_runs_at_toy_size(name, inside, tmp_path):
    comparisons = toy(name, tmp_path, GIVEN[name])
    assert comparisons and failures(comparisons) == []


def test_what_published_and_ours_find_is_the_same(inside, tmp_path):
    comparisons = toy("published", tmp_path)
    assert failures(comparisons) == []
    [found] = comparisons
    ours, theirs = (found["turns"][name][0]["facts"] for name in ("curate filter", "published procedure"))
    assert ours["kept"] == theirs["kept"] == 600
    assert ours["planted copies found"] == theirs["planted copies found"] == 1
    assert ours["near-duplicates"] == theirs["near-duplicates"]


@pytest.mark.long
def test_the_old_ones_run_at_toy_size(monkeypatch, capfd):
    cheap = {
        "gradnorm": ["--batch", "2", "--width", "4", "--rounds", "1"],
        "diff": ["--rows", "2000"],
        "file_moves": ["--rows", "80"],
    }
    said = {}
    for name, given in cheap.items():
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
        importlib.import_module(name).main()
        said[name] = capfd.readouterr().out
    assert float(said["gradnorm"].split()[-1]) < 1e-3  # the largest relative difference
    assert "{'a': 2000, 'b': 2000, 'both': 1800, 'new': 200, 'gone': 200}" in said["diff"]
    assert "moves between" in said["file_moves"] and "into runs/folder.py" in said["file_moves"]


def test_the_driver_runs_what_there_is_and_says_what_is_missing(driver, monkeypatch, tmp_path, capsys):
    record = {
        "benchmark": "write", "size": "short", "pairs": 1, "date": "2026-01-01T00:00:00Z", "commit": "abc", "cores": 2,
        "processor": "some", "flags": ["avx2"], "load": 0.1,
        "comparisons": [
            {
                "name": "rows", "ours": "a", "skipped": {"c": "no wheel"}, "targets": {"b": 0.7},
                "ratios": {"b": {of: {"median": 2.0, "pairs": [2.0]} for of in ("processor", "wall")}},
                "turns": {
                    "a": [{"processor": 1.0, "wall": 1.0, "memory": 1_000_000, "facts": {}}],
                    "b": [{"processor": 2.0, "wall": 2.0, "memory": 3_000_000, "facts": {}}],
                },
            }
        ],
    }  # fmt: skip
    done = []

    def run(name, size, folder, minutes):
        done.append(name)
        if name == "write":
            (folder / "write-short.json").write_text(json.dumps(record))
        return "it ended with 1" if name == "published" else None

    docs = tmp_path / "docs.md"
    docs.write_text("before\n<!-- short -->\nold\n<!-- /short -->\nafter\n")
    monkeypatch.setattr(driver, "run", run)
    monkeypatch.setattr(driver, "DOCS", docs)
    monkeypatch.setattr(driver, "there", lambda: ["published", "write", "other"])
    assert driver.main(["--short", "--results", str(tmp_path)]) == 1
    assert done == ["published", "write", "other"]
    said = capsys.readouterr()
    assert "published: it ended with 1" in said.err
    assert "kmeans: there is no such script" in said.err
    text = docs.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| rows | b | 1.00 | 2.00 | **2.00** (2.00 to 2.00), target 0.7 | 2.00 | 1 : 3 |" in text
    assert "| rows | c | 1.00 | not run: no wheel | | | |" in text
    assert "- write: 2026-01-01, commit abc, some, 2 cores (avx2)" in text


def test_the_driver_takes_every_script_that_compares():
    assert {"published", "write", "label_issues", "duplicates"} <= COMPARING
    assert not {"quality", "capacity", "synthetic", "gradnorm"} & COMPARING


def test_capacity_follows_from_the_rates(tmp_path, capsys):
    import capacity

    rates = json.loads(capacity.RATES.read_text())
    rate = rates["processor_seconds"]
    ten, one = (capacity.seconds(rows, rate, images=False) for rows in (10**7, 10**6))
    assert ten["read"] == pytest.approx(10**7 * rate["read, a row of ids"])
    products = [512 * 1.5 * rows * rows / capacity.concepts(rows) / 1e9 for rows in (10**7, 10**6)]
    per_row, per_product = rate["dedup, a row"], rate["dedup, 10^9 flop"]
    assert ten["dedup"] == pytest.approx(10**7 * per_row + products[0] * per_product)
    assert one["dedup"] == pytest.approx(10**6 * per_row + products[1] * per_product)
    assert capacity.wall(ten, 32) < capacity.wall(ten, 4) < sum(ten.values())
    assert capacity.memory(10**9) == 4 * 512 * 257 * 31_623
    capacity.main([])
    shown = capsys.readouterr().out
    assert shown.strip() in capacity.DOCS.read_text(), "run `python benchmarks/capacity.py --write`"
    capacity.main(["--run", "1000000", "1000", "--dim", "256"])
    shown = dict(
        line.split(": ", 1) for line in capsys.readouterr().out.replace("cluster: ", "").splitlines()
    )
    half = one["dedup"] - 10**6 * per_row
    assert float(shown["dedup"].removesuffix(" s")) == pytest.approx(10**6 * per_row + half / 2, abs=0.06)
    assert shown["read"] == f"{one['read']:,.1f} s" and "on two cores" in shown["all"]


def test_a_file_without_marks_is_left_alone(tmp_path):
    path = tmp_path / "docs.md"
    path.write_text("nothing to replace")
    with pytest.raises(SystemExit, match="there is no <!-- short -->"):
        put_between(path, "short", summary([]))
    assert path.read_text() == "nothing to replace"


def test_every_peer_has_an_environment():
    for name in ("imagededup", "fastdup", "semhash"):
        python, _ = peers.interpreter(name)
        assert python.endswith("bin/python")
