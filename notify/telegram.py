"""Notifications to Telegram chats, by the bot of TELEGRAM_TOKEN (Bot API, sendMessage).

Limits as in Telegram's FAQ: about 30 messages a second, one a second to a chat, 20 a minute to a group. There is no
key by which it would know a repeat: after a lost answer the same message may come twice.
"""

from __future__ import annotations

import json
import re

import config
from clients import http
from domain.deliveries import Limit
from domain.failures import Rejected, Unavailable
from domain.notifications import Message
from notify import wording
from notify.channels import JSON, Crowded, Gone, Moved, Plain, said, seconds

LONGEST = 4096  # characters
CHAT = re.compile(r"-?\d{1,20}|@\w{4,40}")


class Telegram(Plain):
    """Chats of users who have begun one with the bot, groups and channels that it is in."""

    limit = Limit(30, 1)

    def limit_of(self, target: str) -> Limit | None:
        """One a second to a person, 20 a minute to a group or channel."""
        return Limit(1, 1) if target.isdecimal() else Limit(20, 60)

    def send(self, target: str, message: Message, secret: str = "") -> str:
        """Write into a chat; returns the message's id. Raises Gone (blocked, no such chat), Moved, Crowded …."""
        if not CHAT.fullmatch(target):
            raise Gone("Telegram has no chats of such a name")
        marked_up = {"text": wording.telegram(message, LONGEST), "parse_mode": "HTML"}
        try:
            return self._post(target, marked_up)
        except Unreadable:  # whatever it has against our markup, the words are worth more
            return self._post(target, {"text": wording.text(message, footer=False, most=LONGEST)})

    def _post(self, target: str, content: dict[str, str]) -> str:
        if not config.settings.telegram_token:
            self.broken = Rejected("TELEGRAM_TOKEN is not set")
            raise self.broken
        url = f"{config.settings.telegram_url}/bot{config.settings.telegram_token}/sendMessage"
        body = {"chat_id": target, **content, "link_preview_options": {"is_disabled": True}}
        try:
            answer = http.send("POST", url, json.dumps(body).encode(), headers=JSON)
        except http.Refused as refused:
            raise self._refusal(refused.status, refused.body) from refused
        except http.Busy as busy:
            raise self._later(busy) from busy
        except (Unavailable, Rejected) as failure:  # one host for everybody: no message is the cause
            self.broken = failure
            raise
        told = said(answer.body)
        if told.get("ok") is False:
            raise self._refusal(answer.status, answer.body)
        if told.get("ok") is not True:
            raise self.unconfirmed(f"telegram: {answer.status} without its ok")
        return str(said(answer.body, "result").get("message_id", ""))

    def _refusal(self, status: int, body: bytes) -> Rejected:
        words = f"telegram: {status} {str(said(body).get('description', ''))[:200]}"
        if moved := said(body, "parameters").get("migrate_to_chat_id"):
            return Moved(words, str(moved))
        if status == 403 or (status == 400 and "chat not found" in words):
            return Gone(words)
        if status == 400 and "can't parse entities" in words:
            return Unreadable(words)
        if status in (401, 404):
            self.broken = Rejected(f"{words}: is TELEGRAM_TOKEN right?")
            return self.broken
        return Rejected(words)

    def _later(self, busy: http.Busy) -> Unavailable:
        if busy.status == 429:
            wait = seconds(said(busy.body, "parameters").get("retry_after")) or busy.retry_after or 1.0
            return Crowded("telegram: 429 too many messages", wait)
        self.broken = busy
        return busy


class Unreadable(Rejected):
    """Telegram cannot read the markup of a message."""
