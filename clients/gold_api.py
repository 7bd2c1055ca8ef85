"""gold-api.com: spot prices of metals in dollars (no key). Asks to cache for 30 s and to heed Cache-Control.

Documented at gold-api.com/llms.txt.
"""

from __future__ import annotations

from collections.abc import Sequence

from clients import fields, http
from clients.providers import provider
from domain.failures import Rejected, Unavailable
from domain.prices import Price

GOLD_API = provider(
    name="gold-api",
    url="gold_api_url",
    doc="spot prices of metals",
    min_age=30,
    heeds_cache_control=True,
    tries=1,
    read_timeout=4,
    deadline=6,
)


def fetch_prices(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Prices and failures by symbol (`XAU`, `XAG`, …), one call each."""
    prices: list[Price] = []
    failures: dict[str, Exception] = {}
    for symbol in symbols:
        try:
            prices.append(fetch_price(symbol))
        except (Unavailable, Rejected) as failure:
            failures[symbol] = failure
    return prices, failures


def fetch_price(symbol: str) -> Price:
    """The price of one ounce in dollars."""
    return parse_price(http.get(GOLD_API, f"/price/{symbol}").body, symbol)


def parse_price(body: bytes | str, symbol: str) -> Price:
    """`{"currency": "USD", "price": 4165.200195, "symbol": "XAU", "updatedAt": "2026-07-03T16:08:54Z", …}`."""
    answer = fields.document("gold-api", body)
    said = fields.field("gold-api", answer, "symbol")
    if said != symbol or fields.field("gold-api", answer, "currency") != "USD":
        raise Rejected(f"gold-api: symbol is {said!r:.20} in {answer['currency']!r:.20}, not {symbol} in USD")
    return Price(
        symbol,
        fields.price("gold-api", fields.field("gold-api", answer, "price"), "price"),
        fields.instant("gold-api", fields.field("gold-api", answer, "updatedAt"), "updatedAt"),
        "gold-api",
    )
