"""Pages about messages: what became of one, the switch that lets any out, and how to get no more of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from config import settings
from domain.links import Unsubscribe, read
from models import deliveries, targets, timeline
from models.alerts import users_named
from web import blocking, page
from web.access import OPEN, OPERATOR, VIEWER, needs

LIMIT = 50  # notifications of a user


@needs(VIEWER)
async def notifications(request: Request) -> Response:
    """What became of a notification (`?which=` its id), or a user's newest ones (the app's id, or a mail address)."""
    which = request.query_params.get("which", "").strip()[:200].replace("\0", "")
    shown = await blocking.run(_look, which)
    visitor = request.state.visitor
    at = datetime.now(UTC)
    return HTMLResponse(
        page.render(
            "notifications.html",
            visitor=visitor,
            may_act=visitor.may(OPERATOR),
            which=which,
            at=at,
            here=here(),
            **shown,
        )
    )


def _look(which: str) -> dict[str, Any]:
    story = timeline.of_notification(int(which)) if which.isdecimal() and len(which) < 19 else None
    users = users_named(which) if which and not story else []
    return {
        "story": story,
        "users": users,
        "rows": timeline.newest(users, LIMIT),
        "addresses": [
            {**t, "address": timeline.masked(t["channel"], t["address"])} for u in users for t in targets.of_user(u)
        ],
        "channels": deliveries.summary(settings.channels),
        "switch": targets.switch(),
    }


def here() -> str:
    """The place for which delivery may be live."""
    return settings.public_url


@needs(OPERATOR)
async def turn_switch(request: Request) -> Response:
    """Let messages out (live), write them without sending (dry-run), or stop (off)."""
    mode = request.path_params["mode"]
    if mode not in ("live", "dry-run", "off"):
        raise HTTPException(404, "no such mode")
    if mode == "live" and not here():
        raise HTTPException(409, "public_url is not set")
    await blocking.run(targets.turn_switch, mode, here(), request.state.visitor.name)
    return RedirectResponse("/notifications", 303)


@needs(OPEN)
async def unsubscribe_page(request: Request) -> Response:
    """A question with a button. Opening a link changes nothing: programs open the links of mails, too."""
    what = await blocking.run(_meant, request.path_params["token"])
    return HTMLResponse(page.render("unsubscribe.html", what=what, done=False))


@needs(OPEN)
async def unsubscribe(request: Request) -> Response:
    """No more of this kind on this channel: by the button, or by a mail program's one click (RFC 8058)."""
    what = await blocking.run(_meant, request.path_params["token"])
    await blocking.run(targets.want, what.user_id, what.kind, what.channel, False)
    return HTMLResponse(page.render("unsubscribe.html", what=what, done=True))


def _meant(token: str) -> Unsubscribe:
    """What the link ends. Raises HTTPException for one that we have not made."""
    what = read(targets.link_key(), token)
    if what is None:
        raise HTTPException(404, "this link is not one of ours, or not whole")
    return what


ROUTES = [
    Route("/notifications", notifications),
    Route("/notifications/mode/{mode}", turn_switch, methods=["POST"]),
    Route("/unsubscribe/{token}", unsubscribe_page, methods=["GET"]),
    Route("/unsubscribe/{token}", unsubscribe, methods=["POST"]),
]
