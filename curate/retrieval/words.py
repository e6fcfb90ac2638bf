"""The words of a text: which carry its meaning, and how many of them another text has."""

import re
import unicodedata
from collections.abc import Callable, Iterable

__all__ = ["content_words", "coverage", "phrases", "plain_name", "spoken", "unknown_share"]

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
#: Words that say nothing of what is in a picture.
_STOP = frozenset(
    ("a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "for", "from", "by", "is", "are", "it", "its",
     "this", "that", "as", "up", "some", "any", "photo", "picture", "image")
)  # fmt: skip
_MIN_STEM = 4
_LONGEST_PHRASE = 3


def content_words(text: str) -> frozenset[str]:
    """Return the words that carry the meaning of a text, in small letters, a plural as its singular.

    All words where it has no others than `the`, `of` and the like.

    >>> sorted(content_words("A photo of the red hearts")), sorted(content_words("up"))
    (['heart', 'red'], ['up'])
    """
    return frozenset(map(_stem, _words(text)))


def _words(text: str) -> list[str]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for word in words if word not in _STOP] or words


def spoken(text: str) -> list[list[tuple[str, bool]]]:
    """Return the words of a text in small letters, cut at punctuation: words of two pieces do not stand together.

    Beside each word: whether it says nothing of what is in a picture, such as `the`, or is a number.

    >>> spoken("A red hat, 2.")
    [[('a', True), ('red', False), ('hat', False)], [('2', True)]]
    """
    pieces = re.split(r"[,;:.!?()/|]+(?=\s|$)|\n", unicodedata.normalize("NFKC", text).casefold())
    found = (_WORD.findall(piece) for piece in pieces)
    return [[(word, word in _STOP or word.isdigit()) for word in words] for words in found if words]


def phrases(captions: Iterable[str]) -> list[set[str]]:
    """Return the n-grams of captions, one to three words that stand together; none begins or ends with `the` and the like.

    >>> sorted(phrases(["A photo of a red stop sign"])[0])
    ['red', 'red stop', 'red stop sign', 'sign', 'stop', 'stop sign']
    """
    return [_phrases(spoken(caption)) for caption in captions]


def _phrases(pieces: list[list[tuple[str, bool]]]) -> set[str]:
    found = set()
    for piece in pieces:
        words, plain = [word for word, _ in piece], [says_nothing for _, says_nothing in piece]
        for size in range(1, _LONGEST_PHRASE + 1):
            for start in range(len(words) - size + 1):
                if not plain[start] and not plain[start + size - 1]:
                    found.add(" ".join(words[start : start + size]))
    return found


def _stem(word: str) -> str:
    return word[:-1] if len(word) >= _MIN_STEM and word.endswith("s") and not word.endswith("ss") else word


def coverage(query: frozenset[str], words: frozenset[str]) -> float:
    """Return the share of the words of a query that a text has, 0 to 1; 0 for a query without words.

    query, words : of the two texts, see `content_words`.

    >>> coverage(content_words("a black hole"), content_words("black bird"))
    0.5
    """
    return len(query & words) / len(query) if query else 0.0


def unknown_share(text: str, known: Callable[[str], bool]) -> float:
    """Return the share of the words of a text that are not `known`, 0 to 1; 1 for a text without words.

    >>> unknown_share("a dog in quantum foam", lambda word: word == "dog").__round__(2)
    0.67
    """
    words = set(_words(text))
    return sum(not known(word) for word in words) / len(words) if words else 1.0


def plain_name(name: str) -> str:
    """Return what two spellings of one name have in common: its letters and digits, small.

    >>> plain_name("Long sleeve") == plain_name("long-sleeve")
    True
    """
    return "".join(_letters(name))


def _letters(name: str) -> Iterable[str]:
    return (one for one in unicodedata.normalize("NFKC", name).casefold() if one.isalnum())
