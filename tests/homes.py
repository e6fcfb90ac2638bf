"""Machines with working copies of runs at URLs, and single files there, without a run."""

import json
import time

from curate.io import storage
from curate.io.remote import cache


def machine(tmp_path, monkeypatch, name):
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / name))
    return tmp_path / name


def lock_of(**changes):
    facts = {"host": "elsewhere", "pid": 7, "started": "then", "since": "2026-01-01", "token": "t"}
    return json.dumps({**facts, "beat": time.time(), **changes}).encode()


def working(url, options, *, shared=False):
    """Return the working copy of a URL on the machine of this moment, and its home."""
    root = cache.working_copy(url)
    cache.begin(root, url, storage_options=options, written_options={}, cache=10**9, shared=shared)
    return root, cache.home_of(root)


def write(path, data, *, seal=False):
    with storage.atomic(path, seal=seal) as partial:
        partial.write_bytes(data)


def names_at(lake, url):
    lake.invalidate_cache()
    return sorted(path.removeprefix(f"{url[5:]}/") for path in lake.find(url))
