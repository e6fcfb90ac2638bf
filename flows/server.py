"""A Prefect server that lives as long as what started it."""

import contextlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from curate.errors import CurateError, UsageError

__all__ = ["HOST", "is_up", "started"]

HOST = "127.0.0.1"
#: A first start makes a database, and takes 25 s on two cores that have nothing else to do.
START_S = 180.0
STOP_S = 20.0


@contextlib.contextmanager
def started(port: int, log: Path) -> Iterator[str]:
    """Start a server on this machine only, give the address of its API, and end it at the end.

    It also ends when this process does, however it ends. log : what the server says. Raises UsageError if the
    port is taken, CurateError if the server does not come up.
    """
    if _is_taken(port):
        raise UsageError(
            f"--start-server: port {port} of {HOST} is taken; if a Prefect server is there, set "
            f"PREFECT_API_URL=http://{HOST}:{port}/api and leave --start-server out, else give another --port"
        )
    url = f"http://{HOST}:{port}/api"
    command = [sys.executable, "-m", "curate.flows.server", str(port), str(os.getpid())]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as said:
        # A session of its own: Ctrl-C is for what works with the server, which is needed until that has ended.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        _wait_until_up(process, url, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not is_up(url):
        if process.poll() is not None:
            raise CurateError(f"the Prefect server ended at once (code {process.returncode}); {log} says why")
        if time.monotonic() > deadline:
            raise CurateError(f"the Prefect server is not up after {START_S:.0f} s; {log} may say why")
        time.sleep(0.2)


def is_up(url: str) -> bool:
    """Whether a server answers at this address of an API."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os._exit(1)


def main() -> None:
    """Be the server: `python -m curate.flows.server PORT PARENT`."""
    port, parent = sys.argv[1:]
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    sys.argv = ["prefect", "server", "start", "--host", HOST, "--port", port]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
