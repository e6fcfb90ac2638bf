import errno
import os
import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from curate.errors import RunError
from curate.io import storage

KIND = pa.schema([("uid", pa.string()), ("x", pa.int32())])


def table(n=3):
    return pa.table({"uid": [str(i) for i in range(n)], "x": pa.array(range(n), pa.int32())}, schema=KIND)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_atomic_makes_folders_and_replaces_whole(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    for text in ("first", "second"):
        with storage.atomic(target) as partial:
            assert partial.parent == target.parent and partial.name.startswith(".file.txt.partial-")
            partial.write_text(text)
        assert target.read_text() == text
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), GeneratorExit()])
def test_atomic_leaves_nothing_when_it_fails(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("before")
    with pytest.raises(type(error)), storage.atomic(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "before" and names(tmp_path) == ["file.txt"]
    with (
        pytest.raises(RunError, match=r"cannot write .*other: No such file"),
        storage.atomic(tmp_path / "other"),
    ):
        pass  # nothing was written
    assert names(tmp_path) == ["file.txt"]


def test_tables_leave_nothing_when_their_rows_fail(tmp_path):
    def rows():
        yield table()
        raise ValueError("row 4")

    with pytest.raises(ValueError, match="row 4"):
        storage.write_parquet(tmp_path / "t.parquet", rows(), KIND, "s")
    with pytest.raises(ValueError, match="row 4"):
        storage.write_ipc(
            tmp_path / "t.arrow", (batch for t in rows() for batch in t.to_batches()), KIND, "s"
        )
    assert names(tmp_path) == []


def test_atomic_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    target = tmp_path / "out"
    with storage.atomic_folder(target) as partial:
        (partial / "old.txt").write_text("old")
    with pytest.raises(ValueError, match="stop"), storage.atomic_folder(target) as partial:
        (partial / "new.txt").write_text("new")
        raise ValueError("stop")
    assert names(target) == ["old.txt"] and names(tmp_path) == ["out"]
    with storage.atomic_folder(target) as partial:
        (partial / "new.txt").write_text("new")
        assert names(target) == ["old.txt"]
    assert names(target) == ["new.txt"] and names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run again"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EACCES, "no permission to write here"),
        (errno.EROFS, "the disk is read-only; choose another folder with --out"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_the_system_says_names_the_path(tmp_path, monkeypatch, code, said, step):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    target = tmp_path / "part.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
        for write in (
            lambda: storage.write_parquet(target, table(), KIND, "s"),
            lambda: storage.write_json(target, {}),
        ):
            with pytest.raises(RunError, match=f"cannot write .*part.parquet: {said}") as caught:
                write()
            assert isinstance(caught.value.__cause__, OSError)
    assert names(tmp_path) == []


def test_a_full_disk(tmp_path, monkeypatch):
    """A device that is always full, through the real writers."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    real = Path.with_name

    def with_name(self, name):
        if storage.PARTIAL not in name:
            return real(self, name)
        partial = real(self, name)
        partial.symlink_to("/dev/full")
        return partial

    monkeypatch.setattr(Path, "with_name", with_name)
    for write in (
        lambda: storage.write_parquet(tmp_path / "p.parquet", table(), KIND, "s"),
        lambda: storage.write_ipc(tmp_path / "p.arrow", table().to_batches(), KIND, "s"),
        lambda: storage.write_json(tmp_path / "p.json", {}),
    ):
        with pytest.raises(RunError, match=r"cannot write .*/p\.\w+: the disk is full"):
            write()
    assert names(tmp_path) == []


def test_errors_about_other_files_name_them_too(tmp_path):
    source = tmp_path / "in" / "gone.bin"
    with (
        pytest.raises(RunError, match=rf"cannot write .*out\.bin: No such file or directory \({source}\)"),
        storage.atomic(tmp_path / "out" / "out.bin") as partial,
    ):
        shutil.copyfile(source, partial)


def test_fingerprints_are_read_back_and_torn_files_have_none(tmp_path):
    parquet, arrow = tmp_path / "t.parquet", tmp_path / "t.arrow"
    storage.write_parquet(parquet, table(50), KIND, "stamp-1")
    storage.write_ipc(arrow, table(50).to_batches(), KIND, "stamp-2")
    assert storage.stored_fingerprint(parquet) == "stamp-1"
    assert storage.stored_fingerprint(arrow) == "stamp-2"
    for path in (parquet, arrow):
        whole = path.read_bytes()
        for size in sorted({0, 1, 4, 8, 12, 100, *range(len(whole) - 12, len(whole)), len(whole) // 2}):
            path.write_bytes(whole[:size])
            assert storage.stored_fingerprint(path) is None, (path.suffix, size)
        path.write_bytes(bytes(len(whole)))
        assert storage.stored_fingerprint(path) is None
        path.unlink()
        assert storage.stored_fingerprint(path) is None
    storage.write_parquet(parquet, table(), KIND, "")
    assert storage.stored_fingerprint(parquet) is None


def test_torn_tables_are_an_error_that_names_them(tmp_path):
    path = tmp_path / "t.parquet"
    for content in (None, b"", b"PAR1"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RunError, match=r"t\.parquet: not a whole Parquet table"):
            storage.read_table(path)
        with pytest.raises(RunError, match=r"t\.parquet: not a whole Arrow file"):
            storage.map_ipc(path)


def test_columns_come_in_the_order_asked_for_and_one_that_is_not_there_is_an_error(tmp_path):
    table = pa.table({"a": [1, 2], "b": [{"c": 3}, None], "a.b": ["x", "y"]})
    storage.write_parquet(tmp_path / "t", table, table.schema, "f")
    assert storage.read_table(tmp_path / "t", ["a.b", "b"]).equals(table.select(["a.b", "b"]))
    for wrong in ("c", "b.c"):
        with pytest.raises(RunError, match="not a whole Parquet table"):
            storage.read_table(tmp_path / "t", [wrong])


def test_bytes_do_not_depend_on_how_the_rows_came(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROW_GROUP", 8)
    whole = table(37)
    for name, step in (("a", 37), ("b", 1), ("c", 5), ("d", 8)):
        pieces = (whole.slice(start, step) for start in range(0, 37, step))
        storage.write_parquet(tmp_path / name, pieces, KIND, "s")
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1
    assert storage.read_table(tmp_path / "a").equals(whole)
    storage.write_parquet(tmp_path / "none", [], KIND, "s")
    assert storage.read_table(tmp_path / "none").num_rows == 0


def test_tables_of_other_columns_are_refused(tmp_path):
    with pytest.raises(RunError, match="column 'x' must be int32, found int64"):
        storage.write_parquet(tmp_path / "t", pa.table({"uid": ["a"], "x": [1]}), KIND, "s")
    assert names(tmp_path) == []


def test_json_that_is_torn_is_nothing(tmp_path):
    path = tmp_path / "x.json"
    assert storage.read_json(path) is None
    for content in (b"", b'{"a": 1', b"\xff\xfe"):
        path.write_bytes(content)
        assert storage.read_json(path) is None
    storage.write_json(path, {"ü": [1]})
    assert storage.read_json(path) == {"ü": [1]} and "ü" in path.read_text(encoding="utf-8")


def test_partials_are_cleared_and_nothing_else(tmp_path):
    (tmp_path / "deep" / ".out.partial-12").mkdir(parents=True)
    (tmp_path / "deep" / ".out.partial-12" / ".in.partial-34").write_text("x")
    (tmp_path / ".a.partial-56").write_text("x")
    for name in ("a.partial-1", ".hidden", "part-1.parquet"):
        (tmp_path / "deep" / name).write_text("x")
    storage.clear_partials(tmp_path)
    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep") == [".hidden", "a.partial-1", "part-1.parquet"]


def test_fingerprints_tell_values_apart():
    values = [(), ("a",), ("a", "b"), (["a", "b"],), ("ab",), (1,), ("1",), (None,), ({"a": 1},), ({"a": 2},)]
    assert len({storage.fingerprint(*value) for value in values}) == len(values)
    assert storage.fingerprint({"a": 1, "b": 2}) == storage.fingerprint({"b": 2, "a": 1})


def held(frame):
    """Return the bytes of the buffers that a column of texts refers to."""
    newest = pl.CompatLevel.newest()
    return frame["uid"].rechunk().to_arrow(compat_level=newest).get_total_buffer_size()


def test_compact_rows_are_the_same_and_let_go_of_the_texts_they_were_among():
    whole = pl.DataFrame(
        {
            "uid": [f"a text that is not short, {row}" for row in range(10_000)],
            "n": range(10_000),
            "bytes": [None, b"x" * 40] * 5_000,
            "list": [["a"], None] * 5_000,
        }
    )
    some = whole.filter(pl.col("n") % 5_000 == 1)
    alone = storage.compact(some)
    assert alone.equals(some) and alone.schema == some.schema
    assert held(alone) < 10_000 < held(some) // 10
    for odd in (
        whole.clear(),
        pl.concat([some, some]),
        pl.DataFrame(),
        pl.DataFrame({"a": [None]}, {"a": pl.String}),
    ):
        assert storage.compact(odd).equals(odd) and storage.compact(odd).schema == odd.schema
