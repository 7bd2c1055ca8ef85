"""Measures: what an alert can be about, in which unit, what may be asked of it, and where its values come from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from domain.prices import HIGHEST

LEVELS = ("above", "below", "crosses")
PRICES = (*LEVELS, "equals", "percent_up", "percent_down")
BARS = {
    "1m": timedelta(minutes=1), "5m": timedelta(minutes=5), "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1), "4h": timedelta(hours=4), "1d": timedelta(days=1),
}  # fmt: skip
BASE = re.compile(r"creation|close|([1-9][0-9]{0,2})h")  # of a percentage: what it is counted from
INDICATOR = re.compile(r"(?P<name>rsi|sma|ema|atr|bollinger)(?P<length>[1-9][0-9]{0,2})|macd")
AGAINST = re.compile(r"([0-9.]+) against ([0-9.]+) of ([0-9].+)")  # the words of a change: models/derived.py
LONGEST, WILDERS = 400, 200  # bars of an indicator; his averages, of RSI and ATR, remember twice as long


@dataclass(frozen=True)
class Measure:
    """What is measured of a subject: a `value` that holds until the next one, an `event` each, or a `date` to come."""

    name: str
    unit: str
    conditions: tuple[str, ...]
    kind: Literal["value", "event", "date"] = "value"
    low: Decimal | None = None  # every value is above it
    high: Decimal | None = None  # and below this one
    way_back: Decimal | None = None  # how far a value must come back to count anew; None: 0.2 % of the level
    max_age: timedelta | None = None  # older than that it is stale; None: never
    by_bar: bool = False  # it has a value at the close of each bar, and an alert says of which
    decimals: int | None = None  # of a value of bars, as people read it; None: seven digits in all

    def hysteresis(self, level: Decimal) -> Decimal | None:
        """How far back from `level` a value must be before reaching it is news again; None: each one is news."""
        if self.kind == "value":
            return abs(level) * RELATIVE if self.way_back is None else self.way_back
        return None


RELATIVE = Decimal("0.002")  # a price that swings by a thousandth around a level comes back to it, and is no news


@dataclass(frozen=True)
class Type:
    """A kind of alert. `subject` says in words what it is about, `known` where one is looked up that exists."""

    name: str
    subject: str
    measures: tuple[Measure, ...]
    source: str
    known: Literal["instrument", "stock", "volume", "reading"] = "instrument"
    alive: bool = True  # False: declared, its values come with a later area

    @property
    def by_reading(self) -> bool:
        """Whether a subject is known by its readings, and not by being an instrument."""
        return self.known == "reading" or not self.alive


@dataclass(frozen=True)
class Reading:
    """One value of a measure of a subject: when it was so, who says it and, of an event or a change, what it is of.

    A date is in seconds since 1970, infinity for one that is off. `measure` is the name of a stream.
    """

    subject: str
    measure: str
    value: Decimal
    happened_at: datetime
    source: str
    about: str | None = None


D = Decimal
LATEST = D(7_258_118_400)  # the year 2200, in seconds: what is later is in milliseconds
DAYS = timedelta(days=5)  # a weekend with a holiday at either end: what is worked out of prices may be so old
PRICE = Measure("price", "", PRICES, low=D(0), high=HIGHEST)
LINE = Measure("sma", "", LEVELS, low=D(0), high=HIGHEST, max_age=DAYS, by_bar=True)  # of an indicator

TYPES = {
    each.name: each
    for each in (
        Type("price", "an instrument", (PRICE,), "each tick"),
        Type("stock_price", "a stock", (PRICE,), "each tick", "stock"),
        Type(
            "stock_volume",
            "a stock by the day, a traded pair",
            (
                Measure("volume", "shares or coins", ("above", "crosses"), low=D(0), max_age=DAYS, by_bar=True),
                Measure("volume_ratio", "x the median", LEVELS, low=D(0), max_age=DAYS, by_bar=True, decimals=2),
            ),
            "each closed bar; the ratio is to the median of 20 bars before, of the same time of day",
            "volume",
        ),
        Type(
            "technical",
            "an instrument",
            (
                replace(LINE, name="rsi14", high=D(100), way_back=D(1), decimals=2),
                *(replace(LINE, name=name) for name in ("sma200", "ema20", "atr14")),
                replace(LINE, name="bollinger20", low=None, high=None, way_back=D("0.05"), decimals=2),
                replace(LINE, name="macd", low=None, high=None),
            ),
            "each closed bar; any length up to 400 bars, of rsi and atr up to 200",
        ),
        Type(
            "odds_change",
            "a selection",
            (
                Measure("odds", "", PRICES, low=D(1), high=D(10_000), max_age=timedelta(hours=1)),
                Measure("prob", "", LEVELS, low=D(0), high=D(1), way_back=D("0.005"), max_age=timedelta(hours=1)),
            ),
            "each change of the odds",
            "reading",
            alive=False,
        ),
        Type(
            "match_start",
            "a match",
            (Measure("starts_at", "date", ("within",), "date"),),
            "the fixture list; a match that is moved moves its alerts",
            "reading",
            alive=False,
        ),
        Type(
            "value_bet",
            "a competition",
            (Measure("edge", "of the stake", ("above",), "event", low=D(-1), high=D(100)),),
            "each value bet that is found",
            "reading",
            alive=False,
        ),
        Type(
            "news",
            "an instrument",
            (
                Measure("mention", "", ("happens",), "event"),
                Measure("sentiment", "-1 to 1", ("above", "below"), "event", low=D(-1), high=D(1)),
            ),
            "each article about it",
            alive=False,
        ),
        Type(
            "dividend",
            "a stock",
            (
                Measure("ex_date", "date", ("within",), "date"),
                Measure("dividend", "a share", ("above",), "event", low=D(0)),
            ),
            "each dividend that is announced",
            "stock",
        ),
        Type(
            "earnings",
            "a stock",
            (Measure("report_date", "date", ("within",), "date"),),
            "the earnings calendar",
            "stock",
        ),
        Type(
            "deal",
            "a list of deals",
            (
                Measure("new", "", ("happens",), "event"),
                Measure("status", "", ("happens",), "event"),
                Measure("deal_value", "money", ("above", "below"), "event", low=D(0)),
            ),
            "each deal that is new, or changes",
            "reading",
            alive=False,
        ),
    )
}
MEASURES = {each.name: each for kind in TYPES.values() for each in kind.measures}  # names are unique


def measure(type_: str, name: str) -> Measure:
    """What is measured: `measure("technical", "sma200")`. Raises ValueError that says what there is."""
    if type_ not in TYPES:
        raise ValueError(f"no type {type_!r}: one of {', '.join(TYPES)}")
    if type_ == "technical":
        return indicator(name)
    for known in TYPES[type_].measures:
        if known.name == name:
            return known
    raise ValueError(f"no measure {name!r} of {type_}: one of {', '.join(m.name for m in TYPES[type_].measures)}")


def of_name(name: str) -> tuple[Type, Measure]:
    """The first type that has a measure of this name: `rsi` is `rsi14` of `technical`. Raises ValueError."""
    for each in TYPES.values():
        for known in each.measures:
            if name in (known.name, known.name.rstrip("0123456789")):
                return each, measure(each.name, known.name)
    try:
        return TYPES["technical"], indicator(name)
    except ValueError:
        raise ValueError(f"no measure {name!r}: see `nightdesk alerts types`") from None


def indicator(name: str) -> Measure:
    """The measure of an indicator: `rsi14`, `sma200`, `ema20`, `atr14`, `bollinger20`, `macd`.

    `bollinger20` is where the close is between the lower band (0) and the upper one (1); `macd` is its histogram,
    which crosses 0 when the line crosses its signal.
    """
    found = INDICATOR.fullmatch(name)
    longest = WILDERS if found and found["name"] in ("rsi", "atr") else LONGEST
    if not found or not 2 <= int(found["length"] or 2) <= longest:
        known = "rsi14 or atr14 (of 2 to 200 bars), sma200, ema20 or bollinger20 (of 2 to 400), or macd"
        raise ValueError(f"no indicator {name!r}: {known}")
    like = next(m for m in TYPES["technical"].measures if m.name.rstrip("0123456789") == (found["name"] or name))
    if found["name"] == "bollinger":
        reach = farthest(int(found["length"]))
        return replace(like, name=name, low=D("0.5") - reach, high=D("0.5") + reach)
    return replace(like, name=name)


def farthest(length: int) -> Decimal:
    """How far from the middle of Bollinger's bands a close can be, in their width, and 0.0001 more.

    One of `length` numbers is at most sqrt(length - 1) standard deviations (of the population) from their average
    (P. A. Samuelson, How deviant can you be?, 1968), and the bands are four wide: of 20 bars 1.0897.
    """
    return (D(length - 1).sqrt() / 4 + D("0.0001")).quantize(D("0.0001"))


def closes_of(measure_: str, bar: str) -> str:
    """The stream of a measure's values at the close of each bar: `price@1h`, `rsi14@1d`."""
    return f"{measure_}@{bar}"


