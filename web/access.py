"""Who gets in. Every route names its access, and what names none is closed.

Operators come with a session cookie, programs with a token, the served app's users with a short
JWT (HS256) that the app signs with APP_SECRET: `{"sub": "<external id>", "exp": …}`.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

import db
from config import settings
from models import operators
from web import blocking
from web.lookups import Lookups

COOKIE = "nightdesk"
OPEN, VIEWER, OPERATOR, METRICS, READ, APP = "open", "viewer", "operator", "metrics", "read", "app"
TRIES, TRIES_SECONDS = 10, 300  # logins of a name from an address
LARGEST_FORM = 4096  # bytes

Endpoint = Callable[[Request], Awaitable[Response]]
log = logging.getLogger("nightdesk.web")


@dataclass(frozen=True)
class Visitor:
    """Who asks: an operator, a program with a scope, or a user of the served app."""

    name: str
    role: str  # viewer, operator, metrics, read, app
    session: str = ""  # the session's token
    user_id: int | None = None  # of the app's user

    @property
    def csrf(self) -> str:
        """What a form or script of our own page sends back; nobody else can know it."""
        return hmac.new(self.session.encode(), b"csrf", sha256).hexdigest()

    def may(self, access: str) -> bool:
        """Whether this visitor has that access; an operator has a viewer's, and both may read everything."""
        allowed = {VIEWER: {VIEWER, OPERATOR}, OPERATOR: {OPERATOR}, METRICS: {METRICS, VIEWER, OPERATOR}}
        allowed |= {READ: {READ, VIEWER, OPERATOR}, APP: {APP, VIEWER, OPERATOR}}
        return self.role in allowed[access]


def needs(access: str) -> Callable[[Endpoint], Endpoint]:
    """Close an endpoint to everybody without that access; requests that change something also need our CSRF token."""

    def close(endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def guarded(request: Request) -> Response:
            if access != OPEN:
                visitor = await who(request)
                if refused := refusal(request, visitor, access) or await _forgery(request, visitor):
                    return refused
                request.state.visitor = visitor
            return await endpoint(request)

        guarded.access = access  # type: ignore[attr-defined]
        return guarded

    return close


def refusal(request: Request, visitor: Visitor | None, access: str) -> Response | None:
    """What a visitor without that access is told; None for one who has it."""
    if visitor is None:
        if "text/html" in request.headers.get("accept", "") and request.method == "GET":
            return RedirectResponse("/login", 303)
        return JSONResponse({"error": "log in, or send a token"}, 401, {"WWW-Authenticate": "Bearer"})
    if not visitor.may(access):
        return JSONResponse({"error": f"this needs {access}; {visitor.name} is {visitor.role}"}, 403)
    return None


async def _forgery(request: Request, visitor: Visitor | None) -> Response | None:
    changes = request.method not in ("GET", "HEAD")
    if changes and visitor and visitor.session and not await _is_ours(request, visitor):
        return JSONResponse({"error": "the form is not ours or too old: reload the page"}, 403)
    return None


async def _is_ours(request: Request, visitor: Visitor) -> bool:
    sent = request.headers.get("x-csrf") or (await form(request)).get("csrf", "")
    return hmac.compare_digest(sent.encode(), visitor.csrf.encode()) and same_origin(request)


async def form(request: Request) -> dict[str, str]:
    """The fields of one of our forms. Raises HTTPException for a body that none of them can have."""
    length = request.headers.get("content-length", "0" if "transfer-encoding" not in request.headers else "")
    if not length.isdecimal() or int(length) > LARGEST_FORM:
        raise HTTPException(413, "no form of ours is that long")
    try:
        return dict(parse_qsl((await request.body()).decode(), max_num_fields=10))
    except ValueError:
        raise HTTPException(400, "the form is unreadable") from None


def same_origin(connection: HTTPConnection) -> bool:
    """Whether the browser says that the request comes from a page of ours (or says nothing: no browser)."""
    origin = connection.headers.get("origin")
    return not origin or urlsplit(origin).netloc == connection.headers.get("host")


def _app_users(names: list[str]) -> dict[str, int]:
    return dict(db.rows("select external_id, id from app_user where external_id = any(%s)", names))


sessions = Lookups(operators.of_sessions)
app_users = Lookups(_app_users)


async def who(connection: HTTPConnection) -> Visitor | None:
    """The visitor behind a bearer token, (for /events alone) a `token` parameter, or else a session cookie.

    Who sends a token is judged by it: an operator's browser may hold a cookie of ours on a page of the app.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    token = token if scheme.lower() == "bearer" else ""
    if not token and connection.url.path == "/events":
        token = connection.query_params.get("token", "")
    if token.startswith("nd_"):
        scope = await blocking.run(operators.token_scope, token)
        return Visitor("a program", scope) if scope else None
    if token:
        return await app_user(token)
    session = connection.cookies.get(COOKIE)
    found = await sessions.get(session) if session else None
    return Visitor(*found, session=session or "") if found else None


async def app_user(token: str) -> Visitor | None:
    """The served app's user behind a JWT that the app signed; None for one that is forged, expired or of no user."""
    import jwt

    if not settings.app_secret:
        return None
    try:
        claims = jwt.decode(
            token, settings.app_secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}, leeway=5
        )
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError):  # it lets some through
        return None
    name = str(claims["sub"])
    if "\0" in name:  # PostgreSQL has no such text
        return None
    user_id = await app_users.get(name)
    return Visitor(name, APP, user_id=user_id) if user_id else None


def may_try(request: Request, name: str) -> bool:
    """Count a login; False after too many.

    A name from one address has few tries, so that guessing is slow; a name from everywhere has more, so that a
    stranger cannot easily lock its owner out; an address has enough for an office behind it.
    """
    address = request.client.host if request.client else "?"
    tries = {f"{name[:64]} {address}": TRIES, f"{name[:64]} *": TRIES * 10, f"* {address}": TRIES * 5}
    with db.redis().pipeline() as pipe:
        for who_from in tries:
            pipe.incr(f"nightdesk:login:{who_from}")
            pipe.expire(f"nightdesk:login:{who_from}", TRIES_SECONDS, nx=True)
        counts: list[Any] = pipe.execute()
    return all(count <= most for count, most in zip(counts[::2], tries.values(), strict=True))


def log_in(response: Response, request: Request, token: str) -> None:
    """Set the session's cookie: unreadable for scripts, not sent along from other sites."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(operators.SESSION.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=is_https(request),
        path="/",
    )


def is_https(request: Request) -> bool:
    """Whether the browser came by HTTPS, through the platform's proxy too."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").startswith("https")
