from collections import Counter
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.execution import exchange
from curate.execution.context import Context, Part
from curate.execution.engines.local import LocalEngine
from curate.execution.exchange import Exchange, Grouped, bucket_of
from curate.io import storage
from curate.runs.folder import RunFolder

KIND = pa.schema([("row", pa.int64()), ("text", pa.string())])


def rows_of(numbers):
    return pa.table({"row": numbers, "text": [f"t{n}" for n in numbers]}, schema=KIND)


@given(st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_every_row_comes_back_in_its_group_and_in_order(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("shuffle")
    paths, expected, first = [], {group: [] for group in range(5)}, 0
    for number, groups in enumerate(files):
        table = rows_of(list(range(first, first + len(groups))))
        path = folder / f"{number}.arrow"
        exchange.scatter(path, np.array(groups, np.int32), 5, table.take, KIND, f"s{number}")
        assert storage.stored_fingerprint(path) == f"s{number}"
        for row, group in enumerate(groups, first):
            expected[group].append(row)
        first += len(groups)
        paths.append(path)
    for group in range(5):
        assert exchange.gather(paths, group).equals(rows_of(expected[group]))


def test_one_group_at_a_time_is_taken(tmp_path):
    asked = []

    def take(positions):
        asked.append(positions.tolist())
        return rows_of(positions.tolist())

    exchange.scatter(tmp_path / "f", np.array([2, 0, 2, 0]), 4, take, KIND, "s")
    assert asked == [[1, 3], [], [0, 2], []]


def test_columns_of_vectors_survive_empty_groups(tmp_path):
    kind = pa.schema([("vector", pa.list_(pa.float16(), 3))])
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float16)), 3)
    table = pa.table([values], schema=kind)
    exchange.scatter(tmp_path / "f", np.array([1, 1]), 3, table.take, kind, "s")
    sizes = [exchange.gather([tmp_path / "f"] * 2, group).num_rows for group in range(3)]
    assert sizes == [0, 4, 0]
    assert exchange.gather([tmp_path / "f"], 1).equals(table)


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 15))
def test_buckets_by_their_laws(sizes, most):
    bucket = exchange.plan_buckets(np.array(sizes, np.int64), most)
    assert len(bucket) == len(sizes)
    steps = np.diff(bucket, prepend=0)
    assert ((steps == 0) | (steps == 1)).all()
    for number in set(bucket.tolist()):
        held = [size for size, own in zip(sizes, bucket, strict=True) if own == number]
        assert sum(held) <= most or sum(size > 0 for size in held) == 1
    for number in range(1, int(bucket.max(initial=0)) + 1):
        earlier = sum(size for size, own in zip(sizes, bucket, strict=True) if own == number - 1)
        opener = sizes[bucket.tolist().index(number)]
        assert earlier + opener > most


@pytest.mark.parametrize("n_groups", [1, 3])
def test_nothing_to_scatter(tmp_path, n_groups):
    exchange.scatter(tmp_path / "f", np.empty(0, np.int32), n_groups, rows_of([]).take, KIND, "s")
    assert [exchange.gather([tmp_path / "f"], g).num_rows for g in range(n_groups)] == [0] * n_groups


# --- the whole way: parts, buckets, parts -----------------------------------------------------------------------

WORDS = [list("abcab"), list("bbcde"), [], list("afa")]


def words_of(item, n_buckets):
    index, words = item
    table = pa.table({"word": pa.array(words, pa.string()), "part": np.full(len(words), index, np.int32),
                      "position": np.arange(len(words), dtype=np.int32)})  # fmt: skip
    return Grouped.of(bucket_of(words, n_buckets), table)


def counted(times, table):
    """Return how often the word of each row is there, `times` over; rows go back to their parts."""
    rows = pl.DataFrame(table).with_columns(count=pl.len().over("word").cast(pl.Int64) * times)
    return rows.select("part", "position", "count").to_arrow()


def refuse(*arguments):
    raise KeyboardInterrupt


def exchange_of(folder, n_buckets, workers=1, fingerprint="f"):
    parts = tuple(Part(f"p{at}", at, None, None, 0, len(words), 0, "") for at, words in enumerate(WORDS))
    context = Context(None, RunFolder(folder), LocalEngine(workers), parts)
    return Exchange(context, "read", folder / "scratch", fingerprint, n_buckets)


def spread(one):
    return one.spread(words_of, {f"p{at}": (at, words) for at, words in enumerate(WORDS)})


@pytest.mark.parametrize(("n_buckets", "workers"), [(1, 1), (3, 1), (7, 2)])
def test_rows_meet_in_a_bucket_and_go_back(tmp_path, n_buckets, workers):
    one = exchange_of(tmp_path, n_buckets, workers)
    with one.context.engine:
        rows = spread(one)
        found = one.bucket(partial(counted, 10), rows)
        sizes = one.each(len, rows)
    assert sum(sizes) == 13 and len(sizes) == n_buckets
    total = Counter(word for words in WORDS for word in words)
    for at, words in enumerate(WORDS):
        back = Exchange.back(found, at).sort("position")
        assert back["count"].to_list() == [10 * total[word] for word in words]


def test_an_interrupted_exchange_goes_on_where_it_was(tmp_path):
    one = exchange_of(tmp_path, 3)
    with pytest.raises(KeyboardInterrupt):
        one.bucket(refuse, spread(one))
    again = exchange_of(tmp_path, 3)
    rows = again.spread(refuse, {f"p{at}": None for at in range(len(WORDS))})  # nothing is spread twice
    assert again.found() is None
    found = again.bucket(partial(counted, 1), rows)
    assert again.found() == found == again.bucket(refuse, rows)
    again.keep_only(found)
    assert {path for path in again.folder.iterdir() if not path.name.startswith(".")} == set(found)


@pytest.mark.parametrize("change", [{"n_buckets": 4}, {"fingerprint": "g"}])
def test_other_rows_or_buckets_are_not_mixed(tmp_path, change):
    spread(exchange_of(tmp_path, 3))
    with pytest.raises(KeyboardInterrupt):
        exchange_of(tmp_path, **({"n_buckets": 3} | change)).spread(refuse, {"p0": None})


def test_results_carry_what_they_were_found_with(tmp_path):
    one = exchange_of(tmp_path, 2)
    rows = spread(one)
    first = one.bucket(partial(counted, 1), rows, fingerprint="once")
    second = one.bucket(partial(counted, 2), rows, fingerprint="twice")
    assert first == second
    assert Exchange.back(second, 0).sort("position")["count"].to_list() == [8, 8, 4, 8, 8]


def test_few_rows_start_no_processes(tmp_path):
    few = Context(None, RunFolder(tmp_path), LocalEngine(2, least_rows=100))
    assert not few.in_processes(2, 99) and few.in_processes(2, 100) and not few.in_processes(1, 100)
    always = Context(None, RunFolder(tmp_path), LocalEngine(2))
    assert always.in_processes(2, 0)
    assert few.in_processes(2)  # nobody knows how many rows there are
