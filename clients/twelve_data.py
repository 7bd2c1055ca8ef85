"""Twelve Data: quotes and daily bars of many markets, with a key. Each symbol costs a credit.

Documented at twelvedata.com/docs. A refusal comes as `{"status": "error", "code": …}`, under 200 as well; in an answer
for several symbols each has its own.
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
from domain.stocks import Bar, History, Quote, market_of

TWELVE_DATA = provider(
    name="twelve-data",
    url="twelve_data_url",
    needs="twelve_data_key",
    doc="stocks of many markets",
    windows=(
        Window("minute", config.settings.twelve_data_minute),
        Window("day", config.settings.twelve_data_day),
    ),
    counters=("api-credits-used", "api-credits-left"),
    penalty=60,
    tries=1,
    read_timeout=4,
    deadline=6,
)
EXCHANGES = {"XLON": "LSE", "XHKG": "HKEX", "XTKS": "JPX", "XBKK": "SET"}  # their names of ours, beside US ones
UNLISTED = (400, 404)


def fetch_quotes(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Quotes and failures by symbol: a market's in one call, as many as a minute's credits allow."""
    quotes: list[Price] = []
    failures: dict[str, Exception] = {}
    for market in dict.fromkeys(map(market_of, symbols)):
        ours = [symbol for symbol in symbols if market_of(symbol) == market]
        ours, late = ours[: config.settings.twelve_data_minute], ours[config.settings.twelve_data_minute :]
        failures |= {symbol: Unavailable("twelve-data: more symbols than a minute's credits", 60) for symbol in late}
        try:
            answer = _get("/quote", _asked(ours, market), len(ours))
        except (Unavailable, Rejected) as failure:
            failures |= dict.fromkeys(ours, failure)
            continue
        for symbol in ours:
            try:
                quotes.append(parse_quote(answer if len(ours) == 1 else _member(answer, symbol), symbol))
            except (Unavailable, Rejected) as failure:
                failures[symbol] = failure
    return quotes, failures


def fetch_history(symbol: str, first: date) -> History:
    """Daily bars from `first` on, as they were traded."""
    asked = {"interval": "1day", "start_date": first.isoformat(), "adjust": "none", "outputsize": "5000"}
    return parse_history(_get("/time_series", {**_asked([symbol], market_of(symbol)), **asked}, 1), symbol)


def _asked(symbols: Sequence[str], market: str) -> dict[str, str]:
    params = {"symbol": ",".join(theirs(symbol) for symbol in symbols)}
    return params | ({"exchange": EXCHANGES[market]} if market in EXCHANGES else {})


def theirs(symbol: str) -> str:
    """Their name of a symbol: `PTT.BK` is `PTT` at SET."""
    return symbol.rpartition(".")[0] if market_of(symbol) in EXCHANGES else symbol


def _get(path: str, params: dict[str, str], cost: int) -> Any:
    headers = {"Authorization": f"apikey {config.settings.twelve_data_key}"}
    answer = fields.document("twelve-data", http.get(TWELVE_DATA, path, params, headers=headers, cost=cost).body)
    _refuse(answer)
    return answer


def _refuse(answer: Any) -> None:
    if not isinstance(answer, dict) or answer.get("status") != "error":
        return
    code, words = answer.get("code"), fields.words(answer.get("message"))
    if code == 429:
        wait = 3600.0 if "day" in words.lower() else TWELVE_DATA.penalty
        raise http.throttled(TWELVE_DATA, words, wait)
    raise (Unlisted if code in UNLISTED else Rejected)(f"twelve-data: {code}: {words}")


def _member(answer: Any, symbol: str) -> Any:
    member = fields.field("twelve-data", answer, theirs(symbol))
    _refuse(member)
    return member


def _same(said: Any, symbol: str) -> None:
    fields.same("twelve-data", said, theirs(symbol), symbol.removeprefix(theirs(symbol)))


def parse_quote(answer: Any, symbol: str) -> Quote:
    """`{"symbol", "currency", "timestamp": 1582641000, "open": "261.07", "high", "low", "close", "volume", …}`."""
    _same(fields.field("twelve-data", answer, "symbol"), symbol)
    number = {
        name: fields.said_price("twelve-data", fields.member(answer, name), name)
        for name in ("open", "high", "low", "close", "previous_close")
    }
    volume = fields.optional_count("twelve-data", fields.member(answer, "volume"), "volume")
    last = number["close"]
    if last is None:
        raise Rejected(f"twelve-data: {symbol}: no close in the answer")
    seconds = fields.member(answer, "last_quote_at") or fields.field("twelve-data", answer, "timestamp")
    return Quote(
        symbol, last, fields.instant("twelve-data", seconds, "timestamp"), "twelve-data",
        open=number["open"] or None, high=number["high"] or None, low=number["low"] or None,
        previous_close=number["previous_close"] or None, volume=volume,
        currency=fields.words(fields.member(answer, "currency") or "") or None,
    )  # fmt: skip


def parse_history(answer: Any, symbol: str) -> History:
    """`{"meta": {"symbol", …}, "values": [{"datetime": "2026-11-25", "open": "…", "high", "low", "close", …}]}`."""
    _same(fields.field("twelve-data", answer, "meta", "symbol"), symbol)
    rows = fields.rows("twelve-data", fields.field("twelve-data", answer, "values"), "values")
    return History(tuple(_bar(row, symbol) for row in rows))


def _bar(row: Any, symbol: str) -> Bar:
    day = fields.day("twelve-data", fields.field("twelve-data", row, "datetime"), "datetime")
    names = ("open", "high", "low", "close")
    first, high, low, last = (fields.number("twelve-data", fields.member(row, name), name) for name in names)
    volume = fields.optional_count("twelve-data", fields.member(row, "volume"), "volume")
    return Bar(symbol, day, first, high, low, last, volume, "twelve-data")
