"""What the system refuses is one line, and no fault of the data: permissions, memory, threads, open files, deep nesting."""

import errno
import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
import yaml

from curate import cli
from curate.cli import sql_output
from curate.errors import ResourceError, SourceError
from curate.io import filesystem
from curate.io.yaml import read_yaml
from curate.sources import parquet
from curate.sources.base import Columns
from curate.sources.references import follow
from tests.fixtures.calls import curate
from tests.fixtures.shards import make


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/runs/x"), "/runs/x: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/a", None, "/b"), "/a -> /b: Read-only file system"),
        (OSError(errno.EMFILE, "Too many open files"), "the system: Too many open files"),
        (MemoryError(), "no memory is to be had; set fewer workers"),
        (RuntimeError("can't start new thread"), "no thread can be started; set fewer workers"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, said):
    def commands(*args, **kwargs):
        raise error

    monkeypatch.setattr(cli, "_register", lambda: None)
    monkeypatch.setattr(cli, "commands", commands)
    assert cli._run([]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "x"), RuntimeError("a bug"), KeyError("a bug")]
)
def test_an_error_of_the_program_keeps_its_traceback(monkeypatch, error):
    def commands(*args, **kwargs):
        raise error

    monkeypatch.setattr(cli, "_register", lambda: None)
    monkeypatch.setattr(cli, "commands", commands)
    with pytest.raises(type(error)):
        cli._run([])


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may read everything")
def test_a_folder_that_may_not_be_searched(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    code = (
        "import sys; from curate import cli\n"
        "for line in sys.argv[1:]: print(cli._run(line.split()), file=sys.stderr)"
    )
    where = tmp_path / "closed" / "run"
    lines = [
        f"inspect {where}",
        f"select {where} --keep 0.2",
        f"filter {where}/x.parquet --keep 0.2 --out {tmp_path}/out",
    ]
    as_another = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    command = [*(as_another if os.geteuid() == 0 else []), sys.executable, "-c", code, *lines]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (tmp_path / "closed").chmod(0o700)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == 2 * len(lines), done.stderr
    assert all("Permission denied" in line and str(where) in line for line in said[::2])
    assert set(said[1::2]) <= {"1", "2"}


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000 + "x"])
def test_a_recipe_nested_beyond_all_sense_is_not_yaml(tmp_path, text):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text[:20_000])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text[:20_000])
    said = curate("run", recipe)
    assert said.code == 2 and "is not YAML" in said.err and len(said.err) < 400


def test_want_of_resources_is_no_fault_of_a_sound_shard(tmp_path, monkeypatch):
    shard = make(tmp_path, {"caption": ["a", "b"]}, "a.parquet")
    reader = parquet.ParquetReader(Columns(caption="caption"))
    for error in (
        pa.ArrowMemoryError("malloc of size 64 failed"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("IOError: it. Detail: [errno 24] Too many open files"),
    ):

        def fail(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(parquet.pq, "ParquetFile", fail)
            with pytest.raises(
                ResourceError, match=r"a\.parquet: not read, for want of resources: "
            ) as caught:
                reader.count(shard)
            assert not isinstance(caught.value, SourceError), "a stage counts no bad shard"
    assert reader.count(shard) == 2
    with pytest.raises(ResourceError, match="Too many open files"), filesystem.explained("it", None):
        raise OSError(errno.EMFILE, "Too many open files")


def test_want_of_resources_is_no_fault_of_an_image(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"png")

    def fail(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(ResourceError, match=r"the image 'a\.png': not read, for want of resources"):
            follow("a.png", str(tmp_path / "0.parquet"))
    assert follow("a.png", str(tmp_path / "0.parquet"))[1] == "ok"


def printed(call):
    out = io.StringIO()
    with redirect_stdout(out):
        call()
    return out.getvalue()


def test_no_answer_holds_what_a_terminal_obeys():
    evil = "\x1b]0;title\x07 \x9b31m \u202ereversed \x7f"
    frame = pl.DataFrame({"caption": [evil, "two\nlines\tand a tab"], f"name {evil}": [1, 2]})
    for form in (sql_output._csv, sql_output._json):
        text = printed(lambda form=form: form(iter([frame])))
        assert not set(text) & set("\x1b\x07\x9b\u202e\x7f")
        assert "reversed" in text and "title" in text
    assert '"two\nlines\tand a tab",2\n' in printed(lambda: sql_output._csv(iter([frame])))


def test_formulas_are_texts_where_that_is_asked():
    texts = ["=1+1", " =2", "+3", "-4", "@five", "\t=6", "\uff1d7", "eight=8", "", "a-9", None]
    frame = pl.DataFrame({"text": texts, "number": [-1.0] * len(texts)})
    plain = pl.read_csv(printed(lambda: sql_output._csv(iter([frame]))).encode())
    assert plain["text"].to_list()[:7] == texts[:7]
    safe = pl.read_csv(printed(lambda: sql_output._csv(iter([frame]), formulas=False)).encode())
    assert safe["text"].to_list()[:7] == [f"'{text}" for text in texts[:7]]
    assert safe["text"].to_list()[7:] == plain["text"].to_list()[7:]
    assert safe["number"].to_list() == [-1.0] * len(texts)
