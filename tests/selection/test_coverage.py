"""Coverage of objects: the greedy rule against its definition, then what must hold whatever the objects are, then edges."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.api.select import select
from curate.errors import BudgetError, UsageError
from curate.hashing import tie
from curate.linalg import unit_rows
from curate.selection.coverage import Objects, _Picked, cover, cover_groups, halves


def objects_of(row, category, vectors):
    unit = unit_rows(np.asarray(vectors, np.float32))[0]
    index = [list(row[:at]).count(one) for at, one in enumerate(row)]
    return Objects(
        np.array(row, np.int64), np.array(category, object), np.array(index, np.int64), lambda at: unit[at]
    )


def by_definition(row, group, owner, sizes, place, held, n_take):
    """Take rows one after the other, looking at all of them each time."""
    taken, held = [], set(held)
    groups = {r: {g for one, g in zip(row, group, strict=True) if one == r} for r in range(len(place))}
    rarest = sorted(range(len(sizes)), key=lambda c: (sizes[c], c))
    while len(taken) < n_take:
        covered = set().union(*(groups[r] for r in held)) if held else set()
        still = [g for g in range(len(owner)) if g not in covered and g in group]
        if not still:
            return taken, True
        first = next(c for c in rarest if any(owner[g] == c for g in still))
        own = {
            r: len([g for g in groups[r] & set(still) if owner[g] == first]) for r in groups if r not in held
        }
        best = min(
            (r for r in own if own[r]), key=lambda r: (-own[r], -len(groups[r] & set(still)), place[r])
        )
        taken.append(best)
        held.add(best)
    return taken, False


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_rows_are_taken_by_the_definition(data):
    n, classes = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    owner = np.sort(np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=6))))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, len(owner) - 1)), max_size=14))
    row, group = (np.array([pair[at] for pair in pairs], np.int64) for at in (0, 1))
    sizes = np.bincount(owner[group], minlength=classes) if len(group) else np.zeros(classes, np.int64)
    place = np.array(data.draw(st.permutations(range(n))))
    held = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    n_take = data.draw(st.integers(0, int((~held).sum())))
    picked = _Picked(held.copy(), place, n_take, None)
    rarest = np.lexsort((np.arange(classes), sizes))
    used_up = cover_groups(row, group, owner, rarest, np.ones(n, bool), picked)
    want, done = by_definition(
        row.tolist(), group.tolist(), owner.tolist(), sizes, place, np.flatnonzero(held).tolist(), n_take
    )
    assert picked.taken == want
    assert used_up == (len(want) == n_take) and (done or used_up)


def test_by_hand():
    """Two rare cats (alike) and six dogs of two kinds: a cat first, with dogs if it can be, then what is not there yet."""
    row = [0, 1, 1, 2, 3, 4, 5, 6]
    category = ["cat", "cat", "dog", "dog", "dog", "dog", "dog", "dog"]
    up, side = [0.0, 1.0], [1.0, 0.0]
    vectors = [up, up, up, up, up, side, side, side]
    found = cover(objects_of(row, category, vectors), np.array([0, 1, 2, 3, 4, 5, 6, 7]), 8)
    # 1 has a cat and a dog: both classes. sqrt(6) is 2 kinds of dogs: 4 is the first of the other. The two cats are
    # one kind until it is cut in two: then 0. Then dogs, until each is its own kind; row 7 has no object.
    assert found.taken.tolist()[:3] == [1, 4, 0]
    assert found.gained.tolist()[:2] == [2, 1]
    assert found.taken.tolist()[-1] == 7 and found.gained[-1] == 0
    assert [one["class"] for one in found.classes] == ["cat", "dog"]
    assert found.classes[1] == {
        "class": "dog", "objects": 6, "rows": 6, "kept_rows": 6, "groups": 6, "covered": 6,
    }  # fmt: skip
    small = cover(objects_of(row, category, vectors), np.arange(8), 1)
    assert small.classes[1] == {
        "class": "dog",
        "objects": 6,
        "rows": 6,
        "kept_rows": 1,
        "groups": 1,
        "covered": 1,
    }


made = st.lists(
    st.tuples(st.integers(0, 11), st.sampled_from("abcd"), st.integers(0, 5), st.integers(1, 5)), max_size=40
)


@given(made, st.permutations(range(12)), st.integers(0, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_what_holds_whatever_the_objects_are(found, place, n_take, data):
    row, category = [one[0] for one in found], [one[1] for one in found]
    objects = objects_of(row, category, [one[2:] for one in found] or np.empty((0, 2)))
    place = np.array(place)
    whole = cover(objects, place, 12)
    some = cover(objects, place, n_take)
    assert sorted(whole.taken.tolist()) == list(range(12))
    assert some.taken.tolist() == whole.taken[:n_take].tolist()
    classes = {name: {r for r, c in zip(row, category, strict=True) if c == name} for name in category}
    if n_take >= len(classes):
        assert all(rows & set(some.taken.tolist()) for rows in classes.values())
    bare = [r for r in range(12) if r not in row]
    assert whole.taken.tolist()[12 - len(bare) :] == sorted(bare, key=lambda r: place[r])
    shuffle = np.array(data.draw(st.permutations(range(len(row)))), np.int64)
    again = Objects(
        objects.row[shuffle],
        objects.category[shuffle],
        objects.index[shuffle],
        lambda at: objects.vectors(shuffle[at]),
    )
    assert cover(again, place, 12).taken.tolist() == whole.taken.tolist()


def test_rows_kept_before_cover_and_rows_ahead_come_first():
    row, category = list(range(6)), list("aabbcc")
    objects = objects_of(row, category, [[1, 0]] * 6)
    held = np.zeros(6, bool)
    held[0] = True
    assert cover(objects, np.arange(6), 2, before=held).taken.tolist() == [2, 4]
    ahead = np.array([False, True, False, True, False, False])
    assert cover(objects, np.arange(6), 3, ahead=ahead).taken.tolist() == [1, 3, 4]
    assert cover(objects, np.arange(6), 1, ahead=ahead).taken.tolist() == [1]
    assert cover(objects, np.arange(6), 6, until=2).taken.tolist() == [0, 2]
    with pytest.raises(BudgetError, match="6 rows asked for, there are 5"):
        cover(objects, np.arange(6), 6, before=held)


def test_without_objects_and_without_rows():
    none = objects_of([], [], np.empty((0, 3)))
    assert cover(none, np.array([2, 0, 1]), 3).taken.tolist() == [1, 2, 0]
    assert (
        cover(none, np.empty(0, np.int64), 0).taken.tolist() == []
        and cover(none, np.empty(0, np.int64), 0).classes == ()
    )


def test_more_kinds_are_covered_than_by_draws():
    """Kinds that nobody named, some of them rare: against twenty random draws of the same size."""
    rng = np.random.default_rng(0)
    n, classes, kinds = 300, 6, 8
    row, category = rng.integers(0, n, 900), rng.choice(classes, 900, p=[0.5, 0.25, 0.15, 0.06, 0.03, 0.01])
    kind = category * kinds + rng.choice(kinds, 900, p=[0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
    vectors = rng.standard_normal((classes * kinds, 16))[kind] + 0.3 * rng.standard_normal((900, 16))
    taken = cover(objects_of(row, [str(one) for one in category], vectors), rng.permutation(n), 40).taken

    def covered(rows):
        return len(np.unique(kind[np.isin(row, rows)]))

    drawn = [covered(rng.permutation(n)[:40]) for _ in range(20)]
    assert covered(taken) > 1.2 * max(drawn)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 4)), min_size=2, max_size=20), st.booleans())
@settings(max_examples=40, deadline=None)
def test_halves_are_never_empty(rows, even):
    vectors = unit_rows(np.array(rows, np.float32))[0]
    side = halves(vectors, even=even)
    assert 0 < side.sum() < len(rows)
    if even:
        assert side.sum() == len(rows) // 2


# --- frames -------------------------------------------------------------------------------------------------


def frame(n=30, seed=0):
    rng = np.random.default_rng(seed)
    objects = [
        [
            {"category": str(rng.choice(["car", "bus", "dog"], p=[0.7, 0.25, 0.05])), "vector": rng.normal(size=4).tolist()}
            for _ in range(rng.integers(0, 4))
        ]
        for _ in range(n)
    ]  # fmt: skip
    objects[3] = None
    return pl.DataFrame(
        {"uid": [f"u{i}" for i in range(n)], "objects": objects, "concept": [i % 4 for i in range(n)]}
    )


def test_a_frame_is_decided_as_the_rule_says():
    rows = frame()
    found = select(rows, "objects", count=12, seed=3)
    assert found["keep"].sum() == 12
    flat = [(n, one) for n, many in enumerate(rows["objects"].to_list()) for one in many or ()]
    objects = objects_of(
        [n for n, _ in flat], [one["category"] for _, one in flat], [one["vector"] for _, one in flat]
    )
    place = np.argsort(np.argsort(tie(rows["uid"].to_list(), 3)))
    want = cover(objects, place, 12).taken
    assert set(found.filter("keep")["uid"]) == {f"u{n}" for n in want}
    assert select(rows, "objects", count=12, seed=3, shipped=True).equals(
        found
    )  # of a frame nothing is known before
    shuffled = select(rows.sample(fraction=1.0, shuffle=True, seed=1), "objects", count=12, seed=3)
    columns = ["keep", "reason", "rank", "inclusion_prob"]
    assert shuffled.sort("uid").select(columns).equals(found.sort("uid").select(columns))
    inside = (
        found.sort("concept", "rank").group_by("concept", maintain_order=True).agg("keep")["keep"].to_list()
    )
    assert all(kept == sorted(kept, reverse=True) for kept in inside)


def test_a_frame_without_objects_is_refused():
    with pytest.raises(UsageError, match="method objects needs a column 'objects'"):
        select(frame().drop("objects"), "objects", keep=0.5)
    bare = pl.DataFrame({"objects": [[{"bbox": [0, 0, 1, 1]}]]})
    with pytest.raises(
        UsageError, match=r"structs with a `vector`, got .* in row 0; a run makes vectors of boxes"
    ):
        select(bare, "objects", keep=1.0)
