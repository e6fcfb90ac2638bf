"""What no row can have is refused before anything is embedded, in a dry run too."""

import polars as pl
import pytest

from curate.errors import CurateError, UsageError
from curate.pipeline import runner
from curate.pipeline.row_needs import check_needs, columns_lack, values_lack
from curate.pipeline.stages.read import find_parts
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards

ROWS = 30
CAPTIONS = [f"caption {row}" if row % 2 else None for row in range(ROWS)]
LABELS = ["ab"[row % 2] for row in range(ROWS)]
FUSED = {"fuse": {"columns": {"nce": 1, "distance": 1}}}
HARDEST = {"method": "hardest", "keep": 0.5}

#: Settings, what they need, and how they are refused without it.
NEEDS = [
    (
        {"filter": "clip_score >= 0.2"},
        "text",
        "filter 'clip_score >= 0.2': no row can pass, for clip_score is null",
    ),
    ({"filter": "row > 3 and (clip_score < 0.2 or clip_score > 0.3)"}, "text", "no row can pass"),
    ({"filter": {"by": "clip_score", "top": 0.5}}, "text", "top 0.5 by clip_score.*: no row can pass"),
    ({"filter": {"by": "clip_score", "above": 0.5, "on_null": "error"}}, "text", "no row can pass"),
    ({"select": {**HARDEST, "by": "clip_score"}}, "text", "select.by clip_score: no row can have this score"),
    ({"select": {**HARDEST, "by": "nce"}, "score": "pair"}, "text", "select.by nce: no row can have"),
    (
        {"select": {**HARDEST, "by": "fused"}, "score": ["pair", FUSED]},
        "text",
        "select.by fused: no row can have",
    ),
    ({"select": {"keep": 0.5, "prefer": "score:clip_score"}}, "text", "select.prefer clip_score: no row"),
    ({"dedup": {"epsilon": 0.05, "prefer": "score:clip_score"}}, "text", "dedup.prefer clip_score: no row"),
    ({"weight": {"method": "focal", "by": "clip_score"}}, "text", "weight.by clip_score: no row"),
    ({"filter": "label = 'a'"}, "label", "no row can pass, for label is null"),
    ({"filter": {"by": "distance", "quantile": 0.2, "per": "label"}}, "label", "per label': no row can pass"),
    ({"select": {"method": "quotas", "keep": 0.5, "per": "label"}}, "label", "select.per label needs labels"),
    (
        {"score": {"heads": {"labels": "label"}}},
        "label",
        "heads.labels is label, but no usable sample has a label",
    ),
    (
        {"score": {"fuse": {"columns": {"distance": 1}, "per": "label"}}},
        "label",
        "fused.per is label, but no usable sample has a label",
    ),
    ({"filter": "caption_length > 3"}, "caption", "no row can pass, for caption_length is null"),
]
#: What is served without captions and labels, since it does not hang on them.
SERVED = [
    {"filter": "clip_score is null or clip_score > 0.2"},
    {"filter": "clip_score > 0.2 or row > 3"},
    {"filter": {"by": "clip_score", "top": 0.5, "on_null": "keep"}},
    {"select": {**HARDEST, "by": "clip_score", "on_null": "keep"}},
    {"score": "heads"},
    {},
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Vectors beside captions, labels and captions' vectors; without these columns; and with them, but null."""
    folder = tmp_path_factory.mktemp("sources")
    vectors = planted(ROWS)
    full = {"caption": CAPTIONS, "label": LABELS, "text": vectors.tolist()}
    null = {name: pl.Series([None] * ROWS, dtype=pl.String).to_list() for name in ("caption", "label")}
    write_shards(folder / "full", vectors, extra=full)
    write_shards(folder / "bare", vectors)
    write_shards(folder / "null", vectors, extra=null | {"text": vectors.tolist()})
    return folder


def recipe(folder, kind, role="", **changes):
    words = {"text_column": "text"} if role != "text" and kind != "bare" else {}
    values = recipe_values(str(folder / kind), folder / "run", embed={"column": "embedding", **words})
    return parse_recipe(values | changes)


def lack_of(made, tmp_path, of):
    return of(made, find_parts(made, tmp_path / "shards.json", hashed=False)[0])


@pytest.mark.parametrize(("changes", "role", "said"), NEEDS)
def test_what_no_row_has_is_refused_by_columns_and_by_values(sources, tmp_path, changes, role, said):
    bare, full = (recipe(sources, kind, **changes) for kind in ("bare", "full"))
    with pytest.raises(UsageError, match=said) as error:
        check_needs(bare, lack_of(bare, tmp_path, columns_lack))
    assert "\n" not in str(error.value)
    check_needs(full, lack_of(full, tmp_path, values_lack))
    null = recipe(sources, "null", role, **changes)
    with pytest.raises(UsageError, match=said):
        check_needs(null, lack_of(null, tmp_path, values_lack))


@pytest.mark.parametrize("changes", SERVED)
def test_what_does_not_hang_on_them_is_served(sources, tmp_path, changes):
    made = recipe(sources, "bare", **changes)
    lack = lack_of(made, tmp_path, values_lack)
    assert {"caption", "label", "image", "text", "size"} >= lack.keys() >= {"caption", "label", "size"}
    check_needs(made, lack)


def test_a_run_ends_before_it_embeds_and_keeps_nothing(sources, tmp_path):
    """A column of captions that is null everywhere is found when the rows were read."""
    asked = recipe(sources, "null", filter="label = 'a'").model_copy(update={"run": str(tmp_path / "run")})
    with pytest.raises(UsageError, match=r"no row has a label \(column label"):
        runner.run(asked)
    assert not (tmp_path / "run" / "1_embeddings").exists()
    runner.run(
        asked.model_copy(update={"filter": ()}), until="embed"
    )  # the same folder, without the condition
    assert len(list((tmp_path / "run" / "1_embeddings").glob("part-*"))) == 3


def test_a_value_that_cannot_be_cast_is_found_before_embedding(tmp_path):
    wide = [str(row) for row in range(ROWS)]
    wide[17] = "n/a"
    glob = write_shards(tmp_path / "in", planted(ROWS), shards=2, extra={"wide": wide})
    asked = recipe_values(glob, tmp_path / "run", filter=["cast(wide as int) > 3 and distance >= 0"])
    said = r"row 2 of train-00001-of-00002\.parquet: conversion .*\[\"n/a\"\]; TRY_CAST"
    with pytest.raises(CurateError, match=said):
        runner.run(parse_recipe(asked))
    assert not (tmp_path / "run" / "1_embeddings").exists()
    runner.run(parse_recipe(asked | {"filter": ["try_cast(wide as int) > 3"]}), until="filter")
    reasons = pl.read_parquet(tmp_path / "run" / "3_scores" / "filter" / "part-*.parquet")["filter_reason"]
    assert reasons.is_null().sum() == ROWS - 5


def test_a_reference_may_be_smaller_than_what_is_kept(tmp_path):
    other = write_shards(tmp_path / "other", planted(3, seed=5), shards=1)
    against = {"epsilon": 0.001, "against": [{"path": other, "name": "other"}]}
    asked = recipe_values(write_shards(tmp_path / "in", planted(ROWS)), tmp_path / "run", dedup=against)
    runner.run(parse_recipe(asked | {"select": {"count": 8}}), until="filter")
    assert (tmp_path / "run" / "3_scores" / "against-other" / "_done.json").exists()


def test_the_size_of_images_is_not_known_where_vectors_are_given_but_that_of_the_source_is(tmp_path):
    glob = write_shards(tmp_path / "in", planted(ROWS), extra={"width": list(range(ROWS))})
    for condition in ("width > 10", "row > 3 and height > 2"):
        recipe = parse_recipe(recipe_values(glob, tmp_path / "run", filter=[condition]))
        with pytest.raises(
            UsageError, match=r"no row can pass, for (width|height) is null in each: .*source\.width"
        ):
            runner.run(recipe, until="select")
    assert not (tmp_path / "run/1_embeddings").exists()
    select = {"method": "random", "keep": 1.0, "at_most": True}
    recipe = recipe_values(glob, tmp_path / "run", filter=["source.width > 10"], select=select)
    runner.run(parse_recipe(recipe), until="select")
    decisions = pl.read_parquet(tmp_path / "run/5_decisions/part-*.parquet").sort("uid")
    assert decisions["keep"].to_list() == [row > 10 for row in range(ROWS)]
