"""The working copy of a URL, file by file: what is there, what is here, who may write."""

import json
import os
import socket

import numpy as np
import pytest

from curate.errors import RunError
from curate.io import storage
from curate.io.remote import cache as copy
from curate.io.remote import remote_lock, store, working_copy
from curate.io.remote.store import RemoteStore
from curate.runs.folder import RunFolder
from tests.fixtures.remotes import lock_of, machine, names_at, working, write


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch, "first")


@pytest.fixture
def url(request):
    name = request.node.name.translate(str.maketrans("[/", "--", "]"))
    return f"s3://lake/{name}"


def test_who_holds_a_url_keeps_its_store(tmp_path):
    root = tmp_path / "copy"

    def begin(**options):
        copy.begin(
            root, "memory://x/y", storage_options=options, written_options={}, cache=10**8, shared=False
        )
        return copy.store_of(root)

    assert begin() is begin() and begin(a=1) is begin(a=1)
    assert begin(a=2) is not begin(a=1)
    assert working_copy.WorkingCopy(root).settings()["storage_options"] == {"a": 1}
    assert json.loads((root / ".home" / "home.json").read_text())["storage_options"] == {}


def test_what_was_used_of_late_stays(tmp_path):
    root = tmp_path / "copy"
    copy.begin(root, "memory://x/y", storage_options={}, written_options={}, cache=10**8, shared=False)
    known = working_copy.WorkingCopy(root)
    for number, name in enumerate(("old", "new")):
        (root / name).write_bytes(b"abc")
        known.note(name, "v", 3, (root / name).stat().st_mtime_ns)
        os.utime(root / ".home" / "state" / f"{name}.json", (10.0 + number, 10.0 + number))
    working_copy.evict(known, 5)
    assert not known.is_local("old", known.state("old")) and known.is_local("new", known.state("new"))
    known.used("new")
    working_copy.evict(known, 0)
    assert known.is_local("new", known.state("new"))


def test_scratch_of_a_cluster_is_not_taken_for_that_of_one_machine(options, lake, url):
    root, _ = working(url, options, shared=True)
    write(root / "recipe.yaml", b"x")
    write(root / ".work/copies/found.arrow", b"of the cluster")
    assert names_at(lake, url) == [".work/copies/found.arrow", "recipe.yaml"]
    root, remote = working(url, options)
    write(root / ".work/copies/found.arrow", b"of this machine")
    assert storage.ensure_local(root / ".work/copies/found.arrow").read_bytes() == b"of this machine"
    assert names_at(lake, url) == ["recipe.yaml"]
    working(url, options, shared=True)
    write(root / ".work/copies/other.arrow", b"of the cluster")
    _, remote = working(url, options)
    remote.refresh(tidy=True)
    assert names_at(lake, url) == ["recipe.yaml"] and not (root / ".work/copies/other.arrow").exists()


@pytest.mark.parametrize("many", [1, pytest.param(65, marks=pytest.mark.long)])
def test_a_url_is_no_pattern(options, lake, url, many):
    lake.pipe_file(f"{url}1/5_decisions/p0", b"of another run")
    root, _ = working(f"{url}[1]", options)
    for number in range(many):
        write(root / f"5_decisions/p{number}", b"own")
    storage.remove(root / "5_decisions")
    assert names_at(lake, f"{url}1") == ["5_decisions/p0"]
    assert lake.find(url.rpartition("/")[0]) and f"{url[5:]}[1]/5_decisions/p0" not in lake.find("lake")


def test_what_is_not_of_curate_is_neither_removed_nor_followed(options, lake, url, tmp_path):
    root, remote = working(url, options)
    write(root / "recipe.yaml", b"x")
    odd = [
        "notes/movie.partial-2.mp4",
        "a/../../victim.txt",
        ".home/home.json",
        "6_filtered//x",
        "6_filtered/x",
    ]
    for name in odd:
        lake.pipe_file(f"{url}/{name}", b"not curate's")
    own = [".6_filtered.partial-01ab23cd/x", "5_decisions/.p.partial-01ab23cd"]
    for name in own:
        lake.pipe_file(f"{url}/{name}", b"left")
    before = (root / ".home" / "home.json").read_bytes()
    remote.refresh(tidy=True)
    assert (root / ".home" / "home.json").read_bytes() == before
    assert sorted({*odd, "recipe.yaml"}) == names_at(lake, url)
    assert (root / "notes/movie.partial-2.mp4").exists() and (root / "6_filtered/x").exists()
    assert not list(root.parent.glob("victim*")) and not list(root.parent.parent.glob("victim*"))


