"""Daily bars, splits and dividends of the stocks that users want; and the nightly look for bars that lack or lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import clients.stocks
import db
import events
from clients.allotment import affords
from domain.bad_ticks import Neighbours
from domain.sessions import calendar
from domain.stocks import Bar, History, believable, corrects, market_of
from models import bars, gaps, prices, quarantine, sessions, stocks
from queues import LOW, answer, batches, job

SPLITS_BACK, DIVIDENDS_BACK, A_YEAR = timedelta(days=15), timedelta(days=400), timedelta(days=370)
CHECKED_A_NIGHT = 25  # stocks whose year of bars is compared with the source's, those that waited longest
TRIES = 5  # nights in which a day is asked for
HOURS = 2 * 3600  # a day's credits, as so many a minute grant them


@job(LOW, timeout=HOURS)
def sync_daily_bars(market: str, due_at: datetime) -> dict[str, int]:
    """Fetch the daily bars of a market's stocks, with splits and dividends, as they were traded."""
    sessions.remember()
    last = calendar(market).closed(due_at).date
    due = bars.lacking(stocks.due("bars", due_at, market), last)
    return _sync("bars", due, due_at, clients.stocks.fetch_history)


@job(LOW, timeout=900)
def sync_splits(market: str, due_at: datetime) -> dict[str, int]:
    """Fetch the latest splits of a market's stocks before it opens."""
    first = due_at.date() - SPLITS_BACK
    due = dict.fromkeys(stocks.due("splits", due_at, market), first)
    return _sync("splits", due, due_at, clients.stocks.fetch_splits)


@job(LOW, timeout=900)
def sync_dividends(due_at: datetime) -> dict[str, int]:
    """Fetch a year of dividends of every stock, once a week, with those to come where the source has them."""
    first = due_at.date() - DIVIDENDS_BACK
    due = dict.fromkeys(stocks.due("dividends", due_at - timedelta(days=6)), first)
    return _sync("dividends", due, due_at, clients.stocks.fetch_dividends)


def _sync(
    what: str, due: Mapping[str, date], due_at: datetime, fetch: Callable[[str, date], History]
) -> dict[str, int]:
    """One symbol after the other, most wanted first, each from its day on; one that fails costs only itself."""
    counts = {"asked": 0, "bars": 0, "actions": 0, "doubted": 0, "failed": 0}
    for symbol, first in batches(due.items()):
        if affords(clients.stocks.SOURCES[what], "bars" if what == "bars" else "actions", due_at) == 0:
            break
        said = answer(partial(fetch, symbol, first))
        stocks.asked(what, [symbol], due_at)
        counts["asked"] += 1
        if isinstance(said, History):
            for name, count in keep(symbol, said, datetime.now(UTC)).items():
                counts[name] += count
            if what == "bars":
                stocks.reached(symbol, first)
        else:
            with db.transaction():
                stocks.renamed({symbol: said})
                stocks.failed({symbol: said}, datetime.now(UTC))
                db.after_commit(events.nudge)
            counts["failed"] += 1
    return {**counts, "left": len(due) - counts["asked"]}


def keep(symbol: str, history: History, received_at: datetime) -> dict[str, int]:
    """Write what a source says of a symbol: finished days alone, and what cannot be into quarantine."""
    with prices.one_writer():
        changed = bars.keep_actions(history.splits, history.dividends, received_at)
        last = calendar(market_of(symbol)).closed(received_at).date
        good, doubted = judge(symbol, [bar for bar in history.bars if bar.date <= last])
        written = bars.keep_bars(good, received_at)
        quarantine.keep(doubted, received_at)
        stocks.known([symbol], received_at)
        if changed["splits"]:
            events.publish("stocks.split", {"symbols": changed["splits"]})
        db.after_commit(events.nudge)
    return {"bars": written, "actions": sum(map(len, changed.values())), "doubted": len(doubted)}


