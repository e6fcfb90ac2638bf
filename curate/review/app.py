"""The web application: addresses, and what answers them."""

import json
import math
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curate.errors import CurateError, UsageError
from curate.review.filters import whole
from curate.review.security import HEADERS, Guard
from curate.review.site import Site

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["make_app"]

#: Bytes of a request: a picture to search for, or a decision.
MOST_PICTURE, MOST_DECISION = 32_000_000, 2_000_000
KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


def make_app(site: Site, guard: Guard) -> "ASGIApp":
    """Return the application: the page, its files, and what the page asks for."""
    routes = [
        Route("/", _page, methods=["GET"]),
        Route("/static/{name}", _static, methods=["GET"]),
        Route("/picture/{size}/{number:int}", _picture, methods=["GET"]),
        Route("/api/about", _answers(lambda request: site.about())),
        Route("/api/rows", _answers(lambda request: site.rows(request.query_params))),
        Route("/api/row/{number:int}", _answers(lambda request: site.row(request.path_params["number"]))),
        Route("/api/why/{number:int}", _answers(lambda request: site.why(request.path_params["number"]))),
        Route("/api/near", _answers(lambda request: site.near(request.query_params))),
        Route("/api/copies", _answers(lambda request: site.copies(request.query_params))),
        Route("/api/concepts", _answers(lambda request: site.concepts())),
        Route("/api/useful", _answers(lambda request: site.useful(request.query_params))),
        Route("/api/search", _answers(lambda request: site.search(request.query_params))),
        Route("/api/history", _answers(lambda request: site.decisions.history(200))),
        Route("/api/changes", _answers(lambda request: site.changes(_since(request)))),
        Route("/api/search", _search_picture, methods=["POST"]),
        Route("/api/decide", _decide, methods=["POST"]),
        Route("/api/loading", _loading, methods=["GET"]),
    ]
    app = Starlette(routes=routes)
    app.state.site, app.state.guard = site, guard
    return _Guarded(app, guard)


class _Guarded:
    """Refuses what the guard refuses before anything else looks at it, and puts the headers on every answer."""

    def __init__(self, app: "ASGIApp", guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def sent(message: "Message") -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        request = Request(scope)
        given = request.cookies.get(self._guard.cookie)
        if request.url.path == "/" and "token" in request.query_params:
            given = request.query_params["token"]
        refused = self._guard.refusal(request.method, request.headers, given)
        if refused is not None:
            status, why = refused
            answer = Response(f"{why}\n", status, media_type="text/plain")
            await answer(scope, receive, sent)
            return
        await self._app(scope, receive, sent)


# --- the page and its files ------------------------------------------------------------------------------------------


async def _page(request: Request) -> Response:
    guard: Guard = request.app.state.guard
    answer = _file("index.html")
    answer.set_cookie(guard.cookie, guard.token, httponly=True, samesite="strict", path="/")
    return answer


async def _static(request: Request) -> Response:
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    folder = resources.files("curate.review").joinpath("static")
    files = {one.name: one for one in folder.iterdir() if one.is_file()}
    kind = KINDS.get(name[name.rfind(".") :])
    if name not in files or kind is None:
        return Response("there is no such file\n", 404, media_type="text/plain")
    return Response(files[name].read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})


async def _picture(request: Request) -> Response:
    import asyncio

    site: Site = request.app.state.site
    pictures = site.pictures.get(request.path_params["size"])
    if pictures is None:
        return Response("pictures are small or large\n", 404, media_type="text/plain")
    waiting = asyncio.wrap_future(pictures.get(request.path_params["number"]))
    data = await asyncio.shield(waiting)  # others may wait for the same one
    if data is None:
        return Response("no picture can be had\n", 404, media_type="text/plain")
    return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=600"})


# --- what the page asks for --------------------------------------------------------------------------------------------


def _answers(answer: Callable[[Request], object]) -> Callable[[Request], Any]:
    """Return an endpoint that answers with JSON; an error is said in one line."""

    async def endpoint(request: Request) -> Response:
        return await _told(lambda: answer(request))

    return endpoint


async def _told(answer: Callable[[], object]) -> Response:
    try:
        return _json(await run_in_threadpool(answer))
    except CurateError as error:
        return _json({"error": str(error)}, 400 if isinstance(error, UsageError) else 500)
    except OSError as error:
        return _json({"error": f"{error.filename or 'the system'}: {error.strerror or error}"}, 500)


def _json(value: object, status: int = 200) -> Response:
    text = json.dumps(_finite(value), ensure_ascii=True, default=str, separators=(",", ":"))
    return Response(text, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _finite(value: Any) -> Any:  # noqa: ANN401  (what JSON can hold)
    """Return a value in which numbers that JSON does not know are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def _since(request: Request) -> int:
    return whole("since", request.query_params.get("since", "0"))


async def _loading(request: Request) -> Response:
    site: Site = request.app.state.site
    return _json({"loaded": site.table.loaded})


async def _body(request: Request, most: int) -> bytes | None:
    """Return the body of a request, None where it is too large."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > most:
            return None
    return bytes(found)


async def _search_picture(request: Request) -> Response:
    data = await _body(request, MOST_PICTURE)
    if data is None:
        return _json({"error": f"a picture may have {MOST_PICTURE // 1_000_000} MB at most"}, 413)
    if not data:
        return _json({"error": "the picture is empty"}, 400)
    return await _told(lambda: request.app.state.site.search(request.query_params, data))


async def _decide(request: Request) -> Response:
    data = await _body(request, MOST_DECISION)
    if data is None:
        return _json({"error": "the decision is about too many rows at a time"}, 413)
    try:
        given = json.loads(data)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        return _json({"error": "a decision is an object in JSON"}, 400)
    return await _told(lambda: request.app.state.site.decide(given))
