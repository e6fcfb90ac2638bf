"""How many processors and threads this process may use, and how it loads modules.

Imports nothing that is heavy: BLAS, OpenMP and Polars read their limits when they are loaded.
"""

import gc
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["THREAD_LIMITS", "cpu_count", "loading", "stay_within"]

#: Environment variables that bound the threads of OpenMP, BLAS and Polars in a process started with them.
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")

_CGROUPS = Path("/sys/fs/cgroup")


def cpu_count() -> int:
    """Return the number of processors this process may use: those it may run on, and no more than its container grants."""
    return max(1, math.ceil(min(_visible(), _granted(_CGROUPS))))


def stay_within() -> None:
    """Keep the threads of libraries that are loaded later to `cpu_count`, where a container grants less than is visible.

    Limits that are set already stay as they are.
    """
    if (granted := cpu_count()) < _visible():
        for name in THREAD_LIMITS:
            os.environ.setdefault(name, str(granted))


def _visible() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _granted(folder: Path) -> float:
    """Return the processors that the control group at `folder` grants (`docker run --cpus`, limits of Kubernetes); infinite without a limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii")
                for name in ("quota", "period")
            )
        granted = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or `max`
        return math.inf
    return granted if granted > 0 else math.inf


@contextmanager
def loading() -> Iterator[None]:
    """Let Python look for no garbage while modules are loaded, nor, in a process of our own, ever among what they made.

    That is a quarter of what a command takes that has little to do. `curate.__main__` begins with no looking at all.
    """
    ours = not gc.isenabled() or gc.get_freeze_count() > 0
    gc.disable()
    try:
        yield
    finally:
        if ours:
            gc.freeze()
        gc.enable()
