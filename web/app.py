"""The web process: `uvicorn web.app:app` (Procfile: web)."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from peewee import InterfaceError, OperationalError
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import db
from engine import memory
from web import api, blocking, console, dashboard, live, notifications, page
from web.access import METRICS, OPEN, needs
from web.hub import Hub
from web.static import Files

log = logging.getLogger("nightdesk.web")


@needs(OPEN)
async def healthz(_: Request) -> Response:
    """The process lives."""
    return PlainTextResponse("ok\n")


@needs(METRICS)
async def readyz(_: Request) -> Response:
    """PostgreSQL and Redis answer; 503 and which of them does not."""
    away = await away_servers()
    return JSONResponse({"ready": not away, "away": away}, 503 if away else 200)


async def away_servers() -> list[str]:
    """The servers that do not answer now."""
    away = []
    for name, ask in (("PostgreSQL", lambda: db.rows("select 1")), ("Redis", lambda: db.redis().ping())):
        try:
            await blocking.run(ask)
        except (OperationalError, InterfaceError):
            away.append("PostgreSQL")
        except (RedisError, OSError):
            away.append(name)
    return sorted(set(away))


async def server_away(request: Request, failure: Exception) -> Response:
    """One clear answer while PostgreSQL or Redis is away: the page says so and comes back by itself."""
    name = "Redis" if isinstance(failure, RedisError) else "PostgreSQL"
    log.warning("%s %s: %s is away", request.method, request.url.path, name)
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(page.render("away.html", name=name), 503, {"Retry-After": "2"})
    return JSONResponse({"error": f"{name} is away; try again in a moment"}, 503, {"Retry-After": "2"})


async def refused(_: Request, failure: Exception) -> Response:
    """Unknown paths and wrong methods, as JSON like every other answer."""
    status, headers = getattr(failure, "status_code", 500), getattr(failure, "headers", None)
    detail = str(getattr(failure, "detail", "failed"))
    return JSONResponse({"error": detail[:1].lower() + detail[1:]}, status, headers)


class SecureHeaders:
    """No page of ours in a frame, no script or style from elsewhere, nothing cached that a login opened."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                extra = [pair for pair in HEADERS if pair[0] not in names]
                if scope["path"].startswith("/rq"):  # rq-dashboard's pages carry scripts and styles inside
                    extra = [pair for pair in extra if pair[0] != b"content-security-policy"]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


M_MMAP_THRESHOLD = -3  # as malloc.h has it

HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The hub reads for every client of this process."""
    give_memory_back()
    app.state.hub = Hub()
    await app.state.hub.start()
    memory.settle()
    with db.in_haste():
        yield
    await app.state.hub.stop()


def give_memory_back() -> None:
    """Return large blocks at once: after a first login (16 MB) glibc would keep as much for each thread, for good."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 256 * 1024)


ROUTES: list[BaseRoute] = [
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    *api.ROUTES,
    WebSocketRoute("/events", live.websocket),
    Route("/events", live.server_sent),
    *console.ROUTES,
    *notifications.ROUTES,
    Mount("/rq", dashboard.app),
    Mount("/static", Files(directory=Path(__file__).parent / "static")),
]

FAILURES: Any = dict.fromkeys((OperationalError, InterfaceError, RedisError), server_away)
FAILURES[HTTPException] = refused

app = Starlette(routes=ROUTES, middleware=[Middleware(SecureHeaders)], lifespan=lifespan, exception_handlers=FAILURES)
