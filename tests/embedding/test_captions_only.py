"""Data of captions alone: their vectors stand where those of images would."""

import numpy as np
import polars as pl
import pytest

from curate.errors import UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run

WORDS = ("red", "blue", "small", "old", "cat", "house", "tree", "boat")


def captions(n):
    return [" ".join(WORDS[(row * 7 + place * place) % len(WORDS)] for place in range(5)) for row in range(n)]


def recipe(folder, **changes):
    source = {"path": str(folder / "*.parquet"), "image": None}
    values = {
        "run": str(folder / "run"),
        "source": source,
        "embed": {"model": "tiny"},
        "select": {"keep": 0.5, "of": "eligible"},
    }
    return parse_recipe({**values, "limits": {"unusable": 0.2}, "workers": 1, **changes})


def write(folder, texts, name="a", **columns):
    pl.DataFrame({"text": texts, **columns}, schema_overrides={"text": pl.String}).write_parquet(
        folder / f"{name}.parquet"
    )


def test_captions_are_embedded_and_every_row_is_accounted_for(tmp_path):
    from curate.embedding import clip as clips
    from curate.embedding.store import EmbeddingPart

    texts = [*captions(20), None, "  ", captions(1)[0]]
    write(tmp_path, texts)
    counts = runner.run(recipe(tmp_path)).manifest["counts"]
    assert counts["rows"] == 23 and counts["unusable"] == {"no_caption": 2}
    samples = open_run(tmp_path / "run").samples()
    assert samples["outcome"].to_list() == ["ok"] * 20 + ["no_caption"] * 2 + ["ok"]
    copies = len(texts) - 2 - len(set(captions(20)))
    assert counts["dropped"]["exact_duplicate"] == copies
    part = EmbeddingPart(next((tmp_path / "run" / "1_embeddings").glob("part-*")))
    assert not part.has_text and len(part) == len(set(captions(20)))
    clip = clips.load("tiny", None, device="cpu", precision="float32", batch_size=256)
    said = dict(zip(samples["uid"], samples["caption"], strict=True))
    expected = clip.encode_texts([said[uid] for uid in part.uids()])
    np.testing.assert_array_equal(part.half("image", 0), expected.astype(np.float16))
    scores = open_run(tmp_path / "run").scores()
    assert scores["clip_score"].null_count() == len(scores)
    shards = pl.read_parquet(tmp_path / "run" / "6_filtered" / "*.parquet")
    assert shards.columns == ["text"] and len(shards) == counts["kept"]


def test_captions_alone_are_asked_for_and_not_guessed(tmp_path):
    write(tmp_path, captions(5))
    with pytest.raises(
        UsageError, match=r"no image column found; name it with source\.image, or set it to null"
    ):
        runner.run(recipe(tmp_path, source={"path": str(tmp_path / "*.parquet")}))
    with pytest.raises(UsageError, match=r"cluster\.on must be image where source\.image is null"):
        runner.run(recipe(tmp_path, cluster={"on": "text"}))


def test_captions_do_not_mix_with_images(tmp_path):
    write(tmp_path, captions(5))
    write(tmp_path, captions(5), name="b", image=[b"x"] * 5)
    sources = [
        {"path": str(tmp_path / "a.parquet"), "name": "words", "image": None},
        {"path": str(tmp_path / "b.parquet"), "name": "pictures"},
    ]
    with pytest.raises(UsageError, match=r"source\.image must be null for all sources or for none"):
        runner.run(recipe(tmp_path, source=sources))
