"""Names for concepts: what is said of one and not of the others.

Two sources of words. Captions: of their n-grams (one to three words) those that are much more common in the concept than
elsewhere. A vocabulary: of its texts those whose vector is nearer to the centroid of the concept than to others. Both are
contrasts, so that what fits all concepts names none.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from curate.retrieval.words import content_words, phrases

__all__ = ["TERMS", "caption_terms", "label_terms", "names_from_terms", "vocabulary_terms"]

#: Terms that are kept of a concept; its name has the first two, more where that is the name of another.
TERMS = 6

_IN_NAME, _FEW = 2, 2

Floats = npt.NDArray[np.float64]


def caption_terms(captions: Mapping[int, Iterable[str]]) -> dict[int, list[str]]:
    """Return the terms of each concept, the most telling first, at most `TERMS`.

    captions : of each concept. A phrase in k of the n captions of a concept and in a share q of all captions (each
    concept weighing by its captions) tells k log(k / (n q)): how many more bits its captions take without it. Phrases of
    one caption alone name nothing where a concept has more; a phrase is left out if a longer one, or one already taken,
    says as much. Equal ones go by length, then by the alphabet.

    >>> caption_terms({0: ["a red dog", "a big dog"], 1: ["a red cat", "the cat"]})
    {0: ['dog'], 1: ['cat']}
    """
    counted = {concept: phrases(texts) for concept, texts in captions.items()}
    return _terms(counted, _FEW)


def label_terms(labels: Mapping[int, Iterable[str]]) -> dict[int, list[str]]:
    """Return the labels of each concept, the most telling first, at most `TERMS`: as `caption_terms`, a label being whole.

    >>> label_terms({0: ["red hat", "red hat", "dress"], 1: ["dress"]})
    {0: ['red hat'], 1: ['dress']}
    """
    return _terms({concept: [{label} for label in every] for concept, every in labels.items()}, 1)


def _terms(said: Mapping[int, Sequence[set[str]]], few: int) -> dict[int, list[str]]:
    """Return the most telling of what is said of the samples of each concept. few : samples that must say it."""
    counts = {concept: Counter(one for every in rows for one in every) for concept, rows in said.items()}
    total = sum(len(rows) for rows in said.values())
    every: Counter[str] = Counter()
    for found in counts.values():
        every.update(found)
    return {
        concept: _telling(counts[concept], len(said[concept]), every, total, few) for concept in sorted(said)
    }


def _telling(found: Counter[str], size: int, every: Counter[str], total: int, few: int) -> list[str]:
    least = min(few, size)
    gains = {
        phrase: round(count * math.log(count * total / (size * every[phrase])), 9)
        for phrase, count in found.items()
        if count >= least
    }
    order = sorted(
        (phrase for phrase in gains if gains[phrase] > 0), key=lambda one: (-gains[one], -len(one), one)
    )
    return _apart(order)


def _apart(order: Sequence[str]) -> list[str]:
    """Return the first phrases of an order that share no word with one taken before."""
    taken: list[str] = []
    used: set[str] = set()
    for phrase in order:
        words = content_words(phrase)
        if not words & used:
            taken.append(phrase)
            used |= words
        if len(taken) == TERMS:
            break
    return taken


def vocabulary_terms(
    texts: Sequence[str], vectors: Floats, centroids: Floats, temperature: float
) -> dict[int, list[str]]:
    """Return the terms of each concept from a vocabulary, the most telling first, at most `TERMS`.

    vectors : (texts, d), centroids : (concepts, d), unit rows. A text tells of a concept what it is nearer to it than to
    others plus how near it is: 2 s / t - log mean exp(s / t) over the concepts, with its cosine s and the temperature t.
    Equal ones go by the alphabet.

    >>> vocabulary_terms(["cat", "dog"], np.eye(2), np.eye(2), 0.1)
    {0: ['cat', 'dog'], 1: ['dog', 'cat']}
    """
    if not len(texts) or not len(centroids):
        return {concept: [] for concept in range(len(centroids))}
    scaled = vectors @ centroids.T / temperature
    largest = scaled.max(axis=1, keepdims=True)
    where = largest + np.log(np.exp(scaled - largest).mean(axis=1, keepdims=True))
    gains = (2 * scaled - where).round(6)
    found = {}
    for concept in range(len(centroids)):
        order = sorted(range(len(texts)), key=lambda text: (-gains[text, concept], texts[text]))
        found[concept] = [texts[text] for text in order[:TERMS]]
    return found


def names_from_terms(
    terms: Mapping[int, Sequence[str]], sizes: Mapping[int, int], words: int = _IN_NAME
) -> dict[int, str]:
    """Return a name for each concept that has terms, no two alike as far as their terms go.

    terms : the most telling first. sizes : rows of each concept: the larger of two takes the shorter name. words : terms in
    a name, if no other concept has that name.

    >>> names_from_terms({0: ["dog", "red", "big"], 1: ["dog", "red", "wet"], 2: []}, {0: 9, 1: 5, 2: 1})
    {0: 'dog, red', 1: 'dog, red, wet'}
    """
    named: dict[int, str] = {}
    taken: set[str] = set()
    for concept in sorted(terms, key=lambda one: (-sizes.get(one, 0), one)):
        mine = terms[concept]
        if not mine:
            continue
        options = [", ".join(mine[:count]) for count in range(min(words, len(mine)), len(mine) + 1)]
        name = next((one for one in options if one not in taken), f"{options[-1]} ({concept})")
        taken.add(name)
        named[concept] = name
    return dict(sorted(named.items()))
