"""Serving the review of a run on this machine, until Ctrl-C."""

import contextlib
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import UsageError
from curate.review.security import ANY, LOOPBACK, Guard

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Review", "review"]

#: The port that is tried first, where none is named, and how many behind it.
PORT, PORTS = 8600, 50


@dataclass
class Review:
    """A review that is being served: its address, with the token. `close` ends it, `wait` waits until Ctrl-C."""

    url: str
    _server: "uvicorn.Server"
    _socket: socket.socket
    _close: Callable[[], None]

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])
        self._ended()

    def start(self) -> None:
        """Serve in a thread of its own, until `close`."""
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="review", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(10)
        self._ended()

    def _ended(self) -> None:
        self._socket.close()
        self._close()


def review(
    run: str | Path, *, host: str = "127.0.0.1", port: int | None = None, read_only: bool = False
) -> Review:
    """Return the review of a finished run, ready to be served: `wait` serves it until Ctrl-C.

    host : the address to listen at; only this machine reaches the default. port : a free one by default. read_only : whether
    nothing can be decided. Raises UsageError where it cannot listen there, or where there is no finished run.
    """
    _require_libraries()
    import uvicorn

    from curate.analysis.explain import opened
    from curate.review.app import make_app
    from curate.review.site import Site

    context = opened(run)
    listening = _listen(host, port)
    site = Site(context, read_only=read_only)
    guard = Guard(host, listening.getsockname()[1], secrets.token_urlsafe(24))
    config = uvicorn.Config(
        make_app(site, guard), log_config=None, access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=1, ws="none",
    )  # fmt: skip
    site.open()
    shown = f"[{host}]" if ":" in host else host
    shown = socket.gethostname() if host in ANY else shown
    url = f"http://{shown}:{guard.port}/?token={guard.token}"
    return Review(url, uvicorn.Server(config), listening, site.close)


def _require_libraries() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"curate review needs {error.name}: pip install starlette uvicorn") from None


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens; raises UsageError where the port is taken or the address is not of this machine."""
    tried = [port] if port is not None else range(PORT, PORT + PORTS)
    refused: OSError | None = None
    for one in tried:
        try:
            family, kind, *_, place = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(family, kind)
        except OSError as error:
            raise UsageError(f"--host {host}: {error.strerror or error}") from None
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(64)
            return listening
        except OSError as error:
            listening.close()
            refused = error
    where = f"{host}:{port}" if port is not None else f"{host}, ports {PORT} to {PORT + PORTS - 1}"
    raise UsageError(f"cannot listen at {where}: {refused and refused.strerror}; name another --port")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    return host in LOOPBACK or host.startswith("127.")


def open_browser(url: str, *, wait: bool = False) -> bool:
    """Open an address in the browser of the user; return False where there is no screen.

    wait : whether to return only when the browser was told, as a process that ends next must.
    """
    if sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME")
    ):
        return False
    telling = threading.Thread(target=webbrowser.open, args=(url,), daemon=True)
    telling.start()
    if wait:
        telling.join()
    return True
