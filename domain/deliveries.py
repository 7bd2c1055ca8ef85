"""Deliveries: how fast, how often and when a message may go, and when it is better not sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from domain.cadence import jump
from domain.failures import Rejected
from domain.measures import of_stream

MAX_TRIES = 6
FIRST_WAIT = timedelta(seconds=15)
LONGEST_WAIT = timedelta(hours=6)  # also of what a server asks for
FIRST_REST = timedelta(seconds=5)
LONGEST_REST = timedelta(minutes=5)
SLACK = 0.2  # seconds: two messages may take so much longer or shorter to get there


@dataclass(frozen=True)
class Limit:
    """At most `count` messages in any `seconds`: a few at once, then one each `pace`."""

    count: int
    seconds: float

    @property
    def burst(self) -> int:
        """How many may go at once after a silence."""
        return max(1, self.count // 5)

    @property
    def pace(self) -> float:
        """Seconds between further ones: with the burst before them they stay within the count.

        >>> Limit(20, 60).pace  # four at once, and 17 more within the minute and the slack
        3.5411764705882354
        """
        return (self.seconds + SLACK) / (self.count - self.burst + 1)


def wait(tries: int, retry_after: float | None, dice: float) -> timedelta | None:
    """How long until a delivery that failed `tries` times is tried again; None: it is given up.

    15 s, 1, 4, 16 and 64 minutes, a fifth more or less by `dice` (0 to 1), and at least `retry_after` seconds.
    """
    if tries >= MAX_TRIES:
        return None
    backoff = FIRST_WAIT * 4 ** (tries - 1) * (0.8 + 0.4 * dice)
    return min(max(backoff, timedelta(seconds=retry_after or 0)), LONGEST_WAIT)


def rest(failures: int, failure: Exception) -> timedelta:
    """How long a channel rests on which nothing can be sent, `failures` being how often that was so in a row before.

    An outage: 5 s, 10, 20 … five minutes. A refusal (a wrong password, say): five minutes at once. At least as long
    as the other side asks: until next month, where the quota of this one is spent.
    """
    if isinstance(failure, Rejected):
        return LONGEST_REST
    asked = timedelta(seconds=getattr(failure, "retry_after", None) or 0)
    return max(min(FIRST_REST * 2 ** min(failures, 10), LONGEST_REST), asked)


def next_month(now: datetime) -> datetime:
    """The first instant of the next month of UTC."""
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1)


def quiet_until(now: datetime, zone: tzinfo, start: time, end: time) -> datetime | None:
    """When the quiet hours end in which `now` lies; None outside of them.

    Clock times in the user's zone: a night on which the clock changes is an hour shorter or longer, its ends do not
    move. A time that spring skips is the jump itself, one that autumn repeats is the first.
    """
    today = now.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        ends = instant(day + timedelta(days=end <= start), end, zone)
        if instant(day, start, zone) <= now < ends:
            return ends
    return None


def instant(day: date, at: time, zone: tzinfo) -> datetime:
    """A clock time on a day in a zone as an instant of UTC."""
    local = datetime.combine(day, at, zone)
    first, second = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if first <= second:
        return first
    return jump(second, first, zone)


def next_digest(kind: str, now: datetime, at: time | None, zone: tzinfo) -> datetime:
    """When the next digest is due after `now`: daily at 12:00 UTC, weekly on Sunday at 14:00 UTC, or when they like.

    >>> next_digest("weekly", datetime(2026, 11, 26, tzinfo=UTC), None, UTC).isoformat()
    '2026-11-29T14:00:00+00:00'
    """
    clock, here = (at, zone) if at else (time(14) if kind == "weekly" else time(12), UTC)
    today = now.astimezone(here).date()
    days = (today + timedelta(days=n) for n in range(9))
    due = (instant(day, clock, here) for day in days if kind == "daily" or day.weekday() == 6)
    return next(at for at in due if at > now)


def is_back(data: Mapping[str, Any], value: Decimal | None) -> bool:
    """Whether what an alert told of holds no more, so that a message that was held would mislead.

    Of levels and changes alone: a crossing and an event have happened, and a date comes, whatever the newest value of
    the stream is by now. No fresh value: nothing is known.
    """
    rule = data.get("rule") if isinstance(data, Mapping) else None
    if value is None or not isinstance(rule, Mapping) or rule.get("condition") == "crosses":
        return False
    try:
        kind = of_stream(str(data.get("stream"))).kind
        target, band = Decimal(str(rule.get("target"))), Decimal(str(rule.get("band", 0)))
    except (ValueError, InvalidOperation):
        return False
    if kind != "value" or not (target.is_finite() and band.is_finite()):
        return False
    side, above = rule.get("side"), value - target
    return above < 0 if side == "up" else above > 0 if side == "down" else side == "at" and abs(above) > band
