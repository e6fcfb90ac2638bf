"""The statistics and the pools of `benchmarks/quality.py`."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "benchmarks")]
from subsets import methods, pools, tables, verdict


def test_a_difference_is_beyond_chance_as_a_t_test_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.8, 0.01, 10)
    for value in (0.79, 0.8, 0.815, 0.83, 0.85):
        gap, beyond = tables.difference([value], [draws])
        t = (value - draws.mean()) / (draws.std(ddof=1) * np.sqrt(1 + 1 / 10))
        assert gap == pytest.approx(value - draws.mean())
        assert beyond == (2 * stats.t.sf(abs(t), 9) < 0.05)


def test_five_of_a_hundred_placebos_are_beyond_chance():
    rng = np.random.default_rng(1)
    cells = [
        tables.difference(list(rng.normal(0, 1, 2)), list(rng.normal(0, 1, (2, 10)))) for _ in range(4000)
    ]
    assert 0.04 < np.mean([beyond for _, beyond in cells]) < 0.06


def _pool(labels: str, wrong: list[int], copies: list[int]) -> pools.Pool:
    n = len(labels)
    is_wrong, copy_of = np.zeros(n, bool), np.full(n, -1)
    is_wrong[wrong] = True
    copy_of[copies] = 0
    return pools.Pool("p", 0, [b""] * n, [], labels=list(labels), wrong=is_wrong, copy_of=copy_of)


def test_what_the_truth_keeps_has_no_fault_and_even_classes():
    pool = _pool("aaaaaaaabbbb", [0, 8], [1, 2])
    both = methods.oracle(pool, "both", 0.5, 0)
    assert len(both) == 6
    assert not set(both) & {0, 1, 2, 8}
    even = methods.oracle(pool, "both, classes evened", 0.5, 0)
    assert [pool.labels[row] for row in even].count("b") == 3
    assert len(methods.oracle(pool, "no copies", 1.0, 0)) == 10
    assert methods.oracle(_pool("ab", [], []), "right labels", 0.5, 0) is None


def test_the_table_has_one_row_per_subset_and_marks_what_is_beyond_chance():
    cells = [
        {"judge": "heads", "pool": "p", "seed": 0, "share": 0.1, "name": name, "rows": rows, "value": value}
        for name, rows, value in (
            ("draw 0", 9, 0.5), ("draw 1", 9, 0.501), ("draw 2", 9, 0.499), ("placebo", 9, 0.5), ("good", 9, 0.6),
            ("short", 5, 0.4),
        )
    ]  # fmt: skip
    lines = tables.markdown(cells).splitlines()
    assert "| random draws, mean ± sd | 50.0 ± 0.1 |" in lines
    assert "| placebo | +0.0 |" in lines
    assert "| good | +10.0* |" in lines
    assert "| short | -10.0* (5 rows) |" in lines


def test_pools_have_the_faults_that_they_say(shared_data):
    if not (shared_data / "fashion_mnist").is_dir():
        pytest.skip("no fashion_mnist in the shared data")
    pool = pools.make("pair flip 20 %", 0, shared_data)
    plain = pools.make("clean", 0, shared_data)
    changed = np.array([a != b for a, b in zip(pool.labels, plain.labels, strict=True)])
    assert (changed == pool.wrong).all()
    assert changed.mean() == pytest.approx(0.2)
    assert all((int(plain.labels[row]) + 1) % 10 == int(pool.labels[row]) for row in np.flatnonzero(changed))
    tail = pools.make("tail 100:1", 0, shared_data)
    sizes = sorted(np.unique(tail.labels, return_counts=True)[1])
    assert sizes[-1] == 2000
    assert sizes[0] == 20


def test_a_page_gets_the_tables_behind_its_mark(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text(f"# Head\n\n{tables.MARK}\n\nold\n")
    cells = [{"judge": "heads", "pool": "p", "seed": 0, "share": 0.1, "name": f"draw {i}", "rows": 9, "value": 0.5 + i / 100}
             for i in range(3)]  # fmt: skip
    tables.into(page, cells)
    assert page.read_text().startswith(f"# Head\n\n{tables.MARK}\n\n### p, judged by heads")
    assert "old" not in page.read_text()
    page.write_text("no mark")
    with pytest.raises(ValueError, match="must have a line"):
        tables.into(page, cells)


def _cells(gains, pool="p", share=0.1, judge="heads"):
    draws = {"draw 0": 0.0, "draw 1": 0.1, "draw 2": -0.1}
    return [
        {
            "judge": judge,
            "pool": pool,
            "seed": 0,
            "share": share,
            "name": name,
            "rows": 9,
            "value": 0.5 + gain / 100,
        }
        for name, gain in (draws | gains).items()
    ]


def test_what_is_said_of_auto_as_a_whole():
    cells = _cells({"placebo": 0.0, "auto": 3.0, "oracle: both": 4.0, "oracle: right labels": 2.0})
    cells += _cells({"placebo": -5.0, "auto": -2.0, "oracle: both": 0.5}, pool="q")
    cells += _cells({"placebo": 0.0, "auto": 1.0, "oracle: both": 2.0}, share=0.3)
    found = verdict.places(cells)
    assert [round(part, 6) for _, part in verdict.share_of_oracle(found, "auto")] == [0.75, 0.5]
    text = verdict.markdown(cells)
    assert "`auto` is below random beyond chance in 1 of 3 cells; its worst cell is -2.0 points" in text
    assert "over a point (2 cells), `auto` gains 62% of that" in text
    assert "least in p at 30% judged by heads: 50%" in text


def test_what_is_chosen_without_a_pool_is_judged_on_it():
    parts = dict.fromkeys(verdict.PARTS, 0.0)
    cells = [
        *_cells(parts | {"auto": 1.0, "floor half, then random": 5.0}, pool="tail"),
        *_cells(parts | {"auto": 2.0, "noise out (auto), then random": 3.0}, pool="noise"),
    ]
    found = verdict.left_out(verdict.places(cells))
    assert found["tail"][0] == "noise out (auto), then random"
    assert [round(one, 6) for one in found["tail"][1:]] == [0.0, 1.0]
    assert found["noise"][0] == "floor half, then random"
    assert verdict.left_out(verdict.places(_cells(parts))) == {}
