"""Notifications to Discord webhooks, which users make for a channel of their server.

The address is the webhook's URL; only its id and token are used, so it leads to DISCORD_URL and nowhere else. Nobody
is mentioned, whatever a message says. Discord tells in each answer what is left of its limit, and that is heeded.
"""

from __future__ import annotations

import json
import re
from typing import Any

import config
from clients import http
from domain.deliveries import Limit
from domain.failures import Rejected, Unavailable
from domain.notifications import Message
from notify import limits, wording
from notify.channels import JSON, Crowded, Gone, Plain, said, seconds

LONGEST = 2000  # characters
NO_PREVIEWS = 4  # the flag SUPPRESS_EMBEDS
WEBHOOK = re.compile(r"https?://[^?#]*/api/(?:v\d+/)?webhooks/(\d{1,20})/([\w-]{1,100})/?")


class Discord(Plain):
    """Webhooks."""

    limit = Limit(50, 1)

    def limit_of(self, target: str) -> Limit | None:
        """Five in two seconds, as long as its answers say nothing else."""
        return Limit(5, 2)

    def send(self, target: str, message: Message, secret: str = "") -> str:
        """Post a message; returns its id. Raises Gone (deleted), Crowded and so on."""
        found = WEBHOOK.fullmatch(target)
        if not found:
            raise Gone("discord: not the URL of a webhook")
        url = f"{config.settings.discord_url}/api/webhooks/{found[1]}/{found[2]}?wait=true"
        content = wording.discord(message, LONGEST)
        body = {"content": content, "allowed_mentions": {"parse": []}, "flags": NO_PREVIEWS}
        try:
            answer = http.send("POST", url, json.dumps(body).encode(), headers=JSON)
        except http.Refused as refused:
            raise _refusal(refused.status, said(refused.body)) from refused
        except http.Busy as busy:
            raise self._later(busy) from busy
        except (Unavailable, Rejected) as failure:  # one host for everybody: no message is the cause
            self.broken = failure
            raise
        if answer.headers.get("x-ratelimit-remaining") == "0":
            wait = seconds(answer.headers.get("x-ratelimit-reset-after"))
            limits.block("discord", target, self.limit_of(target), wait)
        receipt = said(answer.body).get("id")
        if not receipt:
            raise self.unconfirmed(f"discord: {answer.status} without a message's id")
        return str(receipt)

    def _later(self, busy: http.Busy) -> Unavailable:
        if busy.status == 429:
            answer = said(busy.body)
            wait = max(seconds(answer.get("retry_after")), busy.retry_after or 0.0, 0.1)
            return Crowded("discord: 429 too many messages", wait, everybody=bool(answer.get("global")))
        self.broken = busy
        return busy


def _refusal(status: int, answer: dict[str, Any]) -> Rejected:
    words = f"discord: {status} {str(answer.get('message', ''))[:200]}"
    return Gone(words) if status in (401, 403, 404) else Rejected(words)
