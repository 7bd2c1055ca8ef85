"""Discord's webhooks: POST with `wait=true`, five in two seconds to a webhook, and what is left told in each answer.

A webhook whose id ends in 404 has been deleted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import ClassVar

from demo.api import Api, Request, Response
from demo.inbox import Inbox
from demo.world import World


class Discord(Api):
    """Webhooks of any id and token."""

    name = "discord"
    settings: ClassVar[Mapping[str, str]] = {"DISCORD_URL": ""}
    limits: ClassVar[Mapping[str, tuple[int, float]]] = {"all": (50, 1), "webhook": (5, 2)}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.inbox = Inbox()

    def answer(self, request: Request) -> Response:
        found = re.fullmatch(r"/api/webhooks/(\d+)/([\w-]+)", request.path)
        if not found or found[1].endswith("404"):
            return Response({"message": "Unknown Webhook", "code": 10015}, 404)
        try:
            text = str(json.loads(request.body)["content"])
        except (ValueError, KeyError, TypeError):
            return Response({"message": "Cannot send an empty message", "code": 50006}, 400)
        if not 0 < len(text) <= 2000:
            return Response({"code": 50035, "message": "Invalid Form Body", "errors": {"content": {}}}, 400)
        limits = {"all": self.limits["all"], f"webhook {found[1]}": self.limits["webhook"]}
        if full := self.inbox.admit(request.now, limits):
            return _too_many(full[1], everywhere=full[0] == "all")
        taken, _ = self.inbox.keep(found[1], text, request.now)
        if request.query.get("wait") != "true":
            return Response(b"", 204)
        return Response(
            {"id": str(taken.number), "type": 0, "content": text, "channel_id": "1", "webhook_id": found[1]}
        )

    def error(self, status: int) -> Response:
        if status == 429:
            return _too_many(1.5, everywhere=False)
        return Response({"message": f"{status}: error", "code": 0}, status)


def _too_many(wait: float, *, everywhere: bool) -> Response:
    headers = {"Retry-After": f"{wait:.3f}", "X-RateLimit-Scope": "global" if everywhere else "user"}
    body = {"message": "You are being rate limited.", "retry_after": round(wait, 3), "global": everywhere}
    return Response(body, 429, headers)


STAND_IN = Discord