def judge(symbol: str, found: Sequence[Bar]) -> tuple[list[Bar], list[tuple[Bar, str, Neighbours]]]:
    """Split bars into those to believe and those to doubt, by the closes around them and what an operator accepted."""
    if not found:
        return [], []
    first, last = (pick(bar.date for bar in found) for pick in (min, max))
    known = bars.closes([symbol], first - timedelta(days=20), last + timedelta(days=20))[symbol]
    accepted = quarantine.accepted_bars(symbol)
    others = [bar for bar in found if bar.date not in accepted]
    good, doubted = believable(others, {**known, **accepted}, bars.splits([symbol])[symbol])
    return [*good, *(bar for bar in found if accepted.get(bar.date) == bar.close)], doubted


@job(LOW, timeout=HOURS)
def find_gaps(due_at: datetime) -> dict[str, int]:
    """Find daily bars that are missing, cannot be, or are others at the source by now; fetch them again; report."""
    sessions.remember()
    found = sum(look(symbol, due_at) for symbol in batches(stocks.due("looked", due_at)))
    days = gaps.open_days(stocks.due("checked", due_at), TRIES)
    year = dict.fromkeys(stocks.unchecked(due_at, CHECKED_A_NIGHT), due_at.date() - A_YEAR)
    healed = asked = 0
    for symbol, first in batches({**days, **year}.items()):
        if affords(clients.stocks.SOURCES["bars"], "bars", due_at) == 0:
            break
        said = answer(partial(clients.stocks.fetch_history, symbol, first))
        stocks.asked("checked", [symbol], due_at)
        corrected, mended = mend(symbol, first, said, datetime.now(UTC))
        asked, found, healed = asked + 1, found + corrected, healed + mended
    if found or healed:
        events.publish("stocks.gaps", {"found": found, "healed": healed})
    return {"found": found, "asked": asked, "healed": healed}


def look(symbol: str, now: datetime) -> int:
    """Put on record which days of a symbol's year lack a bar, and whose bar cannot be; how many are news."""
    stocks.asked("looked", [symbol], now)
    last = arrived(symbol, now)
    with prices.one_writer():
        year = bars.bars(symbol, last - A_YEAR, last)
        _, doubted = judge(symbol, year)
        quarantine.keep(doubted, now)
        db.after_commit(events.nudge)
        wrong = gaps.note(symbol, "wrong", {bar.date: bar for bar, _, _ in doubted}, now)
        lacking = gaps.missing(symbol, calendar(market_of(symbol)).days(last - A_YEAR, last))
        return wrong + gaps.note(symbol, "missing", dict.fromkeys(lacking), now)


def arrived(symbol: str, now: datetime) -> date:
    """The last day of a symbol whose bar has had the time to come."""
    return calendar(market_of(symbol)).closed(now - timedelta(hours=2)).date


def mend(symbol: str, first: date, said: History | Exception, now: datetime) -> tuple[int, int]:
    """Write what is new in a symbol's days, fetched again; how many were others with us, how many are healed."""
    if isinstance(said, Exception):
        return 0, gaps.heal(symbol, {}, now, str(said))
    last = arrived(symbol, now)
    with prices.one_writer():
        ours = {bar.date: bar for bar in bars.bars(symbol, first, now.date())}
        good, _ = judge(symbol, said.bars)
        theirs = {bar.date: bar for bar in good if bar.date in ours}
        wrong = {day: ours[day] for day, bar in theirs.items() if corrects(bar, ours[day], settled=day < last)}
        corrected = gaps.note(symbol, "wrong", wrong, now)
        right = theirs.keys() - wrong.keys()  # what is not on record as wrong stays as it is
        keep(symbol, replace(said, bars=tuple(bar for bar in said.bars if bar.date not in right)), now)
        there = {bar.date: bar for bar in bars.bars(symbol, first, now.date())}
        return corrected, gaps.heal(symbol, there, now, None)
