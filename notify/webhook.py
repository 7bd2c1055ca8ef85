"""Notifications to a URL of the user's own, signed as Standard Webhooks has it (standardwebhooks.com).

    webhook-id: the message's key, the same over all tries: whoever has seen it has the message
    webhook-timestamp: seconds since 1970, of this try
    webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body" with the bytes behind whsec_>

It leads to public addresses alone and follows no redirect: see clients/addresses.py.
"""

from __future__ import annotations

import hmac
import json
import time
from base64 import b64decode, b64encode
from dataclasses import asdict
from hashlib import sha256

from clients import http
from domain.deliveries import Limit
from domain.failures import Rejected
from domain.notifications import Message
from notify import limits
from notify.channels import JSON, Gone, Plain

LIMITS = http.Limits(connect=2, read=5, deadline=5, max_bytes=100_000)  # a slow one holds the worker


class Webhook(Plain):
    """Programs of users."""

    def limit_of(self, target: str) -> Limit | None:
        """Thirty a second."""
        return Limit(30, 1)

    def send(self, target: str, message: Message, secret: str = "") -> None:
        """Post a message. Raises Gone for a URL that leads nowhere, redirects, or leads to a private address."""
        body = content(message)
        headers = {**JSON, **signature(message.key, body, secret)}
        try:
            with limits.slowed("webhook", target, self.limit_of(target)):
                http.send("POST", target, body, headers=headers, limits=LIMITS)
        except http.Private as private:
            raise Gone(str(private)) from private
        except http.Refused as refused:
            gone = refused.status in (404, 410) or 300 <= refused.status < 400
            raise (Gone if gone else Rejected)(str(refused)) from refused


def content(message: Message) -> bytes:
    """The body: what is told, as text in lines and as the facts themselves."""
    told = {
        "title": message.title,
        "severity": message.severity,
        "lines": [asdict(line) for line in message.lines],
        "sections": [asdict(section) for section in message.sections],
        "facts": message.facts,
    }
    head = {"type": message.kind, "timestamp": message.created_at.isoformat()}
    return json.dumps({**head, "data": told}, default=str, separators=(",", ":")).encode()


def signature(key: str, body: bytes, secret: str, now: float | None = None) -> dict[str, str]:
    """The three headers. Raises Rejected for a secret that is none."""
    try:
        ours = b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        ours = b""
    if len(ours) < 24:
        raise Rejected("webhook: its secret is not whsec_ and at least 24 bytes in base64")
    at = str(int(time.time() if now is None else now))
    signed = hmac.new(ours, f"{key}.{at}.".encode() + body, sha256).digest()
    return {
        "webhook-id": key,
        "webhook-timestamp": at,
        "webhook-signature": f"v1,{b64encode(signed).decode()}",
    }
