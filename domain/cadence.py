"""When: cadences on a fixed grid, and what to do with due times that passed unseen.

A cadence is a value with one law: `after(instant)` is the first due time strictly later, whatever
was asked before. So nothing drifts, and any number of schedulers agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from heapq import heappop, heappush
from itertools import islice, takewhile
from typing import Protocol
from zlib import crc32
from zoneinfo import ZoneInfo

from domain.sessions import calendar

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
MILLISECOND = timedelta(milliseconds=1)
MOST_AT_ONCE = 250  # due times that are counted one by one, so that what else is due does not wait for it
LONGEST = timedelta(days=366)
LONGEST_WHILE_OPEN = timedelta(hours=1)  # a longer period could pass a short session by


class Cadence(Protocol):
    """The grid of an entry's due times; `str()` of it can be read back by `cadence`."""

    def after(self, instant: datetime) -> datetime:
        """The first due time later than `instant`, aware UTC. ValueError if there is none: 30 February never comes."""
        ...

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        """From the due time `due` on: the last one that is not later than `now`, and how many lie before it.

        What has to be counted one by one ends after MOST_AT_ONCE: the next due time may have passed as well.
        """
        ...


@dataclass(frozen=True)
class Every:
    """Each multiple of `period` since the epoch, moved by `stagger`: the wall clock's own grid."""

    period: timedelta
    stagger: timedelta = timedelta()

    def after(self, instant: datetime) -> datetime:
        """See Cadence."""
        passed = (instant - EPOCH - self.stagger) // self.period
        return EPOCH + self.stagger + (passed + 1) * self.period

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        """See Cadence; arithmetic, however long ago `due` is."""
        before = max(0, (now - due) // self.period)
        return due + before * self.period, before

    def __str__(self) -> str:
        return f"every {_duration(self.period)}" + (f" +{_duration(self.stagger)}" if self.stagger else "")


@dataclass(frozen=True)
class Cron:
    """A five-field cron line in a zone, with written rules for the two nights a year.

    A fixed hour that the spring jump skips runs at the jump; an instant that autumn repeats counts
    once, the first. Where the hour is `*` the line means elapsed time: it goes on through both nights.
    """

    line: str
    zone: ZoneInfo = UTC_ZONE

    def __post_init__(self) -> None:
        from croniter import croniter

        if len(self.line.split()) != 5 or not croniter.is_valid(self.line):
            raise ValueError(f"{self.line!r} is not a cron line of five fields: minute hour day month weekday")

    def after(self, instant: datetime) -> datetime:
        """See Cadence."""
        return next(self._due_times(instant))

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        """See Cadence."""
        return _counted(due, self._due_times(due), now)

    def _due_times(self, instant: datetime) -> Iterator[datetime]:
        """Those later than `instant`, in order."""
        start = instant.astimezone(self.zone).replace(tzinfo=None)
        if self._near_shift(start):
            start -= timedelta(hours=3)
        ahead: list[datetime] = []  # a repeated hour makes instants run ahead of local times
        for local in self._local_times(start):
            instants = self._instants(local)
            for at in instants:
                heappush(ahead, at)
            while instants and ahead and ahead[0] <= instants[0]:
                if (at := heappop(ahead)) > instant:
                    yield at
                    instant = at

    def _local_times(self, start: datetime) -> Iterator[datetime]:
        from croniter import CroniterBadDateError, croniter

        times = croniter(self.line, start - timedelta(minutes=1))
        try:
            while True:
                yield times.get_next(datetime)
        except CroniterBadDateError:
            raise ValueError(f"`{self}` never comes") from None

    def _near_shift(self, local: datetime) -> bool:
        offsets = {(local + timedelta(hours=h)).replace(tzinfo=self.zone).utcoffset() for h in (-4, 4)}
        return len(offsets) > 1

    def _instants(self, local: datetime) -> list[datetime]:
        first, second = (local.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        every_hour = self.line.split()[1] == "*"
        if first == second:
            return [first]
        if first < second:  # autumn: the local time happens twice
            return [first, second] if every_hour else [first]
        return [] if every_hour else [jump(second, first, self.zone)]  # spring: it does not happen

    def __str__(self) -> str:
        return f"cron {self.line} {self.zone.key}"


def jump(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    """The instant between `low` and `high` at which the zone's offset changes, to the second."""
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
    return high.replace(microsecond=0)


def _counted(due: datetime, following: Iterator[datetime], now: datetime) -> tuple[datetime, int]:
    """`latest`, one due time after the other."""
    passed = [due, *takewhile(lambda at: at <= now, islice(following, MOST_AT_ONCE))]
    return passed[-1], len(passed) - 1


@dataclass(frozen=True)
class WhileOpen:
    """The grid of Every, but only while a market trades: from its open until before its close, not in its break."""

    market: str
    period: timedelta
    stagger: timedelta = timedelta()

    def __post_init__(self) -> None:
        calendar(self.market)
        if self.period > LONGEST_WHILE_OPEN:
            raise ValueError(f"{_duration(self.period)} is too long between runs while a market is open: 1h at most")

    def after(self, instant: datetime) -> datetime:
        """See Cadence."""
        grid = Every(self.period, self.stagger)
        for opens, closes in calendar(self.market).spans(instant):
            due = grid.after(max(instant, opens - timedelta.resolution))
            if due < closes:
                return due
        raise AssertionError

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        """See Cadence; arithmetic within each session."""
        grid, latest, before = Every(self.period, self.stagger), due, 0
        for opens, closes in calendar(self.market).spans(due):
            if opens > now:
                break
            first = grid.after(max(due, opens - timedelta.resolution))
            end = min(now, closes - timedelta.resolution)
            if first <= end:
                more = (end - first) // self.period
                latest, before = first + more * self.period, before + more + 1
        return latest, before

    def __str__(self) -> str:
        stagger = f" +{_duration(self.stagger)}" if self.stagger else ""
        return f"while_open {self.market} {_duration(self.period)}{stagger}"


@dataclass(frozen=True)
class AtBell:
    """Once a session: so long after its close, or before its open."""

    bell: str  # after_close, before_open
    market: str
    by: timedelta

    def __post_init__(self) -> None:
        calendar(self.market)

    def after(self, instant: datetime) -> datetime:
        """See Cadence."""
        if self.bell == "after_close":
            return next(calendar(self.market).sessions(instant - self.by)).closes_at + self.by
        sessions = calendar(self.market).sessions(instant + self.by)
        return next(s.opens_at for s in sessions if s.opens_at > instant + self.by) - self.by

    def latest(self, due: datetime, now: datetime) -> tuple[datetime, int]:
        """See Cadence."""
        return _counted(due, self._due_times(due), now)

    def _due_times(self, instant: datetime) -> Iterator[datetime]:
        while True:
            instant = self.after(instant)
            yield instant

    def __str__(self) -> str:
        return f"{self.bell} {self.market} {_duration(self.by)}"


Market = WhileOpen | AtBell  # cadences whose due times change when a market's sessions do


def every(seconds: float, *, stagger: float = 0.0) -> Every:
    """Each `seconds` on the wall clock's grid, moved by `stagger` seconds."""
    if seconds < 0.1:
        raise ValueError("a cadence is at least 0.1 s")
    return Every(_span(seconds), _span(stagger))


def cron(line: str, tz: str = "UTC") -> Cron:
    """`minute hour day month weekday` in a zone."""
    return Cron(line, ZoneInfo(tz))


def while_open(market: str, seconds: float, *, stagger: float = 0.0) -> WhileOpen:
    """Each `seconds` while a market trades: `while_open("XNYS", 15)`."""
    grid = every(seconds, stagger=stagger)
    return WhileOpen(market, grid.period, grid.stagger)


def after_close(market: str, *, minutes: float = 0) -> AtBell:
    """Once a session, so many minutes after its close; on a half-day that is earlier."""
    return AtBell("after_close", market, timedelta(minutes=minutes))


def before_open(market: str, *, minutes: float = 0) -> AtBell:
    """Once a session, so many minutes before its open."""
    return AtBell("before_open", market, timedelta(minutes=minutes))


def stable_stagger(entry: str, period: timedelta) -> timedelta:
    """Where an entry of a minute or more stands in its period, so that not all fall on the round minute.

    The same for an entry for ever: up to a tenth of the period, at most 30 s, in whole milliseconds.
    """
    if period < timedelta(minutes=1):
        return timedelta()
    room = min(period / 10, timedelta(seconds=30)) // MILLISECOND
    return crc32(entry.encode()) % room * MILLISECOND


@lru_cache(1000)  # a schedule is read every ten seconds
def cadence(text: str) -> Cadence:
    """Read `every 1m +2.5s`, `cron 0 1 * * * Europe/London`, `while_open XNYS 15s`, `before_open XNYS 30m`.

    Raises ValueError.
    """
    if found := re.fullmatch(r"every (\S+)(?: \+(\S+))?", text.strip()):
        return every(_seconds(found[1]), stagger=_seconds(found[2]) if found[2] else 0.0)
    if found := re.fullmatch(r"cron (\S+ \S+ \S+ \S+ \S+)(?: (\S+))?", text.strip()):
        try:
            return cron(found[1], found[2] or "UTC")
        except (KeyError, OSError):
            raise ValueError(f"{found[2]!r} is no zone such as Europe/London") from None
    if found := re.fullmatch(r"while_open (\S+) (\S+)(?: \+(\S+))?", text.strip()):
        return while_open(found[1], _seconds(found[2]), stagger=_seconds(found[3]) if found[3] else 0.0)
    if found := re.fullmatch(r"(after_close|before_open) (\S+) (\S+)", text.strip()):
        return AtBell(found[1], found[2], _span(_seconds(found[3])))
    raise ValueError(
        f"{text!r} is no cadence: write `every 30s`, `cron 0 1 * * * Europe/London`, `while_open XNYS 15s`, "
        "`after_close XNYS 90m` or `before_open XNYS 30m`"
    )


_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])?", text)
    if not found:
        raise ValueError(f"{text!r} is no duration such as 30s, 5m or 1h")
    seconds = float(found[1]) * _UNITS[found[2] or "s"]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is too long: {_duration(LONGEST)} at most")
    return seconds


def _span(seconds: float) -> timedelta:
    """Redis keeps due times in milliseconds: one in between would be due again at once."""
    span = timedelta(seconds=seconds)
    if span % MILLISECOND:
        raise ValueError(f"{seconds:g} s is not a whole number of milliseconds")
    return span


def _duration(span: timedelta) -> str:
    seconds = span.total_seconds()
    unit, size = next((u, s) for u, s in _UNITS.items() if u == "s" or (seconds >= s and seconds % s == 0))
    number = f"{seconds / size:.6f}".rstrip("0").rstrip(".")  # to the microsecond
    return f"{number}{unit}"


@dataclass(frozen=True)
class Missed:
    """Due times that get no run of their own."""

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True)
class Plan:
    """What becomes of a due entry: one run or none, what is recorded as missed, and the next due time."""

    run: datetime | None
    missed: Missed | None
    next: datetime


def plan(
    when: Cadence, due: datetime, now: datetime, *, skip_late: bool = False, grace: timedelta = timedelta(minutes=1)
) -> Plan:
    """Decide for an entry whose due time has come.

    Of several due times that have passed only the latest runs; the others are recorded, very many in portions:
    the next one is due at once then. With `skip_late` the latest does not run either once it is older than `grace`.
    """
    latest, before = when.latest(due, now)
    following = when.after(latest)
    is_portion = before >= MOST_AT_ONCE and following <= now
    if is_portion or (skip_late and now - latest > grace):
        return Plan(None, Missed(due, latest, before + 1), following)
    if not before:
        return Plan(latest, None, following)
    last, _ = when.latest(due, latest - MILLISECOND)
    return Plan(latest, Missed(due, last, before), following)
