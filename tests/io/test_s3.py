"""Buckets: the whole pipeline on a local S3 server, copies and exports to it, and what fails for a moment."""

import contextlib
import importlib
import json
import sys

import fsspec
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from s3fs.errors import translate_boto_error

from curate.analysis.verify.verify import decisions_digest
from curate.errors import RecipeError, RunError, SourceError, UsageError
from curate.io import filesystem, paths, retries
from curate.io.remote import destination
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.buckets import SECRET, no_secret_below, objects
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.tars import pairs, tar

fsspec_registry = importlib.import_module("fsspec.registry")  # fsspec.registry is a mapping in it
N = 90


@pytest.fixture(scope="module")
def local(tmp_path_factory, lake):
    """A run on local Parquet shards, which lie in the bucket too."""
    folder = tmp_path_factory.mktemp("local")
    glob = write_shards(folder / "in", planted(N, copies=3, near=3))
    for path in sorted((folder / "in").iterdir()):
        lake.put_file(str(path), f"lake/in/{path.name}")
    return folder, runner.run(parse_recipe(recipe_values(glob, folder / "run")))


@pytest.fixture
def sleeps(monkeypatch):
    """How long was slept between tries; nobody really sleeps."""
    slept = []
    monkeypatch.setattr(retries, "sleep", slept.append)
    return slept


def bucket_values(options, out, path="s3://lake/in/*.parquet", **changes):
    source = {"path": path, "uid": "id", "storage_options": options}
    return recipe_values(path, out, **{"source": source, **changes})


def listing(lake, folder):
    lake.invalidate_cache()
    return json.loads(lake.cat_file(f"{folder}/.curate.json"))


def shards(run):
    return {
        str(path.relative_to(run / "6_filtered")): path.read_bytes()
        for path in (run / "6_filtered").rglob("*")
        if path.is_file() and path.name != "_done.json"
    }


@pytest.mark.parametrize(
    "path",
    [
        "s3://lake/in/*.parquet",
        pytest.param("s3://lake/in/train-{00000..00002}-of-00003.parquet", marks=pytest.mark.long),
    ],
)
def test_a_run_on_a_bucket_decides_as_on_local_files(local, options, tmp_path, path):
    out = tmp_path / "run"
    runner.run(parse_recipe(bucket_values(options, out, path)))
    assert decisions_digest(out) == decisions_digest(local[0] / "run")
    assert {k: v for k, v in shards(out).items() if k != "README.md"} == {
        k: v for k, v in shards(local[0] / "run").items() if k != "README.md"
    }
    assert "${S3_TEST_SECRET}" in (out / "recipe.yaml").read_text()
    no_secret_below(out)


@pytest.mark.long
def test_tars_in_a_bucket(lake, options, tmp_path):
    np.save(tmp_path / "v.npy", planted(40))
    samples = pairs(40)
    runs = {}
    for number in range(2):
        (tmp_path / f"{number:05d}.tar").write_bytes(tar(*samples[number * 40 : number * 40 + 40]))
        lake.put_file(str(tmp_path / f"{number:05d}.tar"), f"lake/tars/{number:05d}.tar")
    for name, where in (("here", tmp_path), ("there", "s3://lake/tars")):
        source = {
            "path": f"{where}/{{00000..00001}}.tar",
            "storage_options": options if name == "there" else {},
        }
        values = recipe_values("", tmp_path / name, source=source, embed={"files": str(tmp_path / "v.npy")})
        runner.run(parse_recipe(values | {"write": {"format": "webdataset"}}))
        runs[name] = (
            decisions_digest(tmp_path / name),
            {key: data for key, data in shards(tmp_path / name).items() if key.endswith(".tar")},
        )
    assert runs["here"] == runs["there"] and runs["here"][1]
    no_secret_below(tmp_path / "there")


def test_shards_and_dropped_rows_go_to_a_bucket(local, lake, options, tmp_path):
    write = {
        "path": "s3://lake/out/a", "dropped": "s3://lake/out/dropped", "storage_options": options,
        "max_shard_size": "300B",
    }  # fmt: skip
    values = bucket_values(options, tmp_path / "run", write=write)
    runner.run(parse_recipe(values))
    assert objects(lake, "lake/out/a") == shards(tmp_path / "run")
    noted = listing(lake, "lake/out/a")
    assert noted["stamp"] and set(noted["files"]) == set(shards(tmp_path / "run"))
    dropped = objects(lake, "lake/out/dropped")
    names = [name for name in dropped if name.endswith(".parquet")]
    rows = sum(pq.read_metadata(lake.open(f"lake/out/dropped/{name}")).num_rows for name in names)
    assert rows + local[1].manifest["counts"]["kept"] == N
    no_secret_below(tmp_path / "run")
    assert SECRET.encode() not in b"".join(
        [*objects(lake, "lake/out/a").values(), json.dumps(noted).encode()]
    )
    assert not list((tmp_path / "run" / ".work").glob(".outgoing*"))

    before = {path: lake.info(path)["LastModified"] for path in lake.find("lake/out")}
    runner.run(parse_recipe(values))
    lake.invalidate_cache()
    assert {path: lake.info(path)["LastModified"] for path in lake.find("lake/out")} == before

    values["select"] = {"method": "density", "count": 5}
    runner.run(parse_recipe(values))
    now = objects(lake, "lake/out/a")
    assert now == shards(tmp_path / "run") and len(now) < len(noted["files"]), "old shards are gone"


