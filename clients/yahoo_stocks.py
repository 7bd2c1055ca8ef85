"""Stocks from Yahoo's charts: a quote with its day, and past days with splits and dividends. See clients.yahoo.

Yahoo's past prices and dividends are in today's shares; what was traded is found again by undoing the splits
that follow, all of which are in the same answer, as it reaches until now. Its numbers have seven digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from clients import fields, http
from clients.yahoo import YAHOO, hundredths, parse_chart
from domain.failures import Rejected, Unavailable, Unlisted
from domain.prices import Price
from domain.stocks import Bar, Dividend, History, Quote, Split, ratio_between

PATIENT = replace(YAHOO, tries=3, patience=2.5)  # each waits for its second
DIGITS = Context(prec=7)  # of a 32-bit float
AMOUNTS = ("amount", "numerator", "denominator")  # of an event; a zero is how it says that there was none
QUOTES_AGE = 10  # seconds for which an answer serves again


def fetch_quotes(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Quotes and failures by symbol, one call a second, in this order."""
    quotes: list[Price] = []
    failures: dict[str, Exception] = {}
    for symbol in symbols:
        try:
            quotes.append(parse_quote(_chart(symbol, {"interval": "1d", "range": "1d"}, QUOTES_AGE), symbol))
        except (Unavailable, Rejected) as failure:
            failures[symbol] = failure
    return quotes, failures


def fetch_history(symbol: str, first: date) -> History:
    """Bars, splits and dividends from `first` until now."""
    since = datetime.combine(first, datetime.min.time(), UTC)
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    span = {"period1": str(int(since.timestamp())), "period2": str(int(until.timestamp()))}
    return parse_history(_chart(symbol, {"interval": "1d", **span, "events": "div,splits"}, YAHOO.min_age), symbol)


def _chart(symbol: str, params: dict[str, str], min_age: float) -> bytes:
    try:
        return http.get(PATIENT, f"/v8/finance/chart/{quote(symbol)}", params, min_age=min_age).body
    except http.Refused as refused:
        if refused.status != 404:
            raise
    raise Unlisted(f"yahoo: {symbol}: 404 Not Found, it has no such symbol")


def parse_quote(body: bytes | str, symbol: str) -> Quote:
    """`regularMarket…` of the meta, the open of its one bar; `chartPreviousClose` is of the day before that bar."""
    chart = parse_chart(body, symbol)
    meta = fields.field("yahoo", chart, "meta")
    by = Decimal(hundredths(meta))

    def price(name: str, value: Any) -> Decimal | None:
        found = fields.said_price("yahoo", value, name)
        return None if found is None else DIGITS.divide(found, by)

    last = price("regularMarketPrice", fields.field("yahoo", meta, "regularMarketPrice"))
    if last is None:
        raise Rejected(f"yahoo: regularMarketPrice is {meta['regularMarketPrice']!r:.60}, not a price")
    return Quote(
        symbol,
        last,
        fields.instant("yahoo", fields.field("yahoo", meta, "regularMarketTime"), "regularMarketTime"),
        "yahoo",
        open=price("open", _open(chart)) or None,
        high=price("regularMarketDayHigh", fields.member(meta, "regularMarketDayHigh")) or None,
        low=price("regularMarketDayLow", fields.member(meta, "regularMarketDayLow")) or None,
        previous_close=price(
            "previousClose", fields.member(meta, "previousClose") or fields.member(meta, "chartPreviousClose")
        )
        or None,
        volume=fields.optional_count("yahoo", fields.member(meta, "regularMarketVolume"), "regularMarketVolume"),
        currency=fields.words(meta["currency"]).upper()[:3],
    )


def _open(chart: Any) -> Any:
    try:
        return chart["indicators"]["quote"][0]["open"][-1]
    except (KeyError, IndexError, TypeError):
        return None  # a day that has not begun


def parse_history(body: bytes | str, symbol: str) -> History:
    """Timestamps are the opens of sessions; a bar with a null is none, and neither is an event with a zero."""
    chart = parse_chart(body, symbol)
    meta = fields.field("yahoo", chart, "meta")
    by, zone = Decimal(hundredths(meta)), _zone(meta)
    events = fields.member(chart, "events")
    splits = tuple(_split(symbol, event, zone) for event in _events(events, "splits"))
    dividends = tuple(_dividend(symbol, event, zone, by, splits) for event in _events(events, "dividends"))
    table = fields.field("yahoo", chart, "indicators", "quote", 0)
    bars = []
    for n, second in enumerate(fields.member(chart, "timestamp") or []):
        day = fields.instant("yahoo", second, "timestamp").astimezone(zone).date()
        row = [fields.field("yahoo", table, name, n) for name in ("open", "high", "low", "close", "volume")]
        if None not in row[:4]:
            bars.append(_bar(symbol, day, row, by, ratio_between(splits, day, date.max)))
    return History(tuple(bars), splits, dividends)


def _zone(meta: Any) -> ZoneInfo:
    name = fields.text("yahoo", fields.field("yahoo", meta, "exchangeTimezoneName"), "exchangeTimezoneName")
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise Rejected(f"yahoo: exchangeTimezoneName is {name!r:.40}, not a zone") from None


def _events(events: Any, kind: str) -> list[Any]:
    found = events.get(kind) if isinstance(events, dict) else None
    said = found.values() if isinstance(found, dict) else ()
    return [event for event in said if not any(fields.member(event, name) == 0 for name in AMOUNTS)]


def _split(symbol: str, event: Any, zone: ZoneInfo) -> Split:
    day = fields.instant("yahoo", fields.field("yahoo", event, "date"), "splits.date").astimezone(zone).date()
    new = fields.price("yahoo", fields.field("yahoo", event, "numerator"), "splits.numerator")
    old = fields.price("yahoo", fields.field("yahoo", event, "denominator"), "splits.denominator")
    return Split(symbol, day, new / old, "yahoo")


def _dividend(symbol: str, event: Any, zone: ZoneInfo, by: Decimal, splits: Sequence[Split]) -> Dividend:
    day = fields.instant("yahoo", fields.field("yahoo", event, "date"), "dividends.date").astimezone(zone).date()
    amount = fields.price("yahoo", fields.field("yahoo", event, "amount"), "dividends.amount")
    return Dividend(symbol, day, DIGITS.divide(amount * ratio_between(splits, day, date.max), by), "yahoo")


def _bar(symbol: str, day: date, row: Sequence[Any], by: Decimal, ratio: Decimal) -> Bar:
    """A bar in the prices and shares of its day; numbers that cannot be are left to the guard, which keeps them."""
    numbers = [fields.said_price("yahoo", value, f"the bar of {day}") or Decimal(0) for value in row[:4]]
    volume = fields.optional_count("yahoo", row[4], "volume")
    first, high, low, last = (DIGITS.divide(number * ratio, by) for number in numbers)
    return Bar(symbol, day, first, high, low, last, volume and int(volume / ratio), "yahoo")
