"""Prices of our symbols, each from the first of its sources that has a price which is not old.

| kind           | in this order                                                                            |
|----------------|------------------------------------------------------------------------------------------|
| crypto         | Binance (USDT stands for USD), Yahoo                                                       |
| fx             | Yahoo (live), Frankfurter (one a working day, with its own date)                           |
| metal          | gold-api.com (spot), Yahoo (the nearest future, which is dearer than spot by the carry)     |
| stock          | Yahoo, Finnhub (US), Twelve Data, Alpha Vantage (US): those that are on                    |
| else           | Yahoo                                                                                      |

A source that is off is passed over. One whose price is older than that source's prices get (`allowed_age`, of a
stock while its market is open) is not the end of the chain: the others are asked too and the newest price is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

from clients import alpha_vantage, finnhub, twelve_data, yahoo_stocks
from clients.alpha_vantage import ALPHA_VANTAGE
from clients.binance import BINANCE
from clients.binance import fetch_prices as fetch_binance
from clients.finnhub import FINNHUB
from clients.frankfurter import FRANKFURTER
from clients.frankfurter import fetch_prices as fetch_frankfurter
from clients.gold_api import GOLD_API
from clients.gold_api import fetch_prices as fetch_gold_api
from clients.providers import Provider
from clients.twelve_data import TWELVE_DATA
from clients.yahoo import YAHOO
from clients.yahoo import fetch_prices as fetch_yahoo
from domain.failures import Rejected, Renamed, Unavailable, Unlisted
from domain.prices import Price, allowed_age
from domain.stocks import Quote, market_of, old_at
from domain.symbols import FIAT, guess, pair

Fetch: TypeAlias = Callable[[Sequence[str]], "tuple[list[Price], dict[str, Exception]]"]

FETCH: Mapping[str, Fetch] = {
    BINANCE.name: fetch_binance,
    FRANKFURTER.name: fetch_frankfurter,
    GOLD_API.name: fetch_gold_api,
    YAHOO.name: fetch_yahoo,
}
FETCH_STOCKS: Mapping[str, Fetch] = {  # with the day's open, high, low and volume
    YAHOO.name: yahoo_stocks.fetch_quotes,
    FINNHUB.name: finnhub.fetch_quotes,
    TWELVE_DATA.name: twelve_data.fetch_quotes,
    ALPHA_VANTAGE.name: alpha_vantage.fetch_quotes,
}
METALS = {"XAU": "GC=F", "XAG": "SI=F", "XPT": "PL=F", "XPD": "PA=F"}  # to Yahoo's futures


class NotItsTurn(Unavailable):
    """A symbol was not asked for: its sources' budgets serve others first."""


@dataclass(frozen=True)
class Ask:
    """One link of a chain: whom to ask, and by which of its own symbols."""

    provider: Provider
    symbol: str
    stock: bool = False

    @property
    def fetch(self) -> Fetch:
        """How."""
        return (FETCH_STOCKS if self.stock else FETCH)[self.provider.name]


