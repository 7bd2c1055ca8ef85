"""Notifications: what users are told, delivered on the channels besides the app."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import config
import db
import events
from domain.failures import Rejected, Unavailable
from domain.notifications import MAX_TRIES, Message, message, rest, wait
from models import notifications
from notify.channels import Channel, channel
from queues import CRITICAL, batches, job

SECONDS = 15  # for a run; the next one goes on, and what else is critical gets its turn between them


@job(CRITICAL, timeout=110)
def deliver_notifications(due_at: datetime) -> dict[str, int]:
    """Route what is new, then send what is due on every channel; each outcome is written before the next message."""
    counts = Counter({"dead": bury(), "routed": sum(batches(notifications.route(config.settings.channels)))})
    for name in notifications.awake_channels(config.settings.channels):
        failures = notifications.failures_of(name)
        with channel(name) as opened:
            for delivery in batches(claims(name)):
                counts[attempt(opened, delivery)] += 1
                if opened.broken:
                    lay_to_rest(name, failures, opened.broken)
                    break
                if failures:
                    failures = wake(name)
    return {outcome: count for outcome, count in counts.items() if count}


def bury() -> int:
    """Give up what cannot be sent any more, and say so."""
    with db.transaction():
        given_up = notifications.bury(MAX_TRIES)
        for delivery in given_up:
            tell_dead(delivery, delivery["error"])
    return len(given_up)


def tell_dead(delivery: dict[str, Any], reason: str) -> None:
    """A message that its user will not get is a fact."""
    events.publish("delivery.dead", {"delivery_id": delivery["id"], "channel": delivery["channel"], "reason": reason})


def claims(name: str) -> Iterator[dict[str, Any]]:
    """Deliveries of a channel, claimed one by one, until none is due or the time is up."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and (delivery := notifications.claim(name)):
        yield delivery


def attempt(opened: Channel, delivery: dict[str, Any]) -> str:
    """Send one message and record what came of it: sent, failed, dead or put_back."""
    try:
        receipt = opened.send(delivery["target"], written(delivery))
    except (Unavailable, Rejected) as failure:
        return record_failure(delivery, failure, in_vain=opened.broken is not None)
    notifications.close_try(delivery, "sent", receipt=receipt)
    return "sent"


def written(delivery: dict[str, Any]) -> Message:
    """The message of a delivery. Raises Rejected if its data makes none: that costs this message alone."""
    names = ("kind", "title", "data", "created_at", "zone")
    try:
        return message(str(delivery["key"]), *[delivery[name] for name in names])
    except (KeyError, TypeError, ValueError) as error:
        raise Rejected(f"no message can be made of its data: {error!r}") from error


def record_failure(delivery: dict[str, Any], failure: Unavailable | Rejected, *, in_vain: bool) -> str:
    """A delivery is put back (the channel was at fault), tried again later, or dead."""
    again = None
    if isinstance(failure, Unavailable):
        again = wait(delivery["tries"], failure.retry_after, random.random())  # noqa: S311
    outcome = "put_back" if in_vain else "failed" if again else "dead"
    with db.transaction():
        ours = notifications.close_try(delivery, outcome, error=str(failure), wait=None if in_vain else again)
        if ours and outcome == "dead":
            tell_dead(delivery, str(failure))
    return outcome


def lay_to_rest(name: str, failures: int, failure: Exception) -> None:
    """Nothing can be sent on a channel at present: leave it for a while, and say so the first time."""
    with db.transaction():
        notifications.lay_to_rest(name, rest(failures, failure), str(failure))
        if not failures:
            events.publish("channel.off", {"channel": name, "reason": str(failure)})


def wake(name: str) -> int:
    """A channel that rested works again; returns its failures, which are none."""
    with db.transaction():
        if notifications.wake(name):
            events.publish("channel.on", {"channel": name})
    return 0
