import os
import re

import fsspec
import pytest

from curate.sources import references
from curate.sources.references import follow


@pytest.fixture
def shard(tmp_path):
    folder = tmp_path / "data"
    (folder / "img").mkdir(parents=True)
    (folder / "img" / "a.png").write_bytes(b"png")
    (folder / "img" / "empty.png").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "out.png").symlink_to(tmp_path / "secret")
    (folder / "in.png").symlink_to(folder / "img" / "a.png")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    return str(folder / "0.parquet")


@pytest.mark.parametrize(
    ("reference", "outcome", "reason"),
    [
        ("img/a.png", "ok", None),
        ("./img/a.png", "ok", None),
        ("in.png", "ok", None),
        ("img/b.png", "missing_image", "no such file"),
        ("img/empty.png", "missing_image", "empty"),
        ("img", "refused_path", "not a file"),
        ("pipe", "refused_path", "not a file"),
        ("/etc/passwd", "refused_path", "absolute"),
        ("C:\\x.png", "refused_path", "absolute"),
        ("\\\\host\\x.png", "refused_path", "absolute"),
        ("../secret", "refused_path", r"'\.\.'"),
        ("img/../img/a.png", "refused_path", r"'\.\.'"),
        ("img\\..\\..\\secret", "refused_path", r"'\.\.'"),
        ("out.png", "refused_path", "outside"),
        ("up/secret", "refused_path", "outside"),
        ("up/nothing", "refused_path", "outside"),
        ("http://127.0.0.1:9/x.png", "refused_path", "source.allow"),
        ("file:///etc/passwd", "refused_path", "source.allow"),
        ("data:image/png;base64,AAAA", "refused_path", "source.allow"),
        ("simplecache::file:///etc/passwd", "refused_path", "characters"),
        ("a\0b", "refused_path", "characters"),
    ],
)
def test_follow(shard, reference, outcome, reason):
    data, got, why = follow(reference, shard)
    assert got == outcome
    assert (data, why) == (b"png", None) if reason is None else data is None
    if reason is not None:
        assert re.search(reason, why)


@pytest.mark.parametrize(
    "reference", ["file:///etc/passwd", "memory://x/y", "s3://b/x", "data:,x", "FILE:///etc/x"]
)
def test_allowed_addresses_are_http_only(shard, reference):
    assert follow(reference, shard, allow_url=True)[1] == "refused_path"


def test_follow_beside_a_remote_shard():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pipe({"/bucket/a/1.png": b"one", "/bucket/a/deep/2.png": b"two"})
    url = "memory://bucket/a/0.parquet"
    assert follow("deep/2.png", url) == (b"two", "ok", None)
    assert follow("nope.png", url)[1] == "missing_image"
    assert follow("../x", url)[1] == "refused_path"
    assert follow("memory://bucket/a/1.png", url)[1] == "refused_path"
    assert follow("memory://bucket/a/1.png", url, allow_url=True)[0] == b"one"
    fs.store.clear()


def test_image_files_have_a_size_limit(shard, monkeypatch):
    monkeypatch.setattr(references, "MAX_IMAGE_BYTES", 2)
    assert follow("img/a.png", shard)[1] == "too_large"
