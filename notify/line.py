"""Notifications to LINE users, pushed with LINE_TOKEN (Messaging API; LINE Notify ended in March 2025).

A push carries X-Line-Retry-Key: the message's own key, so a repeat after a lost answer is answered with 409 and goes
out once. LINE answers 429 both to too many and to a month's quota that is spent; only the words tell which.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import config
from clients import http
from domain.deliveries import Limit, next_month
from domain.failures import Rejected, Unavailable
from domain.notifications import Message
from notify import wording
from notify.channels import JSON, Crowded, Gone, Plain, said

LONGEST = 5000  # units of UTF-16
PENALTY = 5.0  # seconds: LINE does not say for how long it has had enough
SOMEBODY = re.compile(r"[UCR][0-9a-f]{32}")


class Line(Plain):
    """Users who are friends of the channel, groups and rooms that it is in."""

    limit = Limit(2000, 1)

    def send(self, target: str, message: Message, secret: str = "") -> str:
        """Push a message; returns its id. Raises Gone (no such user), Crowded and so on."""
        if not SOMEBODY.fullmatch(target):
            raise Gone("LINE has no users of such a name")
        if not config.settings.line_token:
            self.broken = Rejected("LINE_TOKEN is not set")
            raise self.broken
        text = wording.text(message, footer=False, most=LONGEST)
        body = {"to": target, "messages": [{"type": "text", "text": text}]}
        headers = {**JSON, "Authorization": f"Bearer {config.settings.line_token}", "X-Line-Retry-Key": message.key}
        try:
            answer = http.send(
                "POST", f"{config.settings.line_url}/v2/bot/message/push", json.dumps(body).encode(), headers=headers
            )
        except http.Refused as refused:
            if refused.status == 409:  # it was accepted before
                return _receipt(refused.body) or ""
            raise self._refusal(refused.status, said(refused.body)) from refused
        except http.Busy as busy:
            raise self._later(busy) from busy
        except (Unavailable, Rejected) as failure:  # one host for everybody: no message is the cause
            self.broken = failure
            raise
        receipt = _receipt(answer.body)
        if receipt is None:
            raise self.unconfirmed(f"line: {answer.status} without a message's id")
        return receipt

    def _refusal(self, status: int, answer: dict[str, Any]) -> Rejected:
        words = f"line: {status} {str(answer.get('message', ''))[:200]}"
        if status in (401, 403):
            self.broken = Rejected(f"{words}: is LINE_TOKEN right?")
            return self.broken
        unknown = any(detail.get("property") == "to" for detail in _objects(answer, "details")) or "'to'" in words
        return Gone(words) if status == 400 and unknown else Rejected(words)

    def _later(self, busy: http.Busy) -> Unavailable:
        if busy.status == 429 and "monthly limit" not in str(said(busy.body).get("message", "")):
            return Crowded("line: 429 too many messages", busy.retry_after or PENALTY, everybody=True)
        if busy.status == 429:
            now = datetime.now(UTC)
            self.broken = Unavailable("line: the month's quota is spent", (next_month(now) - now).total_seconds())
        else:
            self.broken = busy
        return self.broken


def _receipt(body: bytes) -> str | None:
    """What LINE calls the message that it has sent."""
    return next((str(sent["id"]) for sent in _objects(said(body), "sentMessages") if "id" in sent), None)


def _objects(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer."""
    found = answer.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
