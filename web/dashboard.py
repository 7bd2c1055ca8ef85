"""rq-dashboard under /rq: closed by our login, and loaded when somebody first asks for it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from web import access

THREADS = 2


class Dashboard:
    """A viewer may look, an operator may act, from pages of ours alone; see web.rq_views for what is mended."""

    def __init__(self) -> None:
        self.pages: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocket(scope, receive, send).close()
            return
        request = Request(scope, receive)
        visitor = await access.who(request)
        acts = changes_something(request)
        refused = access.refusal(request, visitor, access.OPERATOR if acts else access.VIEWER)
        if not refused and acts and not is_from_our_page(request):
            refused = JSONResponse({"error": "only a page of ours may do that"}, 403)
        scope["nightdesk.visitor"] = visitor
        await (refused or self._pages())(scope, receive, send)

    def _pages(self) -> Any:
        if self.pages is None:
            from a2wsgi import WSGIMiddleware

            from web import rq_views

            flask: Any = rq_views.flask_app()
            self.pages = WSGIMiddleware(flask, workers=THREADS)
        return self.pages


def changes_something(request: Request) -> bool:
    """Every method but GET and HEAD; and one address that acts on GET."""
    path = request.url.path.removeprefix(str(request.scope.get("root_path", "")))
    return request.method not in ("GET", "HEAD") or path.lstrip("/").startswith("requeue")


def is_from_our_page(request: Request) -> bool:
    """Whether the browser vouches for it: rq-dashboard's scripts send no token of ours."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    says_so = site == "same-origin" or (site is None and origin is not None)
    return says_so and (origin is None or urlsplit(origin).netloc == request.headers.get("host"))


app = Dashboard()
