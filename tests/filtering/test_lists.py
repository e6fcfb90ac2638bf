"""Lists of uids: what a file may be, and which uids are in it."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SourceError, UsageError
from curate.filtering import uid_lists
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import recipe_values


def read(path):
    return [uid for block in uid_lists.read_uids(path) for uid in block]


def recipe(glob="in/*.parquet", out="run", **changes):
    return parse_recipe(recipe_values(glob, out, **changes))


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("a.txt", "x\ny z\r\n\n  w  \n", ["x", "y z", "w"]),
        ("a.txt", "\ufeffx\nü", ["x", "ü"]),
        ("a.txt", "", []),
        ("a.csv", "uid,n\n007,1\nx,2\n", ["007", "x"]),
        ("a.csv", "n,uid\n1,NULL\n2,\n3,1e5\n", ["NULL", "1e5"]),
        ("a.csv", "key\n1\n2\n", ["1", "2"]),
        ("a.csv", "uid\n", []),
        ("a.jsonl", '{"uid": "a", "n": 1}\n\n{"uid": 7}\n{"key": "b"}\n"c"\n8\n', ["a", "7", "b", "c", "8"]),
        ("a.jsonl", "", []),
    ],
)
def test_text_files(tmp_path, name, text, want):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read(tmp_path / name) == want


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet(tmp_path, kind):
    given = [b"a", b"b"] if kind == pa.binary() else ["a", "b"]
    pq.write_table(pa.table({"uid": pa.array(given, kind), "n": [1, 2]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["a", "b"]


def test_parquet_of_whole_numbers_and_one_column(tmp_path):
    pq.write_table(pa.table({"key": pa.array([2**63, 5], pa.uint64())}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [str(2**63), "5"]


def test_long_lists_come_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(uid_lists, "_BLOCK", 3)
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(7)))
    assert [len(block) for block in uid_lists.read_uids(tmp_path / "a.txt")] == [3, 3, 1]
    array = np.array([(i, i + 1) for i in range(7)], "u8,u8")
    np.save(tmp_path / "a.npy", array)
    assert read(tmp_path / "a.npy") == [f"{i:016x}{i + 1:016x}" for i in range(7)]


@given(st.lists(st.integers(0, 2**128 - 1), max_size=9), st.sampled_from(["u8,u8", ">u8,>u8"]))
@settings(max_examples=25, deadline=None)
def test_datacomp_files_hold_the_halves_of_hexadecimal_uids(tmp_path_factory, numbers, kind):
    """As DataComp writes them: int(uid[:16], 16), int(uid[16:32], 16)."""
    uids = [f"{number:032x}" for number in numbers]
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], kind))
    assert read(path) == uids


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.csv", b"a,b\n1,2\n", UsageError, "pin: .*a.csv: no column 'uid'; there are a, b"),
        ("a.jsonl", b'{"a": 1, "b": 2}\n', UsageError, "no column 'uid'; there are a, b"),
        ("a.jsonl", b'{"uid": 1.5}\n', UsageError, r"a uid must be text or a whole number, got 1\.5"),
        ("a.jsonl", b'{"uid": \n', SourceError, r"a.jsonl: cannot be read as \.jsonl: Expecting value"),
        ("a.txt", b"\xff\xfe", SourceError, r"a.txt: cannot be read as \.txt: .*utf-8"),
        ("a.parquet", b"text", UsageError, "pin: .*a.parquet: .*"),
        ("a.npy", b"text", SourceError, r"a.npy: cannot be read as \.npy"),
        ("a.npz", b"text", UsageError, "pin: .*a.npz must end in .txt, .parquet, .csv, .jsonl, .npy"),
        ("a", b"x\n", UsageError, "must end in .txt"),
        ("a.txt.gz", gzip.compress(b"x", mtime=0), UsageError, "must end in .txt"),
    ],
)
def test_files_that_are_no_lists(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        uid_lists.check_recipe(recipe(pin=str(tmp_path / name)))


def test_tables_without_uids(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"exclude: .*no column 'uid'; there are a, b"):
        uid_lists.check_recipe(recipe(exclude=str(tmp_path / "a.parquet")))
    pq.write_table(pa.table({"uid": [1.5]}), tmp_path / "f.parquet")
    with pytest.raises(UsageError, match="column 'uid' must hold text or whole numbers, it is double"):
        read(tmp_path / "f.parquet")


def test_arrays_that_are_no_uids(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(
        UsageError, match=r"pin: .*a.npy: must be one row of 'u8,u8' \(DataComp\), it is float64 \(3,\)"
    ):
        uid_lists.check_recipe(recipe(pin=str(tmp_path / "a.npy")))
    np.save(tmp_path / "o.npy", np.array([{"x": 1}], object), allow_pickle=True)
    with pytest.raises(SourceError, match=r"o.npy: cannot be read as \.npy: .*Python objects"):
        read(tmp_path / "o.npy")


def test_patterns(tmp_path):
    with pytest.raises(UsageError, match=r"exclude: .*nothing.txt: no such file"):
        uid_lists.check_recipe(recipe(exclude=str(tmp_path / "nothing.txt")))
    for name in ("a.txt", "b.csv"):
        (tmp_path / name).write_text("uid\nx\n")
    known = recipe(exclude=[str(tmp_path / "*.txt"), str(tmp_path / "b.csv")])
    uid_lists.check_recipe(known)
    before = uid_lists.version(known)
    assert [len(files) for files in before] == [0, 2]
    (tmp_path / "b.csv").write_text("uid\ny\n")
    assert uid_lists.version(known) != before


@given(st.sets(st.text(min_size=1, max_size=6), max_size=40), st.lists(st.text(max_size=6), max_size=40))
@settings(max_examples=40, deadline=None)
def test_membership_is_that_of_a_set(tmp_path_factory, known, wanted):
    wanted += sorted(known)[:5]
    path = None
    if known:
        path = tmp_path_factory.mktemp("known") / "k.npy"
        np.save(path, np.unique(uid_lists.hashes(known)))
    assert uid_lists.listed(path, wanted).tolist() == [uid in known for uid in wanted]
