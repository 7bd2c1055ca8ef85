"""Symbols: what kind of thing one names, as far as it tells by itself."""

from __future__ import annotations

import re

METALS = frozenset(("XAU", "XAG", "XPT", "XPD"))
# fmt: off
FIAT = frozenset((
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "IDR", "ILS", "INR", "ISK", "JPY",
    "KRW", "MXN", "MYR", "NOK", "NZD", "PHP", "PLN", "RON", "SEK", "SGD", "THB", "TRY", "USD", "ZAR",
))
# fmt: on
QUOTES = ("FDUSD", "USDT", "USDC", "USD", "EUR", "GBP", "JPY", "TRY", "BRL", "BTC", "ETH", "BNB")  # of crypto pairs
# Five characters at most in New York, with a class or without; elsewhere a dot and the market follow.
STOCK = re.compile(r"[A-Z][A-Z0-9]{0,4}(-[A-Z]{1,3})?|[A-Z0-9][A-Z0-9-]{0,11}\.[A-Z]{1,3}")


def guess(symbol: str) -> str:
    """The kind of a symbol: BTCUSD is crypto, EURUSD fx, XAUUSD metal; AAPL, BRK-B and PTT.BK may be stocks."""
    base, quote = symbol[:-3], symbol[-3:]
    if base in METALS and quote in FIAT:
        return "metal"
    if base in FIAT and quote in FIAT:
        return "fx"
    if pair(symbol):
        return "crypto"
    return "stock" if STOCK.fullmatch(symbol) else "other"


def pair(symbol: str) -> tuple[str, str] | None:
    """Base and quote of a crypto pair: `pair("ETHBTC")` is ETH and BTC. None for what is none."""
    quote = next((q for q in QUOTES if symbol.endswith(q) and len(symbol) > len(q) + 1), None)
    return (symbol.removesuffix(quote), quote) if quote else None