def test_only_what_curate_wrote_is_replaced(local, lake, options, tmp_path):
    lake.pipe_file("lake/mine/notes.txt", b"mine")
    values = bucket_values(options, tmp_path / "run")
    write = {"path": "s3://lake/mine", "storage_options": options}
    with pytest.raises(UsageError, match=r"write\.path s3://lake/mine holds other files \(notes\.txt\)"):
        runner.run(parse_recipe(values | {"write": write}))
    with pytest.raises(UsageError, match="is a file; name an empty folder"):
        runner.run(parse_recipe(values | {"write": write | {"path": "s3://lake/mine/notes.txt"}}))
    with pytest.raises(RunError, match=r"cannot write s3://no-such-bucket/x: .*NotFound") as told:
        runner.run(parse_recipe(values | {"write": write | {"path": "s3://no-such-bucket/x"}}))
    assert "\n" not in str(told.value)
    assert objects(lake, "lake/mine") == {"notes.txt": b"mine"}


def test_an_interrupted_copy_goes_on(lake, options, tmp_path, monkeypatch):
    sources = {f"{i}.bin": tmp_path / f"{i}.bin" for i in range(4)}
    for name, path in sources.items():
        path.write_bytes(name.encode() * 9)
    put, done = lake.put_file, []  # of the instance: fsspec has one per set of options

    def stops(source, target):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(target)
        return put(source, target)

    monkeypatch.setattr(lake, "put_file", stops)
    copy = lambda fingerprint="s1": destination.copy_folder(
        "write.path", sources, "s3://lake/cut", options, fingerprint
    )
    with pytest.raises(KeyboardInterrupt):
        copy()
    assert set(objects(lake, "lake/cut")) == {"0.bin", "1.bin"}
    assert listing(lake, "lake/cut")["stamp"] is None
    assert not destination.is_current("s3://lake/cut", options, "s1")
    monkeypatch.setattr(lake, "put_file", lambda *pair: done.append(pair[1]) or put(*pair))
    copy()
    assert [target.rpartition("/")[2] for target in done] == ["0.bin", "1.bin", "2.bin", "3.bin"], "each once"
    assert objects(lake, "lake/cut") == {name: path.read_bytes() for name, path in sources.items()}
    assert destination.is_current("s3://lake/cut", options, "s1", sources)
    lake.pipe_file("lake/cut/1.bin", b"of somebody")
    assert not destination.is_current("s3://lake/cut", options, "s1")
    del sources["3.bin"]
    sources["2.bin"].write_bytes(b"new")
    copy("s2")
    assert [target.rpartition("/")[2] for target in done[4:]] == ["1.bin", "2.bin"], "only what is different"
    assert set(objects(lake, "lake/cut")) == {"0.bin", "1.bin", "2.bin"}


def test_exports_go_to_a_bucket(local, lake, options):
    run = local[0] / "run"
    given = [
        f"--set=write.storage_options.{name}={value}"
        for name, value in (("key", options["key"]), ("secret", options["secret"]))
    ]
    given += [f"--set=write.storage_options.client_kwargs={json.dumps(options['client_kwargs'])}"]
    said = curate("export", run, "--format", "parquet", "--out", "s3://lake/exported/p", *given)
    assert said.code == 0, said.err
    assert said.out == "s3://lake/exported/p\n"
    found = {
        name: data for name, data in objects(lake, "lake/exported/p").items() if name.endswith("parquet")
    }
    assert found and found == {name: data for name, data in shards(run).items() if name.endswith("parquet")}
    call = lambda out: curate("export", run, "--format", "txt", "--out", out, *given)
    assert call("s3://lake/exported/list.txt").code == 0 and call("s3://lake/exported/list.txt").code == 0
    uids = lake.cat_file("lake/exported/list.txt").decode().split()
    kept = pl.read_parquet(run / "5_decisions/part-*.parquet").filter("keep")["uid"]
    assert sorted(uids) == sorted(kept)
    assert call("s3://lake/exported/p").error.endswith("is a folder; name a file")
    lake.pipe_file("lake/exported/list.txt", b"changed by hand")
    assert "is there already and not from an export" in call("s3://lake/exported/list.txt").error
    assert lake.cat_file("lake/exported/list.txt") == b"changed by hand"


def test_secrets_are_given_by_name(tmp_path):
    values = recipe_values("x", tmp_path, write={"storage_options": {"secret": "literal", "anon": False}})
    text = parse_recipe(values).to_yaml()
    assert "literal" not in text and "literal" not in repr(parse_recipe(values))
    values["write"]["storage_options"]["secret"] = "<not kept>"
    with pytest.raises(RecipeError, match=r"write\.storage_options hold <not kept>"):
        parse_recipe(values)
    with pytest.raises(RecipeError, match=r"write\.path must not hold a password"):
        parse_recipe(values | {"write": {"path": "ftp://me:word@host/x"}})


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for protocol in ("s3", "s3a"):
        monkeypatch.delitem(fsspec_registry._registry, protocol, raising=False)
    with pytest.raises(UsageError, match=r"s3://b/x.parquet: needs a package .*pip install 'curate\[s3\]'"):
        paths.expand("s3://b/x.parquet")


