import gc
import itertools
import json
import tarfile
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError, RunError, SourceError, UsageError
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.sources.base import Columns
from curate.sources.registry import ShardReader
from curate.writers import webdataset as module
from curate.writers.tar_members import image_suffix, safe_key
from curate.writers.webdataset import Roles, plan, tasks, write_tar
from curate.writers.weight_groups import Tars, train_data_line, weight_groups
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.folders import tables
from tests.fixtures.shards import STRUCT, bad_utf8, keep, make
from tests.fixtures.tars import encoded, members


def write(folder, kept, columns, *, reader=None, limit=10**9, allow_url=False, **options):
    """Write kept rows as tars; return (paths, facts)."""
    by_name = {item.shard.name: item for item in kept}
    [files] = plan([kept], limit)
    todo = tasks(
        files,
        by_name.__getitem__,
        lambda name: Roles(columns, allow_url),
        reader or ShardReader(),
        folder,
        **options,
    )
    facts = [write_tar(task) for task in todo]
    return [folder / file.name for file in files], facts


def strict(path):
    """Read a tar as a trainer does, with the handler that forgives nothing."""
    wds = pytest.importorskip("webdataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file to the collector
        gc.freeze()  # else every collection goes through all that tests have imported
        found = list(wds.WebDataset(str(path), shardshuffle=False, handler=wds.handlers.reraise_exception))
        gc.collect()
        gc.unfreeze()
    return found


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif"), ("PPM", "ppm"),
     ("JPEG2000", "jp2"), ("ICO", "ico")],
)  # fmt: skip
def test_suffix_says_what_the_bytes_are(kind, suffix):
    assert image_suffix(encoded(kind)) == suffix


def test_suffix_of_other_bytes():
    assert image_suffix(b"\0\0\0\x20ftypavif") == "avif"
    assert image_suffix(b"\0\0\0\x20ftypmp42") == image_suffix(b"") == image_suffix(b"<svg>") == "bin"


@pytest.mark.parametrize(
    ("key", "safe"),
    [("a", True), ("a/b", True), ("a.b/c", True), (None, False), ("", False), ("..", False), ("../a", False), ("a/../b", False),
     ("/a", False), ("a//b", False), ("./a", False), ("a/", False), ("a.b", False), ("a\\b", False), ("a\0", False)],
)  # fmt: skip
def test_keys_stay_inside_and_together(key, safe):
    assert safe_key(key) == (key if safe else None)


def test_rows_of_a_table_become_members(tmp_path):
    images = [encoded("PNG"), encoded("JPEG"), None]
    shard = make(
        tmp_path,
        {
            "image": pa.array([{"bytes": images[0], "path": "a.jpg"}, {"bytes": images[1], "path": None}, None], STRUCT),
            "caption": ["zwölf\n", "", None],
            "n": [1, 2, None],
            "raw": [b"\xff", None, b""],
            "when": pa.array([0, 1, None], pa.timestamp("s")),
            "nested": [[{"a": 1.5}], [], None],
        },
    )  # fmt: skip
    [path], [facts] = write(
        tmp_path / "out", [keep(shard, [0, 1, 2])], Columns(image="image", caption="caption")
    )
    got = members(path)
    assert list(got) == [
        "00000-000000.png", "00000-000000.txt", "00000-000000.json", "00000-000001.jpg", "00000-000001.txt",
        "00000-000001.json", "00000-000002.txt", "00000-000002.json",
    ]  # fmt: skip
    assert got["00000-000000.png"] == images[0] and got["00000-000001.jpg"] == images[1]
    assert got["00000-000000.txt"] == "zwölf\n".encode() and got["00000-000001.txt"] == b""
    assert json.loads(got["00000-000000.json"]) == {
        "image": "a.jpg", "n": 1, "raw": "/w==", "when": "1970-01-01T00:00:00", "nested": [{"a": 1.5}],
    }  # fmt: skip
    assert json.loads(got["00000-000002.json"]) == {"n": None, "raw": "", "when": None, "nested": None}
    stats = json.loads((tmp_path / "out/00000_stats.json").read_text())
    assert (stats["count"], stats["members"], stats["bytes"]) == (3, 8, path.stat().st_size)
    assert (facts.renamed, facts.without_image) == (0, 0)
    samples = strict(path)
    assert [one["__key__"] for one in samples] == ["00000-000000", "00000-000001", "00000-000002"]
    assert samples[0]["png"] == images[0]


