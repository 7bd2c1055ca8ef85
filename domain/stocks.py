"""Stocks: what sources say of them, whose turn it is when the budget is short, and what a split does to a price."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Context, Decimal

from domain.bad_ticks import LEVEL, NAMES, ROUNDING, Neighbours, agree, impossible, out_of_level
from domain.budget import Window, bounds
from domain.prices import Price, allowed_age, doubt
from domain.sessions import calendar

HELD_EVERY = timedelta(seconds=15)  # a symbol that a user holds
EVERY = timedelta(minutes=1)  # any other that somebody wants
PAUSE, LONGEST_PAUSE = timedelta(hours=1), timedelta(days=7)  # for a symbol that nobody knows
BUSY = 4  # seconds of a run that a source which grants so many calls a second may take
MOST = 40  # symbols of one run
# To which share each kind of call may bring a day's credits: what comes early in the day leaves room for what follows.
CREDITS = {"fundamentals": 0.15, "earnings": 0.3, "actions": 0.3, "prices": 0.8, "closing": 0.85, "bars": 1.0}
MARKETS = {"": "XNYS", "L": "XLON", "HK": "XHKG", "T": "XTKS", "BK": "XBKK"}  # whose hours, by what follows the dot
# From which price on it has which smallest step: the market's own table, in Tokyo the finer one (of the TOPIX 500).
# Elsewhere it is as in New York (rule 612 of the SEC); London's depends on how much a share is traded, 0.01 p at least.
STEPS = {
    "XBKK": ((0, "0.01"), (2, "0.02"), (5, "0.05"), (10, "0.1"), (25, "0.25"), (100, "0.5"), (200, "1"), (400, "2")),
    "XHKG": (
        *((0, "0.001"), ("0.25", "0.005"), (10, "0.01"), (20, "0.02"), (50, "0.05"), (100, "0.1"), (200, "0.2")),
        *((500, "0.5"), (1000, "1"), (2000, "2"), (5000, "5")),
    ),
    "XTKS": ((0, "0.1"), (1000, "0.5"), (3000, "1"), (10_000, "5"), (30_000, "10"), (100_000, "50")),
}
ELSEWHERE = ((0, "0.0001"), (1, "0.01"))
EXACT = Context(prec=28)
GRAIN = Decimal("0.0001")  # what undoing a split may change
SPLIT_NEAR = timedelta(days=10)  # a source may apply a split late, twice, or not at all around its day


@dataclass(frozen=True)
class Quote(Price):
    """A price with what else the source says of the day; None: it does not say."""

    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    previous_close: Decimal | None = None
    volume: int | None = None
    bid: Decimal | None = None
    ask: Decimal | None = None
    market_cap: Decimal | None = None
    currency: str | None = None

    @property
    def prices(self) -> dict[str, Decimal | None]:
        """Those that must lie within the day's low and high."""
        return {"price": self.price, "open": self.open, "high": self.high, "low": self.low}

    def impossible(self) -> str | None:
        """Why no market can have said all this at once, or None."""
        others = {"previous close": self.previous_close, "bid": self.bid, "ask": self.ask}
        return impossible(self.prices) or impossible(others)


@dataclass(frozen=True)
class Bar:
    """A day of a stock as it was traded, in prices of that day's shares."""

    symbol: str
    date: date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int | None
    source: str

    @property
    def prices(self) -> dict[str, Decimal | None]:
        """By name."""
        return {name: getattr(self, name) for name in NAMES}


@dataclass(frozen=True)
class Split:
    """From `date` on a share is `ratio` of the shares before: 4 where each became four, 0.1 where ten became one."""

    symbol: str
    date: date
    ratio: Decimal
    source: str


@dataclass(frozen=True)
class Dividend:
    """Who held a share before `ex_on` gets `amount` for it, in that day's shares."""

    symbol: str
    ex_on: date
    amount: Decimal
    source: str
    declared_on: date | None = None
    recorded_on: date | None = None
    paid_on: date | None = None


@dataclass(frozen=True)
class History:
    """What a source says of a symbol's past days."""

    bars: tuple[Bar, ...] = ()
    splits: tuple[Split, ...] = ()
    dividends: tuple[Dividend, ...] = ()


