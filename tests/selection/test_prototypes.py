from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError
from curate.selection.prototypes import floors
from tests.reference.selection import select_prototypes


def by_definition(distance, concept, tie, n_keep, balance, prefer):
    sign = -1 if prefer == "hardest" else 1
    order = sorted(range(len(distance)), key=lambda i: (sign * distance[i], tie[i]))
    present = sorted(set(concept.tolist()))
    kept = []
    for c in present:
        members = [i for i in order if concept[i] == c]
        kept += members[: int(Fraction(str(balance)) * n_keep / len(present))]
    kept += [i for i in order if i not in kept][: n_keep - len(kept)]
    return np.isin(np.arange(len(distance)), kept)


@given(
    st.integers(0, 40), st.integers(0, 50), st.sampled_from([0, 0.1, "0.3", 0.7, 1]),
    st.sampled_from(["hardest", "easiest"]), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_by_definition_and_its_laws(n, n_keep, balance, prefer, seed):
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 5, n).astype(np.float32) / 4
    concept, tie = rng.integers(0, 5, n), rng.permutation(n).astype(np.uint64)
    keep = select_prototypes(distance, concept, tie, n_keep, balance, prefer)
    assert keep.tolist() == by_definition(distance, concept, tie, n_keep, balance, prefer).tolist()
    assert keep.sum() == min(n, n_keep)
    sizes = np.bincount(concept, minlength=5)
    kept = np.bincount(concept[keep], minlength=5)
    assert (kept >= floors(sizes, min(n, n_keep), balance)).all()
    moved = rng.permutation(n)
    again = select_prototypes(distance[moved], concept[moved], tie[moved], n_keep, balance, prefer)
    assert again.tolist() == keep[moved].tolist()


def test_hard_and_easy_are_disjoint():
    rng = np.random.default_rng(0)
    distance, concept = rng.random(80), np.repeat(np.arange(4), 20)
    tie = rng.permutation(80).astype(np.uint64)
    hard = select_prototypes(distance, concept, tie, 40, 1, "hardest")
    easy = select_prototypes(distance, concept, tie, 40, 1, "easiest")
    assert not (hard & easy).any() and (hard | easy).all()


def test_floors_in_exact_arithmetic():
    assert floors(np.array([9, 9, 9]), 10, 0.3).tolist() == [1, 1, 1]
    assert floors(np.array([9] * 10), 100, 0.7).tolist() == [7] * 10
    assert floors(np.array([9, 0, 2]), 10, 1).tolist() == [5, 0, 2]
    assert floors(np.array([9, 9]), 10, 0).tolist() == [0, 0]
    assert floors(np.array([0, 0]), 10, 1).tolist() == [0, 0]
    assert floors(np.array([], int), 0, 1).tolist() == []


@pytest.mark.parametrize("balance", [-0.1, 1.1, "half", np.nan])
def test_balance_out_of_range(balance):
    with pytest.raises(RecipeError, match=r"select.balance must be .*in \[0, 1\], got"):
        floors(np.array([1]), 1, balance)
