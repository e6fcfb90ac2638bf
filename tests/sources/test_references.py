import os
import re

import fsspec
import pytest

from curate.errors import RecipeError
from curate.recipe.loading import parse_recipe
from curate.sources import references
from curate.sources.access import PathAccess
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


ROOT_CASES = [
    # reference, then the outcome by default, with roots, with links, with outside
    ("pool/b.png", "missing_image", "ok", "missing_image", "missing_image"),
    ("b.png", "missing_image", "ok", "missing_image", "missing_image"),
    ("img/a.png", "ok", "ok", "ok", "ok"),
    ("{tmp}/elsewhere/pool/b.png", "refused_path", "ok", "refused_path", "ok"),
    ("file://{tmp}/elsewhere/pool/b.png", "refused_path", "ok", "refused_path", "ok"),
    ("{tmp}/elsewhere/../secret", "refused_path", "refused_path", "refused_path", "ok"),
    ("{tmp}/elsewhere-not/x.png", "refused_path", "refused_path", "refused_path", "missing_image"),
    ("{tmp}/secret", "refused_path", "refused_path", "refused_path", "ok"),
    ("pool/../pool/b.png", "refused_path", "ok", "refused_path", "missing_image"),
    ("../secret", "refused_path", "refused_path", "refused_path", "ok"),
    ("out.png", "refused_path", "refused_path", "ok", "ok"),
    ("up/secret", "refused_path", "refused_path", "ok", "ok"),
    ("link.png", "missing_image", "refused_path", "missing_image", "missing_image"),
    ("http://127.0.0.1:9/x.png", "refused_path", "refused_path", "refused_path", "refused_path"),
    ("s3://bucket/x.png", "refused_path", "refused_path", "refused_path", "refused_path"),
]


@pytest.mark.parametrize(("reference", "plain", "rooted", "links", "outside"), ROOT_CASES)
def test_where_paths_may_lead(shard, tmp_path, reference, plain, rooted, links, outside):
    pool = tmp_path / "elsewhere/pool"
    pool.mkdir(parents=True)
    (pool / "b.png").write_bytes(b"b")
    (tmp_path / "elsewhere/link.png").symlink_to(tmp_path / "secret")
    path = reference.replace("{tmp}", str(tmp_path))
    roots = (str(tmp_path / "elsewhere"), str(pool))
    for access, expected in (
        (PathAccess(), plain),
        (PathAccess(roots), rooted),
        (PathAccess(links=True), links),
        (PathAccess(outside=True), outside),
    ):
        data, outcome, why = follow(path, shard, access=access)
        assert (outcome, data is not None) == (expected, expected == "ok")
        if outcome == "refused_path":
            assert re.search(r"source\.(root|allow)", why)


def test_links_below_a_root_are_followed_where_links_may_lead_outside(shard, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link.png").symlink_to(tmp_path / "secret")
    access = PathAccess((str(tmp_path / "elsewhere"),), links=True)
    assert follow("link.png", shard, access=access)[0] == b"secret"
    assert follow(str(tmp_path / "secret"), shard, access=access)[1] == "refused_path"


def test_a_root_at_a_url():
    fs = fsspec.filesystem("memory")
    fs.pipe({"/rooted/img/1.png": b"one", "/rooted/2.png": b"two"})
    access = PathAccess(("memory://rooted/img", "memory://rooted"))
    found = {
        "1.png": b"one", "2.png": b"two", "memory://rooted/2.png": b"two", "../2.png": b"two", "3.png": None,
        "memory://other/2.png": None, "../../etc/passwd": None, "/etc/passwd": None,
    }  # fmt: skip
    for reference, data in found.items():
        assert follow(reference, "/somewhere/0.csv", access=access)[0] == data, reference


def test_a_template_makes_paths_of_ids(shard):
    assert follow("a", shard, access=PathAccess(template="img/{}.png"))[0] == b"png"
    assert follow("../a", shard, access=PathAccess(template="img/{}.png"))[1] == "refused_path"
    assert PathAccess(template="COCO_{:012}.jpg").named("42") == "COCO_000000000042.jpg"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "x.jpg"}, "source.template must hold {} once"),
        ({"template": "{a.b}.jpg"}, "source.template must hold {} once"),
        ({"root": [""]}, "source.root must not be empty"),
        ({"root": "s3://me:word@host/x"}, "source.root must not hold a password, a token"),
        ({"allow": ["links", "all"]}, "source.allow.1 must be 'outside', 'links', 'url' or 'private'"),
    ],
)
def test_settings_of_paths(settings, message):
    values = {"run": "r", "source": {"path": "x.csv", **settings}, "select": {"keep": 0.5}}
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_recipe(values)


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


def test_a_folder_of_links_is_read_where_links_may_lead(tmp_path):
    from curate.pipeline.stages.read import find_shards
    from curate.recipe import Source
    from curate.sources import registry
    from curate.sources.base import Columns

    (tmp_path / "blobs").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "blobs/one.png").write_bytes(b"other")  # the name of an image, but not that image
    (tmp_path / "blobs/hash").write_bytes(b"image")
    (tmp_path / "photos/one.png").symlink_to(tmp_path / "blobs/hash")
    found = {}
    for name, settings in {
        "plain": {}, "links": {"allow": ["links"]}, "outside": {"allow": ["outside"]},
        "root": {"root": str(tmp_path / "blobs")}, "elsewhere": {"root": str(tmp_path / "no")},
    }.items():  # fmt: skip
        [shard] = find_shards(Source(path=str(tmp_path / "photos"), **settings))
        [rows] = registry.format_of("folder").reader(Columns(image="image"), False).batches(
            shard, images=True, batch_bytes=100
        )  # fmt: skip
        found[name] = (rows.outcome[0], rows.image[0])
    ok, refused = ("ok", b"image"), ("refused_path", None)
    assert found == {"plain": refused, "links": ok, "outside": ok, "root": ok, "elsewhere": refused}