def test_text_that_is_not_utf8_stays_as_it_is(tmp_path):
    shard = make(
        tmp_path, {"caption": bad_utf8(), "other": bad_utf8(), "list": pa.array([[b"caf\xe9"], [], None])}
    )
    [path], _ = write(tmp_path / "out", [keep(shard, [0, 1, 2])], Columns(caption="caption"))
    got = members(path)
    assert got["00000-000000.txt"] == b"caf\xe9"
    assert json.loads(got["00000-000000.json"])["other"] == "caf\ufffd"


def test_a_list_of_captions_is_kept_whole(tmp_path):
    shard = make(tmp_path, {"captions": [["one", "two"], []]})
    [path], _ = write(tmp_path / "out", [keep(shard, [0, 1])], Columns(caption="captions"))
    got = members(path)
    assert got["00000-000000.txt"] == b"one" and json.loads(got["00000-000000.json"]) == {
        "captions": ["one", "two"]
    }
    assert got["00000-000001.txt"] == b""  # readers want the same members in every sample


def test_every_sample_has_a_caption_member(tmp_path):
    """A row without a caption has an empty one, or Hugging Face would refuse the whole tar."""
    datasets = pytest.importorskip("datasets")
    images = [encoded("PNG", (i, 0, 0)) for i in range(3)]
    shard = make(tmp_path, {"image": images, "caption": ["one", None, "three"], "n": [1, None, 3]})
    [path], _ = write(tmp_path / "out", [keep(shard, range(3))], Columns(image="image", caption="caption"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of datasets and what it imports
        loaded = datasets.load_dataset(
            "webdataset", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train"
        )
        gc.collect()
    assert loaded["txt"] == ["one", "", "three"]
    table = pa.table({"__key__": ["a", "b"], "jpg": [b"A", b"B"], "txt": ["x", None], "json": ["{}", None]})
    columns = Columns(image="jpg", caption="txt;json.caption")
    [path], _ = write(tmp_path / "tar", [keep(shard, [0, 1])], columns, reader=TarLike(table))
    assert members(path) == {"a.jpg": b"A", "a.txt": b"x", "a.json": b"{}", "b.jpg": b"B", "b.txt": b""}


def test_rows_choose_among_captions_by_themselves(tmp_path):
    """The caption that was taken is the member; what it was taken from stays in the JSON of that row alone."""
    shard = make(tmp_path, {"caption": ['["a", "longer"]', "[plain", None], "alt": ["x", "y", "z"]})
    for batch in (1, 1 << 20):
        out = tmp_path / f"out{batch}"
        columns = Columns(caption="caption", caption_take="longest")
        [path], _ = write(out, [keep(shard, range(3))], columns, batch_bytes=batch)
        got = members(path)
        assert [got[f"00000-00000{i}.txt"] for i in range(3)] == [b"longer", b"[plain", b""]
        about = [json.loads(got[f"00000-00000{i}.json"]) for i in range(3)]
        assert about == [{"caption": '["a", "longer"]', "alt": "x"}, {"alt": "y"}, {"alt": "z"}]
    both = Columns(caption="alt", caption_more=("caption",), caption_take="join")
    [path], _ = write(tmp_path / "both", [keep(shard, range(3))], both)
    assert members(path)["00000-000000.txt"] == b"x a longer"
    assert json.loads(members(path)["00000-000001.json"]) == {"caption": "[plain", "alt": "y"}


def test_images_by_path_are_copied_and_never_from_outside(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/a.png").write_bytes(encoded("WEBP"))
    paths = ["sub/a.png", "../secret.jpg", "gone.png", None, str(tmp_path / "secret.jpg")]
    shard = make(tmp_path / "in", {"image": paths})
    [path], [facts] = write(tmp_path / "out", [keep(shard, range(5))], Columns(image="image"))
    got = members(path)
    assert got.pop("00000-000000.webp") == encoded("WEBP")
    assert all(name.endswith(".json") for name in got)
    assert json.loads(got["00000-000001.json"]) == {"image": "../secret.jpg"}
    assert (facts.rows, facts.without_image) == (5, 3)


class TarLike:
    """A reader of tar members: what a source of tars gives."""

    def __init__(self, table):
        self.table = table

    def schema(self, shard):
        return self.table.schema

    def read_rows(self, shard, rows, *, batch_bytes):
        for row in rows:
            yield self.table.slice(int(row), 1)


def test_members_of_tars_are_written_back_as_they_stand(tmp_path):
    shard = make(tmp_path, {"x": [1]})
    table = pa.table(
        {
            "__key__": ["a/1", "a/1", "../../etc", "b.c"],
            "__url__": ["u"] * 4,
            "jpg": [b"JPG", b"OTHER", None, b"3"],
            "seg.png": [b"s", None, b"t", None],
            "txt": bad_utf8(pa.large_string()).take([0, 1, 2, 1]),
            "json": ['{"b": 1,  "a":2}', None, None, None],
        }
    )
    extra = pa.table({"weight": pa.array([0.5, 1, 2, 3], pa.float32())})
    [path], [facts] = write(
        tmp_path / "out", [keep(shard, range(4), extra=extra)], Columns(image="jpg"), reader=TarLike(table)
    )
    got = members(path)
    assert list(got)[:5] == ["a/1.jpg", "a/1.seg.png", "a/1.txt", "a/1.json", "a/1.curate.json"]
    assert (got["a/1.txt"], got["a/1.json"]) == (b"caf\xe9", b'{"b": 1,  "a":2}')
    assert json.loads(got["a/1.curate.json"]) == {"weight": 0.5}
    assert got["00000-000001.jpg"] == b"OTHER", "the second sample of a key is not merged into the first"
    assert got["00000-000002.seg.png"] == b"t" and got["00000-000003.jpg"] == b"3"
    assert (facts.rows, facts.renamed) == (4, 1)
    assert [one["__key__"] for one in strict(path)] == ["a/1", "00000-000001", "00000-000002", "00000-000003"]


def test_bytes_do_not_depend_on_batches_or_time(tmp_path):
    shard = make(tmp_path, {"image": [encoded("PNG", (i, 0, 0)) for i in range(50)], "n": list(range(50))})
    kept = [keep(shard, range(0, 50, 3))]
    [one], _ = write(tmp_path / "one", kept, Columns(image="image"))
    [two], _ = write(tmp_path / "two", kept, Columns(image="image"), batch_bytes=1)
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_tars_are_bounded_and_splits_have_folders(tmp_path):
    data = {"image": [encoded("PNG")] * 5}
    train, test = make(tmp_path, data, "train/0.parquet"), make(tmp_path, data, "test/0.parquet")
    kept = [keep(train, range(5), size=4), keep(test, range(2), size=4)]
    paths, _ = write(tmp_path / "out", kept, Columns(image="image"), limit=8)
    names = [str(path.relative_to(tmp_path / "out")) for path in paths]
    assert names == ["train/00000.tar", "train/00001.tar", "train/00002.tar", "test/00000.tar"]
    assert [file.name for file in plan([[kept[0]]], 10**9)[0]] == ["00000.tar"]
    assert plan([[]], 10) == [[]]


def test_a_tar_without_stats_is_not_whole(tmp_path, monkeypatch):
    shard = make(tmp_path, {"image": [encoded("PNG")] * 5})

    def fail(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr(module, "_add", fail)
    with pytest.raises(RunError, match="disk is full"):
        write(tmp_path / "out", [keep(shard, range(5))], Columns(image="image"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_source_that_changed_is_refused(tmp_path):
    shard = make(tmp_path, {"image": [encoded("PNG")] * 5})
    make(tmp_path, {"image": [encoded("PNG")] * 6})
    with pytest.raises(SourceError, match="changed since it was read"):
        write(tmp_path / "out", [keep(shard, range(5))], Columns(image="image"))


def test_added_columns_must_be_new(tmp_path):
    shard = make(tmp_path, {"image": [b"x"], "uid": ["u"]})
    with pytest.raises(UsageError, match=r"write.columns: .* already has a column 'uid'"):
        module.check_columns(ShardReader(), [shard], ["weight", "uid"])


# --- weights ------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32), max_size=40), st.integers(1, 6))
def test_groups_keep_the_sum_and_stay_near(weights, n_groups):
    weight = np.array(weights, np.float32)
    groups = weight_groups(weight, n_groups)
    exact = weight.astype(np.float64)
    inside = [(g.low <= exact) & (exact <= g.high) for g in groups]
    assert len(groups) <= n_groups and (sum(inside, np.zeros(len(exact))) == 1).all()
    assert sum(g.factor * n.sum() for g, n in zip(groups, inside, strict=True)) == pytest.approx(exact.sum())
    some = exact[exact > 0]
    if n_groups > 1 and len(some):
        bound = (some.max() / some.min()) ** (1 / (n_groups - (exact == 0).any()))
        assert all(g.high <= g.low * bound * (1 + 1e-9) for g in groups)
    if len(np.unique(exact)) <= n_groups:
        assert all(g.low == g.high == pytest.approx(g.factor) for g in groups)


def test_groups_refuse_what_is_no_weight():
    with pytest.raises(CurateError, match="finite and at least 0"):
        weight_groups(np.array([np.nan]), 2)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        weight_groups(np.array([1.0]), 0)


def arguments(line):
    """Return {flag: value} of a line of arguments, as a shell splits it."""
    import shlex

    words = shlex.split(line)
    return {word: words[place + 1] for place, word in enumerate(words[:-1]) if word.startswith("--")}


def open_clip_urls(line):
    """Return what open_clip itself makes of the line: urls and their weights."""
    from curate.embedding.torchvision_guard import import_open_clip

    import_open_clip()
    data = pytest.importorskip("open_clip_train.data", exc_type=ImportError)
    flags = arguments(line)
    return data.expand_urls(flags["--train-data"], flags["--train-data-upsampling-factors"])


def test_open_clip_reads_the_line():
    line = train_data_line(
        [Tars(0.25, ("00000.tar",)), Tars(1.5, ("00001.tar", "00002.tar", "00003.tar"))], 9
    )
    flags = arguments(line)
    assert flags["--train-data-upsampling-factors"] == "0.25::1.5" and flags["--train-num-samples"] == "9"
    wanted = (["00000.tar", "00001.tar", "00002.tar", "00003.tar"], [0.25, 1.5, 1.5, 1.5])
    braceexpand = pytest.importorskip("braceexpand")
    urls = [list(braceexpand.braceexpand(one)) for one in flags["--train-data"].split("::")]
    assert [url for one in urls for url in one] == wanted[0]


def weighted_run(folder, **changes):
    n = 120
    images = [encoded("PNG", (i % 250, i // 250, 7)) for i in range(n)]
    extra = {"image": images, "caption": [f"caption {i}" for i in range(n)]}
    glob = write_shards(folder / "in", planted(n), extra=extra)
    write_to = {"format": "webdataset", "max_shard_size": 40_000, "columns": ["weight"], "weight_groups": 3}
    values = recipe_values(
        glob,
        folder / "run",
        select={"method": "random", "keep": 0.5},
        weight={"method": "concept"},
        write=write_to,
    )
    runner.run(parse_recipe(values | changes), until="write")
    return values


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """The settings of a finished run with weights, and its folder."""
    folder = tmp_path_factory.mktemp("weighted")
    return weighted_run(folder), folder / "run"


def test_a_run_writes_tars_grouped_by_weight(weighted, tmp_path):
    values, run = weighted
    folder = run / "6_filtered"
    line = (folder / "train_data.txt").read_text()
    flags = arguments(line)
    factors = [float(one) for one in flags["--train-data-upsampling-factors"].split("::")]
    kept = open_run(run).decisions().filter("keep")
    assert factors == sorted(factors) and 1 < len(factors) <= 3
    braceexpand = pytest.importorskip("braceexpand")
    seen, total, rows = [], 0.0, 0
    for factor, pattern in zip(factors, flags["--train-data"].split("::"), strict=True):
        found = []
        for name in braceexpand.braceexpand(pattern):
            found += strict(folder / name)
        weights = [json.loads(one["json"])["weight"] for one in found]
        assert np.mean(weights) == pytest.approx(factor)
        seen.append((min(weights), max(weights)))
        total, rows = total + factor * len(found), rows + len(found)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(seen)), "groups do not overlap"
    assert rows == len(kept) == int(flags["--train-num-samples"])
    assert total == pytest.approx(kept["weight"].sum())
    sizes = json.loads((folder / "sizes.json").read_text())
    assert sum(sizes.values()) == rows and set(sizes) == {path.name for path in folder.glob("*.tar")}
    before = tables(run)
    runner.run(parse_recipe(values | {"run": str(tmp_path / "two"), "memory": "1GB"}), until="write")
    assert tables(tmp_path / "two") == before


@pytest.mark.filterwarnings("ignore")  # open_clip_train and its torchvision warn about what is not installed
def test_open_clip_loads_the_run(weighted, monkeypatch):
    folder = weighted[1] / "6_filtered"
    monkeypatch.chdir(folder)
    urls, weights = open_clip_urls((folder / "train_data.txt").read_text())
    assert len(urls) == len(weights) == len(list(folder.glob("*.tar")))
    from open_clip_train.data import ResampledShards2, get_dataset_size, get_wds_dataset

    assert get_dataset_size(arguments(Path("train_data.txt").read_text())["--train-data"]) == (60, len(urls))
    shards = ResampledShards2(urls, weights, deterministic=True, epoch=0)
    drawn = [one["url"] for one in itertools.islice(shards, 4000)]
    share = np.array([drawn.count(url) for url in urls]) / len(drawn)
    assert share == pytest.approx(np.array(weights) / sum(weights), abs=0.03)

    flags = arguments(Path("train_data.txt").read_text())
    args = SimpleNamespace(
        train_data=flags["--train-data"], train_data_upsampling_factors=flags["--train-data-upsampling-factors"],
        train_num_samples=int(flags["--train-num-samples"]), dataset_resampled=True, batch_size=4, workers=1,
        world_size=1, seed=0,
    )  # fmt: skip
    pipe = get_wds_dataset(
        args, lambda image: np.asarray(image), True, tokenizer=lambda text: [text]
    ).dataloader
    images, texts = next(iter(pipe.pipeline[0].dataset))
    assert len(images) == len(texts) == 4
    assert images[0].shape == (3, 4, 3) and texts[0].startswith("caption ")


def test_weight_groups_need_tars(tmp_path):
    said = curate("run", tmp_path / "none.yaml")
    assert said.code == 2
    with pytest.raises(UsageError, match="weight_groups with format webdataset, got parquet"):
        parse_recipe(recipe_values("x", tmp_path / "run", write={"weight_groups": 3}))


def test_no_row_kept_is_no_tar(tmp_path):
    glob = write_shards(tmp_path / "in", planted(30))
    values = recipe_values(
        glob, tmp_path / "run", select={"method": "random", "count": 0}, write={"format": "webdataset"}
    )
    runner.run(parse_recipe(values))
    assert sorted(path.name for path in (tmp_path / "run/6_filtered").iterdir()) == [
        "README.md",
        "_done.json",
    ]
    assert pq.read_table(glob.replace("*", "train-00000-of-00003")).num_rows == 10


@pytest.mark.parametrize(("allow", "there"), [(["url", "private"], True), (["url"], False)])
def test_images_come_from_where_the_source_allows(tmp_path, monkeypatch, allow, there):
    """Addresses inside the network are fetched for tars just where they were for the vectors."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "x.png").write_bytes(encoded("PNG"))
    handler = partial(Quiet, directory=tmp_path / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/x.png"
        glob = write_shards(
            tmp_path / "in", planted(12), shards=1, extra={"image": [f"{address}?{i}" for i in range(12)]}
        )
        values = recipe_values(
            glob,
            tmp_path / "run",
            select={"method": "all"},
            write={"format": "webdataset"},
            cluster={"concepts": 1},
        )
        values["source"] |= {"image": "image", "allow": allow}
        runner.run(parse_recipe(values))
        server.shutdown()
    found = [name for path in (tmp_path / "run/6_filtered").glob("*.tar") for name in members(path)]
    assert len([name for name in found if name.endswith(".json")]) == 12
    assert len([name for name in found if name.endswith(".png")]) == (12 if there else 0)


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_):
        pass
