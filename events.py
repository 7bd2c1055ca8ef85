"""The only road from a job to the web: `publish` facts, `broadcast` state."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


def show(topic: str, states: Mapping[str, dict[str, Any]], changed: Collection[str], ttl: float) -> None:
    """Put states into the cache under their keys, for `ttl` seconds, and tell whoever listens of those that changed."""
    pipeline = db.redis().pipeline(transaction=False)
    for key, state in states.items():
        pipeline.set(key, dumps(state, default=str), px=int(ttl * 1000))
    pipeline.execute()
    for key in changed:
        broadcast(topic, states[key])


def broadcast(topic: str, payload: dict[str, Any]) -> None:
    """Send state (a quote, a ticker, a live candle) to whoever listens now; nothing is stored."""
    db.redis().publish(LIVE, dumps({"topic": topic, "payload": payload}, default=str))
