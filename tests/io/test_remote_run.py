"""A run folder at a URL: the same tables as on a disk, whatever happens, from any machine."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate.analysis.verify.verify import check_run
from curate.errors import BudgetError, RecipeError, RunError, UsageError
from curate.io import storage
from curate.io.remote import remote_lock, store, working_copy
from curate.io.remote.store import RemoteStore
from curate.pipeline import rescore, runner
from curate.recipe.loading import parse_recipe
from curate.runs.folder import folder_of
from curate.runs.run import open_run
from tests.fixtures.buckets import no_secret_below, objects
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate
from tests.fixtures.folders import TABLES, tables
from tests.fixtures.remotes import lock_of, machine

N = 90


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The source, and the tables of a run on a disk."""
    folder = tmp_path_factory.mktemp("local")
    glob = write_shards(folder / "in", planted(N, copies=3, near=3))
    runner.run(parse_recipe(recipe_values(glob, folder / "run", **SELECT)))
    return glob, tables(folder / "run")


SELECT = {"select": {"method": "density", "keep": 0.3}}
SHIPPED = {"select": {"method": "density", "keep": 0.3, "shipped": True}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test is a machine of its own, on which nothing is cached."""
    return machine(tmp_path, monkeypatch, "first")


@pytest.fixture
def url(request):
    name = request.node.name.translate(str.maketrans("[/", "--", "]"))
    return f"s3://lake/{name}"


@pytest.fixture(scope="module")
def finished(options, lake, local, tmp_path_factory):
    """A finished run in the bucket, to begin with a copy of."""
    with pytest.MonkeyPatch.context() as patch:
        machine(tmp_path_factory.mktemp("cache"), patch, "finished")
        runner.run(recipe_at("s3://lake/finished", local[0], options))
    return "lake/finished"


@pytest.fixture
def again(finished, lake, url):
    """A URL with a finished run."""
    lake.invalidate_cache()
    for path in lake.find(finished):
        lake.cp_file(path, path.replace(finished, url.removeprefix("s3://"), 1))
    return url


def recipe_at(url, glob, options, **changes):
    remote = {"storage_options": options, **changes.pop("remote", {})}
    return parse_recipe(recipe_values(glob, url, remote=remote, **{**SELECT, **changes}))


def tables_at(lake, url):
    """The tables at a URL, as `folders.tables` has them for a folder."""
    import hashlib

    found = objects(lake, url.removeprefix("s3://"))
    return {
        name: hashlib.sha256(data).hexdigest()
        for name, data in found.items()
        if name.split("/")[0] in TABLES and not name.endswith("_done.json")
    }


def without_card(found):
    """Without the card, which names the run's own settings."""
    return {name: value for name, value in found.items() if not name.endswith("README.md")}


def fetched(run):
    """The names of the files that are in the working copy, and not only places for them."""
    known = working_copy.WorkingCopy(run.path)
    return {name for name, state in known.states().items() if known.is_local(name, state)}


def test_the_tables_are_those_of_a_run_on_a_disk_and_any_machine_goes_on(
    local, options, lake, url, tmp_path, monkeypatch, cache
):
    recipe = recipe_at(url, local[0], options)
    assert len(runner.run(recipe).worked) == 9
    assert without_card(tables_at(lake, url)) == without_card(local[1])
    assert runner.run(recipe).worked == ()
    first = lake.cat_file(f"{url}/5_decisions/_done.json")
    other = machine(tmp_path, monkeypatch, "second")
    assert runner.run(recipe).worked == ()
    assert not any(
        name.startswith(("1_embeddings/part", "6_filtered/train")) for name in fetched(folder_of(recipe))
    )
    assert lake.cat_file(f"{url}/5_decisions/_done.json") == first
    assert [name for name in objects(lake, url[5:]) if ".partial-" in name or name == ".lock"] == []
    assert not lake.exists(f"{url}/.lock")
    no_secret_below(cache)
    no_secret_below(other)
    assert check_run(url).violations == []
    names = {name.split("/")[1] for name in lake.find(f"{url}/logs")}
    assert names == {url.rpartition("/")[2]} and len(lake.find(f"{url}/logs")) == 3


class Killed(BaseException):
    """What ends a process at once."""


def ended_at(monkeypatch, step, *, after):
    """Let nothing reach the URL from the n-th change there on, or from just after it; return how many there were."""
    done = []

    def counted(real):
        def call(self, *given):
            if len(done) >= step:
                raise Killed
            if not after and len(done) == step - 1:
                done.append(real.__name__)
                raise Killed
            result = real(self, *given)
            done.append(real.__name__)
            if len(done) == step:
                raise Killed
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("_put", "_remove", "_copy_there"):
            patch.setattr(RemoteStore, name, counted(getattr(RemoteStore, name)))
        yield done


@pytest.mark.long
@pytest.mark.parametrize("step", range(1, 75))
def test_ended_at_any_change_another_machine_ends_with_the_same_tables(
    local, options, lake, url, tmp_path, monkeypatch, step
):
    """Long: one point is in `test_kill_9_leaves_a_lock_that_is_taken_over`."""
    recipe = recipe_at(url, local[0], options)
    for _ in ended_at(monkeypatch, step, after=step % 2 == 0):
        with pytest.raises(Killed):
            runner.run(recipe)
    if step % 3:
        machine(tmp_path, monkeypatch, "second")
    runner.run(recipe)
    assert without_card(tables_at(lake, url)) == without_card(local[1])
    assert check_run(url).violations == []


@pytest.fixture(scope="module")
def local_chosen(tmp_path_factory, local):
    """The tables after a second selection, on a disk."""
    run = tmp_path_factory.mktemp("chosen") / "run"
    for keep in (0.3, 0.5):
        runner.run(parse_recipe(recipe_values(local[0], run, select={**SHIPPED["select"], "keep": keep})))
    return tables(run)


@pytest.mark.parametrize("step", [pytest.param(n, marks=pytest.mark.long) for n in range(1, 25)])
def test_a_selection_ended_at_any_change_is_made_anew(
    local, local_chosen, options, lake, url, tmp_path, monkeypatch, step
):
    runner.run(recipe_at(url, local[0], options, **SHIPPED))
    other = recipe_at(url, local[0], options, select={**SHIPPED["select"], "keep": 0.5})
    for _ in ended_at(monkeypatch, step, after=step % 2 == 1):
        with pytest.raises(Killed):
            runner.run(other)
    machine(tmp_path, monkeypatch, "second")
    runner.run(other)
    assert without_card(tables_at(lake, url)) == without_card(local_chosen)


KILLED = """
import os, signal, sys, json
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.io.remote.store import RemoteStore
values, name = json.loads(sys.argv[1]), sys.argv[2]
real = RemoteStore._put
def put(self, file, target):
    if target.startswith(name):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, file, target)
RemoteStore._put = put
runner.run(parse_recipe(values))
"""


@pytest.mark.parametrize(
    "name", ["6_filtered/", pytest.param("2_concepts/_done.json", marks=pytest.mark.long)]
)
def test_kill_9_leaves_a_lock_that_is_taken_over(local, options, lake, url, tmp_path, monkeypatch, name):
    values = recipe_values(local[0], url, remote={"storage_options": options}, **SELECT)
    done = subprocess.run([sys.executable, "-c", KILLED, json.dumps(values), name], check=False)
    assert done.returncode == -signal.SIGKILL
    holder = json.loads(lake.cat_file(f"{url}/.lock"))
    assert holder["host"] == socket.gethostname() and holder["pid"] not in (0, os.getpid())
    machine(tmp_path, monkeypatch, "second")
    monkeypatch.setattr(remote_lock, "SETTLE_S", 0.01)
    assert runner.run(parse_recipe(values)).worked
    assert without_card(tables_at(lake, url)) == without_card(local[1])
    assert check_run(url).violations == []
    lake.invalidate_cache()
    assert not lake.exists(f"{url}/.lock")


def test_a_second_writer_is_refused_and_told_who_writes(local, options, lake, url, monkeypatch):
    recipe = recipe_at(url, local[0], options)
    lake.pipe_file(f"{url}/.lock", lock_of())
    with pytest.raises(RunError, match=r"is being written by process 7 on elsewhere since 2026-01-01"):
        runner.run(recipe)
    assert list(objects(lake, url[5:])) == []
    with (
        runner.opened(recipe_at(f"{url}2", local[0], options)),
        pytest.raises(RunError, match="being written"),
    ):
        runner.run(recipe_at(f"{url}2", local[0], options))
    # One that has said nothing for long is watched, and taken over if it still says nothing.
    monkeypatch.setattr(remote_lock, "BEAT_S", 0.05)
    monkeypatch.setattr(remote_lock, "SETTLE_S", 0.01)
    lake.pipe_file(f"{url}/.lock", lock_of(beat=time.time() - 1000))
    assert runner.run(recipe, until="read").worked == ("read",)


def test_a_holder_whose_clock_is_wrong_is_not_taken_for_dead(local, options, lake, url, monkeypatch):
    monkeypatch.setattr(remote_lock, "BEAT_S", 0.2)
    lake.pipe_file(f"{url}/.lock", lock_of(beat=1.0))
    real = time.sleep

    def sleep(seconds):
        lake.pipe_file(f"{url}/.lock", lock_of(beat=2.0))
        real(seconds)

    monkeypatch.setattr(remote_lock.time, "sleep", sleep)
    with pytest.raises(RunError, match="is being written by process 7 on elsewhere"):
        runner.run(recipe_at(url, local[0], options))


def test_who_lost_the_lock_writes_nothing_more(local, options, lake, url, monkeypatch):
    monkeypatch.setattr(store, "LOOK_S", -1.0)
    with (
        pytest.raises(RunError, match="was taken over by another process"),
        runner.opened(recipe_at(url, local[0], options)) as context,
    ):
        lake.pipe_file(f"{url}/.lock", lock_of())
        runner.run_stage(context, "read")
    assert lake.cat_file(f"{url}/.lock") and not lake.exists(f"{url}/.work/keys/_done.json")


def test_a_store_without_a_lock_is_refused_unless_told(local, options, lake, url, monkeypatch, tmp_path):
    real = lake.pipe_file  # the store that is asked to write on a condition, and does not hear it
    monkeypatch.setattr(lake, "pipe_file", lambda path, data, mode=None: real(path, data))
    recipe = recipe_at(url, local[0], options)
    with pytest.raises(RunError, match=r"keeps no lock .* say so with --no-lock"):
        runner.run(recipe)
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps(recipe_values(local[0], url, remote={"storage_options": options})))
    assert curate("run", file, "--until", "read", "--no-lock").code == 0
    assert lake.exists(f"{url}/.work/keys/_done.json")


