"""The rows that concepts are fitted on: those with the smallest hashes of their uids, whatever parts and workers there are."""

from dataclasses import replace

import numpy as np
import pytest

from curate.clustering import kmeans
from curate.clustering.store import load_centroids
from curate.execution.engines.local import LocalEngine
from curate.hashing import hash_uids
from curate.linalg import load_unit
from curate.pipeline.stages import cluster, levels
from curate.recipe.dedup import Cluster
from tests.fixtures.paired import embedded, pairs

N, K, SEED = 1500, 4, 5  # 256 rows a concept: 1,024 of them


def by_definition(data, allowed):
    frame, image, _ = data
    uids = frame["uid"].to_list()
    hashes = hash_uids(uids, SEED, "cluster", "sample").tolist()
    smallest = sorted((hashes[row], uids[row], row) for row in allowed)[: K * kmeans.SAMPLE_PER_CONCEPT]
    return image[[row for _, row in sorted((uid, row) for _, uid, row in smallest)]]


@pytest.mark.parametrize(("shards", "workers"), [(1, 1), (3, 1), (4, 2)])
@pytest.mark.parametrize("some", [False, True])
def test_the_sample_is_that_of_its_definition(tmp_path, monkeypatch, shards, workers, some):
    data = pairs(N)
    order = np.random.default_rng(shards).permutation(N)
    context = embedded(tmp_path / "run", data, order=order, shards=shards)
    fitted, fit = [], levels.fit_concepts
    monkeypatch.setattr(levels, "fit_concepts", lambda how, rows, k: fitted.append(rows) or fit(how, rows, k))
    places = {index: np.arange(0, part.rows, 2 if some else 1) for index, part in enumerate(context.parts)}
    starts = np.cumsum([0, *(part.rows for part in context.parts)])
    allowed = np.concatenate([order[starts[index] + at] for index, at in places.items()])
    out, settings = tmp_path / "centroids.parquet", Cluster(concepts=K, seed=SEED)
    with LocalEngine(workers) as engine:
        cluster.fit(
            replace(context, engine=engine), settings, out, "fit", "embedded", places if some else None
        )
    assert len(fitted) == 1
    np.testing.assert_array_equal(fitted[0], load_unit(by_definition(data, allowed)))
    assert load_centroids(out).shape == (K, data[1].shape[1])
