"""Stocks beyond their price: past days, fundamentals, earnings, dividends; each from the first source that has them.

| what         | in this order                                                                    |
|--------------|----------------------------------------------------------------------------------|
| past days    | Yahoo (with splits and dividends), Twelve Data, Alpha Vantage (US, 100 sessions) |
| fundamentals | Alpha Vantage                                                                    |
| earnings     | Finnhub, Alpha Vantage: one call for all companies                               |
| dividends    | Yahoo, Alpha Vantage                                                             |
| splits       | Yahoo                                                                            |

Quotes are prices: see clients.prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import TypeVar

from clients import alpha_vantage, finnhub, prices, twelve_data, yahoo_stocks
from clients.alpha_vantage import ALPHA_VANTAGE
from clients.finnhub import FINNHUB
from clients.providers import Provider
from clients.twelve_data import TWELVE_DATA
from clients.yahoo import YAHOO
from domain.failures import Rejected, Unavailable
from domain.prices import Price
from domain.stocks import Fundamentals, History, Quote, Report, market_of

T = TypeVar("T")
SOURCES = {
    "bars": (YAHOO, TWELVE_DATA, ALPHA_VANTAGE),
    "splits": (YAHOO,),
    "dividends": (YAHOO, ALPHA_VANTAGE),
    "earnings": (FINNHUB, ALPHA_VANTAGE),
}
EARNINGS_AHEAD = timedelta(days=90)


def fetch_history(symbol: str, first: date) -> History:
    """Bars from `first` on, with the splits and dividends that the source knows."""
    american = market_of(symbol) == "XNYS"
    return _first(
        (provider, lambda fetch=fetch: fetch(symbol, first))  # type: ignore[misc]
        for provider, fetch in (
            (YAHOO, yahoo_stocks.fetch_history),
            (TWELVE_DATA, twelve_data.fetch_history),
            *([(ALPHA_VANTAGE, alpha_vantage.fetch_history)] if american else []),
        )
    )


def fetch_fundamentals(symbol: str) -> Fundamentals:
    """What kind of company it is, and its key figures."""
    return _first([(ALPHA_VANTAGE, lambda: alpha_vantage.fetch_fundamentals(symbol))])


def fetch_earnings(today: date) -> list[Report]:
    """On which days companies report from `today` on, for three months."""
    return _first(
        [
            (FINNHUB, lambda: finnhub.fetch_earnings(today, today + EARNINGS_AHEAD)),
            (ALPHA_VANTAGE, alpha_vantage.fetch_earnings),
        ]
    )


def fetch_dividends(symbol: str, first: date) -> History:
    """Dividends from `first` on, and what the source says of splits beside them."""
    return _first(
        [
            (YAHOO, lambda: yahoo_stocks.fetch_history(symbol, first)),
            (ALPHA_VANTAGE, lambda: History(dividends=tuple(alpha_vantage.fetch_dividends(symbol)))),
        ]
    )


def fetch_splits(symbol: str, first: date) -> History:
    """Splits from `first` on, and what the source says of dividends beside them."""
    return _first([(YAHOO, lambda: yahoo_stocks.fetch_history(symbol, first))])


def _first(asks: Iterable[tuple[Provider, Callable[[], T]]]) -> T:
    """The first answer. Raises Unavailable if any source may still come back, Unlisted if all have no such symbol."""
    problems: list[Exception] = []
    for provider, ask in asks:
        if not provider.off:
            try:
                return ask()
            except (Unavailable, Rejected) as problem:
                problems.append(problem)
    raise prices.failure(problems)


def fetch_quote(symbol: str, afford: Callable[[Provider], int]) -> Price:
    """A stock's newest price, of the sources that may be asked; raises what `clients.prices.fetch` has in its place."""
    found, failed = prices.fetch([{"symbol": symbol, "kind": "stock"}], afford=afford)
    if failed:
        raise failed[symbol]
    return found[0]


def fetch_others(quote: Quote, afford: Callable[[Provider], int]) -> list[Quote]:
    """What the first of the other sources says of a quote's stock; nothing where none may be asked or none has it."""
    found, _ = prices.fetch(
        [{"symbol": quote.symbol, "kind": "stock"}], afford=lambda p: 0 if p.name == quote.source else afford(p)
    )
    return [other for other in found if isinstance(other, Quote)]