def test_what_happened_to_objects_is_noticed_and_made_anew(
    local, options, lake, again, tmp_path, monkeypatch
):
    recipe, before = recipe_at(again, local[0], options), tables_at(lake, again)
    lake.invalidate_cache()
    flipped, cut, gone, mark = (
        lake.glob(f"{again}/{name}")[0]
        for name in (
            "2_concepts/assignments/part*",
            "3_scores/clip_score/part*",
            "4_duplicates/part*",
            "6_filtered/_*",
        )
    )
    data = lake.cat_file(flipped)
    lake.pipe_file(flipped, data[:50] + bytes([data[50] ^ 1]) + data[51:])
    lake.pipe_file(cut, lake.cat_file(cut)[:-9])
    lake.rm_file(gone)
    lake.pipe_file(mark, lake.cat_file(mark).replace(b'"bytes"', b'"Bytes"'))
    machine(tmp_path, monkeypatch, "second")
    folder_of(recipe)  # now this machine knows how to reach it
    found = check_run(again).violations
    assert all(
        any(path[path.index("/", 5) :].split("/", 2)[2] in line for line in found)
        for path in (flipped, cut, gone)
    )
    worked = runner.run(recipe).worked
    assert {"cluster", "score", "dedup", "write"} <= set(worked) and "embed" not in worked
    assert tables_at(lake, again) == before
    assert check_run(again).violations == []


