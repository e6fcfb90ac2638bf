"""Words of texts: what carries meaning, and which the shipped model was taught."""

import pytest

from curate.retrieval.things import SENSELESS, THINGS
from curate.retrieval.words import content_words, coverage, plain_name, unknown_share


@pytest.mark.parametrize(
    "text, words",
    [
        ("A photo of the Red Hearts", {"red", "heart"}), ("T-shirt, dress", {"t-shirt", "dress"}), ("the of", {"the", "of"}),
        ("", set()), ("?!", set()), ("glasses", {"glasse"}), ("\uff26\uff35\uff2c\uff2c width", {"full", "width"}),
    ],
)  # fmt: skip
def test_content_words(text, words):
    assert content_words(text) == words


def test_coverage_and_unknown_words():
    assert coverage(content_words("a blue car"), content_words("police cars")) == 0.5
    assert coverage(frozenset(), content_words("anything")) == 0.0
    assert unknown_share("", lambda word: True) == 1.0
    assert unknown_share("glasses of glasses", lambda word: word == "glasses") == 0.0


def test_names_spelt_otherwise():
    assert plain_name("Long sleeve") == plain_name("long-sleeve") != plain_name("sleeve")


def test_texts_of_the_bank_are_texts():
    assert len(set(THINGS)) == len(THINGS) > 300 and len(set(SENSELESS)) == len(SENSELESS) > 40
    assert all(text and text == text.strip() for text in (*THINGS, *SENSELESS))


def test_the_shipped_model_knows_what_it_was_taught():
    from curate.embedding import clip as clips
    from curate.embedding.taught import taught_words

    clip = clips.load("tiny", device="cpu", precision="float32")
    known = taught_words(clip, THINGS)
    taught = ("umbrella", "red", "dress", "balloon", "sailboat", "longsleeve")
    assert all(map(known, taught))
    assert not any(map(known, ("quantum", "tax", "qwer", "theory", "mortgage")))
    assert taught_words(clip, ["quantum", "mortgage", "red"]) is None, (
        "a model that knows few words shows it otherwise"
    )
