"""Budgets: how many credits a provider grants in a window, and when they will be gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

SLIDING = {"second": 1, "minute": 60, "hour": 3600}  # seconds
CALENDAR = ("day", "month")  # of UTC


@dataclass(frozen=True)
class Window:
    """At most `limit` credits: in any second, minute or hour, or in a calendar day or month of UTC."""

    name: str
    limit: int

    def __post_init__(self) -> None:
        if self.name not in SLIDING and self.name not in CALENDAR:
            raise ValueError(f"no window {self.name!r}: one of {', '.join((*SLIDING, *CALENDAR))}")
        if self.limit < 1:
            raise ValueError(f"{self.name}: a limit of at least 1, not {self.limit}")

    @property
    def seconds(self) -> int:
        """Length of a sliding window; KeyError for a calendar one."""
        return SLIDING[self.name]

    @property
    def calendar(self) -> bool:
        """Whether it is a day or a month, which must outlive Redis."""
        return self.name in CALENDAR

    def ceiling(self, reserve: float) -> int:
        """Credits for calls that are not urgent: the limit less the `reserve` share (0 to 1), at least 1.

        >>> Window("day", 25).ceiling(0.1)
        22
        """
        return max(1, int(self.limit * (1 - reserve)))


@dataclass(frozen=True)
class Use:
    """How much of a window is spent. `resets_at` and `runs_out_at` are None for sliding windows."""

    window: str
    used: int
    limit: int
    resets_at: datetime | None = None
    runs_out_at: datetime | None = None  # for calls that are not urgent, before the reset; None = it lasts


def bounds(window: str, now: datetime) -> tuple[datetime, datetime]:
    """Start and end of the calendar day or month that holds `now`, in UTC."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if window == "day":
        return day, day + timedelta(days=1)
    month = day.replace(day=1)
    return month, (month + timedelta(days=32)).replace(day=1)


def runs_out_at(used: int, limit: int, started_at: datetime, ends_at: datetime, now: datetime) -> datetime | None:
    """When the credits are gone if spending goes on at its mean rate; None when they last to the end.

    400 of 500 spent after 10 of 30 days is 40 a day: the last 100 go in 2.5 days. The first
    hundredth of the window counts in full, so that one early call is not taken for a habit.
    """
    if used >= limit:
        return now
    elapsed = max(now - started_at, (ends_at - started_at) / 100)
    if not used:
        return None
    gone_at = now + elapsed * ((limit - used) / used)
    return gone_at if gone_at < ends_at else None


def use(window: Window, used: int, now: datetime, reserve: float = 0.0) -> Use:
    """The state of one window at `now`. A day or month has a forecast: when all but its `reserve` (0 to 1) is gone."""
    if not window.calendar:
        return Use(window.name, used, window.limit)
    started_at, ends_at = bounds(window.name, now)
    gone_at = runs_out_at(used, window.ceiling(reserve), started_at, ends_at, now)
    return Use(window.name, used, window.limit, ends_at, gone_at)