def test_a_touched_working_copy_is_fetched_again(local, options, again):
    recipe = recipe_at(again, local[0], options)
    runner.run(recipe)
    run = folder_of(recipe)
    part = next(run.decisions.glob("part-*"))
    whole = storage.ensure_local(part).read_bytes()
    part.write_bytes(b"\0" * len(whole))
    assert runner.run(recipe).worked == ()
    assert storage.ensure_local(part).read_bytes() == whole


@pytest.mark.parametrize("rows", [0, pytest.param(1, marks=pytest.mark.long)])
def test_hardly_any_rows(options, url, tmp_path, rows):
    source = write_shards(tmp_path / "in", planted(N)[:rows], shards=1)
    recipe = recipe_at(url, source, options, cluster={"concepts": 1})
    assert runner.run(recipe).manifest["counts"]["rows"] == rows
    assert runner.run(recipe).worked == () and check_run(url).violations == []


def test_growth_and_shrinking_are_followed_at_the_url(local, options, lake, url, tmp_path, monkeypatch):
    source = tmp_path / "in"
    vectors = planted(N)
    write_shards(source, vectors, shards=2, order=np.arange(60))
    recipe = recipe_at(url, str(source / "*.parquet"), options)
    runner.run(recipe, until="embed")
    parts = set(lake.find(f"{url}/1_embeddings"))
    write_shards(tmp_path / "more", vectors, shards=1, order=np.arange(60, N))
    next((tmp_path / "more").iterdir()).rename(source / "train-00007.parquet")
    machine(tmp_path, monkeypatch, "second")
    assert runner.run(recipe).manifest["times"]["embed"]["worked"]["parts"] == 1
    lake.invalidate_cache()
    assert len(lake.find(f"{url}/1_embeddings")) == len(parts) + 1
    (source / "train-00007.parquet").unlink()
    runner.run(recipe, until="embed")
    lake.invalidate_cache()
    assert set(lake.find(f"{url}/1_embeddings")) == parts


