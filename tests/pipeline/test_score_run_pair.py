"""Scores of pairs by the stage, on embeddings written here: against the formula, then what must not change them."""

import numpy as np
import polars as pl
import pytest

from curate.errors import RunError
from curate.hashing import hash_uids
from curate.linalg import load_unit
from curate.pipeline.stages import score
from curate.recipe import Pair
from curate.scores.pair import parts as family
from curate.scores.pair.formula import pair_scores
from tests.fixtures.folders import tables
from tests.fixtures.paired import by_hand, embedded, pairs

NCE = ("nce_i2t", "nce_t2i", "nce", "nce_norm", "neg_clip_loss", "neg_clip_loss_norm")
ALL = (*NCE, "pair_el2n_i2t", "pair_el2n_t2i", "pair_grand")


def scored(context):
    """Run the score stage; return its table by uid, and its facts."""
    with context.engine:
        assert score.run(context)
    folder = context.run.scores("pair")
    found = pl.concat(pl.read_parquet(context.run.part(folder, part.name)) for part in context.parts)
    return found.sort("uid"), context.facts(folder)


@pytest.mark.parametrize("masked", [True, False])
def test_one_batch_by_definition(tmp_path, masked):
    captions = [f"c{i % 13}" for i in range(40)]
    images = [f"i{i % 37}" for i in range(40)]
    data = pairs(40, captions=captions, images=images)
    table, facts = scored(embedded(tmp_path, data, mask_copies=masked))
    assert table.columns == ["uid", *ALL, "pair_status"]
    assert set(table["pair_status"]) == {"ok"}
    for name, want in by_hand(data, 0.05, masked).items():
        np.testing.assert_allclose(table[name].to_numpy(), want, rtol=2e-5, atol=2e-5, err_msg=name)
    assert facts | {"parts": 0} == {
        "pairs": 40, "scored": 40, "no_negatives": 0, "batch": 64, "batches": 1, "repeats": 1,
        "temperature": 0.05, "parts": 0,
    }  # fmt: skip


def test_batches_are_those_of_the_pure_scores(tmp_path):
    data = pairs(300, without=20, captions=[f"c{i % 90}" for i in range(300)])
    frame, image, words = data
    table, facts = scored(embedded(tmp_path, data))
    codes = {
        name: frame[name].rank("dense").fill_null(0).cast(pl.Int64).to_numpy() - 1
        for name in ("caption_hash", "image_hash")
    }
    want, status = pair_scores(
        load_unit(image), load_unit(words), hash_uids(frame["uid"], 0, "pair"), temperature=0.05, batch=64,
        repeats=3, has_text=frame["has_text"].to_numpy(), caption=codes["caption_hash"],
        picture=codes["image_hash"], grand=True,
    )  # fmt: skip
    for name in ALL:
        got = table[name].to_numpy()
        np.testing.assert_array_equal(got, getattr(want, name).astype(np.float32), err_msg=name)
    assert table["pair_status"].to_list() == ["ok" if code == 0 else "no_text" for code in status]
    assert (facts["batches"], facts["repeats"], facts["scored"]) == (5, 3, 280)


def test_neither_order_nor_shards_nor_tasks_change_a_bit(tmp_path, monkeypatch):
    data = pairs(500, dim=40, without=7, captions=[f"c{i % 400}" for i in range(500)])
    first = scored(embedded(tmp_path / "a", data))[0]
    mixed = np.random.default_rng(1).permutation(500)
    assert scored(embedded(tmp_path / "b", data, order=mixed, shards=7))[0].equals(first)
    monkeypatch.setattr(family, "TASK_ROWS", 1)
    assert scored(embedded(tmp_path / "c", data))[0].equals(first)
    assert tables(tmp_path / "a") == tables(tmp_path / "c")
    assert tables(tmp_path / "a") != tables(tmp_path / "b")


def test_two_workers_write_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(family, "TASK_ROWS", 100)
    data = pairs(300, without=3)
    scored(embedded(tmp_path / "one", data))
    scored(embedded(tmp_path / "two", data, workers=2))
    assert tables(tmp_path / "one") == tables(tmp_path / "two")
    assert len(tables(tmp_path / "one")) == 9


def test_columns_that_are_not_asked_for(tmp_path):
    table, _ = scored(embedded(tmp_path, pairs(20), el2n=False, grand=False))
    assert table.columns == ["uid", *NCE, "pair_status"]
    assert table["nce"].null_count() == 0


def test_pairs_without_negatives(tmp_path):
    table, facts = scored(embedded(tmp_path / "same", pairs(70, captions=["one"] * 70)))
    assert set(table["pair_status"]) == {"no_negatives"}
    assert all(table[name].null_count() == 70 for name in ALL)
    assert (facts["scored"], facts["no_negatives"]) == (0, 70)
    table, facts = scored(embedded(tmp_path / "alone", pairs(3, without=2)))
    assert table["pair_status"].to_list() == ["no_negatives", "no_text", "no_text"]
    some = pairs(130, captions=["one"] * 128 + ["two", "three"])
    table, _ = scored(embedded(tmp_path / "some", some, batch=2, repeats=1))
    assert set(table["pair_status"]) == {"ok", "no_negatives"}
    assert (table["nce"].is_null() == (table["pair_status"] == "no_negatives")).all()


@pytest.mark.parametrize("text", [True, False])
def test_no_caption_at_all(tmp_path, text):
    table, facts = scored(embedded(tmp_path, pairs(9, without=9), text=text, temperature="auto"))
    assert set(table["pair_status"]) == {"no_text"}
    assert table["nce"].null_count() == 9
    assert "no caption" in facts["warnings"][0]


def test_no_row(tmp_path):
    table, facts = scored(embedded(tmp_path, pairs(0), temperature="auto", shards=1))
    assert len(table) == 0
    assert (facts["scored"], facts["pairs"], facts.get("warnings")) == (0, 0, None)


def test_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(family, "TASK_ROWS", 64)
    data = pairs(200)
    scored(embedded(tmp_path / "whole", data))
    done, real = [], family._score

    def some_then_stop(task):
        if len(done) == 7:
            raise KeyboardInterrupt
        real(task)
        done.append(task.out.name)

    monkeypatch.setattr(family, "_score", some_then_stop)
    with pytest.raises(KeyboardInterrupt):
        scored(embedded(tmp_path / "cut", data))
    again = []
    monkeypatch.setattr(family, "_score", lambda task: (again.append(task.out.name), real(task)))
    scored(embedded(tmp_path / "cut", data))
    assert len(done) == 7 and len(again) == 5 and not set(done) & set(again)
    assert tables(tmp_path / "cut") == tables(tmp_path / "whole")
    assert not (tmp_path / "cut/.work/pair").exists()
    assert not score.run(embedded(tmp_path / "cut", data))


def test_a_batch_that_does_not_fit_says_what_does(tmp_path):
    context = embedded(tmp_path, pairs(4))
    family._require_batch(context, Pair(), 4096, 512)
    with pytest.raises(RunError, match=r"batch 1,000,000 needs 8\.4 GB per worker; .* fit 202,\d{3}: lower"):
        family._require_batch(context, Pair(batch=10**6), 10**6, 512)
