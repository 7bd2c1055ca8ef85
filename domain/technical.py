"""Technical measures: the line of an indicator, or of a volume, by its name, over closed bars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from math import ceil, log, log1p
from statistics import median
from typing import NamedTuple

from domain import indicators
from domain.indicators import Line
from domain.measures import INDICATOR

DAYS = 20  # before it, whose median a volume is compared with
FEWEST = 5
LEFT_OVER = 1e-4  # the weight that what an average began with may still have


class Need(NamedTuple):
    """How many bars a measure has its first value from, and from how many on older ones change nothing to speak of."""

    least: int
    all: int


class Bar(NamedTuple):
    """One closed bar."""

    ends_at: datetime
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal


def line(name: str, bars: Sequence[Bar], zone: tzinfo | None = UTC) -> Line:
    """The value of a measure at each bar, None where there are too few before it: `line("rsi14", bars)`.

    `bollinger20` is where the close is between the lower band (0) and the upper one (1), `macd` the histogram. `zone`
    is of the clock by which bars of the same time of day are found, None where each bar is a whole day.
    """
    if name == "volume":
        return [float(bar.volume) for bar in bars]
    if name == "volume_ratio":
        return volume_ratios(bars, zone)
    found = INDICATOR.fullmatch(name)
    if not found:
        raise ValueError(f"no indicator {name!r}")
    closes = [bar.close for bar in bars]
    if name == "macd":
        return indicators.macd(closes).histogram
    length = int(found["length"])
    if found["name"] == "bollinger":
        return _places(closes, indicators.bollinger(closes, length))
    if found["name"] == "atr":
        return indicators.atr([bar.high for bar in bars], [bar.low for bar in bars], closes, length)
    if found["name"] == "rsi":
        return indicators.rsi(closes, length)
    return indicators.sma(closes, length) if found["name"] == "sma" else indicators.ema(closes, length)


def need(name: str) -> Need:
    """The bars that a measure is made of: `need("sma200")` is (200, 200), `need("ema200")` (200, 1122).

    An average that never forgets begins with a mean of its first bars, where one over the whole history came from
    elsewhere: of `ema200` what is left of the difference after 1122 bars is a ten-thousandth.
    """
    if name in ("volume", "volume_ratio"):
        return Need(1, 1) if name == "volume" else Need(FEWEST + 1, DAYS + 1)
    found = INDICATOR.fullmatch(name)
    if not found:
        raise ValueError(f"no indicator {name!r}")
    if name == "macd":
        return Need(26 + 8, 26 + _forgets(13.5) + 8 + _forgets(5))
    length = int(found["length"])
    if found["name"] in ("sma", "bollinger"):
        return Need(length, length)
    if found["name"] == "ema":
        return Need(length, length + _forgets((length + 1) / 2))
    return Need(length + 1, length + 1 + _forgets(length))


def _forgets(inertia: float) -> int:
    """After how many bars an average that each one moves by 1 / `inertia` has forgotten what it began with."""
    return ceil(log(LEFT_OVER) / log1p(-1 / inertia))


def _places(closes: Sequence[Decimal], bands: indicators.Bollinger) -> Line:
    return [
        None if upper is None or lower is None or upper == lower else (float(close) - lower) / (upper - lower)
        for close, upper, lower in zip(closes, bands.upper, bands.lower, strict=True)
    ]


def volume_ratios(bars: Sequence[Bar], zone: tzinfo | None = UTC) -> Line:
    """Each bar's volume by the median of the last 20 bars, 5 at least, that ended at the same time of day in `zone`.

    So an opening auction, large on every day, is no spike, also when the clocks have changed; the median lets one wild
    day pass. Without a zone bars are days, which are compared whenever they end: a half-day too is a day.
    """
    before: dict[object, list[float]] = {}
    ratios: Line = []
    for bar in bars:
        past = before.setdefault(zone and bar.ends_at.astimezone(zone).time(), [])
        usual = median(past[-DAYS:]) if len(past) >= FEWEST else 0
        ratios.append(float(bar.volume) / usual if usual else None)
        past.append(float(bar.volume))
    return ratios
