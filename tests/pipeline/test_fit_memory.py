"""A fit shares `memory` with the idle workers where they fit beside its sample, and sends them home where they do not."""

from dataclasses import replace

import pytest

from curate.clustering.store import load_centroids
from curate.errors import RecipeError
from curate.execution.context import PROCESS_BASE
from curate.execution.engines.local import LocalEngine
from curate.pipeline.stages import cluster
from curate.recipe.dedup import Cluster
from tests.fixtures.paired import embedded, pairs

ROWS, DIM, WORKERS = 500, 24, 2
#: A row of the sample as float32 and a quarter of it again while it is trained on, and 100 bytes beside it.
SAMPLE = ROWS * (DIM * 4 * 1.25 + 100)
#: A process that trains, 100 MB for all that is small, the sample, and the workers.
BOTH = int(PROCESS_BASE + 100_000_000 + SAMPLE + WORKERS * PROCESS_BASE) + 1


class Closed(LocalEngine):
    """An engine that counts how often its workers were let go."""

    times = 0

    def close(self):
        self.times += 1
        super().close()


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    return embedded(tmp_path_factory.mktemp("fit") / "run", pairs(ROWS, dim=DIM))


def fit(context, memory, out):
    recipe = context.recipe.model_copy(update={"memory": memory})
    with Closed(WORKERS) as engine:
        here = replace(context, recipe=recipe, engine=engine)
        cluster.fit(here, Cluster(concepts=5), out / "centroids.parquet", "fit", "embedded")
        return engine.times


@pytest.mark.parametrize(("memory", "closed"), [(BOTH, 0), (BOTH - 1000, 1)])
def test_workers_stay_over_a_fit_only_where_memory_holds_both(context, tmp_path, memory, closed):
    assert fit(context, memory, tmp_path) == closed
    assert load_centroids(tmp_path / "centroids.parquet").shape == (5, DIM)


def test_a_sample_that_does_not_fit_without_workers_is_an_error(context, tmp_path):
    alone = int(BOTH - WORKERS * PROCESS_BASE)
    assert fit(context, alone, tmp_path) == 1
    with pytest.raises(RecipeError, match=r"cluster\.concepts: k-means on 500 samples of 24 numbers takes"):
        fit(context, alone - 1000, tmp_path)
