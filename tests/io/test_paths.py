import http.server
import itertools
import os
import threading
from pathlib import Path

import fsspec
import pytest

from curate.errors import RecipeError, SourceError, UsageError
from curate.io import retries
from curate.io.filesystem import open_binary, resolve_options, version_of
from curate.io.found import counting
from curate.io.names import original, printable
from curate.io.paths import expand, expand_braces, fingerprint, split_of


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "a/0.parquet",
        "a/1.parquet",
        "a/deep/er/2.parquet",
        "a/.hidden/3.parquet",
        "a/_tmp/4.parquet",
        "a/.5.parquet",
        "a/_SUCCESS",
        "a/notes.txt",
        "b/0.parquet",
        "n/x-008.parquet",
        "n/x-009.parquet",
        "n/x-010.parquet",
        "odd/[1].parquet",
        "odd/{x}.parquet",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    for name in (
        "a/0.parquet",
        "a/1.parquet",
        "a/deep/2.parquet",
        "a/_tmp/3.parquet",
        "a/.4.parquet",
        "a/x.txt",
    ):
        fs.pipe(f"/bucket/{name}", name.encode())
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def names(patterns, *arguments, **keywords):
    return [file.name for file in expand(patterns, *arguments, **keywords)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.parquet", ["a.parquet"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{3..3}", ["3"]),
        ("{a,}b", ["ab", "b"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{x}{}y", ["{x}{}y"]),
        ("{a..c}", ["{a..c}"]),
    ],
)
def test_expand_braces(pattern, expected):
    assert expand_braces(pattern) == expected


def test_long_range_keeps_width():
    assert expand_braces("s3://b/{00000..00999}.tar")[999] == "s3://b/00999.tar"


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..9999}", "{0..9..0}"])
def test_braces_that_stand_for_too_much(pattern):
    with pytest.raises(UsageError):
        expand_braces(pattern)


def test_folder_takes_matching_files_below_and_no_hidden_ones(tree):
    assert (
        names("a") == names("a/") == names(str(tree / "a")) == ["0.parquet", "1.parquet", "deep/er/2.parquet"]
    )
    assert names("a", extensions=(".txt",)) == ["notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/0.parquet", ["0.parquet"]),
        ("a/*.parquet", ["0.parquet", "1.parquet"]),
        ("a/**/*.parquet", ["0.parquet", "1.parquet", "deep/er/2.parquet"]),
        ("a/_tmp/**", ["4.parquet"]),
        ("a/_*/*", ["_tmp/4.parquet"]),
        ("*/0.parquet", ["a/0.parquet", "b/0.parquet"]),
        ("n/x-{008..010}.parquet", ["x-008.parquet", "x-009.parquet", "x-010.parquet"]),
        ("{a,b}/0.parquet", ["a/0.parquet", "b/0.parquet"]),
        ("a/0.parquet::b", ["a/0.parquet", "b/0.parquet"]),
        (["b", "a/0.parquet", "b/*"], ["a/0.parquet", "b/0.parquet"]),
        ("a/*.{parquet,pq}", ["0.parquet", "1.parquet"]),
        ("[ab]", ["a/0.parquet", "a/1.parquet", "a/deep/er/2.parquet", "b/0.parquet"]),
        ("odd/[1].parquet", ["[1].parquet"]),
        ("odd/{x}.parquet", ["{x}.parquet"]),
        ("./b/../a/0.parquet", ["0.parquet"]),
    ],
)
def test_local_patterns(tree, pattern, expected):
    assert names(pattern) == sorted(expected)


def test_names_are_sorted_bytewise_and_urls_open(tree):
    for name in ("Z", "a", "é", "_", "10", "9"):
        (tree / "b" / f"{name}.pq").write_bytes(b"x")
    found = expand("b/*.pq")
    assert [file.name for file in found] == ["10.pq", "9.pq", "Z.pq", "_.pq", "a.pq", "é.pq"]
    with open_binary(found[0].url) as file:
        assert file.read() == b"x"
    assert expand(f"file://{tree}/b")[0].url == str(tree / "b" / "0.parquet")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nope", "nope: no such file or folder"),
        ("nope/*.parquet", r"nope/\*\.parquet: matches nothing"),
        ("n/y-{000..003}.parquet", r"y-\{000\.\.003\}\.parquet: matches nothing"),
        ("", "must not be empty"),
        ("a::", "must not be empty"),
    ],
)
def test_nothing_matches(tree, pattern, message):
    with pytest.raises(UsageError, match=message):
        expand(pattern)


def test_folder_without_shards_says_what_it_holds(tree):
    (tree / "pics").mkdir()
    with pytest.raises(UsageError, match=r"pics: no \.parquet file below this folder; it holds no files"):
        expand("pics")
    for name in ("a.JPG", "b.jpg", "c.txt", "LICENSE"):
        (tree / "pics" / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"it holds 1 \(no extension\), 2 \.jpg, 1 \.txt"):
        expand("pics")


