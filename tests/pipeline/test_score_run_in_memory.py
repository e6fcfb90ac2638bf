"""Scores in memory are those of a run, to the last bit."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from curate.pipeline.runner import run
from curate.recipe import NormSim
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.scores.in_memory import score
from tests.fixtures.builders import planted, recipe_values, write_shards

N = 120
FAMILIES = [
    "clip_score",
    {"pair": {"batch": 32, "repeats": 2}},
    {"heads": {"seeds": 2, "epochs": 2, "folds": 2, "hidden": 8, "batch": 16}},
    "noise",
    {"color": {"prior": "loss", "conditional": "el2n"}},
    {"fuse": {"columns": {"el2n": 1, "nce": 2}, "per": "label"}},
]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    image = planted(N).astype(np.float32)
    text = (image + 0.3 * rng.standard_normal(image.shape)).astype(np.float32)
    captions = [None if n % 9 == 8 else f"caption {n % 50}" for n in range(N)]
    text[[caption is None for caption in captions]] = np.nan
    labels = [None if n % 17 == 16 else "abc"[n % 3] for n in range(N)]
    return image, text, captions, labels


def test_numbers_are_those_of_a_run(data, tmp_path):
    image, text, captions, labels = data
    np.save(tmp_path / "target.npy", image[:7])
    vectors = [None if caption is None else row.tolist() for row, caption in zip(text, captions, strict=True)]
    glob = write_shards(
        tmp_path / "in",
        image.astype(np.float16),
        extra={"text": vectors, "caption": captions, "label": labels},
    )
    families = [*FAMILIES, {"normsim": {"target": str(tmp_path / "target.npy")}}]
    values = recipe_values(
        glob, tmp_path / "run", score=families, embed={"column": "embedding", "text_column": "text"}
    )
    run(parse_recipe(values), until="score")
    folders = ("clip_score", "pair", "heads", "noise", "color", "fused", "normsim")
    want = pl.DataFrame({"uid": [f"s{n:06d}" for n in range(N)]})
    for folder in folders:
        table = pl.read_parquet(tmp_path / "run" / "3_scores" / folder / "part-*.parquet")
        want = want.join(table, on="uid", how="left", validate="1:1", maintain_order="left")
    made = {"family": "normsim", "target": "target.npy"}
    got = score(
        image.astype(np.float16), [*FAMILIES, NormSim.model_validate(made)], text=text, captions=captions, labels=labels,
        target=image[:7], uids=want["uid"].to_list(),
    )  # fmt: skip
    assert got.columns == want.columns
    assert_frame_equal(got, want, check_exact=True)
    assert open_run(tmp_path / "run").scores().height == N
