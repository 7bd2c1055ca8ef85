"""The only road from a job to the web: `publish` facts, `broadcast` state."""

from __future__ import annotations

from contextlib import suppress
from json import dumps
from typing import Any

import db
from models import events

NUDGE = "nightdesk:nudge"  # empty message: new facts are in the event table
LIVE = "nightdesk:live"  # {"topic", "payload"}: snapshots, never stored


def publish(topic: str, payload: dict[str, Any], user_id: int | None = None) -> None:
    """Write a fact in the open transaction; readers are nudged after its commit."""
    events.add(topic, payload, user_id)
    db.after_commit(nudge)


def nudge() -> None:
    """Tell every web process to read the event table. Losing it costs a second: they also read on their own."""
    from redis.exceptions import RedisError

    with suppress(RedisError):  # the fact is committed, and readers sweep once a second
        db.redis().publish(NUDGE, "")


def broadcast(topic: str, payload: dict[str, Any]) -> None:
    """Send state (a quote, a ticker, a live candle) to whoever listens now; nothing is stored."""
    db.redis().publish(LIVE, dumps({"topic": topic, "payload": payload}, default=str))