def test_range_with_a_hole(tree):
    with pytest.raises(
        SourceError,
        match=r"3 of 6 do not exist: n/x-006.parquet, n/x-007.parquet, n/x-011.parquet; bring them, or name what "
        r"is there with a wildcard: n/x-\*\.parquet$",
    ):
        expand("n/x-{006..011}.parquet")
    with pytest.raises(SourceError, match=r"1 of 2 do not exist: c/0\.parquet"):
        expand("{a,c}/0.parquet")
    with pytest.raises(SourceError, match="do not exist: d1"):
        (tree / "d0").mkdir()
        (tree / "d0" / "x.parquet").write_bytes(b"")
        expand("d{0..1}/*.parquet")


def test_symlinks_are_files_and_loops_end(tree):
    (tree / "b" / "link.parquet").symlink_to(tree / "a" / "1.parquet")
    (tree / "b" / "loop").symlink_to(tree / "b", target_is_directory=True)
    assert names("b") == ["0.parquet", "link.parquet"]


def test_name_that_is_not_utf8(tree):
    (tree / "b" / os.fsdecode(b"\xff.parquet")).write_bytes(b"")
    (tree / "b" / r"\xff.parquet").write_bytes(b"")  # the same letters, but another name
    assert names("b") == ["0.parquet", r"\\xff.parquet", r"\xff.parquet"]
    assert [os.fsencode(Path(file.url).name) for file in expand("b")][1:] == [
        b"\\xff.parquet",
        b"\xff.parquet",
    ]


def test_escaped_names_can_be_undone():
    """The law of `printable`: another name is another text, and `original` gives it back."""
    alphabet = ["\\", "x", "8", "f", "\udc83", "\udcff", "é", "/"]
    every = ["".join(one) for n in range(6) for one in itertools.product(alphabet, repeat=n)]
    written = [printable(name) for name in every]
    assert len(set(written)) == len(every)
    assert [original(name) for name in written] == every
    assert all(name.isascii() or name.encode() for name in written)


@pytest.mark.parametrize("name", ["s {1,2}", "s {0..3}", "a::b", "s [1]", "{x}", "a*", "{1,2}::{3,4} [5]"])
@pytest.mark.parametrize("shape", ["{}", "{}/0.parquet", "{}/*.parquet", "{}/{{0..1}}.parquet", "{}/**"])
def test_a_name_that_exists_is_no_pattern(tree, name, shape):
    for number in "01":
        path = tree / name / f"{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    wanted = ["0.parquet"] if shape.endswith("/0.parquet") else ["0.parquet", "1.parquet"]
    for text in (shape.format(name), str(tree / shape.format(name))):
        assert [file.name for file in expand(text)] == wanted, text
        assert {Path(file.url).parent.name for file in expand(text)} == {name}


def test_a_file_that_exists_is_no_pattern(tree):
    for name in ("f{1,2}.parquet", "f{0..1}.parquet", "f::g.parquet"):
        (tree / name).write_bytes(b"")
        assert names(name) == [name]
    (tree / "f0.parquet").write_bytes(b"")
    assert names("f{0..0}.parquet") == ["f0.parquet"]
    assert names("f{1,2}.parquet::f0.parquet") == ["f0.parquet", "f{1,2}.parquet"]


def test_version_and_fingerprint_of_a_local_file(tree):
    (file,) = expand("a/0.parquet")
    assert version_of(file.url) == file.version == f"11-{Path(file.url).stat().st_mtime_ns}"
    before = fingerprint(file)
    os.utime(file.url, ns=(1, 1))
    assert version_of(file.url) != file.version
    assert fingerprint(file) == before and len(before) == 32
    (tree / "a" / "0.parquet").write_bytes(b"a/0.parqueT")
    assert fingerprint(file) != before
    (tree / "a" / "0.parquet").unlink()
    with pytest.raises(SourceError, match="no longer there"):
        version_of(file.url)
    with pytest.raises(SourceError, match="no such file"):
        open_binary(file.url)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("memory://bucket/a", ["0.parquet", "1.parquet", "deep/2.parquet"]),
        ("memory://bucket/a/*.parquet", ["0.parquet", "1.parquet"]),
        ("memory://bucket/a/**/2.parquet", ["deep/2.parquet"]),
        ("memory://bucket/a/{0..1}.parquet", ["0.parquet", "1.parquet"]),
        ("memory://bucket/a/0.parquet::memory://bucket/a/deep", ["0.parquet", "deep/2.parquet"]),
    ],
)
def test_memory_patterns(memory, pattern, expected):
    found = expand(pattern)
    assert [file.name for file in found] == expected
    for file in found:
        assert version_of(file.url) == file.version
        with open_binary(file.url) as handle:
            assert len(handle.read()) == file.size


