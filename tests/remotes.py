"""Machines with working copies of runs at URLs, and single files there, without a run."""

import json
import time

from curate.io import storage
from curate.io.remote import cache
from curate.io.remote.working_copy import CACHE_VARIABLE, copy_path


def machine(tmp_path, monkeypatch, name):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
    return tmp_path / name


def lock_of(**changes):
    facts = {"host": "elsewhere", "pid": 7, "started": "then", "since": "2026-01-01", "token": "t"}
    return json.dumps({**facts, "beat": time.time(), **changes}).encode()


def working(url, options, *, shared=False):
    """Return the working copy of a URL on the machine of this moment, and its store."""
    root = copy_path(url)
    cache.begin(root, url, storage_options=options, written_options={}, cache=10**9, shared=shared)
    return root, cache.store_of(root)


def write(path, data, *, checksum=False):
    with storage.atomic(path, checksum=checksum) as partial:
        partial.write_bytes(data)


def names_at(lake, url):
    lake.invalidate_cache()
    return sorted(path.removeprefix(f"{url[5:]}/") for path in lake.find(url))
