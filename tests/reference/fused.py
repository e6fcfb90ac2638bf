"""Fused scores from their definition, a row at a time; and two columns to fuse, with ties, gaps and what is not finite."""

import numpy as np

N = 50
UIDS = [f"s{i:06d}" for i in range(N)]
LABELS = [None if i % 11 == 0 else "xyz"[i % 3] for i in range(N)]
#: Weights whose fusion is compared with the definition.
WEIGHTS = ({"a": 1, "b": -3}, {"b": 2, "a": 0}, {"distance": -1, "a": 0.5})


def columns():
    """Two columns with ties, gaps and what is not finite."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, N).astype(float).tolist(), rng.standard_normal(N).tolist()
    a[4], b[6], b[7] = None, float("inf"), None
    return {"a": a, "b": b}


def _brought_to_one(values, group, scale):
    """Ranks (or ranges) in each group by counting, None where there is no value."""
    result = [None] * N
    for i in range(N):
        if values[i] is None or group[i] is None:
            continue
        others = [values[j] for j in range(N) if values[j] is not None and group[j] == group[i]]
        below, equal = sum(v < values[i] for v in others), sum(v == values[i] for v in others)
        if len(set(others)) == 1:
            result[i] = 0.5
        elif scale == "rank":
            result[i] = (below + (equal - 1) / 2) / (len(others) - 1)
        else:
            result[i] = (values[i] - min(others)) / (max(others) - min(others))
    return result


def fused(given, weights, group, scale):
    """Return the fused column, None where a row has none."""
    total = [0.0] * N
    for name, weight in weights.items():
        if weight == 0:
            continue
        part = _brought_to_one(
            [v if v is not None and np.isfinite(v) else None for v in given[name]], group, scale
        )
        share = abs(weight) / sum(map(abs, weights.values()))
        for i in range(N):
            known = total[i] is not None and part[i] is not None
            total[i] = total[i] + share * (part[i] if weight > 0 else 1 - part[i]) if known else None
    return total
