"""Finnhub: quotes of US stocks and the calendar of earnings, with a key.

Its swagger is at finnhub.io/docs/api. A refusal may come as 200 with `{"error": …}`; an unknown symbol comes as
a quote of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import config
from clients import fields, http
from clients.providers import provider
from domain.budget import Window
from domain.failures import Rejected, Unavailable, Unlisted
from domain.prices import Price
from domain.stocks import Quote, Report

FINNHUB = provider(
    name="finnhub",
    url="finnhub_url",
    needs="finnhub_key",
    doc="US stocks, earnings",
    windows=(Window("second", 30), Window("minute", 60)),
    counters=("X-Ratelimit-Remaining",),
    penalty=60,
    tries=2,
    read_timeout=4,
    deadline=6,
)
HOURS = {"bmo": "before open", "amc": "after close", "dmh": "while open"}


def fetch_quotes(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Quotes and failures by symbol, one call each."""
    quotes: list[Price] = []
    failures: dict[str, Exception] = {}
    for symbol in symbols:
        try:
            quotes.append(parse_quote(_get("/quote", {"symbol": symbol}), symbol))
        except (Unavailable, Rejected) as failure:
            failures[symbol] = failure
    return quotes, failures


def fetch_earnings(first: date, last: date) -> list[Report]:
    """Every company's days from `first` to `last`, in one call."""
    return parse_earnings(_get("/calendar/earnings", {"from": first.isoformat(), "to": last.isoformat()}))


def _get(path: str, params: dict[str, str]) -> Any:
    answer = http.get(FINNHUB, path, params, headers={"X-Finnhub-Token": config.settings.finnhub_key})
    found = fields.document("finnhub", answer.body)
    if isinstance(found, dict) and found.get("error"):
        words = fields.words(found["error"])
        if "limit" in words.lower():
            raise http.throttled(FINNHUB, words, FINNHUB.penalty)
        raise Rejected(f"finnhub: {words}")
    return found


def parse_quote(answer: Any, symbol: str) -> Quote:
    """`{"c": 261.74, "d": 2.29, "dp": 0.88, "h": 263.31, "l": 260.68, "o": 261.07, "pc": 259.45, "t": 1582641000}`."""
    numbers = {
        name: fields.said_price("finnhub", fields.field("finnhub", answer, name), name)
        for name in ("c", "h", "l", "o", "pc")
    }
    last = numbers["c"]
    if last is None or (not last and not fields.member(answer, "t")):
        raise Unlisted(f"finnhub: {symbol}: no data")
    at = fields.instant("finnhub", fields.field("finnhub", answer, "t"), "t")
    return Quote(
        symbol, last, at, "finnhub",
        open=numbers["o"] or None, high=numbers["h"] or None, low=numbers["l"] or None,
        previous_close=numbers["pc"] or None, currency="USD",
    )  # fmt: skip


def parse_earnings(answer: Any) -> list[Report]:
    """`{"earningsCalendar": [{"date", "symbol", "hour": "bmo", "epsEstimate", "quarter", "year", …}]}`."""
    rows = fields.rows("finnhub", fields.field("finnhub", answer, "earningsCalendar"), "earningsCalendar")
    return fields.readable(rows, _report)


def _report(row: Any) -> Report:
    return Report(
        fields.words(fields.text("finnhub", fields.field("finnhub", row, "symbol"), "symbol")),
        fields.day("finnhub", fields.field("finnhub", row, "date"), "date"),
        "finnhub",
        hour=HOURS.get(fields.member(row, "hour")),
        estimate=fields.optional_number("finnhub", fields.member(row, "epsEstimate"), "epsEstimate"),
    )