@dataclass(frozen=True)
class Report:
    """A day on which a company is expected to report, and what is expected of it."""

    symbol: str
    report_on: date
    source: str
    fiscal_end_on: date | None = None
    hour: str | None = None  # before open, after close, while open
    estimate: Decimal | None = None  # earnings per share


@dataclass(frozen=True)
class Fundamentals:
    """What kind of company it is, and its key figures; by the names of models.companies.Fundamental's columns."""

    symbol: str
    source: str
    quarter_on: date | None  # the end of the latest quarter that is in it
    words: Mapping[str, str | None]
    numbers: Mapping[str, Decimal | None]


def market_of(symbol: str) -> str:
    """The market whose hours a symbol has, by its suffix: `PTT.BK` is XBKK, `AAPL` is XNYS."""
    _, _, suffix = symbol.rpartition(".") if "." in symbol else ("", "", "")
    return MARKETS.get(suffix, MARKETS[""])


def step_at(symbol: str, price: Decimal) -> Decimal:
    """The smallest step of a stock's price: of AAPL at 285 a cent, of PTT.BK at 33.25 a quarter of a baht."""
    steps = STEPS.get(market_of(symbol), ELSEWHERE)
    return next(Decimal(step) for start, step in reversed(steps) if price >= Decimal(start))


def old_at(price: Price, max_age: timedelta | None = None) -> datetime:
    """When a stock's price is old: hours in which its market is closed do not age it."""
    return calendar(market_of(price.symbol)).open_for(price.happened_at, max_age or allowed_age(price.source))


@dataclass(frozen=True)
class Wanted:
    """A symbol that somebody wants, how much, and when it was last asked for."""

    symbol: str
    want: int  # three for each user who holds it, two for each alert up to a hundred, one for each watchlist
    held: bool
    asked_at: datetime | None

    def overdue(self, now: datetime) -> float:
        """How many of its periods have passed since it was asked for; without end for one that never was."""
        period = HELD_EVERY if self.held else EVERY
        return math.inf if self.asked_at is None else (now - self.asked_at) / period


def turns(wanted: Iterable[Wanted], now: datetime, calls: int | None) -> list[str]:
    """The symbols to ask for now, whose turn is most overdue first.

    `calls` are those of a day, None where they do not matter: with fewer calls than symbols only the most wanted
    ones are asked for at all, so that those have a price of the day, rather than each one of last week.
    """
    most_wanted = sorted(wanted, key=lambda w: (-w.want, w.symbol))[:calls]
    soon = timedelta(seconds=1)  # a run that starts a little early by its clock is the run that was meant
    due = [w for w in most_wanted if w.overdue(now + soon) >= 1]
    return [w.symbol for w in sorted(due, key=lambda w: -w.overdue(now))][:MOST]


def in_one_run(windows: Iterable[Window]) -> int:
    """How many calls of one run keep within a source's seconds and minutes, and the run short."""
    seconds = HELD_EVERY.total_seconds()
    shares = [w.limit * (BUSY if w.seconds <= BUSY else seconds / w.seconds) for w in windows if not w.calendar]
    return max(1, int(min(shares, default=MOST)))


def share_of_day(market: str, counts: Mapping[str, int], now: datetime) -> tuple[float, timedelta]:
    """Which share of what is left to ask for today (UTC) is a market's, by stocks and open hours; and those hours."""
    ends_at = bounds("day", now)[1]
    left = {each: calendar(each).open_between(now, ends_at) for each in counts}
    total = sum((left[each] * counts[each] for each in counts), timedelta())
    mine = left.get(market, timedelta())
    return (mine * counts.get(market, 0) / total if total else 0.0), mine


