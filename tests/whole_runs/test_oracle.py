"""A run against an independent oracle: plain NumPy that reads only the embeddings and the centroids."""

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xxhash

from curate import open_run
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

SEED = 0


def unit64(half):
    rows = half.astype(np.float32).astype(np.float64)
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return (rows / norms).astype(np.float32).astype(np.float64)


def read_embeddings(run):
    uids, rows = [], []
    for path in sorted((run / "1_embeddings").glob("part-*.arrow")):
        table = pa.ipc.open_file(path).read_all()
        uids += table["uid"].to_pylist()
        rows += table["image"].to_pylist()
    return np.array(uids), unit64(np.array(rows, dtype=np.float16))


def tie_of(uid):
    seed = xxhash.xxh3_64_intdigest(f"{SEED}\x1ftie".encode())
    return xxhash.xxh3_64_intdigest(uid.encode(), seed)


def oracle(run, *, epsilon, keep, base, temperature=0.1, neighbours=20):
    """Concepts, duplicates, budgets and the kept set, from the definitions."""
    uids, vectors = read_embeddings(run)
    centroids = np.array(
        pl.read_parquet(run / "2_concepts/centroids.parquet")["centroid"].to_list(), np.float64
    )
    products = vectors @ centroids.T
    concept = products.argmax(axis=1)
    distance = (1 - np.clip(products[np.arange(len(uids)), concept], -1, 1)).astype(np.float32)
    order = sorted(range(len(uids)), key=lambda i: (-distance[i], tie_of(uids[i]), uids[i]))
    threshold = float(1 - Fraction(str(epsilon)))
    eligible, duplicates = [], {}
    for i in order:
        kept = [j for j in eligible if concept[j] == concept[i]]
        near = [(float(np.float32(vectors[i] @ vectors[j])), -rank) for rank, j in enumerate(kept)]
        best = max(near, default=(-2.0, 0))
        if best[0] > threshold:
            duplicates[uids[i]] = uids[kept[-best[1]]]
        else:
            eligible.append(i)
    k = len(centroids)
    members = [[i for i in eligible if concept[i] == c] for c in range(k)]
    sizes = np.array([len(rows) for rows in members])
    intra = np.array([math.fsum(distance[rows].tolist()) / len(rows) if rows else 0.0 for rows in members])
    gaps = 1 - centroids @ centroids.T
    inter = np.array(
        [np.sort(np.delete(gaps[c], c))[: min(neighbours, k - 1)].mean() if k > 1 else 1.0 for c in range(k)]
    )
    complexity = inter * intra
    total = math.floor(Fraction(str(keep)) * base + Fraction(1, 2))
    budget = allocate(
        complexity, sizes, total, temperature, [min((uids[i] for i in r), default="~") for r in members]
    )
    chosen = {uids[i] for c in range(k) for i in members[c][: budget[c]]}
    return {"uids": uids, "concept": concept, "duplicates": duplicates, "budget": budget, "kept": chosen,
            "complexity": complexity, "sizes": sizes, "intra": intra, "inter": inter}  # fmt: skip


def allocate(complexity, sizes, total, temperature, smallest):
    """min |x - t|^2 with floor <= x <= size and sum x = total, by bisection; then largest fractions."""
    used = sizes > 0
    weight = np.where(used, np.exp((complexity - complexity[used].max()) / temperature), 0)
    target = total * weight / weight.sum()
    floor = np.minimum(1, sizes)
    low, high = -1e9, 1e9
    for _ in range(300):
        middle = (low + high) / 2
        if np.clip(target + middle, floor, sizes).sum() < total:
            low = middle
        else:
            high = middle
    exact = np.clip(target + high, floor, sizes)
    budget = np.floor(exact + 1e-9).astype(int)
    by_fraction = sorted(
        (c for c in range(len(sizes)) if budget[c] < sizes[c]),
        key=lambda c: (-round(exact[c] - budget[c], 8), -complexity[c], smallest[c]),
    )
    for c in by_fraction[: total - budget.sum()]:
        budget[c] += 1
    return budget


@pytest.mark.parametrize(("n", "keep", "seed"), [(900, 0.3, 1), (400, 0.55, 2), (1500, 0.1, 3)])
def test_a_run_is_what_the_oracle_says(tmp_path, n, keep, seed):
    glob = write_shards(tmp_path / "in", planted(n, seed=seed, near=40))
    values = recipe_values(
        glob, tmp_path / "run", select={"keep": keep, "prefer": "hardest"}, dedup={"epsilon": 0.01}
    )
    runner.run(parse_recipe(values))
    expected = oracle(tmp_path / "run", epsilon=0.01, keep=keep, base=n)
    run = open_run(tmp_path / "run")
    decisions, concepts = run.decisions(), run.concepts()
    assert set(decisions.filter("keep")["uid"]) == expected["kept"]
    assert concepts["budget"].to_list() == expected["budget"].tolist()
    assert concepts["n_eligible"].to_list() == expected["sizes"].tolist()
    for column, name in (("d_intra", "intra"), ("d_inter", "inter"), ("complexity", "complexity")):
        np.testing.assert_allclose(concepts[column].to_numpy(), expected[name], rtol=1e-5, atol=1e-7)
    found = decisions.filter(pl.col("reason") == "near_duplicate")
    assert dict(found.select("uid", "duplicate_of").iter_rows()) == expected["duplicates"]
    assert len(expected["duplicates"]) >= 30
    by_uid = dict(decisions.select("uid", "concept").iter_rows())
    assert [by_uid[uid] for uid in expected["uids"]] == expected["concept"].tolist()
