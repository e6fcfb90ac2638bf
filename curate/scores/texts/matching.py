"""Which entries of a list stand in a caption, as whole words: the substring matching of MetaCLIP (arXiv:2309.16671).

MetaCLIP puts white space around some punctuation, and looks for each entry with a space before and behind it. An entry then
stands in a caption if its words follow each other there, so that a look-up of runs of words finds all of them in one pass, however
many entries there are. What differs from the published code: white space counts once, entries are spaced like captions (there, one
with a comma or a full stop is never found), and case may be ignored.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from curate.errors import UsageError

__all__ = ["Matcher", "read_entries", "read_lines", "runs_of", "words_of"]

#: What is a word of its own wherever it stands; other signs are parts of words.
_PUNCTUATION = ",.;:?!`"
_SPACED = str.maketrans({sign: f" {sign} " for sign in _PUNCTUATION})


def words_of(text: str, *, ignore_case: bool) -> list[str]:
    """Return the words of a text, punctuation by itself.

    >>> words_of("St. Louis, two  dogs-in hats", ignore_case=True)
    ['st', '.', 'louis', ',', 'two', 'dogs-in', 'hats']
    """
    return (text.lower() if ignore_case else text).translate(_SPACED).split()


def runs_of(text: str, longest: int, *, ignore_case: bool) -> set[str]:
    """Return the runs of up to `longest` words of a text, without those that hold punctuation.

    >>> sorted(runs_of("a red, red car", 2, ignore_case=True))
    ['a', 'a red', 'car', 'red', 'red car']
    """
    words, found = words_of(text, ignore_case=ignore_case), set()
    for start in range(len(words)):
        for stop in range(start + 1, min(start + longest, len(words)) + 1):
            if words[stop - 1] in _PUNCTUATION:
                break
            found.add(" ".join(words[start:stop]))
    return found


class Matcher:
    """Finds entries in texts.

    >>> Matcher(["red car", "car", "st. louis"], ignore_case=True).found("A Red car in St. Louis, no cart")
    [0, 1, 2]
    """

    def __init__(self, entries: Sequence[str], *, ignore_case: bool) -> None:
        self._ignore_case = ignore_case
        self._place: dict[str, int] = {}
        lengths: dict[str, set[int]] = {}
        for place, entry in enumerate(entries):
            words = words_of(entry, ignore_case=ignore_case)
            self._place.setdefault(" ".join(words), place)
            if words:
                lengths.setdefault(words[0], set()).add(len(words))
        self._lengths = {word: tuple(sorted(some)) for word, some in lengths.items()}

    def found(self, text: str) -> list[int]:
        """Return the places of the entries that stand in a text, each once, in order; equal entries by the first."""
        words = words_of(text, ignore_case=self._ignore_case)
        places: set[int] = set()
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                place = self._place.get(" ".join(words[start : start + length]))
                if place is not None and start + length <= len(words):
                    places.add(place)
        return sorted(places)


def read_entries(path: Path, setting: str, *, ignore_case: bool) -> list[str]:
    """Return the entries of a file, each once, in order: one a line, or a JSON list of texts.

    setting : for messages. Raises UsageError for a file that is not there, or holds none.
    """
    return list(dict.fromkeys(_normal(read_lines(path, setting), ignore_case)))


def read_lines(path: Path, setting: str) -> list[str]:
    """Return the lines of a file, or the texts of a JSON list.

    setting : for messages. Raises UsageError for a file that is not there, holds nothing, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{setting}: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{setting}: {path} is no text in UTF-8 ({error})") from None
    found = _listed(path, text, setting)
    if not any(line.strip() for line in found):
        raise UsageError(f"{setting}: {path} holds no entries; write one a line")
    return found


def _listed(path: Path, text: str, setting: str) -> list[str]:
    if path.suffix != ".json":
        return text.splitlines()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{setting}: {path} is no JSON ({error})") from None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UsageError(f"{setting}: {path} must be a JSON list of texts")
    return found


def _normal(entries: Iterable[str], ignore_case: bool) -> Iterator[str]:
    """Yield entries with one space between words, without those that have none."""
    for entry in entries:
        if words := words_of(entry, ignore_case=ignore_case):
            yield " ".join(words)
