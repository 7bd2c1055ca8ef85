"""Alpha Vantage: quotes, daily bars, fundamentals, earnings and dividends, with a key: 25 calls a day without pay.

Documented at alphavantage.co/documentation. Nearly every refusal is 200 with one of Information, Note and Error
Message, which are told apart by their words; numbers are texts, and "None" and "-" are no numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import config
from clients import fields, http
from clients.providers import provider
from domain.budget import Window
from domain.failures import Rejected, Unavailable, Unlisted
from domain.prices import Price
from domain.sessions import calendar
from domain.stocks import Bar, Dividend, Fundamentals, History, Quote, Report, market_of

ALPHA_VANTAGE = provider(
    name="alpha-vantage",
    url="alpha_vantage_url",
    needs="alpha_vantage_key",
    doc="stocks, fundamentals, earnings, dividends",
    windows=(Window("second", 1), Window("day", config.settings.alpha_vantage_day)),
    reserve=0,  # few as they are, and nothing that it gives is urgent
    tries=3,
    patience=4,
    read_timeout=8,
    deadline=12,
)
COLUMNS = ["symbol", "name", "reportDate", "fiscalDateEnding", "estimate", "currency"]  # a seventh came in 2026
A_WHILE = 3600  # seconds until it is asked again once its day is used up: it does not say when that ends
HOURS = {"pre-market": "before open", "post-market": "after close"}


def fetch_quotes(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Quotes and failures by symbol, one call each."""
    quotes: list[Price] = []
    failures: dict[str, Exception] = {}
    for symbol in symbols:
        try:
            quotes.append(parse_quote(_json("GLOBAL_QUOTE", symbol), symbol, datetime.now(UTC)))
        except (Unavailable, Rejected) as failure:
            failures[symbol] = failure
    return quotes, failures


def fetch_history(symbol: str, first: date) -> History:
    """Daily bars of the last hundred sessions, as they were traded; those from `first` on."""
    return parse_history(_json("TIME_SERIES_DAILY", symbol, outputsize="compact"), symbol, first)


def fetch_fundamentals(symbol: str) -> Fundamentals:
    """What kind of company it is, and its key figures."""
    return parse_fundamentals(_json("OVERVIEW", symbol), symbol)


def fetch_dividends(symbol: str) -> list[Dividend]:
    """Every dividend, past and declared."""
    return parse_dividends(_json("DIVIDENDS", symbol), symbol)


def fetch_earnings() -> list[Report]:
    """Every company's days of the next three months, in one call."""
    return parse_earnings(_ask("EARNINGS_CALENDAR", horizon="3month"))


def _json(function: str, symbol: str, **params: str) -> Any:
    return fields.document("alpha-vantage", _ask(function, symbol=symbol, **params))


def _ask(function: str, **params: str) -> bytes:
    key = {"apikey": config.settings.alpha_vantage_key}
    body = http.get(ALPHA_VANTAGE, "/query", {"function": function, **params, **key}).body
    if body.lstrip()[:1] == b"{":
        refuse(fields.document("alpha-vantage", body), function)
    return body


def refuse(answer: Any, function: str) -> None:
    """Raise what an answer refuses. The words of a burst also speak of the day and of premium plans: it goes first."""
    words = str(answer.get("Information") or answer.get("Note") or "") if isinstance(answer, dict) else ""
    said = words.lower()
    if "1 request per second" in said or "burst pattern" in said:
        raise http.throttled(ALPHA_VANTAGE, f"{function}: asked too fast", 1.5)
    if "premium feature" in said or "premium endpoint" in said:
        raise Rejected(f"alpha-vantage: {function} is for paid plans alone")
    if "rate limit" in said or "requests per day" in said:
        raise http.throttled(ALPHA_VANTAGE, f"{function}: it says that the day's calls are used up", A_WHILE)
    if words:
        raise http.throttled(ALPHA_VANTAGE, f"{function}: {fields.words(words)}", 60)
    if isinstance(answer, dict) and (wrong := answer.get("Error Message")):
        raise Unlisted(f"alpha-vantage: {function}: {fields.words(wrong)}")


def parse_quote(answer: Any, symbol: str, now: datetime) -> Quote:
    """`{"Global Quote": {"01. symbol": "IBM", "05. price": "112.13", "07. latest trading day": "2018-10-05", …}}`.

    It says the day of its price alone: that was so at the close of that session, or, while it lasts, since its open.
    """
    row = fields.field("alpha-vantage", answer, "Global Quote")
    if not row:
        raise Unlisted(f"alpha-vantage: {symbol}: no data")
    fields.same("alpha-vantage", fields.field("alpha-vantage", row, "01. symbol"), symbol)
    names = ("02. open", "03. high", "04. low", "05. price", "08. previous close")
    number = {name[4:]: fields.said_price("alpha-vantage", fields.member(row, name), name) for name in names}
    volume = fields.optional_count("alpha-vantage", fields.member(row, "06. volume"), "06. volume")
    last = number["price"]
    if last is None:
        raise Rejected(f"alpha-vantage: {symbol}: no price in the answer")
    day = fields.day(
        "alpha-vantage", fields.field("alpha-vantage", row, "07. latest trading day"), "latest trading day"
    )
    return Quote(
        symbol, last, _when(day, symbol, now), "alpha-vantage",
        open=number["open"] or None, high=number["high"] or None, low=number["low"] or None,
        previous_close=number["previous close"] or None, volume=volume,
    )  # fmt: skip