def test_other_things_are_not_touched(local, options, lake, url):
    lake.pipe_file(f"{url}/photos/cat.jpg", b"cat")
    with pytest.raises(UsageError, match=r"is not empty and no run folder \(it holds photos/cat.jpg\)"):
        runner.run(recipe_at(url, local[0], options))
    with pytest.raises(UsageError, match="no run folder"):
        open_run(url)
    assert list(objects(lake, url[5:])) == ["photos/cat.jpg"]


@pytest.mark.long
def test_a_bounded_cache_gives_the_same_tables(local, options, lake, url, monkeypatch):
    monkeypatch.setattr(working_copy, "GRACE_S", 0.0)
    calls = itertools.count()
    monkeypatch.setattr(
        RemoteStore, "_evict", lambda self, size: next(calls) % 6 or working_copy.evict(self.copy, 20_000)
    )
    recipe = recipe_at(url, local[0], options)
    runner.run(recipe)
    assert without_card(tables_at(lake, url)) == without_card(local[1])
    run = folder_of(recipe)
    working_copy.evict(working_copy.WorkingCopy(run.path), 20_000)
    known = working_copy.WorkingCopy(run.path)
    states = known.states()
    here = fetched(run)
    assert sum(states[name].size for name in here) <= 20_000 < sum(state.size for state in states.values())
    for name in states.keys() - here:
        assert known.path(name).stat().st_size == states[name].size and known.path(name).stat().st_blocks == 0


