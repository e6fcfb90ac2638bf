"""Shows the reports of a schedule to browsers on this machine, for as long as the schedule runs.

It listens on 127.0.0.1 only, reads, and has one kind of address: `/<key>/<dated run>/report.html`. The key is that of the
user (a file that nobody else reads), stays the same when the schedule is started again, and stands in the links alone:
others with an account on the machine reach the port, and not the pictures. Everything else is not there: no lists, no other file.
"""

import contextlib
import os
import re
import secrets
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from curate.errors import UsageError
from curate.flows.report_links import PAGE, SHOWN_AT, SHOWN_OF
from curate.review import security

__all__ = ["PORT", "key_of_user", "make_app", "shown"]

HOST, PORT = "127.0.0.1", 4201
#: What the page itself says in its head lets in only its own script, by a nonce; this holds whatever the page says: it
#: loads nothing, sends nothing, stands in no frame, and is of no origin, so that it could not ask other servers here in the user's name.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads allow-modals"
)
HEADERS = security.HEADERS | {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
#: The address of a report. The name of a dated run is a time (`curate.runs.dated`), which leads nowhere else.
_REPORT = re.compile(r"/([\w-]{20,80})/(\d{4}-\d\d-\d\dT\d{6}Z)/report\.html", re.ASCII)
_KEY = re.compile(r"[\w-]{20,80}", re.ASCII)


@contextlib.contextmanager
def shown(root: Path, port: int | None, key_file: Path, say: Callable[[str], None]) -> Iterator[str | None]:
    """Show the reports of the dated runs below `root` while inside, and let the flows that are started here know.

    port : the port; with None the usual one, if that is free. Gives the address, without the key; None where nothing is
    shown, which `say` is told. Raises UsageError where a port that was asked for is taken.
    """
    try:
        listening = _listen(PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise UsageError(
                f"--reports-port: port {port} of {HOST} cannot be had ({error.strerror}); give another one, or 0 to show none"
            ) from None
        say(f"reports are not shown to browsers: port {PORT} of {HOST} is taken; give one as --reports-port")
        yield None
        return
    key = key_of_user(key_file)
    at = f"http://{HOST}:{listening.getsockname()[1]}"
    changes = {SHOWN_AT: f"{at}/{key}", SHOWN_OF: str(root.resolve())}
    with listening, _serving(make_app(root, key), listening):
        os.environ.update(changes)
        try:
            yield at
        finally:
            for name in changes:
                del os.environ[name]


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(64)
    except OSError:
        listening.close()
        raise
    return listening


@contextlib.contextmanager
def _serving(app: ASGIApp, listening: socket.socket) -> Iterator[None]:
    """Serve in a thread while inside."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=1, ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="reports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def key_of_user(path: Path) -> str:
    """Return the key that a file keeps; makes one that only this user reads where there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if _KEY.fullmatch(known := path.read_text(encoding="ascii").strip()):
            return known
    key = secrets.token_urlsafe(24)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(
        os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
    ) as file:
        file.write(f"{key}\n")
    partial.replace(path)
    return key


def make_app(root: Path, key: str) -> ASGIApp:
    """Return the application that shows the reports of the dated runs below `root` to those who have the key."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        name = request.headers.get("host", "")
        answer = await run_in_threadpool(_answer, root, key, request.method, name, scope["path"])
        answer.headers.update(HEADERS)
        await answer(scope, receive, send)

    return app


def _answer(root: Path, key: str, method: str, host: str, path: str) -> Response:
    if not _is_ours(host):
        # Else a page elsewhere could make a name of its own mean this machine, and read what is here.
        return _refused(421, f"this is {HOST}, not {host[:80]!r}")
    if method not in ("GET", "HEAD"):
        return _refused(405, "reports can be read only")
    asked = _REPORT.fullmatch(path)
    if asked is None or not secrets.compare_digest(asked[1], key):
        return _refused(404, "there is nothing here: open a report by its link in Prefect")
    page = _page(root, asked[2])
    if page is None:
        return _refused(404, "this run has no report, or is gone")
    return Response(page, media_type="text/html")


def _refused(status: int, why: str) -> Response:
    return Response(f"{why}\n", status, media_type="text/plain")


def _is_ours(host: str) -> bool:
    """Return whether a Host header names this machine; its port may be that of a tunnel.

    >>> _is_ours("127.0.0.1:4201"), _is_ours("localhost"), _is_ours("127.0.0.1.example.org:4201"), _is_ours("[")
    (True, True, False, False)
    """
    try:
        found = urlsplit(f"//{host}")
        return found.hostname in security.LOOPBACK and found.username is None and not found.path
    except ValueError:
        return False


def _page(root: Path, run: str) -> bytes | None:
    """Return the report of a run, None where there is none. No link below `root` is followed: it could lead anywhere."""
    try:
        path = root.resolve() / run / PAGE
        if path.resolve(strict=True) != path:
            return None
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None