def _when(day: date, symbol: str, now: datetime) -> datetime:
    known = calendar(market_of(symbol))
    midnight = known.week.instant(day, 0)
    session = next(known.sessions(midnight))
    return session.closes_at if session.closes_at <= now else session.opens_at


def parse_history(answer: Any, symbol: str, first: date) -> History:
    """`{"Meta Data": {"2. Symbol"}, "Time Series (Daily)": {"2026-11-20": {"1. open", …, "5. volume"}}}`."""
    rows = fields.field("alpha-vantage", answer, "Time Series (Daily)")
    fields.same("alpha-vantage", fields.field("alpha-vantage", answer, "Meta Data", "2. Symbol"), symbol)
    if not isinstance(rows, dict):
        raise Rejected(f"alpha-vantage: the series is {rows!r:.60}")
    found = ((fields.day("alpha-vantage", name, "a date"), row) for name, row in rows.items())
    return History(tuple(_bar(day, row, symbol) for day, row in found if day >= first))


def _bar(day: date, row: Any, symbol: str) -> Bar:
    names = ("1. open", "2. high", "3. low", "4. close")
    first, high, low, last = (fields.number("alpha-vantage", fields.member(row, name), name) for name in names)
    volume = fields.optional_count("alpha-vantage", fields.member(row, "5. volume"), "volume")
    return Bar(symbol, day, first, high, low, last, volume, "alpha-vantage")


def parse_fundamentals(answer: Any, symbol: str) -> Fundamentals:
    """A flat object of texts; `{}` for a symbol that it does not have."""
    if not isinstance(answer, dict) or not answer.get("Symbol"):
        raise Unlisted(f"alpha-vantage: {symbol}: no overview")
    fields.same("alpha-vantage", answer["Symbol"], symbol)
    words = {
        name.lower(): fields.words(answer[name]) if answer.get(name) not in (None, *fields.NOTHING) else None
        for name in ("Name", "Exchange", "Currency", "Country", "Sector", "Industry")
    }
    numbers = {
        ours: fields.optional_number("alpha-vantage", answer.get(theirs), theirs)
        for ours, theirs in (
            ("market_cap", "MarketCapitalization"), ("shares", "SharesOutstanding"), ("pe", "PERatio"), ("eps", "EPS"),
            ("book_value", "BookValue"), ("dividend_share", "DividendPerShare"), ("dividend_yield", "DividendYield"),
            ("profit_margin", "ProfitMargin"), ("beta", "Beta"), ("high_52w", "52WeekHigh"), ("low_52w", "52WeekLow"),
        )
    }  # fmt: skip
    quarter = fields.optional_day("alpha-vantage", answer.get("LatestQuarter"), "LatestQuarter")
    return Fundamentals(symbol, "alpha-vantage", quarter, words, numbers)


def parse_dividends(answer: Any, symbol: str) -> list[Dividend]:
    """`{"symbol", "data": [{"ex_dividend_date", "declaration_date", "record_date", "payment_date", "amount"}]}`."""
    rows = fields.rows("alpha-vantage", fields.field("alpha-vantage", answer, "data"), "data")
    fields.same("alpha-vantage", fields.field("alpha-vantage", answer, "symbol"), symbol)
    return [found for row in rows if (found := _dividend(row, symbol))]


def _dividend(row: Any, symbol: str) -> Dividend | None:
    day = fields.optional_day("alpha-vantage", fields.member(row, "ex_dividend_date"), "ex_dividend_date")
    said = fields.optional_number("alpha-vantage", fields.member(row, "amount"), "amount")
    if day is None or not said:
        return None  # declared, but the day or the amount is not yet
    amount = fields.price("alpha-vantage", said, "amount")
    declared, recorded, paid = (
        fields.optional_day("alpha-vantage", fields.member(row, name), name)
        for name in ("declaration_date", "record_date", "payment_date")
    )
    return Dividend(symbol, day, amount, "alpha-vantage", declared, recorded, paid)


def parse_earnings(body: bytes) -> list[Report]:
    """CSV, its first line the header; nothing below it is a quarter without reports, which is none of ours."""
    lines = list(csv.reader(body.decode("utf-8", "replace").splitlines()))
    if not lines or lines[0][:6] != COLUMNS:
        raise Rejected(f"alpha-vantage: not the calendar of earnings: {body[:60].decode('utf-8', 'replace')!r}")
    return fields.readable((row for row in lines[1:] if len(row) >= 6), _report)


def _report(row: Sequence[str]) -> Report:
    return Report(
        fields.words(row[0]),
        fields.day("alpha-vantage", row[2], "reportDate"),
        "alpha-vantage",
        fields.optional_day("alpha-vantage", row[3], "fiscalDateEnding"),
        HOURS.get(row[6]) if len(row) > 6 else None,
        fields.optional_number("alpha-vantage", row[4], "estimate"),
    )
