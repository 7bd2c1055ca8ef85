"""Prices of our symbols, each from the first of its sources that has a price which is not old.

| kind           | in this order                                                                            |
|----------------|------------------------------------------------------------------------------------------|
| crypto         | Binance (USDT stands for USD), Yahoo                                                       |
| fx             | Yahoo (live), Frankfurter (one a working day, with its own date)                           |
| metal          | gold-api.com (spot), Yahoo (the nearest future, which is dearer than spot by the carry)     |
| stock and else | Yahoo                                                                                    |

A source that is off is passed over. One whose price is older than that source's prices get (`allowed_age`)
is not the end of the chain: the others are asked too and the newest price is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

from clients.binance import BINANCE
from clients.binance import fetch_prices as fetch_binance
from clients.frankfurter import FRANKFURTER
from clients.frankfurter import fetch_prices as fetch_frankfurter
from clients.gold_api import GOLD_API
from clients.gold_api import fetch_prices as fetch_gold_api
from clients.providers import Provider
from clients.yahoo import YAHOO
from clients.yahoo import fetch_prices as fetch_yahoo
from domain.failures import Rejected, Unavailable
from domain.prices import Price, allowed_age

Fetch: TypeAlias = Callable[[Sequence[str]], "tuple[list[Price], dict[str, Exception]]"]

FETCH: Mapping[str, Fetch] = {
    BINANCE.name: fetch_binance,
    FRANKFURTER.name: fetch_frankfurter,
    GOLD_API.name: fetch_gold_api,
    YAHOO.name: fetch_yahoo,
}
PROVIDERS = {provider.name: provider for provider in (BINANCE, FRANKFURTER, GOLD_API, YAHOO)}
METALS = {"XAU": "GC=F", "XAG": "SI=F", "XPT": "PL=F", "XPD": "PA=F"}  # to Yahoo's futures
# fmt: off
FIAT = frozenset((
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "IDR", "ILS", "INR", "ISK", "JPY",
    "KRW", "MXN", "MYR", "NOK", "NZD", "PHP", "PLN", "RON", "SEK", "SGD", "THB", "TRY", "USD", "ZAR",
))
# fmt: on
QUOTES = ("FDUSD", "USDT", "USDC", "USD", "EUR", "GBP", "JPY", "TRY", "BRL", "BTC", "ETH", "BNB")  # of crypto pairs


@dataclass(frozen=True)
class Ask:
    """One link of a chain: whom to ask, and by which of its own symbols."""

    provider: Provider
    symbol: str


def fetch(
    instruments: Iterable[str | Mapping[str, str]], *, now: datetime | None = None
) -> tuple[list[Price], dict[str, Exception]]:
    """The newest price of each symbol, and an Unavailable or Rejected for each symbol that has none.

    `instruments` are symbols, or rows with `symbol` and `kind` where the symbol alone does not tell. Few
    calls: they are grouped by source. One symbol's failure costs only that symbol. A price keeps its
    source's own time, so it may be older than one that another source gave before.
    """
    now = now or datetime.now(UTC)
    pairs = [(i, None) if isinstance(i, str) else (i["symbol"], i["kind"]) for i in instruments]
    chains = {symbol: chain(symbol, kind) for symbol, kind in pairs}
    newest: dict[str, Price] = {}
    problems: dict[str, list[Exception]] = {symbol: [] for symbol in chains}
    for depth in range(max(map(len, chains.values()), default=0)):
        links = {
            symbol: links[depth]
            for symbol, links in chains.items()
            if depth < len(links) and not _fresh(newest.get(symbol), now)
        }
        for name in dict.fromkeys(link.provider.name for link in links.values()):
            ours = {symbol: link.symbol for symbol, link in links.items() if link.provider.name == name}
            _ask(FETCH[name], ours, newest, problems)
    return list(newest.values()), {
        symbol: _failure(symbol, problems[symbol]) for symbol in chains if symbol not in newest
    }


def _ask(
    fetch_prices: Fetch, ours: Mapping[str, str], newest: dict[str, Price], problems: dict[str, list[Exception]]
) -> None:
    prices, failures = fetch_prices(sorted(set(ours.values())))
    found = {price.symbol: price for price in prices}
    for symbol, theirs in ours.items():
        if theirs in failures:
            problems[symbol].append(failures[theirs])
        elif symbol not in newest or newest[symbol].happened_at < found[theirs].happened_at:
            newest[symbol] = replace(found[theirs], symbol=symbol)


def _fresh(price: Price | None, now: datetime) -> bool:
    return price is not None and now - price.happened_at <= allowed_age(price.source)


def _failure(symbol: str, problems: list[Exception]) -> Exception:
    """One exception for all that went wrong: Unavailable if any source may still come back."""
    words = f"{symbol}: {'; '.join(str(problem) for problem in problems) or 'no source that is on'}"
    later = [problem for problem in problems if isinstance(problem, Unavailable)]
    if not later:
        return Rejected(words)
    waits = [problem.retry_after for problem in later if problem.retry_after is not None]
    return Unavailable(words, min(waits, default=None))


def chain(symbol: str, kind: str | None = None) -> list[Ask]:
    """Whom to ask for a symbol, in order, without those that are off. `chain("XAUUSD")`: gold-api, Yahoo's GC=F."""
    links = {"crypto": _crypto, "fx": _fx, "metal": _metal}.get(kind or guess(symbol), _other)(symbol)
    return [link for link in links if not link.provider.off]


def guess(symbol: str) -> str:
    """The kind of a symbol: BTCUSD is crypto, EURUSD fx, XAUUSD metal, AAPL stock."""
    base, quote = symbol[:-3], symbol[-3:]
    if base in METALS and quote in FIAT:
        return "metal"
    if base in FIAT and quote in FIAT:
        return "fx"
    return "crypto" if _pair(symbol) else "stock"


def _pair(symbol: str) -> tuple[str, str] | None:
    quote = next((q for q in QUOTES if symbol.endswith(q) and len(symbol) > len(q) + 1), None)
    return (symbol.removesuffix(quote), quote) if quote else None


def _crypto(symbol: str) -> list[Ask]:
    base, quote = _pair(symbol) or (symbol, "USD")
    links = [Ask(BINANCE, base + ("USDT" if quote == "USD" else quote))]
    return [*links, Ask(YAHOO, f"{base}-{quote}")] if quote in FIAT else links


def _fx(symbol: str) -> list[Ask]:
    return [Ask(YAHOO, f"{symbol}=X"), Ask(FRANKFURTER, symbol)]


def _metal(symbol: str) -> list[Ask]:
    base = symbol[:3]
    return [Ask(GOLD_API, base), Ask(YAHOO, METALS[base])] if symbol[3:] == "USD" and base in METALS else []


def _other(symbol: str) -> list[Ask]:
    return [Ask(YAHOO, symbol)]
