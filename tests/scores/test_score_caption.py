"""Rules about captions: by hand, against plain Python, at the edges, and in a run whose captions are long."""

import re
import unicodedata
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.scores.caption import Caption, caption_columns, normal_hashes, repeated_share
from curate.scores.in_memory import score
from tests.fixtures.builders import planted, recipe_values, write_shards

NUMBERS = dict(
    zip(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], range(2, 11), strict=True)
)


def words_of(text):
    """Runs of letters, digits and marks."""
    solid = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in text.lower())
    return solid.split()


def share_before(runs):
    """The share of runs that stood before, one by one."""
    seen, before = set(), 0
    for one in runs:
        before += one in seen
        seen.add(one)
    return before / len(runs) if runs else 0.0


def slow(text, ngram):
    """The columns of one caption from their definitions."""
    if text is None or not text.strip():
        return None
    words = words_of(text)
    solid = [c for c in text if not c.isspace()]
    kinds = Counter(unicodedata.category(c) for c in solid)
    linked = sum(len(m.group()) for m in re.finditer(r"(?i)(?:https?://|\bwww\.)\S+", text))
    return {
        "caption_n_chars": len(text),
        "caption_n_words": len(text.split()),
        "caption_repeated_words": share_before(words),
        "caption_repeated_phrases": share_before([tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]),
        "caption_link_share": linked / len(text),
        "caption_digit_share": kinds["Nd"] / len(solid),
        "caption_punctuation_share": sum(n for kind, n in kinds.items() if kind[0] in "PS") / len(solid),
        "caption_count": next((NUMBERS[one] for one in words if one in NUMBERS), 0),
    }  # fmt: skip


CAPTIONS = [
    "Two cats, two cats! see www.a.b/c?d=1 now",
    "often two or THREE dogs",  # a count word inside another word is none
    "buy buy buy buy", "IMG_0012.JPG", "http://x.y", "रेड कार", "ein Hund", "!!!", "a", "日本 日本", "3 4 5",
]  # fmt: skip


@pytest.mark.parametrize("ngram", [1, 2, 3])
def test_by_definition(ngram):
    captions = [*CAPTIONS, None, "", " \n"]
    found = caption_columns(captions, ngram)
    assert list(found) and set(found) == set(Caption.outputs)
    for row, text in enumerate(captions):
        want = slow(text, ngram) or {}
        for name, values in found.items():
            assert values[row] == pytest.approx(want.get(name, np.nan), nan_ok=True), (text, name)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab Z09é.,!/:\n" + "wpht", max_size=30), max_size=4))
def test_any_text_by_definition(captions):
    found = caption_columns(captions, 2)
    for row, text in enumerate(captions):
        want = slow(text, 2) or {}
        for name, values in found.items():
            assert values[row] == pytest.approx(want.get(name, np.nan), nan_ok=True), (text, name)


def test_repeated_by_hand():
    assert repeated_share(list("aabab"), 1) == pytest.approx(3 / 5)
    assert repeated_share(list("aabab"), 2) == pytest.approx(1 / 4)
    assert [repeated_share(list("ab"), n) for n in (2, 3)] == [0.0, 0.0]


def test_copies_are_what_templates_make():
    same = (
        ["IMG_0012.JPG", "img 7 jpg", " Img-99.jpg "],
        ["A cat", "a cat!"],
        ["dog"],
        ["!!!", "!!!"],
        ["..."],
    )
    captions = [one for some in same for one in some] + [None, " "]
    table = score_of(captions)
    want = [len(some) for some in same for _ in some] + [None, None]
    assert table["caption_copies"].to_list() == want
    assert table["caption_status"].to_list() == ["ok"] * 9 + ["no_text"] * 2
    assert table.columns == ["uid", *Caption.outputs, "caption_status"]


def score_of(captions, **asked):
    return score(pl.DataFrame({"caption": pl.Series(captions, dtype=pl.String)}), {"caption": asked})


def test_no_rows():
    assert len(score_of([])) == 0
    assert normal_hashes([]).shape == (0,)


def test_a_run_reads_captions_to_their_end(tmp_path):
    """The samples of a run hold 300 characters; rows without a vector, and copies, count for nothing."""
    vectors = planted(40, copies=2)
    vectors[3] = 0
    captions = [f"photo {i} of the same street" for i in range(40)]
    captions[5] = "word " * 100 + "seven"
    captions[6] = None
    captions[38:] = captions[:2]
    glob = write_shards(tmp_path / "in", vectors, extra={"caption": captions}, uid=False)
    values = recipe_values(glob, tmp_path / "run", score=["caption"], cluster={"concepts": 2})
    values["source"] = {"path": glob}
    runner.run(parse_recipe(values), until="score")
    table = pl.read_parquet(tmp_path / "run/3_scores/caption/*.parquet")
    samples = pl.read_parquet(tmp_path / "run/0_samples/*.parquet")
    used = samples.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())
    used = used.join(table, on="uid", validate="1:1")
    assert len(used) == len(table) == 37
    long = used.filter(pl.col("caption_length") > 300)
    assert long.select("caption_n_chars", "caption_n_words", "caption_count").rows() == [(505.0, 101.0, 7.0)]
    street = used.filter(pl.col("caption").str.starts_with("photo"))
    assert set(street["caption_copies"]) == {len(street)} == {35.0}
    assert used.filter(pl.col("caption").is_null())["caption_status"].to_list() == ["no_text"]
    assert long["caption_copies"].to_list() == [1.0]


def test_languages(tmp_path):
    pytest.importorskip(
        "py3langid", reason="languages are told apart by an extra: pip install 'curate[language]'"
    )
    captions = ["a dog running on the beach at sunset", "ein Hund läuft am Strand entlang", "12345", None]
    table = score_of(captions, languages="all")
    assert table["caption_language"].to_list() == ["en", "de", None, None]
    assert table.columns[-2:] == ["caption_language", "caption_status"]
    assert score_of(captions, languages=["en", "fr"])["caption_language"][0] == "en"
    with pytest.raises(UsageError, match="must be codes such as en, de and zh, got 'xx'; there are "):
        score_of(captions, languages=["en", "xx"])


def test_languages_without_the_detector(monkeypatch):
    import sys

    from curate.scores.texts.language import require_detector

    require_detector.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(UsageError, match=r"pip install 'curate\[language\]'"):
        score_of(["a cat"], languages="all")
    require_detector.cache_clear()
