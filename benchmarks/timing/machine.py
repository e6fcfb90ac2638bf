"""On what something was measured: date, commit, processor and versions."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from timing.contender import ROOT

#: Flags of a processor that decide which products are fast.
FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
)
PACKAGES = (
    "numpy", "scipy", "scikit-learn", "faiss-cpu", "torch", "open_clip_torch", "polars", "pyarrow", "duckdb",
    "pillow", "cleanlab",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return what a figure must be read beside."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        **processor(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def commit() -> str:
    """Return the commit of this checkout, with a + where files differ from it."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        changed = _git(
            "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results", ":!docs"
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def processor() -> dict[str, Any]:
    """Return the name of the processor, the cores that may be used, and the flags that matter."""
    info: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        info.setdefault(name.strip(), value.strip())
    there = set((info.get("flags") or info.get("Features") or "").split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = info.get("model name") or platform.processor() or platform.machine()
    if "model" in info:
        name += f" (family {info.get('cpu family')}, model {info['model']})"
    return {"processor": name, "cores": cores, "flags": [flag for flag in FLAGS if flag in there]}


def versions() -> dict[str, str]:
    """Return the versions of the packages that do the work."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
