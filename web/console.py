"""The operator's page: what is well and what is not, and the buttons that change it.

One template makes the first paint and every refresh. The script replaces nothing by hand but prices;
without it the page reloads by itself and its buttons are plain forms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

import db
from engine import entries, letters
from models import operators, runs
from scheduler import SCHEDULE
from web import access, blocking, page
from web.access import OPEN, OPERATOR, VIEWER, needs
from web.api import snapshots
from web.verdict import verdict

ENTRIES = {entry.id: entry for entry in SCHEDULE}

log = logging.getLogger("nightdesk.web")


@needs(OPEN)
async def login_page(request: Request) -> Response:
    """The form; whoever is logged in goes on to the page."""
    if await access.who(request):
        return RedirectResponse("/", 303)
    return HTMLResponse(page.render("login.html", name="", error=""))


@needs(OPEN)
async def log_in(request: Request) -> Response:
    """A session for the right password, from our own form; too many tries have to wait."""
    if not access.same_origin(request):
        raise HTTPException(403, "the form is not ours")
    fields = await access.form(request)
    name, password = fields.get("name", ""), fields.get("password", "")
    if not await blocking.run(access.may_try, request, name):
        return _again(name, "Too many tries. Wait a few minutes.", 429)
    token = await blocking.run(_open_session, name, password)
    if token is None:
        log.warning("refused login of %r from %s", name[:64], request.client and request.client.host)
        return _again(name, "Wrong name or password.", 401)
    response = RedirectResponse("/", 303)
    access.log_in(response, request, token)
    return response


def _open_session(name: str, password: str) -> str | None:
    token = operators.open_session(name, password)
    if token:
        runs.audit(name, "log in", name)
    return token


def _again(name: str, error: str, status: int) -> Response:
    return HTMLResponse(page.render("login.html", name=name[:64], error=error), status)


@needs(VIEWER)
async def log_out(request: Request) -> Response:
    """Close this browser's session."""
    await blocking.run(operators.close_session, request.state.visitor.session)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(access.COOKIE)
    return response


class Boards:
    """The part of the page that changes, made once per snapshot and role, however many look at it."""

    def __init__(self) -> None:
        self.made: dict[bool, tuple[dict[str, Any], str]] = {}

    async def get(self, may_act: bool) -> str:
        """The board as HTML, with buttons for those who may act."""
        snapshot = await snapshots.get()
        of, text = self.made.get(may_act, ({}, ""))
        if of is not snapshot:
            text = page.render("board.html", **snapshot, verdict=verdict(snapshot), may_act=may_act)
            self.made[may_act] = snapshot, text
        return text


boards = Boards()


@needs(VIEWER)
async def whole_page(request: Request) -> Response:
    """The page, complete without a script."""
    visitor = request.state.visitor
    board = await boards.get(visitor.may(OPERATOR))
    return HTMLResponse(page.render("console.html", visitor=visitor, board=board))


@needs(VIEWER)
async def fragment(request: Request) -> Response:
    """The part of the page that changes."""
    return HTMLResponse(await boards.get(request.state.visitor.may(OPERATOR)))


def on_job(act: Callable[[entries.Entry, str], str]) -> Any:
    """An endpoint that does something to the entry in its path; `act` returns what to tell the operator."""

    @needs(OPERATOR)
    async def endpoint(request: Request) -> Response:
        entry = ENTRIES.get(request.path_params["entry"])
        if entry is None:
            raise HTTPException(404, "no such job")
        return _done(request, await blocking.run(act, entry, request.state.visitor.name))

    return endpoint


def run(entry: entries.Entry, who: str) -> str:
    """Enqueue a run now, beside the schedule."""
    entries.run_now(db.redis(), entry, who)
    return f"{entry.id} is queued on {entry.spec.queue}"


def pause(entry: entries.Entry, who: str) -> str:
    """Let due times pass until it is resumed."""
    _override(entry, who, "pause", paused=True)
    return f"{entry.id} is paused"


def resume(entry: entries.Entry, who: str) -> str:
    """Go on at the next due time."""
    _override(entry, who, "resume", paused=False)
    return f"{entry.id} goes on"


def _override(entry: entries.Entry, who: str, action: str, *, paused: bool) -> None:
    """Raises 409 where the entry's cadence cannot be read by this version of the code."""
    try:
        entries.override(db.redis(), entry, who, action, paused=paused)
    except ValueError as problem:
        raise HTTPException(409, f"{entry.id}: {problem}") from None


def on_letters(act: Callable[[str, str], str]) -> Any:
    """An endpoint that does something to the dead letters with the fingerprint in its path."""

    @needs(OPERATOR)
    async def endpoint(request: Request) -> Response:
        fingerprint = request.path_params["fingerprint"]
        return _done(request, await blocking.run(act, fingerprint, request.state.visitor.name))

    return endpoint


def retry(fingerprint: str, who: str) -> str:
    """Enqueue a group of dead letters again."""
    return f"{_some(letters.retry(db.redis(), [fingerprint], who))} queued again"


def discard(fingerprint: str, who: str) -> str:
    """Close a group of dead letters for good."""
    return f"{_some(letters.discard([fingerprint], who))} closed"


def _some(count: int) -> str:
    if not count:
        raise HTTPException(404, "no open dead letter has this error: somebody was faster")
    return "1 run is" if count == 1 else f"{count} runs are"


def _done(request: Request, said: str) -> Response:
    """What happened for the script, the page again for a plain form."""
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"says": said})
    return RedirectResponse("/", 303)


ROUTES = [
    Route("/login", login_page, methods=["GET"]),
    Route("/login", log_in, methods=["POST"]),
    Route("/logout", log_out, methods=["POST"]),
    Route("/", whole_page),
    Route("/fragment", fragment),
    *(Route(f"/jobs/{{entry}}/{act.__name__}", on_job(act), methods=["POST"]) for act in (run, pause, resume)),
    *(Route(f"/dead/{{fingerprint}}/{act.__name__}", on_letters(act), methods=["POST"]) for act in (retry, discard)),
]