def test_a_folder_that_is_half_replaced_has_no_mark_anywhere(options, lake, url, monkeypatch):
    root, remote = working(url, options)
    run = RunFolder(root)
    write(run.recipe, b"x")
    for name in ("part-a.parquet", "part-b.parquet"):
        write(run.decisions / name, b"one", checksum=True)
    run.mark(run.decisions, "one", {})
    new = run.work / "select" / "decisions"
    for name in ("part-a.parquet", "part-b.parquet"):
        write(new / name, b"two!", checksum=True)
    run.mark(new, "two", {})
    real = RemoteStore._put

    def put(self, file, name):
        if name.endswith("part-b.parquet"):
            raise RunError("the network is gone")
        return real(self, file, name)

    with monkeypatch.context() as patch, pytest.raises(RunError, match="network"):
        patch.setattr(RemoteStore, "_put", put)
        run.publish(new, run.decisions)
    remote.refresh()
    assert run.marker(run.decisions) is None and not lake.exists(f"{url}/5_decisions/_done.json")
    run.publish(new, run.decisions)
    assert run.is_done(run.decisions, "two")
    assert lake.cat_file(f"{url}/5_decisions/part-b.parquet") == b"two!"


def test_a_mark_that_cannot_be_removed_stops_the_run(options, url, monkeypatch):
    root, remote = working(url, options)
    write(root / "4_duplicates/_done.json", b"{}")
    monkeypatch.setattr(remote.fs, "rm_file", lambda path: (_ for _ in ()).throw(PermissionError("denied")))
    with pytest.raises(RunError, match=r"cannot remove .*/4_duplicates/_done.json: denied"):
        storage.remove(root / "4_duplicates/_done.json")


def test_a_file_that_was_replaced_meanwhile_is_not_taken_for_the_one_noted(
    options, lake, url, tmp_path, monkeypatch
):
    root, _ = working(url, options)
    write(root / "recipe.yaml", b"first")
    machine(tmp_path, monkeypatch, "second")
    other, remote = working(url, options)
    remote.refresh()
    lake.pipe_file(f"{url}/recipe.yaml", b"other")  # as long as the first
    with pytest.raises(RunError, match=r"recipe.yaml was changed meanwhile .* run again"):
        storage.ensure_local(other / "recipe.yaml")
    remote.refresh()
    assert storage.ensure_local(other / "recipe.yaml").read_bytes() == b"other"
    assert list((other / ".home" / "incoming").iterdir()) == []


def test_a_refresh_leaves_what_was_written_since_its_listing(options, url, monkeypatch):
    root, remote = working(url, options)
    write(root / "recipe.yaml", b"first")
    real = RemoteStore.listing

    def listing(self):
        found = real(self)
        write(root / "recipe.yaml", b"the second")
        write(root / "new.json", b"new")
        return found

    monkeypatch.setattr(RemoteStore, "listing", listing)
    remote.refresh()
    assert storage.ensure_local(root / "recipe.yaml").read_bytes() == b"the second"
    assert storage.ensure_local(root / "new.json").read_bytes() == b"new"


def test_workers_of_a_machine_follow_once_a_turn(options, url, monkeypatch):
    root, _ = working(url, options)
    write(root / "recipe.yaml", b"x")
    listings = []
    real = RemoteStore.listing
    monkeypatch.setattr(RemoteStore, "listing", lambda self: listings.append(1) or real(self))
    handed = copy.hand_over(root)
    for turn in ("a-1", "a-1", "a-2", "a-2"):
        handed.begin(turn)
    assert len(listings) == 2 and copy.hand_over(root.parent) is None


def test_a_name_does_not_make_a_machine(options, lake, url):
    remote = working(url, options)[1]
    lake.pipe_file(f"{url}/.lock", lock_of(host=socket.gethostname(), machine="a container with that name"))
    with pytest.raises(RunError, match="is being written by process 7"), remote_lock.held(remote):
        pass


def test_workers_do_not_write_for_a_holder_that_lost_its_lock(options, lake, url, monkeypatch):
    root, remote = working(url, options)
    monkeypatch.setattr(store, "LOOK_S", -1.0)
    with remote_lock.held(remote):
        token = working_copy.token_of(root)
        write(root / "recipe.yaml", b"x")
        lake.pipe_file(f"{url}/.lock", lock_of())
        with pytest.raises(RunError, match="was taken over"):
            write(root / "manifest.json", b"x")
    assert token is not None and working_copy.token_of(root) is None
    assert names_at(lake, url) == [".lock", "recipe.yaml"]


def test_paths_elsewhere_have_no_store(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    assert copy.store_of(tmp_path / "x") is None and copy.state_of(tmp_path / "x") is None
    assert storage.ensure_local(tmp_path / "x").read_bytes() == b"1"
    assert np.array_equal([p.name for p in storage.ensure_all_local(tmp_path, "*")], ["x"])
