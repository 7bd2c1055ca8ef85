"""Tickers: what the cache and live listeners get of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CACHE_KEY = "nightdesk:ticker:{}"  # JSON of `snapshot`; gone after QUOTE_TTL without a step

NUMBERS = ("open", "high", "low", "last", "change", "percent", "volume", "quote_volume")
TIMES = ("opened_at", "last_at", "until")


def snapshot(ticker: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as text, so that no digit is lost; ISO times; None where nothing traded."""
    return {
        "symbol": ticker["symbol"],
        **{name: None if ticker[name] is None else format(ticker[name], "f") for name in NUMBERS},
        "trades": ticker["trades"],
        **{name: None if ticker[name] is None else ticker[name].isoformat() for name in TIMES},
    }
