"""Notifications: what users are told, delivered on the channels besides the app."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import config
import db
import events
from domain.deliveries import MAX_TRIES, Limit, quiet_until, rest, wait
from domain.failures import Rejected, Unavailable
from domain.links import Unsubscribe, token
from domain.notifications import Message, known_zone, message, together
from models import deliveries, notifications, routing, targets
from notify import limits
from notify.channels import ANYWHERE, Channel, Crowded, Gone, Moved, channel
from queues import CRITICAL, DEFAULT, LOW, QUEUES, batches, job, waiting

SECONDS = 15  # for a run; the next one goes on
NAP = 0.05  # seconds: while all that is due waits for its turn


@job(CRITICAL, timeout=110)
def deliver_notifications(due_at: datetime) -> dict[str, int]:
    """Route what is new, then send what is due, channel by channel in turn; each outcome is written before the next."""
    now = datetime.now(UTC)  # a message goes by the hour at which it goes, however late the run is
    counts = Counter({"dead": bury(), "routed": sum(batches(routing.route(config.settings.channels, now)))})
    for released, dropped in batches(routing.release(now)):
        counts.update(released=released, dropped=dropped)
    counts.update(sent([name for name in config.settings.channels if name not in ANYWHERE], CRITICAL))
    return {outcome: count for outcome, count in counts.items() if count}


@job(DEFAULT, timeout=110)
def deliver_webhooks(due_at: datetime) -> dict[str, int]:
    """Send what is due by webhook and Apprise: they lead wherever a user said, and may be slow there."""
    return sent([name for name in config.settings.channels if name in ANYWHERE], CRITICAL, DEFAULT)


def sent(channels: Collection[str], *urgent: str) -> Counter[str]:
    """Send what is due on these channels, for as long as no run waits in the `urgent` queues."""
    with ExitStack() as ends:
        awake = deliveries.awake_channels(channels)
        ways = [Way(name, ends.enter_context(channel(name)), failures) for name, failures in awake.items()]
        return Counter(batches(outcomes(ways, urgent)))


@dataclass
class Way:
    """A channel that is open in this run."""

    name: str
    channel: Channel
    failures: int  # how often in a row it had to rest
    free_at: float = 0.0  # by the monotonic clock: when its limit lets the next message go


def bury() -> int:
    """Give up what cannot be sent any more, and say so."""
    with db.transaction():
        given_up = deliveries.bury(MAX_TRIES)
        for delivery in given_up:
            tell_dead(delivery, delivery["reason"])
    return len(given_up)


def tell_dead(delivery: dict[str, Any], reason: str) -> None:
    """A message that its user will not get is a fact."""
    events.publish("delivery.dead", {"delivery_id": delivery["id"], "channel": delivery["channel"], "reason": reason})


def outcomes(ways: list[Way], urgent: Collection[str]) -> Iterator[str]:
    """Send one message on each way in turn until none is due, time is up, or this worker is wanted elsewhere.

    A way whose limit is reached is passed over until its turn. While all of them wait, any other run may have the
    worker; while there is something to send, those of the `urgent` queues.
    """
    until = time.monotonic() + SECONDS
    while ways and time.monotonic() < until:
        free = [way for way in ways if way.free_at <= time.monotonic()]
        for way in free:
            delivery = deliveries.claim(way.name, config.settings.public_url)
            if delivery:
                yield attempt(way, delivery)
            if not delivery or way.channel.broken:
                ways.remove(way)
        if waiting(*(urgent if free else QUEUES)):
            return
        if not free:
            time.sleep(NAP)


def attempt(way: Way, delivery: dict[str, Any]) -> str:
    """Send one message and record what came of it: sent, dry, failed, dead, put_back, postponed or held."""
    try:
        text = written(delivery)
        if held := to_hold(delivery, datetime.now(UTC)):
            deliveries.postpone(delivery, *held, "held")
            return "held"
        if delivery["mode"] != "live":
            deliveries.close_try(delivery, "dry")
            return "dry"
        turn = limits.take(way.name, way.channel.limit, delivery["target"], way.channel.limit_of(delivery["target"]))
        if turn.wait:
            return postpone(way, delivery, turn, "its turn has not come")
        receipt = way.channel.send(delivery["target"], text, delivery["secret"] or "")
    except Crowded as crowd:
        turn = limits.Turn(crowd.retry_after or 1.0, crowd.everybody)
        limits.block(way.name, None if turn.everybody else delivery["target"], limit(way, delivery, turn), turn.wait)
        return postpone(way, delivery, turn, str(crowd))
    except (Unavailable, Rejected) as failure:
        return record_failure(way, delivery, failure)
    except Exception as bug:  # it costs this message a try, and the run, so that somebody looks
        record_failure(way, delivery, Unavailable(f"a fault of ours: {type(bug).__name__}"))
        raise
    deliveries.close_try(delivery, "sent", receipt=receipt)
    if way.failures:
        way.failures = wake(way.name)
    return "sent"


def written(delivery: dict[str, Any]) -> Message:
    """The message of a delivery. Raises Rejected if its data makes none: that costs this message alone."""
    if delivery["off_reason"]:
        raise Rejected(f"the address is off: {delivery['off_reason']}")
    if delivery["channel"] != "console" and delivery["target"] != delivery["email"]:
        if not delivery["secret"]:
            raise Rejected("the address was removed")
        if not delivery["verified_at"]:
            raise Rejected("the address is not verified")
    if delivery["unwanted"]:
        raise Rejected(f"{delivery['kind']} is not wanted by {delivery['channel']}")
    try:
        if delivery["others"]:
            return together(delivery, delivery["others"], unsubscribe(delivery))
        return message(delivery, unsubscribe(delivery))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Rejected(f"no message can be made of its data: {error!r}") from error


def to_hold(delivery: dict[str, Any], now: datetime) -> tuple[timedelta, str] | None:
    """How long it is held and why, if its user has become quiet or has muted any of it since it was routed."""
    if delivery["from_time"] is not None:
        ends_at = quiet_until(now, known_zone(delivery["zone"]), delivery["from_time"], delivery["until_time"])
        if ends_at:
            return ends_at - now, routing.QUIET
    muted = [each["subject"] for each in (delivery, *delivery["others"]) if each["muted"]]
    return (timedelta(), f"{muted[0]} is muted") if muted else None


def unsubscribe(delivery: dict[str, Any]) -> str:
    """The link with which a mail's reader gets no more of its kind; none where nobody could reach it."""
    if delivery["channel"] != "email" or not config.settings.public_url:
        return ""
    what = Unsubscribe(delivery["user_id"], "email", delivery["kind"])
    return f"{config.settings.public_url}/unsubscribe/{token(delivery['link_key'], what)}"


