"""What workers send to the main process does not grow with the rows: it waits there for the results of all other parts."""

import pickle
from collections import Counter

import numpy as np

from curate.execution.context import Context
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

LABELS = ("cat", "dog", "owl")


def sent(folder, rows, monkeypatch):
    """Run; return how many bytes the results of each function took in all, by stage and function."""
    sizes, run_all = Counter(), Context.map

    def measured(self, stage, unit, function, items):
        results = run_all(self, stage, unit, function, items)
        sizes[stage, getattr(function, "__name__", repr(function))] += len(pickle.dumps(results))
        return results

    of = np.arange(rows)
    extra = {
        "label": [LABELS[i % 3] for i in of],
        "words": [f"a {LABELS[i % 3]} of kind {i % 7}" for i in of],
    }
    shards = write_shards(folder / "in", planted(rows, near=rows // 10), shards=2, extra=extra)
    source = {"path": shards, "uid": "id", "label": "label", "caption": "words"}
    values = recipe_values(shards, folder / "run", source=source, score={"heads": {"preset": "fast"}})
    with monkeypatch.context() as patched:
        patched.setattr(Context, "map", measured)
        runner.run(parse_recipe(values))
    return sizes


def test_results_of_parts_and_buckets_do_not_grow_with_the_rows(tmp_path, monkeypatch):
    few, many = (sent(tmp_path / str(rows), rows, monkeypatch) for rows in (300, 3000))
    assert few.keys() == many.keys() and {stage for stage, _ in few} >= {"read", "embed", "dedup", "select"}
    grown = {name: (few[name], many[name]) for name in few if many[name] > few[name] + 300}
    assert not grown
