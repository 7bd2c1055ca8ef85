"""Stocks: prices of those that users want, as often as the sources' budgets allow, and what companies they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import clients.prices
import clients.stocks
import config
import db
import events
from clients.allotment import Allotment, affords, calls_of_day
from clients.alpha_vantage import ALPHA_VANTAGE
from clients.prices import NotItsTurn
from clients.providers import Provider
from domain.bad_ticks import Neighbours
from domain.failures import Rejected, Renamed, Unavailable
from domain.prices import CACHE_KEY, Price, snapshot
from domain.stocks import Quote, hopeless, quote_doubt, turns, vouched
from models import bars, companies, prices, quarantine, sessions, stock_quotes, stocks
from queues import DEFAULT, LOW, answer, batches, job

FUNDAMENTALS_EVERY = timedelta(hours=20)


@job(DEFAULT, timeout=60)
def sync_stock_prices(market: str, due_at: datetime) -> dict[str, int]:
    """Fetch prices of a market's wanted stocks: each minute, each 15 s where users hold them, as budgets allow."""
    sessions.remember()
    stocks.adopt()
    wanted, allotment = stocks.wanted(market, due_at), Allotment(market, due_at)
    sources = {link.provider.name: link.provider for w in wanted for link in clients.prices.chain(w.symbol, "stock")}
    due = turns(wanted, due_at, calls_of_day(sources.values(), due_at))
    names: dict[str, Renamed] = {}
    found, failed = clients.prices.fetch([{"symbol": s, "kind": "stock"} for s in due], afford=allotment, renamed=names)
    return keep(due, found, failed, names, due_at, allotment)


@job(LOW, timeout=3600)
def sync_closing_prices(market: str, due_at: datetime) -> dict[str, int]:
    """Fetch each stock's price once more after its market's close: until the next open it is the closing auction's."""
    sessions.remember()
    due, counts = stocks.due("asked", due_at, market), Counter(asked=0, written=0, failed=0, doubted=0)

    def afford(provider: Provider) -> int:
        return int(affords([provider], "closing", due_at) != 0)

    for symbol in batches(due):
        said = answer(partial(clients.stocks.fetch_quote, symbol, afford))
        if isinstance(said, NotItsTurn):
            break
        found, failed = ([], {symbol: said}) if isinstance(said, Exception) else ([said], {})
        counts.update(keep([symbol], found, failed, failed, due_at, afford))
    return {**counts, "left": len(due) - counts["asked"]}


def keep(
    due: Sequence[str],
    found: Sequence[Price],
    failed: Mapping[str, Exception],
    names: Mapping[str, Exception],
    due_at: datetime,
    afford: Callable[[Provider], int],
) -> dict[str, int]:
    """Write what became of asking for those that were due: prices, new names, failures, and what is doubted."""
    failures = {symbol: failure for symbol, failure in failed.items() if not isinstance(failure, NotItsTurn)}
    asked = [symbol for symbol in due if symbol in failures or symbol not in failed]
    received_at = datetime.now(UTC)
    seen, doubted = judge(found, received_at, afford)
    believed = {quote.symbol for quote in seen}
    without = {
        quote.symbol: Unavailable(f"doubted: {why}") for quote, why, _ in doubted if quote.symbol not in believed
    }
    with prices.one_writer():
        stocks.asked("asked", asked, due_at)
        written = stock_quotes.record(seen, {**failures, **without}, received_at)
        stocks.known(believed, received_at)
        stocks.renamed(names, seen)
        stocks.failed({**failures, **without}, received_at)
        quarantine.keep(doubted, received_at)
        db.after_commit(events.nudge)
    show({quote["symbol"] for quote in written if quote["changed"]}, received_at)
    return {"asked": len(asked), "written": len(written), "failed": len(failures), "doubted": len(doubted)}


def judge(
    found: Iterable[Price], received_at: datetime, afford: Callable[[Provider], int]
) -> tuple[list[Quote], list[tuple[Quote, str, Neighbours]]]:
    """Split quotes into those to believe and those to doubt.

    Of a stock whose price is doubted another source is asked: it vouches for a jump, or its own price is believed.
    """
    seen: list[Quote] = []
    doubted: list[tuple[Quote, str, Neighbours]] = []
    for quote, reason, near in weigh(found, received_at):
        others = clients.stocks.fetch_others(quote, afford) if reason else []
        if reason and not vouched(quote, others, received_at):
            doubted.append((quote, reason, near))
            for other, against, around in weigh(others, received_at):
                if against:
                    doubted.append((other, against, around))
                else:
                    seen.append(other)
        else:
            seen.append(quote)
    return seen, doubted


def weigh(found: Iterable[Price], received_at: datetime) -> list[tuple[Quote, str | None, Neighbours]]:
    """Each quote with what speaks against it, if anything does, and the prices that it was judged by."""
    against = {quote: hopeless(quote, received_at) for quote in found if isinstance(quote, Quote)}
    near = bars.around([quote for quote, reason in against.items() if not reason])
    around = {quote: near.get(quote.symbol, Neighbours()) for quote in against}
    return [(quote, reason or quote_doubt(quote, around[quote]), around[quote]) for quote, reason in against.items()]


def show(changed: set[str], now: datetime) -> None:
    """Put the quotes that changed into the cache, and tell whoever listens."""
    states = {CACHE_KEY.format(quote["symbol"]): snapshot(quote) for quote in prices.quotes(now, changed)}
    events.show("quote", states, list(states), config.settings.quote_ttl)


@job(LOW, timeout=600)
def sync_fundamentals(due_at: datetime) -> dict[str, int]:
    """Fetch key figures of the stocks whose figures are a day old, most wanted first, as the day's credits allow."""
    due = stocks.due("fundamentals", due_at - FUNDAMENTALS_EVERY)
    symbols = due[: affords([ALPHA_VANTAGE], "fundamentals", due_at)]
    failures: dict[str, Exception] = {}
    for symbol in batches(symbols):
        stocks.asked("fundamentals", [symbol], due_at)
        try:
            found = clients.stocks.fetch_fundamentals(symbol)
        except (Unavailable, Rejected) as failure:
            failures[symbol] = failure
        else:
            companies.keep_fundamentals(found, datetime.now(UTC))
    return {"asked": len(symbols), "left": len(due) - len(symbols), "failed": len(failures)}


@job(LOW, timeout=120)
def sync_earnings_calendar(due_at: datetime) -> dict[str, int]:
    """Fetch the days of the coming three months on which companies that we follow report: one call for all."""
    if affords(clients.stocks.SOURCES["earnings"], "earnings", due_at) == 0:
        return {"reports": 0, "changed": 0}  # no source is on, or its day's credits are for others
    reports = clients.stocks.fetch_earnings(due_at.date())
    changed = companies.keep_reports(reports, due_at.date(), datetime.now(UTC))
    return {"reports": len(reports), "changed": changed}
