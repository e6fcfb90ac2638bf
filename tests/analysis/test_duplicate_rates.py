"""What other epsilons drop at least and at most, against greedy comparison by hand and by the definition of its bounds."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.analysis.explain import opened
from curate.analysis.near_duplicates.rates import duplicate_rates, least_dropped
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.4)


def greedy(similar, threshold):
    """The rows that are kept when each is compared with the kept ones before it, and the row that each other one resembles."""
    kept, lost = [], {}
    for row in range(len(similar)):
        near = [other for other in kept if similar[row, other] > threshold]
        if near:
            lost[row] = max(near, key=lambda other: similar[row, other])
        else:
            kept.append(row)
    return kept, lost


def earlier(similar, row):
    return max(similar[row, :row], default=-1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.floats(0.5, 0.95))
def test_what_greedy_drops_lies_between_the_bounds_in_every_concept(seed, n, own):
    rng = np.random.default_rng(seed)
    thresholds, lost, dropped = [own, 0.3, 0.6, 0.8, 0.99], [], np.zeros((5, 3), int)
    most = np.zeros((5, 3), int)
    for concept in range(3):
        rows = rng.normal(size=(n, 3))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        similar = rows @ rows.T
        for row, other in greedy(similar, own)[1].items():
            lost.append((concept, 100 * concept + other, similar[row, other], earlier(similar, other)))
        for place, threshold in enumerate(thresholds):
            dropped[place, concept] = len(greedy(similar, threshold)[1])
            most[place, concept] = sum(earlier(similar, row) > threshold for row in range(n))
    kinds = {"concept": pl.Int32, "other": pl.UInt64, "similarity": pl.Float64, "partner": pl.Float64}
    frame = pl.DataFrame(lost, schema=kinds, orient="row")
    found = least_dropped(frame, thresholds, 3, inclusive=False)
    assert (found.max(axis=0) <= dropped).all() and (dropped <= most).all()
    for place, threshold in enumerate(thresholds):
        for concept in range(3):
            near = [row for row in lost if row[0] == concept and row[2] > threshold]
            assert found[0, place, concept] == sum(row[3] <= threshold for row in near)
            assert found[1, place, concept] == len({row[1] for row in near})


def test_the_bounds_by_hand():
    # Of row 7 two were dropped, at .9 and .7; row 7 itself resembles an earlier one by .8. Of row 8 one at .95, inclusive.
    lost = pl.DataFrame(
        {
            "concept": [0, 0, 1],
            "other": [7, 7, 8],
            "similarity": [0.9, 0.7, 0.95],
            "partner": [0.8, 0.8, -1.0],
        }
    )
    found = least_dropped(lost, [0.6, 0.85, 0.95], 2, inclusive=False)
    assert found.tolist() == [[[0, 1], [1, 1], [0, 0]], [[1, 1], [1, 1], [0, 0]]]
    assert least_dropped(lost, [0.95], 2, inclusive=True).tolist() == [[[0, 1]], [[0, 1]]]


@pytest.fixture(scope="module", params=["greedy", "reference"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    glob = write_shards(folder / "in", planted(400, clusters=6), shards=3)
    dedup = {"epsilon": 0.1, "mode": request.param}
    runner.run(parse_recipe(recipe_values(glob, folder / "run", dedup=dedup)), until="select")
    return folder / "run"


def by_definition(folder, mode):
    """Per epsilon, from the table of all rows at once."""
    rows = pl.read_parquet(folder / "4_duplicates/*.parquet")
    found = []
    for epsilon in EPSILONS:
        over = pl.col("max_similarity_earlier").cast(pl.Float64) > 1 - epsilon
        most = rows.filter(over).height
        least = 0
        for concept in rows["concept"].unique():
            here = rows.filter(pl.col("concept") == concept)
            first = set(here.filter(over)["uid"])
            lost = here.filter(pl.col("similarity").cast(pl.Float64) > 1 - epsilon)["duplicate_of"]
            least += max(sum(other not in first for other in lost), lost.n_unique())
        found.append((most if mode == "reference" else least, most))
    return found


def test_a_run_is_read_the_same_with_little_memory(finished):
    context = opened(finished)
    mode = context.recipe.dedup.mode
    rates = duplicate_rates(context, EPSILONS)
    expected = by_definition(finished, mode)
    dropped = pl.read_parquet(finished / "4_duplicates/*.parquet")["duplicate_of"].count()
    expected[EPSILONS.index(0.1)] = (dropped, dropped)
    assert [(rate.at_least, rate.at_most) for rate in rates] == expected
    assert dropped > 20

    class Tight(type(context)):
        task_memory = 3000  # ten dropped rows at a time

    tight = Tight(**{name: getattr(context, name) for name in context.__dataclass_fields__})
    assert duplicate_rates(tight, EPSILONS) == rates
    assert duplicate_rates(replace(context), EPSILONS) == rates
