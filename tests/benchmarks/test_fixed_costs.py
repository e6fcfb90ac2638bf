import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fixed_costs


def test_the_least_of_a_few_rounds_is_told_beside_bare_imports(capsys):
    fixed_costs.main(["--rows", "16", "--times", "1", "--only", "own vectors"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "this checkout: processor seconds"
    assert [line.split("  ")[0] for line in said[1:]] == ["bare tables", "own vectors", "own vectors, again"]
    bare, first, again = (float(line[20:].split()[0]) for line in said[1:])
    assert 0 < bare < again < first  # a run imports all that is bare, and a second one does less


def test_ratios_are_to_what_a_run_has_to_import():
    took = {"bare tables": 0.5, "bare model": 2.0, "tiny": 3.0, "own vectors, again": 1.0}
    assert fixed_costs.lines(took)[2:] == [
        "tiny                   3.00  1.5 x  +1.00 s", "own vectors, again     1.00  2.0 x  +0.50 s",
    ]  # fmt: skip
    assert fixed_costs.least([took, {**took, "tiny": 2.5}])["tiny"] == pytest.approx(2.5)
