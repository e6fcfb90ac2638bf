"""How many processors a process has: what a container grants, and threads that stay within it."""

import math
import os
import subprocess
import sys

import pytest

from curate import process


def group(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cfs", "cpu.cfs").replace("cpu_max", "cpu.max")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({}, math.inf),
        ({"cpu_max": "max 100000\n"}, math.inf),
        ({"cpu_max": "200000 100000\n"}, 2.0),
        ({"cpu_max": "50000 100000\n"}, 0.5),
        ({"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, math.inf),
        ({"cpu__cfs_quota_us": "150000\n", "cpu__cfs_period_us": "100000\n"}, 1.5),
        ({"cpu__cfs_quota_us": "150000\n"}, math.inf),
        ({"cpu_max": "what\n"}, math.inf),
        ({"cpu_max": "1 0\n"}, math.inf),
    ],
)
def test_a_control_group_grants_processors(tmp_path, files, granted):
    assert process._granted(group(tmp_path, **files)) == granted


@pytest.mark.parametrize(("granted", "count"), [("50000", 1), ("150000", 2), ("max", 64), ("9900000", 64)])
def test_processors_are_those_granted_of_those_visible(tmp_path, monkeypatch, granted, count):
    monkeypatch.setattr(process, "_CGROUPS", group(tmp_path, cpu_max=f"{granted} 100000"))
    monkeypatch.setattr(process, "_visible", lambda: 64)
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "7"})
    assert process.cpu_count() == count
    process.stay_within()
    others = {name: os.environ.get(name) for name in process.THREAD_LIMITS if name != "OMP_NUM_THREADS"}
    assert set(others.values()) == {str(count) if count < 64 else None}
    assert os.environ["OMP_NUM_THREADS"] == "7"  # said by the user


def test_limits_are_set_before_anything_that_reads_them():
    code = (
        "import sys; import curate.__main__; print(sorted({'numpy', 'polars', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
