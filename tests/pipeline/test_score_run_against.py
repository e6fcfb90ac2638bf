import numpy as np
import polars as pl
import pytest

from curate.errors import EmbeddingError, UsageError
from curate.linalg import load_unit, unit_rows
from curate.pipeline import runner
from curate.pipeline.stages import score
from curate.recipe import Against, Cluster
from curate.recipe.loading import parse_recipe
from curate.scores.registry import score_columns
from tests.fixtures.builders import DIM, planted, recipe_values, write_shards
from tests.fixtures.folders import tables
from tests.fixtures.paired import embedded, pairs


def run(glob, out, against, **changes):
    """Run up to the scores on vectors, with reference sets; return the table of each by uid."""
    given = parse_recipe(recipe_values(glob, out, dedup={"epsilon": 0.01, "against": against}, **changes))
    runner.run(given, until="score")
    return {
        one.name: pl.read_parquet(out / f"3_scores/against-{one.name}/part-*.parquet").sort("uid")
        for one in given.dedup.against
    }


def largest(vectors, others):
    """The largest cosine of each row with any other, float64, in [-1, 1]."""
    dots = load_unit(vectors).astype(float) @ unit_rows(others)[0].astype(float).T
    return np.clip(dots.max(axis=1), -1, 1)


def test_by_definition(tmp_path):
    vectors, held = planted(120), planted(60, seed=9)
    held[:4] = vectors[10:14]
    np.save(tmp_path / "probe.npy", planted(25, seed=7))
    tables = run(
        write_shards(tmp_path / "in", vectors),
        tmp_path / "run",
        [{"path": write_shards(tmp_path / "held", held), "name": "held-2.0"}, str(tmp_path / "probe.npy")],
    )
    for name, others in (("held-2.0", held), ("probe", planted(25, seed=7))):
        column = f"similarity_to_{name}"
        assert tables[name].columns == ["uid", column, f"against_{name}_status"]
        np.testing.assert_allclose(tables[name][column], largest(vectors, others), rtol=1e-6, atol=1e-7)
        assert set(tables[name][f"against_{name}_status"]) == {"ok"}
    same = tables["held-2.0"]["similarity_to_held-2.0"].to_numpy()[10:14]
    assert (same > 1 - 1e-6).all()


@pytest.mark.long
def test_shards_order_and_workers_change_nothing(tmp_path):
    vectors, held = planted(300), planted(90, seed=9)
    against = {"path": write_shards(tmp_path / "held", held), "name": "held"}
    glob = write_shards(tmp_path / "in", vectors)
    one = run(glob, tmp_path / "one", against)["held"]
    run(glob, tmp_path / "two", against, workers=2)
    assert tables(tmp_path / "one") == tables(tmp_path / "two")
    mixed = write_shards(
        tmp_path / "mixed", vectors, order=np.random.default_rng(0).permutation(300), shards=5
    )
    moved = write_shards(tmp_path / "moved", held, order=np.arange(90)[::-1], shards=2)
    assert run(mixed, tmp_path / "other", against | {"path": moved})["held"].equals(one)


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(tmp_path, n):
    np.save(tmp_path / "held.npy", planted(5))
    glob = write_shards(tmp_path / "in", planted(3)[:n], shards=1)
    table = run(glob, tmp_path / "run", str(tmp_path / "held.npy"), select={"count": 0})["held"]
    assert len(table) == n
    assert table.schema["similarity_to_held"] == pl.Float32


