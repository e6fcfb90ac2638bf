"""Lists of uids: what a file may be, and what its uids are to a run."""

import gzip
import logging

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import planted, recipe_values, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import RunError, SourceError, UsageError
from curate.filtering import uid_lists
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe

N = 40
UIDS = [f"s{i:06d}" for i in range(N)]


def read(path):
    return [uid for block in uid_lists.read_uids(path) for uid in block]


def recipe(glob="in/*.parquet", out="run", **changes):
    return parse_recipe(recipe_values(glob, out, **changes))


def filtered(values):
    runner.run(values, until="filter")
    return pl.read_parquet(f"{values.run}/3_scores/filter/part-*").sort("uid")


@pytest.fixture(scope="module")
def glob(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("in"), planted(N), shards=3)


# --- files ----------------------------------------------------------------------------------------------------


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


def test_a_bad_list_stops_before_any_work(glob, tmp_path):
    with pytest.raises(UsageError, match="pin: "):
        runner.run(recipe(glob, tmp_path / "run", pin=str(tmp_path / "nothing.txt")))
    assert not (tmp_path / "run").exists()


# --- what uids are to a run -------------------------------------------------------------------------------------


@given(st.sets(st.text(min_size=1, max_size=6), max_size=40), st.lists(st.text(max_size=6), max_size=40))
@settings(max_examples=40, deadline=None)
def test_membership_is_that_of_a_set(tmp_path_factory, known, wanted):
    wanted += sorted(known)[:5]
    path = None
    if known:
        path = tmp_path_factory.mktemp("known") / "k.npy"
        np.save(path, np.unique(uid_lists.hashes(known)))
    assert uid_lists.listed(path, wanted).tolist() == [uid in known for uid in wanted]


def test_lists_of_all_kinds_say_the_same(glob, tmp_path):
    some = [UIDS[i] for i in (1, 5, 39)]
    (tmp_path / "a.txt").write_text("\n".join(some))
    (tmp_path / "a.csv").write_text("n,uid\n" + "".join(f"1,{uid}\n" for uid in some))
    (tmp_path / "a.jsonl").write_text("".join(f'{{"uid": "{uid}"}}\n' for uid in some))
    pq.write_table(pa.table({"uid": some}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.csv", "a.jsonl", "a.parquet"):
        pinned = filtered(recipe(glob, tmp_path / "pin", pin=str(tmp_path / name)))
        assert pinned.filter("pinned")["uid"].to_list() == some
        out = filtered(recipe(glob, tmp_path / "out", exclude=str(tmp_path / name)))
        assert out.filter(pl.col("filter_reason") == "excluded")["uid"].to_list() == some
        assert out["filter_reason"].null_count() == N - 3


def test_uids_that_are_not_there_are_told(glob, tmp_path, caplog):
    (tmp_path / "a.txt").write_text("zz\ns000001\nyy\nxx\nww\nyy\n")
    for setting in ("pin", "exclude"):
        caplog.clear()
        filtered(recipe(glob, tmp_path / setting, **{setting: str(tmp_path / "a.txt")}))
        told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert f"{setting}: 4 of 5 uids are not in the run, such as ww, xx, yy" in told


def test_an_empty_list_and_one_that_fits_nobody(glob, tmp_path, caplog):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("x\n")
    found = filtered(
        recipe(glob, tmp_path / "run", pin=str(tmp_path / "a.txt"), exclude=str(tmp_path / "b.txt"))
    )
    assert found.select("filter_reason", "pinned").unique().rows() == [(None, False)]
    assert "exclude: 1 of 1 uids are not in the run, such as x" in caplog.text


def test_a_uid_on_both_lists(glob, tmp_path):
    (tmp_path / "a.txt").write_text("s000004\ns000003\nx\n")
    (tmp_path / "b.csv").write_text("uid\nx\ns000003\ns000009\n")
    values = recipe(glob, tmp_path / "run", pin=str(tmp_path / "a.txt"), exclude=str(tmp_path / "b.csv"))
    with pytest.raises(
        UsageError, match=r"pin and exclude: 2 uids are on both lists .*, such as s000003; take them"
    ):
        runner.run(values)
    assert not (tmp_path / "run").exists()


def test_unusable_samples_and_copies(tmp_path, caplog):
    """A pinned copy pins the sample that stands for it; one that cannot be read cannot be kept."""
    rows = planted(N, copies=2)
    rows[7] = np.nan
    glob = write_shards(tmp_path / "in", rows)
    plain = recipe(glob, tmp_path / "plain")
    runner.run(plain, until="embed")
    samples = pl.read_parquet(f"{plain.run}/0_samples/part-*")
    copy, original = (
        samples.filter(pl.col("copy_of").is_not_null()).select("uid", "copy_of").sort("uid").row(0)
    )
    (tmp_path / "pin.txt").write_text(f"{copy}\ns000007\n")
    found = filtered(recipe(glob, tmp_path / "run", pin=str(tmp_path / "pin.txt")))
    assert found.filter("pinned")["uid"].to_list() == [original]
    assert "pin: 1 samples are unusable and cannot be kept, such as s000007" in caplog.text
    (tmp_path / "out.txt").write_text(f"{original}\n")
    both = recipe(glob, tmp_path / "run", pin=str(tmp_path / "pin.txt"), exclude=str(tmp_path / "out.txt"))
    with pytest.raises(UsageError, match=f"1 uids are on both lists .or copies of such., such as {original}"):
        filtered(both)


def test_another_content_is_judged_anew(glob, tmp_path):
    (tmp_path / "a.txt").write_text("s000001\n")
    values = recipe(glob, tmp_path / "run", pin=str(tmp_path / "a.txt"))
    filtered(values)
    assert runner.run(values, until="filter").worked == ()
    (tmp_path / "a.txt").write_text("s000002\n")
    assert filtered(values).filter("pinned")["uid"].to_list() == ["s000002"]


def test_a_list_that_does_not_fit(glob, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("s000001\ns000002\n")
    monkeypatch.setattr(uid_lists, "_ROW_BYTES", 10**9)
    with pytest.raises(
        RunError, match=r"pin: a list needs 2.0 GB for 2 samples; memory 2GB fits 1: raise memory"
    ):
        filtered(recipe(glob, tmp_path / "run", pin=str(tmp_path / "a.txt")))
