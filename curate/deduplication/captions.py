"""Which samples have the same caption, as text: near-duplicates with different ones may have to stay."""

import polars as pl

from curate.hashing import hash_uids

__all__ = ["caption_codes"]

#: Of longer captions only the beginning stands in the table of samples; they are told apart by the hash of the whole.
STORED_CHARACTERS = 300


def caption_codes(samples: pl.DataFrame) -> pl.Series:
    r"""Return a number per sample that is the same for equal captions, (n,) uint64 named `caption_code`.

    samples : with `caption`, `caption_length` and `caption_hash` as in 0_samples. White space at both ends does not
    count, but in captions of more than 300 characters, which are compared as they are. No caption is an empty one.

    >>> captions = {"caption": ["a cat", " a cat\n", None, ""], "caption_length": [5, 7, None, 0]}
    >>> codes = caption_codes(pl.DataFrame(captions | {"caption_hash": ["p", "q", None, "r"]}))
    >>> codes[0] == codes[1], codes[2] == codes[3], codes[0] == codes[2]
    (True, True, False)
    """
    whole = pl.col("caption_length").fill_null(0) <= STORED_CHARACTERS
    text = pl.format("t{}", pl.col("caption").fill_null("").str.strip_chars())
    key = samples.select(pl.when(whole).then(text).otherwise(pl.format("h{}", pl.col("caption_hash"))))
    distinct = key.to_series().fill_null("t")
    return pl.Series("caption_code", hash_uids(distinct.to_list(), "caption"), pl.UInt64)
