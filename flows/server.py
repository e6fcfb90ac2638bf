"""A Prefect server that lives as long as what started it."""

import contextlib
import http.client
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

__all__ = ["HOST", "OwnServer", "Server", "is_up", "started"]

HOST = "127.0.0.1"
#: A first start makes a database, and takes 25 s on two cores that have nothing else to do.
START_S = 180.0
STOP_S = 20.0
#: A server that was up and does not answer for so long hangs.
HANG_S = 60.0
#: So many ends within this time are taken as bad luck.
RESTARTS, RESTARTS_WITHIN_S = 5, 3600.0


class Server:
    """A Prefect server that somebody else started, by the address of its API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def keep(self, *, answers: bool) -> str | None:
        """Do what keeps the server there, and return a line about it; answers : whether it does just now.

        For another's server there is nothing to do.
        """
        return None


class OwnServer(Server):
    """A server on this machine that is started again when it ends or hangs.

    log : what the server says.
    """

    def __init__(self, port: int, log: Path) -> None:
        super().__init__(f"http://{HOST}:{port}/api")
        self._port, self._log = port, log
        self._ends: list[float] = []
        self._start("w")

    def keep(self, *, answers: bool) -> str | None:
        """Start the server again if it ended or hangs, and return a line about it.

        Raises CurateError if it did not come up since its last start, or ended too often.
        """
        now = time.monotonic()
        if answers:
            self._was_up, self._answered = True, now
            return None
        if (code := self._process.poll()) is not None:
            what = f"ended (code {code})"
        elif now - self._answered > (HANG_S if self._was_up else START_S):
            what = f"has not answered for {now - self._answered:.0f} s"
        else:
            return None
        self.end(force=True)
        self._ends = [end for end in self._ends if now - end < RESTARTS_WITHIN_S] + [now]
        if not self._was_up:
            raise CurateError(f"the Prefect server {what} before it was up; {self._log} says why")
        if len(self._ends) > RESTARTS:
            raise CurateError(
                f"the Prefect server {what}, for the {len(self._ends)}th time within an hour; {self._log} says why"
            )
        self._start("a")
        return f"the Prefect server {what} and is started again; {self._log} may say why"

    def wait_until_up(self) -> None:
        """Return once the server answers; raises CurateError if it ends before, or takes too long."""
        while not (up := is_up(self.url)):
            self.keep(answers=up)
            time.sleep(0.2)
        self.keep(answers=up)

    def end(self, *, force: bool = False) -> None:
        """End the server and all its processes; force : at once."""
        if not force:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        # Who started it may be gone while what listens at the port is not.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _start(self, mode: str) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open(mode, encoding="utf-8") as said:
            # A session of its own: Ctrl-C is for what works with the server, which is needed until that has ended.
            self._process = subprocess.Popen(
                _command(self._port),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._was_up, self._answered = False, time.monotonic()


def _command(port: int) -> list[str]:
    return [sys.executable, "-m", "curate.flows.server", str(port), str(os.getpid())]


@contextlib.contextmanager
def started(port: int, log: Path) -> Iterator[OwnServer]:
    """Start a server on this machine only, give it once it answers, and end it at the end.

    It also ends when this process does, however it ends. log : what the server says. Raises UsageError if the
    port is taken, CurateError if the server does not come up.
    """
    if _is_taken(port):
        raise UsageError(
            f"--start-server: port {port} of {HOST} is taken; if a Prefect server is there, set "
            f"PREFECT_API_URL=http://{HOST}:{port}/api and leave --start-server out, else give another --port"
        )
    own = OwnServer(port, log)
    try:
        own.wait_until_up()
        yield own
    finally:
        own.end()


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def is_up(url: str) -> bool:
    """Whether a server answers at this address of an API."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # the second: what is there speaks something else
        return False


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Be the server: `python -m curate.flows.server PORT PARENT`."""
    port, parent = sys.argv[1:]
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    sys.argv = ["prefect", "server", "start", "--host", HOST, "--port", port]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
