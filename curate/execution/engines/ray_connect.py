"""The connection to a Ray cluster: one that is there, or one started on this machine for this process alone."""

import importlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from curate.errors import CurateError, UsageError

__all__ = ["Connection", "Machine", "connect", "line_of"]

log = logging.getLogger("curate")

#: Shared memory of a cluster that is started here. Paths and counts travel, never data.
STORE_BYTES = 200_000_000
#: The longest TMPDIR in which Ray can start, in bytes: the path of a socket has at most 107 on Linux, of which
#: `/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store` takes 68.
LONGEST_TMPDIR = 39
SHORT_FOLDER = "/tmp/ray"


@dataclass(frozen=True)
class Machine:
    """What one machine of the cluster has."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Connection:
    """A cluster that this process is connected to.

    ray : the package. own : whether the connection was made here, and ends with the engine. head : host and port of
    the head of the cluster, where it can be asked whether it is there.
    """

    ray: ModuleType
    machines: tuple[Machine, ...]
    own: bool
    head: tuple[str, int] | None


def connect(address: str | None, cpus: int) -> Connection:
    """Return the connection to the cluster at `address`, or to one started here with `cpus` workers.

    A program that has called `ray.init` itself goes on with that cluster. Raises UsageError without Ray, CurateError
    where there is no such cluster.
    """
    ray = _import_ray(address)
    own = not ray.is_initialized()
    if own:
        _initialise(ray, address, cpus)
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [Machine(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in found]
    if not any(machine.cpus for machine in machines):
        raise UsageError(f"ray.address: the cluster {address} has no processors")
    return Connection(ray, tuple(machines), own, _head(ray, address))


def line_of(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())[:300]


def _import_ray(address: str | None) -> ModuleType:
    # Ray reads these when it is imported: no reports home, and no endless retries of what does not fit the memory.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", "3")
    if address is None and "RAY_AUTH_MODE" not in os.environ:  # else Ray writes a token to the home folder
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if "ray" not in sys.modules:
            os.environ["RAY_AUTH_MODE"] = "token"
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.exceptions")
    except ImportError as error:
        raise UsageError(
            "engine: ray needs the package ray, which is not installed; pip install 'curate[ray]', or set engine: local"
        ) from error
    return ray


def _require_head(address: str) -> None:
    """Raise CurateError if nothing answers at `host:port`: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "://" in address:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except OSError as error:
        raise CurateError(
            f"engine ray: cannot connect to the Ray cluster {address} ({error}); see ray.address"
        ) from error


def _initialise(ray: ModuleType, address: str | None, cpus: int) -> None:
    """Connect to a cluster, or start one for this process alone."""
    options: dict[str, Any] = {"address": address}
    if address is not None:
        _require_head(address)
    else:
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        options["object_store_memory"] = STORE_BYTES
        # TMPDIR was not meant for sockets, and may be too long for them; who sets RAY_TMPDIR gets it, or an error.
        if "RAY_TMPDIR" not in os.environ and len(os.fsencode(os.environ.get("TMPDIR", ""))) > LONGEST_TMPDIR:
            options["_temp_dir"] = SHORT_FOLDER
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(configure_logging=False, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "start a Ray cluster here" if address is None else f"connect to the Ray cluster {address}"
        hint = "see ray.address"
        if address is None and isinstance(error, OSError):
            hint = "set RAY_TMPDIR to a folder that can be written and has a short path"
        raise CurateError(f"engine ray: cannot {where} ({line_of(error)}); {hint}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
    # What Ray says of dead machines would go to stdout, where data goes.
    ray._private.worker.print_worker_logs = _note


def _note(data: dict[str, Any], *_: object) -> None:
    """Log the first sentence of what Ray has to say; the retries of every single task are not worth a line."""
    for line in data.get("lines", []):
        sentence = str(line).strip().partition("\n")[0].partition(". ")[0][:200]
        if not sentence.startswith("Task "):
            log.warning("engine ray: %s", sentence)


def _head(ray: ModuleType, address: str | None) -> tuple[str, int] | None:
    """Return host and port of the head, where it can be asked directly."""
    if address is not None and "://" in address:
        return None
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)
