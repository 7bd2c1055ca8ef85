"""Prices: what an observation is, how old it may be, and which ones nobody could have made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

KINDS = ("crypto", "fx", "metal", "stock", "index", "other")
SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9._:-]{0,23}")
CACHE_KEY = "nightdesk:quote:{}"  # JSON of `snapshot`; gone after QUOTE_TTL without a sync
HIGHEST = Decimal("1e15")  # above this a "price" is a time stamp or a lost decimal point
AHEAD = timedelta(minutes=15)  # clocks differ, and fixings bear the time for which they are planned

# How old the newest price of a healthy source gets, from what each publishes; an operator's own limit on an
# instrument goes before it. The ECB fixes on working days at 16:00, so Easter alone makes five days.
ALLOWED_AGE = {
    "binance": timedelta(minutes=1),
    "gold-api": timedelta(minutes=5),
    "yahoo": timedelta(minutes=15),
    "frankfurter": timedelta(days=5, hours=6),
    "exchange": timedelta(days=365),  # the app's own: the last trade is the price until there is another
    "finnhub": timedelta(minutes=15),
    "twelve-data": timedelta(minutes=15),
    "alpha-vantage": timedelta(hours=7),  # of trading: what it gives without pay is of the last close
}
DEFAULT_AGE = timedelta(minutes=15)


@dataclass(frozen=True)
class Price:
    """One observation: what a source said that one unit of the symbol cost, and when that was so (aware)."""

    symbol: str
    price: Decimal
    happened_at: datetime
    source: str


def allowed_age(source: str) -> timedelta:
    """How old a price of this source may be before it is stale: `allowed_age("binance")` is one minute."""
    return ALLOWED_AGE.get(source, DEFAULT_AGE)


def doubt(price: Price, received_at: datetime) -> str | None:
    """Why no market could have had this price at this time, or None: not a number, not above zero, in the future."""
    if not price.price.is_finite():
        return f"{price.source}: the price of {price.symbol} is {price.price}, not a number"
    if not 0 < price.price < HIGHEST:
        return f"{price.source}: the price of {price.symbol} is {price.price}, not above 0 and below {HIGHEST}"
    if price.happened_at > received_at + AHEAD:
        return f"{price.source}: the price of {price.symbol} is of {price.happened_at.isoformat()}, in the future"
    return None


def believable(prices: Iterable[Price], received_at: datetime) -> tuple[list[Price], dict[str, str]]:
    """Split observations into those to keep, newest per symbol, and the reasons against the others by symbol."""
    kept: dict[str, Price] = {}
    doubts: dict[str, str] = {}
    for price in prices:
        reason = doubt(price, received_at)
        if reason:
            doubts[price.symbol] = reason
        elif price.symbol not in kept or kept[price.symbol].happened_at < price.happened_at:
            kept[price.symbol] = price
    return list(kept.values()), {symbol: reason for symbol, reason in doubts.items() if symbol not in kept}


def snapshot(quote: Mapping[str, Any]) -> dict[str, Any]:
    """What the cache and live listeners get of a quote: numbers as text, so that no digit is lost; ISO times."""
    numbers = {name: format(quote[name], "f") if quote[name] is not None else None for name in ("price", "previous")}
    times = {
        name: quote[name].isoformat() if quote[name] is not None else None
        for name in ("happened_at", "received_at", "stale_at", "previous_happened_at", "previous_received_at")
    }
    words = {name: quote[name] for name in ("symbol", "state", "reason", "source", "previous_source", "error")}
    return {**words, **numbers, **times}