def test_captions_are_compared_where_concepts_are_made_of_them(tmp_path):
    data = pairs(60, dim=DIM, without=5)
    np.save(tmp_path / "held.npy", data[2][:50][::7])
    context = embedded(tmp_path / "run", data)
    held = Against(path=str(tmp_path / "held.npy"), epsilon=0.01)
    changes = {"score": (), "cluster": Cluster(on="text")}
    changes["dedup"] = context.recipe.dedup.model_copy(update={"against": (held,)})
    object.__setattr__(context, "recipe", context.recipe.model_copy(update=changes))
    assert score.run(context)
    table = pl.read_parquet(tmp_path / "run/3_scores/against-held/*.parquet").sort("uid")
    want = largest(data[2][:55], data[2][:50][::7])
    np.testing.assert_allclose(table["similarity_to_held"][:55].to_numpy(), want, rtol=1e-6)
    assert table["against_held_status"].to_list() == ["ok"] * 55 + ["no_text"] * 5
    assert table["similarity_to_held"][55:].null_count() == 5
    assert context.facts(context.run.scores("against-held"))["scored"] == 55


def test_it_is_a_column_but_no_score_to_rank_by(tmp_path):
    np.save(tmp_path / "held.npy", planted(5))
    values = recipe_values(
        "x.parquet", tmp_path / "run", dedup={"epsilon": 0.1, "against": str(tmp_path / "held.npy")}
    )
    found = score_columns(parse_recipe(values))["similarity_to_held"]
    assert (found.folder, found.higher_is, found.status) == ("against-held", None, "against_held_status")


def test_errors_name_the_set(tmp_path):
    glob = write_shards(tmp_path / "in", planted(20))
    with pytest.raises(UsageError, match=r"^dedup\.against gone: .*gone\.npy: no such file"):
        run(glob, tmp_path / "run", str(tmp_path / "gone.npy"))
    assert not (tmp_path / "run").exists()
    empty = write_shards(tmp_path / "held", planted(5)[:0], shards=1)
    with pytest.raises(EmbeddingError, match=r"^dedup\.against held: .* at least one usable image, got none"):
        run(glob, tmp_path / "run", {"path": empty, "name": "held"})


@pytest.mark.parametrize(
    ("on", "words", "has", "said"),
    [
        ("image", False, ["emb"], None),
        ("image", True, ["emb"], None),  # captions are not compared, so the set needs none
        ("image", True, ["emb", "txt"], None),
        ("image", True, ["txt"], r"no column 'emb' \(embed\.column\): .* needs vectors of images"),
        ("text", True, ["emb", "txt"], None),
        ("text", True, ["emb"], r"no column 'txt' \(embed\.text_column\): .* cluster\.on is text; add that column, or .*\.npy"),
    ],
)  # fmt: skip
def test_a_set_needs_the_vectors_that_are_compared(tmp_path, on, words, has, said):
    columns = {"emb": planted(40).tolist(), "txt": planted(40, seed=1).tolist()}
    glob = write_shards(tmp_path / "in", planted(40), extra=columns)
    held = {name: [columns[name][row] for row in range(5)] for name in has}
    path = write_shards(tmp_path / "held", planted(5), shards=1, extra=held)
    embed = {"column": "emb"} | ({"text_column": "txt"} if words else {})
    values = recipe_values(
        glob, tmp_path / "run", embed=embed, cluster={"concepts": 2, "on": on},
        source={"path": glob, "uid": "id", "image": None}, dedup={"epsilon": 0.01, "against": {"path": path, "name": "held"}},
    )  # fmt: skip
    if said is None:
        np.save(tmp_path / "held.npy", np.array(columns["emb" if on == "image" else "txt"][:5], np.float32))
        values["dedup"]["against"] = [
            values["dedup"]["against"],
            {"path": str(tmp_path / "held.npy"), "name": "array"},
        ]
        runner.run(parse_recipe(values), until="score")
        array = pl.read_parquet(tmp_path / "run/3_scores/against-array/part-*.parquet").sort("uid")
        assert (array["similarity_to_array"][:5] > 1 - 1e-6).all()
        found = pl.read_parquet(tmp_path / "run/3_scores/against-held/part-*.parquet").sort("uid")
        assert (found["similarity_to_held"][:5] > 1 - 1e-6).all()
        return
    with pytest.raises(UsageError, match=rf"dedup\.against held: .*{said}") as error:
        runner.run(parse_recipe(values), until="score")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
