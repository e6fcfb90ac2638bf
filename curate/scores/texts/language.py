"""Which language a text is in, by py3langid (an extra): naive Bayes over byte n-grams, the same answer everywhere."""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from curate.errors import UsageError

__all__ = ["languages_of", "require_detector"]

#: What the detector says of text that is in no language.
_NONE = "zxx"
_LETTER = re.compile(r"[^\W\d_]")


@functools.cache
def require_detector(among: tuple[str, ...] | None) -> Any:  # noqa: ANN401  (its class is that of an extra)
    """Return the detector. among : the codes of the only languages that are told apart; None for all it knows.

    Raises UsageError where the package is not installed or does not know a code.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UsageError(
            "score: caption.languages needs a package that is not installed: pip install 'curate[language]'"
        ) from None
    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    unknown = sorted(set(among or ()) - set(found.labels))
    if unknown:
        raise UsageError(
            f"score: caption.languages must be codes such as en, de and zh, got {unknown[0]!r}; there are "
            f"{', '.join(sorted(found.labels))}"
        )
    found.set_languages(among)
    return found


def languages_of(texts: Iterable[str], among: Sequence[str] | None) -> list[str | None]:
    """Return the code of the language of each text (ISO 639), None where it has no letter or is in no language."""
    detector = require_detector(None if among is None else tuple(among))
    found = (detector.classify(text)[0] if _LETTER.search(text) else _NONE for text in texts)
    return [None if one == _NONE else one for one in found]
