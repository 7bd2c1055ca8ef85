"""Yahoo's chart answers: unofficial, undocumented, for personal use only. Asked slowly, and off with YAHOO=off.

What is known of it comes from github.com/ranaroussi/yfinance: v8/chart needs a browser's User-Agent but
no cookie; whoever asks too much gets 429 for minutes. Symbols as `EURUSD=X`, `GC=F`, `BTC-USD`, `AAPL`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from clients import fields, http
from clients.providers import provider
from domain.budget import Window
from domain.failures import Rejected, Unavailable, Unlisted
from domain.prices import Price

YAHOO = provider(
    name="yahoo",
    url="yahoo_url",
    needs="yahoo",
    doc="prices of nearly everything, minutes old",
    unofficial=True,
    headers={"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
    windows=(Window("second", 1), Window("day", 20_000)),  # ours: it states none
    penalty=900,
    min_age=30,
    tries=1,
    read_timeout=4,
    deadline=6,
)
HUNDREDTHS = ("GBp", "GBX", "ZAc", "ILA")  # pence in London, cents in Johannesburg, agorot in Tel Aviv


def fetch_prices(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Prices and failures by symbol, one call each, one a second: who finds the second taken is Unavailable."""
    prices: list[Price] = []
    failures: dict[str, Exception] = {}
    for symbol in random.sample(symbols, len(symbols)):  # each gets its turn, however many there are
        try:
            prices.append(fetch_price(symbol))
        except (Unavailable, Rejected) as failure:
            failures[symbol] = failure
    return prices, failures


def fetch_price(symbol: str) -> Price:
    """The latest price, with the exchange's own time."""
    params = {"interval": "1d", "range": "1d"}
    return parse_price(http.get(YAHOO, f"/v8/finance/chart/{quote(symbol)}", params).body, symbol)


def parse_price(body: bytes | str, symbol: str) -> Price:
    """`{"chart": {"result": [{"meta": {"symbol", "currency", "regularMarketPrice", "regularMarketTime", …}}]}}`.

    Prices in hundredths (GBp) are given in whole units of the currency. Raises Rejected for
    `{"chart": {"result": null, "error": {"code", "description"}}}`.
    """
    meta = fields.field("yahoo", parse_chart(body, symbol), "meta")
    price = fields.price("yahoo", fields.field("yahoo", meta, "regularMarketPrice"), "regularMarketPrice")
    at = fields.instant("yahoo", fields.field("yahoo", meta, "regularMarketTime"), "regularMarketTime")
    return Price(symbol, price / hundredths(meta), at, "yahoo")


def parse_chart(body: bytes | str, symbol: str) -> Any:
    """The one result of a chart. Raises Rejected, as Unlisted where Yahoo knows no such symbol, Renamed by another."""
    answer = fields.document("yahoo", body)
    error = fields.field("yahoo", answer, "chart", "error") if _has_error(answer) else None
    if error:
        unlisted = isinstance(error, dict) and error.get("code") == "Not Found"
        if unlisted:
            raise Unlisted(f"yahoo: {symbol}: Not Found, it has no such symbol")
        raise Rejected(f"yahoo: {symbol}: {error!r:.120}")
    chart = fields.field("yahoo", answer, "chart", "result", 0)
    fields.same("yahoo", fields.field("yahoo", chart, "meta", "symbol"), symbol)
    return chart


def hundredths(meta: Any) -> int:
    """By how much to divide prices: London quotes in pence."""
    return 100 if str(fields.field("yahoo", meta, "currency")) in HUNDREDTHS else 1


def _has_error(answer: object) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("chart"), dict) and bool(answer["chart"].get("error"))
