"""Keys that stand in several shards: counted and named, the rows kept apart."""

import numpy as np
import pytest

from curate import open_run
from curate.errors import EmbeddingError
from curate.pipeline import runner
from curate.recipe.loading import load_recipe, parse_recipe
from tests.fixtures import tars
from tests.fixtures.builders import planted, recipe_values


def run(folder, *shards, memory="2GB", workers=1):
    """Read tars whose vectors are in a file, up to the embeddings; return the run."""
    (folder / "in").mkdir(exist_ok=True)
    for number, keys in enumerate(shards):
        members = [(f"{key}.txt", b"caption %d of %d" % (place, number)) for place, key in enumerate(keys)]
        tars.save(folder / "in", tars.tar(*members), f"{number}.tar")
    np.save(folder / "v.npy", planted(sum(map(len, shards))))
    values = recipe_values("", folder / "run", embed={"files": str(folder / "v.npy")}, memory=memory)
    values |= {"source": {"path": f"{folder}/in/*.tar", "image": None}, "workers": workers}
    runner.run(parse_recipe(values), until="embed")
    return open_run(folder / "run")


def repeated(opened):
    return opened.folder.marker(opened.folder.work / "keys")["facts"].get("repeated_keys")


@pytest.mark.parametrize("workers", [1, 2])
def test_keys_in_several_shards_are_counted(tmp_path, caplog, workers):
    opened = run(tmp_path, ["a", "b", "c"], ["b", "d"], ["e", "a", "b"], workers=workers)
    assert repeated(opened) == {
        "keys": 2,
        "rows": 5,
        "examples": ["a (0.tar, 2.tar)", "b (0.tar, 1.tar, 2.tar)"],
    }
    assert "2 keys are in more than one shard (5 rows), such as a (0.tar, 2.tar)" in caplog.text
    samples = opened.samples()
    assert samples["outcome"].to_list() == ["ok"] * 8
    assert samples["uid"].n_unique() == 8, "kept apart"


def test_keys_of_one_shard_and_different_keys_say_nothing(tmp_path, caplog):
    assert repeated(run(tmp_path, ["a", "b"], ["c"])) is None
    assert "more than one shard" not in caplog.text


def test_a_key_of_two_samples_names_no_given_cluster(tmp_path):
    opened = run(tmp_path, ["a", "b"], ["b"])
    np.save(tmp_path / "cluster_0.npy", np.array([["a", "0", "0.1", "0"], ["b", "1", "0.1", "0"]]))
    settings = load_recipe(str(opened.folder.path / "recipe.yaml")).model_dump(
        mode="json", exclude_unset=True
    )
    values = settings | {"cluster": {"given": str(tmp_path / "cluster_0.npy")}}
    with pytest.raises(
        EmbeddingError, match=r"1 keys are in more than one shard, such as b \(0.tar, 1.tar\), so a key"
    ):
        runner.run(parse_recipe(values), until="cluster")
