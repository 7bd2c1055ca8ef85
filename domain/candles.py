"""Candles: nine intervals, where their buckets begin and end, and which is made of which."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

CACHE_KEY = "nightdesk:candles:{}"  # hash of interval to JSON of `snapshot`

LENGTHS = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "4h": timedelta(hours=4),
    "1d": timedelta(days=1),
    "1w": timedelta(weeks=1),
    "1M": timedelta(days=31),  # at most
}
INTERVALS = tuple(LENGTHS)
BELOW_A_DAY = INTERVALS[: INTERVALS.index("1d")]

# (interval, the one that its buckets are made of): only whole buckets fit into another, so a month has days, not weeks.
ROLL_UP = (
    ("5m", "1m"),
    ("15m", "5m"),
    ("30m", "15m"),
    ("1h", "30m"),
    ("4h", "1h"),
    ("1d", "4h"),
    ("1w", "1d"),
    ("1M", "1d"),
)

MONDAY = datetime(2000, 1, 3, tzinfo=UTC)


def start(interval: str, at: datetime) -> datetime:
    """When the bucket of an instant began, in UTC: weeks on Monday, months on the first."""
    if interval == "1M":
        return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return MONDAY + (at - MONDAY) // LENGTHS[interval] * LENGTHS[interval]


def end(interval: str, starts_at: datetime) -> datetime:
    """When the next bucket begins: `end("1M", <1 February 2028>)` is 1 March."""
    later = starts_at + LENGTHS[interval]
    return start(interval, later) if interval == "1M" else later


def snapshot(candle: Mapping[str, Any]) -> dict[str, Any]:
    """What the cache and live listeners get of a candle: numbers as text, so that no digit is lost; ISO times."""
    numbers = ("open", "high", "low", "close", "volume", "quote_volume")
    times = ("starts_at", "ends_at", "known_at")
    return {
        **{name: candle[name].isoformat() for name in times},
        **{name: format(candle[name], "f") for name in numbers},
        "trades": candle["trades"],
        "closed": candle["closed"],
    }
