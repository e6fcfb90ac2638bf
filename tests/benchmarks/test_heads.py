"""What `benchmarks/heads.py` compares: all of them find wrong labels, in data of toy size."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]
spec = importlib.util.spec_from_file_location("benchmark_of_heads", BENCHMARKS / "heads.py")
heads = importlib.util.module_from_spec(spec)
spec.loader.exec_module(heads)


def facts(contender):
    """What a contender returns."""
    next(contender)
    with pytest.raises(StopIteration) as ended:
        next(contender)
    return ended.value.value


@pytest.mark.parametrize("how", ["random", "next"])
def test_every_way_finds_wrong_labels(how, tmp_path):
    x, true = heads.make(*heads.SIZES["toy"])
    label, wrong = heads.flip(true, how)
    assert wrong.sum() == 120 and ((label != true) == wrong).all()
    np.savez(tmp_path / "data.npz", x=x, label=label, wrong=wrong)
    ways = {
        "heads": heads.with_heads(tmp_path),
        "fast": heads.with_heads(tmp_path, preset="fast"),
        "cleanlab": heads.with_cleanlab(tmp_path, False),
        "loop": heads.with_loop(tmp_path, 16),
    }
    found = {name: facts(way)["AUROC"] for name, way in ways.items()}
    assert min(found.values()) > 0.9, found