def change_of(measure_: str, base: str) -> str:
    """The stream of a measure's change, in percent of what it was: `price/24h`, `price/close`."""
    return f"{measure_}/{base}"


@dataclass(frozen=True)
class Change:
    """What a change was worked out of: a value, and the one from which it counts."""

    value: Decimal
    base: Decimal
    base_at: datetime

    @property
    def percent(self) -> Decimal:
        """By how many percent the value is another."""
        return round((self.value / self.base - 1) * 100, 6)


def change_in(stream: str, about: str | None) -> Change | None:
    """What a change was worked out of, from the words of its reading; None in those of anything else.

    >>> change_in("price/close", "94 against 100 of 2026-11-25 21:00:00+00").percent
    Decimal('-6.000000')
    """
    found = AGAINST.fullmatch(about or "") if "/" in stream else None
    return Change(D(found[1]), D(found[2]), datetime.fromisoformat(found[3])) if found else None


def of_stream(stream: str) -> Measure:
    """The measure whose values a stream has. Raises ValueError for a name that is none."""
    name, changes, _ = stream.partition("/")
    name, closes, bar = name.partition("@")
    known = MEASURES.get(name) or (indicator(name) if INDICATOR.fullmatch(name) else None)
    if known is None or (closes and bar not in BARS):
        raise ValueError(f"no measure {stream!r}")
    return replace(known, max_age=DAYS) if changes or closes else known


def believable(readings: Iterable[Reading]) -> tuple[list[Reading], list[str]]:
    """Split readings into those to keep and the reasons against the others."""
    kept, doubts = [], []
    for reading in readings:
        (doubts.append(reason) if (reason := doubt(reading)) else kept.append(reading))
    return kept, doubts


def doubt(reading: Reading) -> str | None:
    """Why a reading cannot be, or None: a measure that is none, or a value that is no number."""
    try:
        kind = of_stream(reading.measure).kind
    except ValueError as wrong:
        return f"{reading.source}: {reading.subject}: {wrong}"
    off = kind == "date" and reading.value == D("Infinity")
    if not off and (not reading.value.is_finite() or abs(reading.value) >= (LATEST if kind == "date" else HIGHEST)):
        what = "date" if kind == "date" else "number"
        return f"{reading.source}: the {reading.measure} of {reading.subject} is {reading.value}, not a {what}"
    return None
