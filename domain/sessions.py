"""Sessions: when a market is open, with its holidays, half-days, lunch breaks and change of clocks.

A calendar holds the sessions that somebody has looked up; outside of those days it assumes the market's
regular week, so that whoever asks for the next session always gets one. The calendars of this process are
set by whoever has read them (models.sessions.remember), because cadences are read back from text anywhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day of a market: open from `opens_at` until before `closes_at`, but for its break."""

    market: str
    date: date  # the market's own
    opens_at: datetime
    closes_at: datetime
    break_from: datetime | None = None
    break_to: datetime | None = None
    half_day: bool = False

    @property
    def spans(self) -> list[tuple[datetime, datetime]]:
        """From when until when it is open, in order."""
        if self.break_from and self.break_to:
            return [(self.opens_at, self.break_from), (self.break_to, self.closes_at)]
        return [(self.opens_at, self.closes_at)]


@dataclass(frozen=True)
class Week:
    """A market's regular week: hours after midnight of its own clock, and its days (Monday is 0)."""

    zone: ZoneInfo
    opens: float
    closes: float
    rest: tuple[float, float] | None = None
    days: tuple[int, ...] = (0, 1, 2, 3, 4)

    def session(self, market: str, day: date) -> Session | None:
        """The regular session of a day, if it has one."""
        return self.hours(market, day) if day.weekday() in self.days else None

    def hours(self, market: str, day: date) -> Session:
        """The session of a day of which it is known that it has one."""
        opens_at, closes_at = self.instant(day, self.opens), self.instant(day, self.closes)
        if self.rest is None:
            return Session(market, day, opens_at, closes_at)
        break_from, break_to = (self.instant(day, hours) for hours in self.rest)
        return Session(market, day, opens_at, closes_at, break_from, break_to)

    def instant(self, day: date, hours: float) -> datetime:
        """So many hours after the midnight of `day` on the market's clock: -7 is 17:00 of the day before."""
        wall = datetime.combine(day, datetime.min.time()) + timedelta(hours=hours)
        return wall.replace(tzinfo=self.zone).astimezone(UTC)


_NEW_YORK = ZoneInfo("America/New_York")
WEEKS: Mapping[str, Week] = {
    "XNYS": Week(_NEW_YORK, 9.5, 16),
    "XNAS": Week(_NEW_YORK, 9.5, 16),
    "XLON": Week(ZoneInfo("Europe/London"), 8, 16.5),
    "XHKG": Week(ZoneInfo("Asia/Hong_Kong"), 9.5, 16, (12, 13)),
    "XTKS": Week(ZoneInfo("Asia/Tokyo"), 9, 15.5, (11.5, 12.5)),
    "XBKK": Week(ZoneInfo("Asia/Bangkok"), 10, 16.5),
    "FX": Week(_NEW_YORK, -7, 17),  # from Sunday 17:00 to Friday 17:00 without a pause
    "CRYPTO": Week(ZoneInfo("UTC"), 0, 24, days=(0, 1, 2, 3, 4, 5, 6)),
}
BY_RULE = ("FX", "CRYPTO")  # without holidays: their regular week is all there is
EXCHANGES = tuple(market for market in WEEKS if market not in BY_RULE)


class Calendar:
    """The sessions of a market: those of the days from `first` to `last` are known, the others are regular ones."""

    def __init__(
        self, market: str, sessions: Iterable[Session] = (), first: date = date.max, last: date = date.min
    ) -> None:
        """A known day that has no session in `sessions` is a holiday."""
        self.market, self.week = market, WEEKS[market]
        self.first, self.last = first, last
        self._sessions = sorted(sessions, key=lambda session: session.date)
        self._dates = [session.date for session in self._sessions]

    def sessions(self, instant: datetime) -> Iterator[Session]:
        """Those that close later than `instant`, in order, without end."""
        day = instant.astimezone(self.week.zone).date()
        return (session for session in self._from(day) if session.closes_at > instant)

    def _from(self, day: date) -> Iterator[Session]:
        if day <= self.last:
            yield from self._regular(day, self.first)
            yield from self._sessions[bisect_left(self._dates, day) :]
            day = self.last + DAY
        yield from self._regular(day, date.max)

    def _regular(self, day: date, end: date) -> Iterator[Session]:
        while day < end:
            if session := self.week.session(self.market, day):
                yield session
            day += DAY

    def spans(self, instant: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Open spans that end later than `instant`, in order, without end."""
        return (span for session in self.sessions(instant) for span in session.spans if span[1] > instant)

    def closed(self, instant: datetime) -> Session:
        """The last one that has closed by then; no holiday lasts three weeks."""
        latest = None
        for session in self.sessions(instant - timedelta(days=21)):
            if session.closes_at > instant and latest:
                return latest
            latest = session
        raise AssertionError

    def days(self, first: date, last: date) -> list[date]:
        """The days from `first` to `last` on which it trades."""
        found = []
        for session in self.sessions(self.week.instant(first, 0)):
            if session.date > last:
                break
            found.append(session.date)
        return found

    def is_open(self, instant: datetime) -> bool:
        """Whether the market trades at that instant."""
        return next(self.spans(instant))[0] <= instant

    def open_between(self, start: datetime, end: datetime) -> timedelta:
        """For how long it is open from `start` to `end`."""
        total = timedelta()
        for opens, closes in self.spans(start):
            if opens >= end:
                return total
            total += min(closes, end) - max(opens, start)
        raise AssertionError

    def open_for(self, instant: datetime, length: timedelta) -> datetime:
        """When it will have been open for `length` since `instant`: closed hours do not count.

        A price of Friday 15:55 in New York that may be 15 minutes old is old on Monday at 9:40.
        """
        for opens, closes in self.spans(instant):
            start = max(opens, instant)
            if start + length <= closes:
                return start + length
            length -= closes - start
        raise AssertionError


_WEEKS = {market: Calendar(market) for market in WEEKS}
_current = [_WEEKS]  # replaced as a whole: a thread may set what another one asks


def calendar(market: str) -> Calendar:
    """The calendar of a market; of its regular week alone where nobody has set it. ValueError for an unknown market."""
    if market not in WEEKS:
        raise ValueError(f"{market!r} is no market: one of {', '.join(WEEKS)}")
    return _current[0][market]


def set_calendars(calendars: Iterable[Calendar] = ()) -> None:
    """From now on these are the calendars of this process; the others have their regular weeks."""
    _current[0] = {**_WEEKS, **{known.market: known for known in calendars}}


def regular_sessions(market: str, first: date, last: date) -> list[Session]:
    """The sessions of a market's regular week from `first` to `last`."""
    days = (first + n * DAY for n in range((last - first).days + 1))
    return [session for day in days if (session := WEEKS[market].session(market, day))]
