"""Scores of pairs in memory: by definition, against the formula, then the edges."""

import numpy as np
import polars as pl
import pytest

from curate.hashing import hash_uids
from curate.linalg import load_unit
from curate.recipe import Pair
from curate.scores.in_memory import score
from curate.scores.pair.formula import pair_scores
from tests.fixtures.paired import SETTINGS, by_hand, pairs

NCE = ("nce_i2t", "nce_t2i", "nce", "nce_norm", "neg_clip_loss", "neg_clip_loss_norm")
ALL = (*NCE, "pair_el2n_i2t", "pair_el2n_t2i", "pair_grand")


def scored(data, captions, order=None, **settings):
    """Score pairs with captions (None: none), in some order."""
    frame, image, words = data
    order = np.arange(len(frame)) if order is None else order
    words = words.astype(np.float32)
    words[~frame["has_text"].to_numpy().astype(bool)] = np.nan
    return score(
        image[order], Pair(**{**SETTINGS, **settings}), text=words[order],
        captions=[captions[i] for i in order], uids=frame["uid"].gather(order).to_list(),
    )  # fmt: skip


@pytest.mark.parametrize("masked", [True, False])
def test_one_batch_by_definition(masked):
    captions = [f"c{i % 13}" for i in range(40)]
    data = pairs(40, captions=captions)
    table = scored(data, captions, mask_copies=masked)
    assert table.columns == ["uid", *ALL, "pair_status"]
    assert set(table["pair_status"]) == {"ok"}
    for name, want in by_hand(data, 0.05, masked).items():
        np.testing.assert_allclose(table[name].to_numpy(), want, rtol=2e-5, atol=2e-5, err_msg=name)


def test_batches_are_those_of_the_formula_in_any_order():
    captions = [f"c{i % 90}" if i < 280 else None for i in range(300)]
    data = frame, image, words = pairs(300, without=20, captions=[f"c{i % 90}" for i in range(300)])
    table = scored(data, captions)
    codes = np.array([-1 if caption is None else int(caption[1:]) for caption in captions])
    want, status = pair_scores(
        load_unit(image), load_unit(words), hash_uids(frame["uid"], 0, "pair"), temperature=0.05, batch=64,
        repeats=3, has_text=frame["has_text"].to_numpy(), caption=codes, picture=np.arange(300), grand=True,
    )  # fmt: skip
    for name in ALL:
        got = table[name].to_numpy()
        np.testing.assert_array_equal(got, getattr(want, name).astype(np.float32), err_msg=name)
    assert table["pair_status"].to_list() == ["ok" if code == 0 else "no_text" for code in status]
    moved = np.random.default_rng(1).permutation(300)
    assert scored(data, captions, moved).sort("uid").equals(table)


def test_columns_that_are_not_asked_for():
    table = scored(pairs(20), [f"c{i}" for i in range(20)], el2n=False, grand=False)
    assert table.columns == ["uid", *NCE, "pair_status"]
    assert table["nce"].null_count() == 0


def test_pairs_without_negatives():
    table = scored(pairs(70), ["one"] * 70)
    assert set(table["pair_status"]) == {"no_negatives"}
    assert all(table[name].null_count() == 70 for name in ALL)
    table = scored(pairs(3, without=2), ["c", None, None])
    assert table["pair_status"].to_list() == ["no_negatives", "no_text", "no_text"]
    table = scored(pairs(130), ["one"] * 128 + ["two", "three"], batch=2, repeats=1)
    assert set(table["pair_status"]) == {"ok", "no_negatives"}
    assert (table["nce"].is_null() == (table["pair_status"] == "no_negatives")).all()


def test_no_caption_at_all_and_no_row():
    table = scored(pairs(9, without=9), [None] * 9, temperature="auto")
    assert set(table["pair_status"]) == {"no_text"} and table["nce"].null_count() == 9
    table = scored(pairs(0), [], temperature="auto")
    assert len(table) == 0 and table.schema["nce"] == pl.Float32
