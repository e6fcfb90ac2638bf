"""Near-duplicates with different captions stay: which captions are equal, and what in-memory dedup makes of them."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import curate
from curate.deduplication.captions import caption_codes
from curate.errors import UsageError
from curate.hashing import content_hashes
from tests.deduplication.test_semantic import alike, all_similarities

TEXT = st.one_of(st.none(), st.text(" \tabé\n", max_size=4), st.text("ab", min_size=298, max_size=303))


def as_stored(captions):
    """Return the columns of 0_samples that are about captions."""
    return pl.DataFrame(
        {
            "caption": [None if one is None else one[:300] for one in captions],
            "caption_length": [None if one is None else len(one) for one in captions],
            "caption_hash": content_hashes(captions),
        },
        schema={"caption": pl.String, "caption_length": pl.Int32, "caption_hash": pl.String},
    )


def same(one, other):
    """Whether two captions are the same, from the words of the docstring."""
    one, other = one or "", other or ""
    whole = len(one) <= 300 and len(other) <= 300
    return one.strip() == other.strip() if whole else one == other


@given(st.lists(TEXT, max_size=12))
def test_codes_are_equal_where_captions_are(captions):
    codes = caption_codes(as_stored(captions)).to_list()
    for i, one in enumerate(captions):
        for j, other in enumerate(captions):
            assert (codes[i] == codes[j]) == same(one, other)


@pytest.mark.parametrize("mode", ["greedy", "reference"])
@pytest.mark.parametrize("grouped", [False, True])
def test_rows_are_duplicates_of_rows_with_the_same_caption_alone(mode, grouped):
    vectors = alike(60, 8, 0.1, seed=4)
    rng = np.random.default_rng(5)
    captions = [[" a", "a ", "b", None, ""][i] for i in rng.integers(0, 5, 60)]
    groups = rng.integers(0, 2, 60) if grouped else None
    found = curate.deduplicate(
        vectors, 0.05, mode=mode, groups=groups, captions=captions, across_captions=False
    )
    s, of = all_similarities(vectors), np.full(60, -1)
    for j in range(60):
        near = [
            i for i in range(j)
            if s[j, i] > 0.95 and same(captions[i], captions[j]) and (groups is None or groups[i] == groups[j])
            and (mode == "reference" or of[i] < 0)
        ]  # fmt: skip
        of[j] = max(near, key=lambda i: (s[j, i], -i), default=-1)
    assert (found.duplicate_of >= 0).tolist() == (of >= 0).tolist()
    copies = (found.similarity >= 1) & (of >= 0)  # of equal rows the first is named
    assert found.duplicate_of[~copies].tolist() == of[~copies].tolist()
    everywhere = curate.deduplicate(vectors, 0.05, mode=mode, groups=groups, captions=captions)
    assert len(everywhere.filtered) > len(found.filtered) > 0
    assert found.rethreshold(0.5).epsilon == 0.5
    wider = curate.deduplicate(
        vectors, 0.5, mode=mode, groups=groups, captions=captions, across_captions=False
    )
    np.testing.assert_array_equal(found.rethreshold(0.5).duplicate_of, wider.duplicate_of)


@pytest.mark.parametrize("captions", [None, ["a"]])
def test_captions_that_are_to_count_must_be_given(captions):
    with pytest.raises(UsageError, match="captions must be as many as vectors, 2, where across_captions"):
        curate.deduplicate(np.ones((2, 3)), captions=captions, across_captions=False)