@contextlib.contextmanager
def opened(pattern):
    """Open the first file that a pattern matches; all of it is one context, so that any part of it may fail."""
    with filesystem.open_binary(paths.expand(pattern)[0].url) as file:
        yield file


def failing(monkeypatch, owner, name, error, times):
    """Let a method fail so many times, then work; return the list of its calls."""
    real, calls = getattr(owner, name), []

    def method(self, *args, **keywords):
        calls.append(args)
        if len(calls) <= times:
            raise error
        return real(self, *args, **keywords)

    monkeypatch.setattr(owner, name, method)
    return calls


@pytest.fixture
def memory(tmp_path):
    """Shards in memory; what was read of them."""
    fs = fsspec.filesystem("memory")
    glob = write_shards(tmp_path / "in", planted(30))
    for path in sorted((tmp_path / "in").iterdir()):
        fs.pipe_file(f"/flaky/{path.name}", path.read_bytes())
    yield "memory://flaky/*.parquet", glob
    fs.rm("/flaky", recursive=True)


@pytest.mark.parametrize("method", ["find", "_open", "read", "info"])
def test_what_fails_twice_works(memory, sleeps, monkeypatch, tmp_path, method):
    owner = MemoryFile if method == "read" else MemoryFileSystem
    if method == "read":
        monkeypatch.setattr(
            MemoryFile, "read", lambda self, size=-1: super(MemoryFile, self).read(size), raising=False
        )
    calls = failing(monkeypatch, owner, method, ConnectionResetError("reset by peer"), 2)
    pattern = "memory://flaky/train-00000-of-00003.parquet" if method == "info" else memory[0]
    found = paths.expand(pattern)
    with filesystem.open_binary(found[0].url) as file:
        assert file.read(4) == b"PAR1"
        assert file.read() == (tmp_path / "in" / found[0].url.rpartition("/")[2]).read_bytes()[4:]
    assert sleeps == [0.5, 1.0] and len(calls) >= 3


@pytest.mark.parametrize("method", ["find", "_open", "read"])
def test_what_always_fails_is_told(memory, sleeps, monkeypatch, method):
    error = TimeoutError("no answer")
    owner = MemoryFile if method == "read" else MemoryFileSystem
    if method == "read":
        monkeypatch.setattr(
            MemoryFile, "read", lambda self, size=-1: super(MemoryFile, self).read(size), raising=False
        )
    calls = failing(monkeypatch, owner, method, error, 10**6)
    told_of = r"memory://.*: cannot be read: no answer; tried 5 times"
    with pytest.raises(SourceError, match=told_of) as told, opened(memory[0]) as file:
        file.read(4)
    assert sleeps == [0.5, 1.0, 2.0, 4.0] and len(calls) == 5
    assert "\n" not in str(told.value)


def test_a_run_survives_short_failures(memory, sleeps, monkeypatch, tmp_path):
    monkeypatch.setattr(
        MemoryFile, "read", lambda self, size=-1: super(MemoryFile, self).read(size), raising=False
    )
    failing(monkeypatch, MemoryFile, "read", OSError(16, "SlowDown"), 3)
    runner.run(parse_recipe(recipe_values(memory[0], tmp_path / "a")))
    runner.run(parse_recipe(recipe_values(memory[1], tmp_path / "b")))
    assert len(sleeps) == 3 and decisions_digest(tmp_path / "a") == decisions_digest(tmp_path / "b")


def test_what_is_refused_is_told_at_once(memory, sleeps, monkeypatch):
    for error, said in [(PermissionError(13, "Forbidden"), "Forbidden"), (OSError(22, "Bad"), "Bad")]:
        with monkeypatch.context() as patch:
            calls = failing(patch, MemoryFileSystem, "find", error, 10**6)
            with pytest.raises(SourceError, match=rf"memory://flaky/\*.parquet: cannot be read: {said}"):
                paths.expand(memory[0])
            assert len(calls) == 1
    with pytest.raises(SourceError, match=r"memory://flaky/none.parquet: no such file"):
        filesystem.open_binary("memory://flaky/none.parquet")
    assert sleeps == []


def s3_error(status, code):
    facts = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(facts, "GetObject"))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (s3_error(500, "InternalError"), True), (s3_error(503, "SlowDown"), True), (s3_error(502, "Odd"), True),
        (s3_error(404, "NoSuchKey"), False), (s3_error(403, "AccessDenied"), False), (s3_error(400, "Odd"), False),
        (BrokenPipeError(), True), (ValueError("503"), False), (OSError("?"), False), (IsADirectoryError(), False),
    ],
)  # fmt: skip
def test_which_errors_pass(error, again):
    assert retries.transient(error) is again