def fetch(
    instruments: Iterable[str | Mapping[str, str]],
    *,
    now: datetime | None = None,
    afford: Callable[[Provider], int] | None = None,
    renamed: dict[str, Renamed] | None = None,
) -> tuple[list[Price], dict[str, Exception]]:
    """The newest price of each symbol, and an Unavailable or Rejected for each symbol that has none.

    `instruments` are symbols, or rows with `symbol` and `kind` where the symbol alone does not tell. Few
    calls: they are grouped by source. One symbol's failure costs only that symbol. A price keeps its
    source's own time, so it may be older than one that another source gave before. `afford` says for how many
    symbols, the first ones, a source may be asked; the others are Unavailable there. `renamed` is filled with what
    a source said of a symbol's new name, also where another one has a price.
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
        for provider, how in dict.fromkeys((link.provider.name, link.fetch) for link in links.values()):
            ours = {s: link.symbol for s, link in links.items() if (link.provider.name, link.fetch) == (provider, how)}
            if afford:
                ours = _afforded(links, ours, afford, problems)
            if ours:
                _ask(how, ours, newest, problems)
    if renamed is not None:
        renamed |= {symbol: said for symbol in chains if (said := _new_name(problems[symbol]))}
    return list(newest.values()), {
        symbol: failure(problems[symbol], f"{symbol}: ") for symbol in chains if symbol not in newest
    }


def _afforded(
    links: Mapping[str, Ask],
    ours: Mapping[str, str],
    afford: Callable[[Provider], int],
    problems: dict[str, list[Exception]],
) -> dict[str, str]:
    """Those of our symbols whose turn it is with a source."""
    provider = links[next(iter(ours))].provider
    count = afford(provider)
    for symbol in [*ours][count:]:
        if not any(isinstance(problem, Unlisted) for problem in problems[symbol]):  # one word on it is enough
            problems[symbol].append(NotItsTurn(f"{provider.name}: not its turn, the budget is dealt out over the day"))
    return dict([*ours.items()][:count])


def _ask(
    fetch_prices: Fetch, ours: Mapping[str, str], newest: dict[str, Price], problems: dict[str, list[Exception]]
) -> None:
    prices, failures = fetch_prices(list(dict.fromkeys(ours.values())))
    found = {price.symbol: price for price in prices}
    for symbol, theirs in ours.items():
        if theirs in failures:
            problems[symbol].append(failures[theirs])
        elif symbol not in newest or newest[symbol].happened_at < found[theirs].happened_at:
            newest[symbol] = replace(found[theirs], symbol=symbol)


def _fresh(price: Price | None, now: datetime) -> bool:
    if isinstance(price, Quote):
        return now < old_at(price)
    return price is not None and now - price.happened_at <= allowed_age(price.source)


def _new_name(problems: Iterable[Exception]) -> Renamed | None:
    return next((problem for problem in problems if isinstance(problem, Renamed)), None)


def failure(problems: Sequence[Exception], about: str = "") -> Exception:
    """One exception for all that went wrong: Unavailable if any source may still come back, Unlisted if all say so,
    and Renamed if one of them told its new name."""
    words = about + ("; ".join(map(str, problems)) or "no source that is on")
    later = [problem for problem in problems if isinstance(problem, Unavailable)]
    if not later:
        unlisted = problems and all(isinstance(problem, Unlisted) for problem in problems)
        if unlisted and (said := _new_name(problems)):
            return Renamed(words, said.source, said.name)
        return (Unlisted if unlisted else Rejected)(words)
    if all(isinstance(problem, NotItsTurn) for problem in problems):
        return NotItsTurn(words)
    waits = [problem.retry_after for problem in later if problem.retry_after is not None]
    return Unavailable(words, min(waits, default=None))


def chain(symbol: str, kind: str | None = None) -> list[Ask]:
    """Whom to ask for a symbol, in order, without those that are off. `chain("XAUUSD")`: gold-api, Yahoo's GC=F."""
    links = {"crypto": _crypto, "fx": _fx, "metal": _metal, "stock": _stock}.get(kind or guess(symbol), _other)(symbol)
    return [link for link in links if not link.provider.off]


def _crypto(symbol: str) -> list[Ask]:
    base, quote = pair(symbol) or (symbol, "USD")
    links = [Ask(BINANCE, base + ("USDT" if quote == "USD" else quote))]
    return [*links, Ask(YAHOO, f"{base}-{quote}")] if quote in FIAT else links


def _fx(symbol: str) -> list[Ask]:
    return [Ask(YAHOO, f"{symbol}=X"), Ask(FRANKFURTER, symbol)]


def _metal(symbol: str) -> list[Ask]:
    base = symbol[:3]
    return [Ask(GOLD_API, base), Ask(YAHOO, METALS[base])] if symbol[3:] == "USD" and base in METALS else []


def _stock(symbol: str) -> list[Ask]:
    american = market_of(symbol) == "XNYS"
    sources = (YAHOO, FINNHUB, TWELVE_DATA, ALPHA_VANTAGE) if american else (YAHOO, TWELVE_DATA)
    return [Ask(source, symbol, stock=True) for source in sources]


def _other(symbol: str) -> list[Ask]:
    return [Ask(YAHOO, symbol)]