@pytest.mark.long
def test_an_error_of_a_selection_puts_the_recipe_back(local, options, again):
    runner.run(recipe_at(again, local[0], options))
    recipe = rescore.chosen_recipe(again, settings={"select.keep": 0.99, "filter": ["uid > 's000050'"]})
    before = folder_of(recipe).recipe_text()
    with pytest.raises(BudgetError, match="rows are eligible"):
        rescore.select_run(recipe, write=False)
    assert open_run(again).folder.recipe_text() == before
    runner.run(recipe_at(again, local[0], options))
    assert check_run(again).violations == []


@pytest.fixture
def in_environment(options, monkeypatch):
    """Let the environment say how buckets are reached, as on a machine where nobody was told."""
    import s3fs

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "made-up")
    monkeypatch.setenv("AWS_ENDPOINT_URL", options["client_kwargs"]["endpoint_url"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    s3fs.S3FileSystem.clear_instance_cache()  # which other processes would not have


def test_the_commands_take_a_url(local, options, lake, again, in_environment, tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch, "second")
    told = curate("inspect", again, "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out)["run"] == again
    counted = curate("inspect", again, "--sql", "select count(*) as n from embeddings", "--json")
    assert json.loads(counted.out) == [{"n": 87}]
    assert curate("verify", again).code == 0
    uid = open_run(again).decisions()["uid"][0]
    assert json.loads(curate("explain", again, uid, "--json").out)["uid"] == uid
    chosen = curate("select", again, "--keep", "0.5", "--write", "--json")
    assert json.loads(chosen.out)["counts"]["kept"] == 45, chosen.err
    frame = pl.read_parquet(lake.glob(f"{again}/6_filtered/*.parquet")[0].replace("lake/", "s3://lake/"),
                            storage_options=polars_options(options))  # fmt: skip
    assert len(frame) == 45
    assert curate("export", again, "--format", "uids", "--out", tmp_path / "kept.txt").code in (0, 2)
    wrong = curate("inspect", f"{again}/nothing")
    assert wrong.code == 2 and "is not a run folder" in wrong.err
    refused = curate("run", recipe_file(tmp_path, local[0], again, options), "--dated")
    assert refused.code == 2 and "dated runs share files on one disk" in refused.err


@pytest.mark.parametrize(
    "command",
    [
        ["diff", "URL", "OTHER", "--json"], ["plan", "URL"], ["report", "URL"], ["score", "URL", "color"],
        *(
            pytest.param(command, marks=pytest.mark.long)  # the same commands, or those of `test_the_commands_take_a_url`
            for command in (
                ["diff", "OTHER", "URL"], ["plan", "URL", "--pairs", "3"], ["inspect", "URL"],
                ["inspect", "URL", "--sql", "select * from budgets, centroids, scores limit 3"],
                ["report", "URL", "--concept", "0"], ["explain", "URL", "s000007"], ["verify", "URL", "--digest"],
                ["export", "URL", "--format", "uids", "--out", "OUT"],
            )
        ),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_works_on_a_machine_that_has_nothing(
    local, options, finished, in_environment, tmp_path, command
):
    names = {
        "URL": f"s3://{finished}",
        "OTHER": local[0].replace("in/*.parquet", "run"),
        "OUT": tmp_path / "out",
    }
    said = curate(*(names.get(word, word) for word in command))
    expected = 2 if command[0] == "score" else 0
    assert said.code == expected, said.err


def polars_options(options):
    return {
        "aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region": "eu-west-1",
        "aws_endpoint_url": options["client_kwargs"]["endpoint_url"], "aws_allow_http": "true",
    }  # fmt: skip


def recipe_file(folder, glob, url, options):
    path = Path(folder) / "recipe.yaml"
    path.write_text(json.dumps(recipe_values(glob, url, remote={"storage_options": options})))
    return path


def test_a_password_in_the_url_is_refused(local, options):
    with pytest.raises(RecipeError, match="must not hold a password"):
        recipe_at("ftp://me:secret@host/run", local[0], options)
