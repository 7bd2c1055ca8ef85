"""Watches: what an alert waits for, and what each value of its subject does to it.

A rule (domain/alerts.py) comes to an `Aim`; an aim waits for one thing at a time, a `Watch`; `step` is what a value
does to a watch, and `follow` runs it over a path of values. models/triggers.py does the same to all watches at once,
in SQL; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple

from domain.measures import BARS

STORM, STORM_TIME = 15, timedelta(minutes=3)  # one more in that time, and the alert is paused
MOMENT = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Direction = Literal["up", "down", "either"]


@dataclass(frozen=True)
class Aim:
    """What a rule comes to: a level to be at or beyond (`up`, `down`), to be `at`, or to cross; and how often.

    `edge` is the moment of reaching the level from the near side; without it the rule holds from there on.
    """

    side: str  # up, down, either (edges alone), at; date: no value reaches it, its day comes
    level: Decimal
    edge: bool = False
    band: Decimal = Decimal(0)  # of at: so far from the level is the same
    way_back: Decimal | None = None  # so far back it counts anew; None: there is no way back, each value counts
    frequency: str = "once"
    bar: str | None = None
    cooldown: timedelta | None = None

    def quiet_until(self, fired_at: datetime) -> datetime:
        """Up to when it does not fire again."""
        if self.frequency == "every":
            return fired_at + (self.cooldown or timedelta(0))
        return bar_end(fired_at, self.bar) - MOMENT if self.frequency == "bar" and self.bar else fired_at

    def way(self, value: Decimal) -> Direction:
        """In which direction the level is waited for, from this value."""
        if self.side in ("up", "down"):
            return self.side  # type: ignore[return-value]
        return "up" if value < self.level else "down"

    def armed(self, value: Decimal, since: datetime | None = None) -> Watch:
        """Waiting to fire."""
        way = self.way(value)
        return Watch(way, self.level + (-self.band if way == "up" else self.band), False, self.band, since)

    def spent(self, since: datetime | None = None) -> Watch:
        """Waiting for a value that arms it: strictly beyond the level on the near side, by the way back."""
        back = self.way_back or Decimal(0) if self.frequency == "every" else Decimal(0)
        if self.side == "up":
            return Watch("down", self.level - back, True, Decimal(0), since)
        if self.side == "down":
            return Watch("up", self.level + back, True, Decimal(0), since)
        return Watch("either", self.level, True, self.band + back, since)


@dataclass(frozen=True)
class Watch:
    """What an alert waits for: a value at the level or beyond it in a direction, later than `since`.

    One that `arms` wants a value strictly beyond the level (either: by more than the band, on any side); then the
    alert waits for the value to come back. One that does not and has a band is reached in it, and passed beyond it.
    """

    direction: Direction
    level: Decimal
    arms: bool = False
    band: Decimal = Decimal(0)
    since: datetime | None = None

    def reached(self, value: Decimal) -> bool:
        """Whether this value is what the watch waits for."""
        if self.direction == "either":
            return abs(value - self.level) > self.band
        if value == self.level:
            return not self.arms
        return (value > self.level) == (self.direction == "up")

    def passed(self, value: Decimal) -> bool:
        """Whether this value is beyond the band of a level to be at."""
        return value > self.level + 2 * self.band if self.direction == "up" else value < self.level - 2 * self.band


class Seen(NamedTuple):
    """One value of a stream, and the one before it if that was another."""

    at: datetime
    value: Decimal
    previous: Decimal | None = None


class Step(NamedTuple):
    """What a value does: what is waited for now (None: nothing any more), whether it fires, whether it only touches."""

    watch: Watch | None
    fires: bool = False
    touches: bool = False


def bar_end(instant: datetime, bar: str) -> datetime:
    """When the bar ends in which an instant lies: 10:59:59 and 10:00 lie in the hour that ends at 11:00 (UTC)."""
    return instant + BARS[bar] - (instant - EPOCH) % BARS[bar]


def first_watch(aim: Aim, value: Decimal | None) -> Watch:
    """What a new alert waits for, given the present value (None where there is none, or none that is fresh).

    An alert on crossing 100 upwards made at 101 waits for a value below 100 first, and one made at 99 for 100.
    """
    if not aim.edge:
        return aim.armed(aim.level - aim.band if value is None else value)
    if value is not None and value != aim.level and aim.side in ("either", "up" if value < aim.level else "down"):
        return aim.armed(value)
    return replace(aim, frequency="once").spent()


def true_at_once(aim: Aim, value: Decimal | None) -> bool:
    """Whether a level rule already holds when it is made, so that it fires there and then."""
    if aim.edge or value is None or aim.way_back is None:
        return False
    watch = first_watch(aim, value)
    return watch.reached(value) and not (aim.side == "at" and watch.passed(value))


def step(aim: Aim, watch: Watch, seen: Seen, fired_at: datetime | None = None) -> Step:
    """What a value does to an alert that last fired at `fired_at`."""
    if (watch.since is not None and seen.at <= watch.since) or not watch.reached(seen.value):
        return Step(watch, touches=watch.arms and fired_at is not None and _touches(aim, watch, seen))
    quiet = aim.quiet_until(fired_at) if fired_at else seen.at - MOMENT
    if watch.arms:
        return Step(aim.armed(seen.value, seen.at if aim.edge else max(seen.at, quiet)))
    if aim.side == "at" and watch.passed(seen.value):
        return Step(aim.armed(seen.value, seen.at))
    if aim.edge and seen.at <= quiet:
        return Step(_again(aim, seen), touches=True)
    if aim.frequency == "once":
        return Step(None, fires=True)
    if not aim.edge and (aim.frequency != "every" or aim.way_back is None):
        return Step(replace(watch, since=aim.quiet_until(seen.at)), fires=True)
    return Step(_again(aim, seen), fires=True)


def _again(aim: Aim, seen: Seen) -> Watch:
    """What is waited for after the level was reached: to be away from it, where the value is not so already."""
    spent = aim.spent(seen.at)
    return aim.armed(seen.value, seen.at) if spent.reached(seen.value) else spent


def _touches(aim: Aim, watch: Watch, seen: Seen) -> bool:
    """Whether a value comes to the level of an alert that has fired and has not been far enough away from it since."""
    if aim.frequency != "every" or seen.previous is None or (watch.since is not None and seen.at <= watch.since):
        return False
    rises = seen.previous < aim.level <= seen.value and watch.direction != "up"
    return rises or (seen.previous > aim.level >= seen.value and watch.direction != "down")


class Firing(NamedTuple):
    """One firing: with which value, and how often the level had been touched since the one before."""

    seen: Seen
    touches: int


class Standing(NamedTuple):
    """Where an alert is after some values."""

    watch: Watch | None
    fired: tuple[Firing, ...] = ()
    touches: int = 0
    paused: bool = False  # the brake: it would have fired more than STORM times in STORM_TIME


def follow(aim: Aim, watch: Watch | None, values: Iterable[Seen], fired: tuple[Firing, ...] = ()) -> Standing:
    """An alert over a path of values, oldest first."""
    touches = 0
    for seen in values:
        if watch is None:
            break
        did = step(aim, watch, seen, fired[-1].seen.at if fired else None)
        if did.fires and is_storm(aim, [firing.seen.at for firing in fired], seen.at):
            return Standing(None, fired, touches, paused=True)
        watch, touches = did.watch, touches + did.touches
        if did.fires:
            fired, touches = (*fired, Firing(seen, touches)), 0
    return Standing(watch, fired, touches)


def is_storm(aim: Aim, fired_at: list[datetime], now: datetime) -> bool:
    """Whether one more firing now would be more than STORM in STORM_TIME."""
    return aim.frequency != "once" and len(fired_at) >= STORM and fired_at[-STORM] > now - STORM_TIME