def test_memory_errors(memory):
    with pytest.raises(UsageError, match="memory://bucket/b: no such file or folder"):
        expand("memory://bucket/b")
    with pytest.raises(UsageError, match=r"it holds 3 \.parquet, 1 \.txt"):
        expand("memory://bucket/a", extensions=(".tar",))
    with pytest.raises(SourceError, match=r"6 of 8 do not exist: memory://bucket/a/2\.parquet"):
        expand("memory://bucket/a/{0..7}.parquet")
    (file,) = expand("memory://bucket/a/0.parquet")
    before = fingerprint(file)
    memory.pipe("/bucket/a/0.parquet", b"something else")
    assert version_of(file.url) != file.version
    assert fingerprint(expand("memory://bucket/a/0.parquet")[0]) != before


def test_local_and_remote_together(tree, memory):
    found = expand(["memory://bucket/a/0.parquet", str(tree / "b")])
    assert found[0].name == "memory/bucket/a/0.parquet"
    assert len({file.name for file in found}) == 2


def test_unknown_file_systems(tree):
    with pytest.raises(UsageError, match="Protocol not known: nope"):
        expand("nope://x/y")


def test_options_take_variables_and_never_show_them(tree, monkeypatch):
    monkeypatch.setenv("CURATE_TEST_KEY", "very-secret-value")
    options = {"key": "${CURATE_TEST_KEY}", "client": {"list": ["x${CURATE_TEST_KEY}"]}, "anon": False}
    resolved = resolve_options(options)
    assert resolved == {"key": "very-secret-value", "client": {"list": ["xvery-secret-value"]}, "anon": False}

    class Leaky(fsspec.AbstractFileSystem):
        protocol = "leaky"

        def info(self, path, **_):
            raise RuntimeError(f"denied for {self.storage_options['key']}")

    fsspec.register_implementation("leaky", Leaky, clobber=True)
    with pytest.raises(SourceError) as caught:
        expand("leaky://x/y", options)
    assert "very-secret-value" not in str(caught.value) and "denied for ***" in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    monkeypatch.delenv("CURATE_TEST_KEY")
    with pytest.raises(RecipeError, match="CURATE_TEST_KEY is not set"):
        expand("leaky://x/y", options)


@pytest.mark.parametrize(
    ("name", "url", "split"),
    [
        ("train-00000-of-00006.parquet", None, "train"),
        ("deep/validation-00001-of-00002-0a1b.parquet", None, "validation"),
        ("my-data-test-00000-of-00001.parquet", None, "test"),
        ("part-00000-of-00010.parquet", None, "train"),
        ("fold.1-00000-of-00010.parquet", None, "fold.1"),
        ("val/x.parquet", None, "val"),
        ("train/a/test/x.parquet", None, "test"),
        ("test.parquet", None, "test"),
        ("x.parquet", "/data/validation/x.parquet", "validation"),
        ("y/x.parquet", "/test/y/x.parquet", "train"),
        ("contest/x.parquet", None, "train"),
    ],
)
def test_split_of(name, url, split):
    assert split_of(name, url) == split


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tree, monkeypatch):
    """But for the one that a file system keeps for itself."""
    listed = os.scandir
    (tree / "a" / "lost+found").mkdir()
    refused = [tree / "a" / "lost+found"]

    def scandir(path):
        if Path(path) in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with counting() as counted:
        assert names("a") == ["0.parquet", "1.parquet", "deep/er/2.parquet"]
    assert "lost+found/ (of the file system)" in str(counted)
    for folder in ("a", "a/deep/er"):
        refused.append(tree / folder)
        with pytest.raises(SourceError, match="a: cannot be read: Permission denied"):
            expand("a")


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers /403 with 403, and so on."""

    def do_HEAD(self):
        self.send_response(int(self.path[1:4]))
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *arguments):
        pass


def test_an_address_that_cannot_be_read_says_why(monkeypatch):
    """fsspec says of all that there is no such file."""
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(UsageError, match=r"/404\.parquet: no such file or folder$"):
            expand(f"{base}/404.parquet")
        with pytest.raises(SourceError, match=r"/403\.parquet: cannot be read: 403, message='Forbidden'"):
            expand(f"{base}/403.parquet")
        [found] = expand(f"{base}/200.parquet?download=true")  # in an address this is no wildcard
        assert version_of(found.url) == found.version
        server.shutdown()
    with pytest.raises(SourceError, match=r"/404\.parquet: cannot be read: .*tried 2 times"):
        expand(f"{base}/404.parquet")
