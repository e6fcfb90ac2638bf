"""Names of concepts: counts by hand and by brute force, contrast, and no two alike."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.retrieval.naming import caption_terms, label_terms, names_from_terms, vocabulary_terms
from curate.retrieval.words import phrases

WORDS = st.lists(st.sampled_from(["dog", "cat", "red", "blue", "the", "of"]), max_size=4).map(" ".join)


@pytest.mark.parametrize(
    "caption, wanted",
    [
        ("a red dog, the cat", {"red", "dog", "red dog", "cat"}), ("the of a", set()), ("", set()), ("12 dogs", {"dogs"}),
        ("cup of tea", {"cup", "tea", "cup of tea"}),
    ],
)  # fmt: skip
def test_phrases(caption, wanted):
    assert phrases([caption]) == [wanted]


@given(st.dictionaries(st.integers(0, 3), st.lists(WORDS, max_size=6), max_size=4))
def test_terms_gain_as_counted(captions):
    total = sum(map(len, captions.values()))
    every = [one for texts in captions.values() for one in phrases(texts)]
    found = caption_terms(captions)
    assert set(found) == set(captions)

    def gain(concept, phrase):
        inside = sum(phrase in one for one in phrases(captions[concept]))
        share = sum(phrase in one for one in every) / total
        return inside * math.log(inside / (len(captions[concept]) * share))

    for concept, terms in found.items():
        gains = [gain(concept, term) for term in terms]
        assert all(one > 0 for one in gains) and all(a >= b - 1e-9 for a, b in pairwise(gains))
        here = phrases(captions[concept])
        best = max((gain(concept, one) for some in here for one in some
                    if sum(one in other for other in here) >= min(2, len(here))), default=0)  # fmt: skip
        assert (gains[0] == pytest.approx(best)) if best > 1e-9 else not gains
    shuffled = {concept: texts[::-1] for concept, texts in reversed(captions.items())}
    assert caption_terms(shuffled) == found


def test_what_all_concepts_say_names_none():
    assert caption_terms({0: ["a dog"] * 3, 1: ["a dog"] * 3}) == {0: [], 1: []}
    assert label_terms({0: ["hat"], 1: ["hat"]}) == {0: [], 1: []}
    assert caption_terms({}) == {} and caption_terms({0: []}) == {0: []}


def test_a_vocabulary_names_by_contrast():
    # The first text is near to both centroids; each of the others to one.
    texts = ["thing", "cat", "dog"]
    centroids = np.array([[0.8, 0.6, 0.0], [0.8, 0.0, 0.6]])
    vectors = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.6, 0.0, 0.8]])
    found = vocabulary_terms(texts, vectors, centroids, 0.05)
    assert (found[0][0], found[1][0]) == ("cat", "dog")
    for concept in (0, 1):
        gains = {}
        for text, vector in zip(texts, vectors, strict=True):
            cosines = [vector @ one for one in centroids]
            mean = sum(math.exp(one / 0.05) for one in cosines) / 2
            gains[text] = 2 * cosines[concept] / 0.05 - math.log(mean)
        assert found[concept] == sorted(texts, key=lambda text: -gains[text])
    assert vocabulary_terms([], np.empty((0, 3)), centroids, 0.05) == {0: [], 1: []}


@given(
    st.dictionaries(
        st.integers(0, 20), st.lists(st.sampled_from("abcd"), unique=True, max_size=4), max_size=12
    )
)
def test_no_two_concepts_have_one_name(terms):
    named = names_from_terms(terms, dict.fromkeys(terms, 1))
    assert len(set(named.values())) == len(named)
    assert set(named) == {concept for concept, one in terms.items() if one}


def test_the_larger_concept_has_the_shorter_name():
    named = names_from_terms({3: ["dog", "red", "wet"], 4: ["dog", "red"]}, {3: 5, 4: 50})
    assert named == {3: "dog, red, wet", 4: "dog, red"}
