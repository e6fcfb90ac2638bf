"""Which words a model was taught: the rows of its token table that training changed.

A model gives a vector for any text, also where it never saw its words; such a vector means nothing. Rows of tokens that
never occur stay as they were drawn. How long such a row is, is known for sure: bytes that UTF-8 never has are tokens
that no text can hold.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from curate.embedding.clip import Clip

__all__ = ["taught_words"]

#: Bytes that no text has in UTF-8.
_NEVER = (0xC0, 0xC1, *range(0xF5, 0x100))
#: How many standard deviations longer than rows of tokens that never occur a row must be.
_LONGER = 3.0
#: A model knows most of some common words, or this cannot be told of it.
_COMMON = 0.75


def taught_words(clip: "Clip", common: Sequence[str]) -> Callable[[str], bool] | None:
    """Return what says of a word whether the model was taught it; None where that cannot be told of the model.

    common : words of which a model was taught most. A word is known if each of its tokens is. It cannot be told of models
    with another tokenizer than CLIP's, and of those whose token table does not show it. source: not checked
    """
    table, tokenizer = clip.token_table()
    encoder = getattr(tokenizer, "encoder", None)
    if table is None or encoder is None or not hasattr(tokenizer, "byte_encoder"):
        return None
    never = [encoder.get(tokenizer.byte_encoder[byte] + end) for byte in _NEVER for end in ("", "</w>")]
    rows = [row for row in never if row is not None and row < len(table)]
    if len(rows) < len(_NEVER):
        return None
    lengths = np.sqrt((table.astype(np.float64) ** 2).sum(axis=1))
    least = float(lengths[rows].mean() + _LONGER * lengths[rows].std(ddof=1))

    def known(word: str) -> bool:
        tokens: list[Any] = tokenizer.encode(word)
        return bool(tokens) and bool((lengths[tokens] > least).all())

    return known if sum(map(known, common)) >= _COMMON * len(common) else None
