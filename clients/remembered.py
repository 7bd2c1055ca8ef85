"""Answers that are kept, for conditional requests and for not asking a provider more often than it likes.

Key `nightdesk:answer:<provider>:<hash of the URL>`, a hash: status, body, etag, modified, received_at, max_age.
It lives for a day with a validator (ETag or Last-Modified), else for as long as it may be served again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import db

LARGEST = 500_000  # bytes of a body; more would crowd Redis
REFUSED_AGE = 60.0  # seconds: a question that was refused is not asked again before
KEPT = 86_400  # seconds, with a validator


@dataclass(frozen=True)
class Memory:
    """What a provider answered: `received_at` is when it last said so."""

    status: int
    body: bytes
    headers: Mapping[str, str]  # the validators alone
    received_at: datetime
    max_age: float  # seconds, by its own Cache-Control

    @property
    def conditions(self) -> dict[str, str]:
        """Headers with which it answers 304 where nothing changed."""
        pairs = {"If-None-Match": self.headers.get("etag"), "If-Modified-Since": self.headers.get("last-modified")}
        return {name: value for name, value in pairs.items() if value} if self.status < 300 else {}

    def young(self, min_age: float, now: datetime) -> bool:
        """Whether it is served again: younger than `min_age` or its own max-age; a refusal for a minute."""
        lasts = max(min_age, self.max_age) if self.status < 300 else REFUSED_AGE
        return 0 <= (now - self.received_at).total_seconds() < lasts


def find(key: str) -> Memory | None:
    """The answer that is remembered under `key`."""
    raw: Any = db.redis().hgetall(key)
    if b"status" not in raw:
        return None
    headers = {name: raw[name.encode()].decode("latin-1") for name in ("etag", "last-modified")}
    received_at = datetime.fromtimestamp(float(raw[b"received_at"]), UTC)
    return Memory(int(raw[b"status"]), raw[b"body"], headers, received_at, float(raw[b"max_age"]))


def keep(key: str, memory: Memory, min_age: float) -> None:
    """Remember an answer where that is of use; forget an older one where it is not."""
    lasts = KEPT if memory.conditions else max(min_age, memory.max_age) if memory.status < 300 else REFUSED_AGE
    if lasts <= 0 or len(memory.body) > LARGEST:
        db.redis().delete(key)
        return
    values: Any = {
        "status": memory.status,
        "body": memory.body,
        "etag": memory.headers.get("etag", "").encode("latin-1", "replace"),
        "last-modified": memory.headers.get("last-modified", "").encode("latin-1", "replace"),
        "received_at": memory.received_at.timestamp(),
        "max_age": memory.max_age,
    }
    with db.redis().pipeline() as step:
        step.hset(key, mapping=values)
        step.expire(key, int(lasts) + 1)
        step.execute()


def key(provider: str, url: str) -> str:
    """The key of a URL; the URL itself may hold a secret and is not in it."""
    return f"nightdesk:answer:{provider}:{hashlib.sha256(url.encode()).hexdigest()[:32]}"
