"""LINE's Messaging API: push, with its retry key, its limit (2,000 a second) and a month's quota.

A user whose id ends in 404 is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import ClassVar

from demo.api import Api, Request, Response
from demo.inbox import Inbox
from demo.world import World

TOKEN = "demo"  # noqa: S105 - of a channel that there is not


class Line(Api):
    """One channel."""

    name = "line"
    settings: ClassVar[Mapping[str, str]] = {"LINE_URL": ""}
    keys: ClassVar[Mapping[str, str]] = {"LINE_TOKEN": TOKEN}
    limits: ClassVar[Mapping[str, tuple[int, float]]] = {"all": (2000, 1)}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.inbox = Inbox()
        self.quota = 1_000_000

    def answer(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.error(401)
        if request.path != "/v2/bot/message/push":
            return self.error(404)
        try:
            sent = json.loads(request.body)
            to, text = sent["to"], sent["messages"][0]["text"]
        except (ValueError, KeyError, TypeError, IndexError):
            return self.error(400)
        if not re.fullmatch(r"[UCR][0-9a-f]{32}", to) or to.endswith("404"):
            return Response({"message": "The property, 'to', in the request body is invalid (line: -, column: -)"}, 400)
        if not 0 < len(text.encode("utf-16-le")) // 2 <= 5000:
            return self.error(400)
        if len(self.inbox.messages) >= self.quota:
            return Response({"message": "You have reached your monthly limit."}, 429)
        if self.inbox.admit(request.now, dict(self.limits)):
            return self.error(429)
        taken, is_new = self.inbox.keep(to, text, request.now, request.headers.get("x-line-retry-key", ""))
        said = {"sentMessages": [{"id": str(taken.number), "quoteToken": "q"}]}
        if is_new:
            return Response(said)
        return Response(
            {"message": "The retry key is already accepted", **said}, 409, {"X-Line-Accepted-Request-Id": "r"}
        )

    def error(self, status: int) -> Response:
        words = {
            400: "The request body has 1 error(s)",
            401: "Authentication failed. Confirm that the access token in the authorization header is valid.",
            404: "Not found",
            429: "The API rate limit has been exceeded. Try again later.",
        }
        return Response({"message": words.get(status, "Internal Server Error")}, status)


STAND_IN = Line