def limit(way: Way, delivery: dict[str, Any], turn: limits.Turn) -> Limit | None:
    """Whose limit it is that has been reached: the channel's or the address's."""
    return way.channel.limit if turn.everybody else way.channel.limit_of(delivery["target"])


def postpone(way: Way, delivery: dict[str, Any], turn: limits.Turn, reason: str) -> str:
    """Not yet: this message, and with it the channel or what else goes to its address, waits; the worker does not."""
    reached = limit(way, delivery, turn)
    with db.transaction():
        deliveries.postpone(delivery, timedelta(seconds=turn.wait), reason)
        if turn.everybody:
            way.free_at = time.monotonic() + turn.wait
        else:
            deliveries.hold_back(
                delivery, timedelta(seconds=turn.wait), timedelta(seconds=reached.pace if reached else 0)
            )
    return "postponed"


def record_failure(way: Way, delivery: dict[str, Any], failure: Unavailable | Rejected) -> str:
    """A delivery is put back (the channel was at fault, or its address is a new one), tried again later, or dead."""
    again = None
    if isinstance(failure, Unavailable):
        again = wait(delivery["tries"], failure.retry_after, random.random())  # noqa: S311
        if delivery["put_back"] and not way.failures:  # the channel works for others meanwhile: it was not at fault
            way.channel.broken = None
    in_vain = way.channel.broken is not None or isinstance(failure, Moved)
    outcome = "put_back" if in_vain else "failed" if again else "dead"
    with db.transaction():
        if isinstance(failure, Moved):
            targets.move(delivery["user_id"], way.name, delivery["target"], failure.address)
        ours = deliveries.close_try(delivery, outcome, error=str(failure), wait=None if in_vain else again)
        if ours and again and not in_vain:
            deliveries.hold_back(delivery, again, timedelta())
        if ours and outcome == "dead":
            tell_dead(delivery, str(failure))
        if ours and isinstance(failure, Gone):
            turn_off(delivery, str(failure))
    if way.channel.broken:
        lay_to_rest(way, way.channel.broken)
    return outcome


def turn_off(delivery: dict[str, Any], reason: str) -> None:
    """An address takes nothing any more: what else waits for it ends, and its user is told in the app and elsewhere."""
    if targets.turn_off(delivery["user_id"], delivery["channel"], delivery["target"], reason):
        words = f"Messages by {delivery['channel']} no longer reach you and are switched off"
        details = [["Channel", delivery["channel"]], ["Reason", reason]]
        notifications.tell(delivery["user_id"], "system", words, severity="warning", data={"details": details})


def lay_to_rest(way: Way, failure: Exception) -> None:
    """Nothing can be sent on a channel at present: leave it for a while, and say so the first time."""
    with db.transaction():
        deliveries.lay_to_rest(way.name, rest(way.failures, failure), str(failure))
        if not way.failures:
            events.publish("channel.off", {"channel": way.name, "reason": str(failure)})


def wake(name: str) -> int:
    """A channel that rested works again; returns its failures, which are none."""
    with db.transaction():
        if deliveries.wake(name):
            events.publish("channel.on", {"channel": name})
    return 0


@job(LOW, timeout=600)
def prune_notifications(due_at: datetime) -> dict[str, int]:
    """Delete what was told before NOTIFICATION_DAYS with its deliveries, and firings of alerts before TRIGGER_DAYS."""
    told = due_at - timedelta(days=config.settings.notification_days)
    fired = due_at - timedelta(days=config.settings.trigger_days)
    return {
        "notifications": sum(batches(notifications.prune(told))),
        "triggers": sum(batches(notifications.prune_triggers(fired))),
    }
