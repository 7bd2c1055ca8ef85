"""Days of stocks in the simulated world, as the stand-ins tell them: their sessions, splits and dividends.

Prices move around the clock, so that a run by hand shows something at night too; days are those of the market's
regular week. TSLA became two of itself on a day in June, and each stock pays a dividend every 91 days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from demo.world import World
from demo.worlds.prices import STOCKS, Market
from domain.sessions import calendar
from domain.stocks import market_of

CURRENCIES = {"XNYS": "USD", "XLON": "GBp", "XHKG": "HKD", "XTKS": "JPY", "XBKK": "THB"}
SPLITS = {"TSLA": (date(2026, 6, 15), 2)}
RENAMED = {"QQQQ": "QQQ"}  # by their former names
DIVIDEND = 0.002  # of the price
EPOCH = date(2020, 1, 6)


@dataclass(frozen=True)
class Day:
    """A day in today's shares."""

    date: date
    opens_at: datetime
    open: float
    high: float
    low: float
    close: float
    volume: int


def currency(symbol: str) -> str:
    """In which a stock is quoted: London's in pence."""
    return CURRENCIES[market_of(symbol)]


def renamed(symbol: str) -> str:
    """Today's name of a stock."""
    return RENAMED.get(symbol, symbol)


def price(world: World, symbol: str, at: datetime) -> float:
    """What a share cost at a real instant, in whole units."""
    tick = world.part(Market).price(symbol, world.clock.world(at.timestamp()))
    return float(tick.price) if tick else 0.0


def known(world: World, symbol: str) -> bool:
    """Whether the world has the stock."""
    return symbol in STOCKS and world.part(Market).price(symbol, world.clock.world(0)) is not None


def days(world: World, symbol: str, first: datetime, now: datetime) -> list[Day]:
    """Its days from `first` until now; the last one reaches until now, whether or not its session is over."""
    found = []
    for session in calendar(market_of(symbol)).sessions(first):
        if session.opens_at > now:
            break
        found.append((session, min(session.closes_at, now)))
    return [_day(world, symbol, session.date, session.opens_at, closes_at) for session, closes_at in found]


def _day(world: World, symbol: str, day: date, opens_at: datetime, closes_at: datetime) -> Day:
    prices = [price(world, symbol, opens_at + (closes_at - opens_at) * part / 4) for part in range(5)]
    volume = 1_000_000 + (day.toordinal() * 7919 + len(symbol) * 104_729) % 900_000
    return Day(day, opens_at, prices[0], max(prices), min(prices), prices[-1], volume)


def today(world: World, symbol: str, now: datetime) -> tuple[Day, Day]:
    """The day before, and the one that is or was last, reaching until now."""
    before, day = days(world, symbol, now - timedelta(days=9), now)[-2:]
    last = price(world, symbol, now)
    return before, Day(day.date, day.opens_at, day.open, max(day.high, last), min(day.low, last), last, day.volume)


def quarterly(number: int) -> int:
    """Days after the first Monday of a quarter of 91 days: a weekday."""
    return number % 13 * 7 + number % 5


def dividends(world: World, symbol: str, first: date, last: date) -> dict[date, float]:
    """Its ex-days, with what is paid in today's shares."""
    offset, found = quarterly(sum(symbol.encode())), {}
    for n in range((first - EPOCH).days, (last - EPOCH).days + 1):
        day = EPOCH + timedelta(days=n)
        if n % 91 == offset:
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
            found[day] = round(price(world, symbol, noon) * DIVIDEND, 4)
    return found
