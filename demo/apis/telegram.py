"""Telegram's Bot API: sendMessage, with its limits (30 a second, one a second to a chat, 20 a minute to a group).

A chat whose id ends in 403 has blocked the bot; one that ends in 404 does not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from demo.api import Api, Request, Response
from demo.inbox import Inbox
from demo.world import World

TOKEN = "1:demo"  # noqa: S105 - of a bot that there is not
TAGS = re.compile(r"</?(?:b|i|u|s|code|pre)>")


class Telegram(Api):
    """One bot, and chats of any number."""

    name = "telegram"
    settings: ClassVar[Mapping[str, str]] = {"TELEGRAM_URL": ""}
    keys: ClassVar[Mapping[str, str]] = {"TELEGRAM_TOKEN": TOKEN}
    limits: ClassVar[Mapping[str, tuple[int, float]]] = {"all": (30, 1), "chat": (1, 1), "group": (20, 60)}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.inbox = Inbox()

    def answer(self, request: Request) -> Response:
        if request.path != f"/bot{TOKEN}/sendMessage":
            return self.error(401 if request.path.startswith("/bot") else 404)
        try:
            sent = json.loads(request.body)
            chat, text = str(sent["chat_id"]), str(sent["text"])
        except (ValueError, KeyError, TypeError):
            return _said(400, "Bad Request: message text is empty")
        if problem := _problem(chat, text, sent.get("parse_mode")):
            return _said(*problem)
        each = "chat" if chat.isdecimal() else "group"
        if full := self.inbox.admit(request.now, {"all": self.limits["all"], f"{each} {chat}": self.limits[each]}):
            wait = int(full[1]) + 1
            return _said(429, f"Too Many Requests: retry after {wait}", {"retry_after": wait})
        taken, _ = self.inbox.keep(chat, text, request.now)
        result = {"message_id": taken.number, "date": int(request.now), "chat": {"id": chat, "type": "private"}}
        return Response({"ok": True, "result": {**result, "text": TAGS.sub("", text)}})

    def error(self, status: int) -> Response:
        words = {401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests: retry after 3"}.get(status, "Error")
        return _said(status, words, {"retry_after": 3} if status == 429 else None)


def _problem(chat: str, text: str, mode: Any) -> tuple[int, str] | None:
    if chat.endswith("403"):
        return 403, "Forbidden: bot was blocked by the user"
    if chat.endswith("404"):
        return 400, "Bad Request: chat not found"
    if not text or len(text) > 4096:
        return 400, "Bad Request: message is too long" if text else "Bad Request: message text is empty"
    if mode == "HTML" and re.search(r"<|&(?!(?:lt|gt|amp|quot|#\d+);)", TAGS.sub("", text)):
        return 400, "Bad Request: can't parse entities: unsupported start tag"
    return None


def _said(status: int, words: str, parameters: dict[str, Any] | None = None) -> Response:
    more = {"parameters": parameters} if parameters else {}
    return Response({"ok": False, "error_code": status, "description": words, **more}, status)


STAND_IN = Telegram