def affordable(left: int, asked_at: datetime | None, now: datetime, open_left: timedelta) -> int:
    """How many of the `left` credits of a day may be spent now, so that they last evenly until the last close.

    With 20 credits and 200 minutes left one falls due every ten minutes, counted from the last call; the first at
    once. A break is not made up for at once: what it left is dealt out anew. With 800 four fall due in each run.
    """
    if left <= 0 or open_left <= HELD_EVERY:
        return max(0, left)
    step = open_left / left
    if step <= HELD_EVERY:
        return min(left, HELD_EVERY // step)
    return int(asked_at is None or now - asked_at >= step)


def ask_again_at(now: datetime, refused: int) -> datetime:
    """When a symbol that nobody knew `refused` times in a row is asked for again: an hour, two, four … a week later."""
    return now + min(PAUSE * 2 ** min(refused - 1, 20), LONGEST_PAUSE)


def hopeless(quote: Quote, received_at: datetime) -> str | None:
    """Why no market can have said this, whatever came before and whoever says it too; or None."""
    return quote.impossible() or doubt(quote, received_at)


def vouched(quote: Quote, others: Iterable[Quote], received_at: datetime) -> bool:
    """Whether another source gives about the same price, of one that can be."""
    if hopeless(quote, received_at):
        return False
    return any(agree(quote.price, other.price) for other in others if not hopeless(other, received_at))


def quote_doubt(quote: Quote, near: Neighbours) -> str | None:
    """Why a quote is not to be believed, or None. Without neighbours the close of the day before is the only one."""
    if not near.prices and quote.previous_close:
        near = Neighbours([quote.previous_close])
    return quote.impossible() or out_of_level({"price": quote.price}, near)


def bar_doubt(bar: Bar, near: Neighbours) -> str | None:
    """Why a bar is not to be believed, or None."""
    return impossible(bar.prices) or out_of_level(bar.prices, near)


def corrects(said: Bar, ours: Bar, settled: bool) -> bool:
    """Whether what a source says of a day by now makes our bar a wrong one.

    Of a settled day a source has other numbers than it had only where ours are wrong. Those of the last day it amends
    for some hours, if by little; and other sources round by themselves, and count other venues.
    """
    prices = max(abs(getattr(said, name) / getattr(ours, name) - 1) for name in NAMES)
    if said.source != ours.source:
        return prices > ROUNDING
    volumes = _times(said.volume, ours.volume)
    return prices > GRAIN or volumes > 1 + GRAIN if settled else prices > ROUNDING or volumes > LEVEL


def _times(said: int | None, ours: int | None) -> float:
    if said is None or said == ours:
        return 1
    return max(said, ours) / min(said, ours) if said and ours else math.inf


def ratio_between(splits: Iterable[Split], earlier: date, later: date) -> Decimal:
    """Into how many shares of `later` one share of `earlier` has become."""
    ratio = Decimal(1)
    for split in splits:
        if earlier < split.date <= later:
            ratio *= split.ratio
    return ratio


def neighbours(
    closes: Mapping[date, Decimal], days: Sequence[date], day: date, splits: Sequence[Split], count: int = 4
) -> Neighbours:
    """The closes of up to `count` of their `days` (sorted) before and after `day`, in that day's shares.

    After a split by four on 31 August the 400 of the 28th are 100.
    """
    left, right = bisect_left(days, day), bisect_right(days, day)
    return Neighbours(
        [EXACT.divide(closes[d], ratio_between(splits, d, day)) for d in days[max(0, left - count) : left]],
        [EXACT.multiply(closes[d], ratio_between(splits, day, d)) for d in days[right : right + count]],
        [split.ratio for split in splits if abs(split.date - day) <= SPLIT_NEAR],
    )


def before(closes: Mapping[date, Decimal], day: date, splits: Sequence[Split], count: int = 4) -> Neighbours:
    """The last closes until `day`, in that day's shares; that day's own price, where there is one, goes before all."""
    days = [day] if day in closes else sorted(other for other in closes if other < day)[-count:]
    return Neighbours([EXACT.divide(closes[d], ratio_between(splits, d, day)) for d in days])


def believable(
    bars: Sequence[Bar], known: Mapping[date, Decimal], splits: Sequence[Split]
) -> tuple[list[Bar], list[tuple[Bar, str, Neighbours]]]:
    """Split the bars of one symbol into those to keep and those to doubt, with reason and neighbours.

    The neighbours are `known` closes, and the other bars that are possible by themselves.
    """
    closes = {**{bar.date: bar.close for bar in bars if not impossible(bar.prices)}, **known}
    days = sorted(closes)
    kept: list[Bar] = []
    doubted: list[tuple[Bar, str, Neighbours]] = []
    for bar in bars:
        near = neighbours(closes, days, bar.date, splits)
        reason = bar_doubt(bar, near)
        if reason:
            doubted.append((bar, reason, near))
        else:
            kept.append(bar)
    return kept, doubted
