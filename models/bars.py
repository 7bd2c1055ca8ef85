"""Daily bars as they were traded, and apart from them what changes a share: splits and dividends."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime, timedelta
from math import ceil
from typing import Any

from peewee import BigIntegerField, CompositeKey, DateField, DecimalField, TextField

import db
from domain import stocks
from domain.bad_ticks import Neighbours
from domain.sessions import calendar
from domain.technical import need
from models import quarantine
from models.fields import InstantField

WEEKS_BACK = timedelta(days=30)
AT_FIRST, CORRECTED = timedelta(days=380), timedelta(days=10)
A_BAR = 1.6  # days of the calendar; of Bangkok, with the most holidays, 1.5


class DailyBar(db.BaseModel):
    """A day of a stock in the prices and shares of that day.

    The view `adjusted_bar` has the same days in today's shares, with splits and dividends until today (UTC) reckoned
    in: symbol, date, open, high, low, close, volume, split_factor, dividend_factor, source, received_at.
    """

    app_may = "select"
    app_views = ("adjusted_bar",)

    symbol = TextField()
    date = DateField()
    open = DecimalField()
    high = DecimalField()
    low = DecimalField()
    close = DecimalField()
    volume = BigIntegerField(null=True)
    source = TextField()
    received_at = InstantField()

    class Meta:
        table_name = "daily_bar"
        primary_key = CompositeKey("symbol", "date")


class Split(db.BaseModel):
    """From `date` on there are `ratio` shares in place of each one: 4, or 0.1 where ten became one."""

    app_may = "select"

    symbol = TextField()
    date = DateField()
    ratio = DecimalField()
    source = TextField()
    received_at = InstantField()

    class Meta:
        primary_key = CompositeKey("symbol", "date")


class Dividend(db.BaseModel):
    """Paid on each share held before `ex_on`, in that day's shares."""

    app_may = "select"

    symbol = TextField()
    ex_on = DateField()
    amount = DecimalField()
    declared_on = DateField(null=True)
    recorded_on = DateField(null=True)
    paid_on = DateField(null=True)
    source = TextField()
    received_at = InstantField()

    class Meta:
        primary_key = CompositeKey("symbol", "ex_on")


def closes(symbols: Collection[str], first: date, last: date) -> dict[str, dict[date, Any]]:
    """Each symbol's closes from `first` to `last`."""
    found: dict[str, dict[date, Any]] = {symbol: {} for symbol in symbols}
    for symbol, day, close in db.rows(
        "select symbol, date, close from daily_bar where symbol = any(%s) and date between %s and %s",
        *(sorted(symbols), first, last),
    ):
        found[symbol][day] = close
    return found


def splits(symbols: Collection[str]) -> dict[str, list[stocks.Split]]:
    """Each symbol's splits."""
    found: dict[str, list[stocks.Split]] = {symbol: [] for symbol in symbols}
    for row in db.rows("select symbol, date, ratio, source from split where symbol = any(%s)", sorted(symbols)):
        found[row[0]].append(stocks.Split(*row))
    return found


def around(quotes: Collection[stocks.Quote]) -> dict[str, Neighbours]:
    """What each quote's price is judged by: the day's last price, before the first one the last closes.

    What came before a price that an operator has accepted counts no more.
    """
    if not quotes:
        return {}
    symbols = sorted({quote.symbol for quote in quotes})
    today = max(quote.happened_at for quote in quotes).date()
    known, factors = closes(symbols, today - WEEKS_BACK, today), splits(symbols)
    for symbol, day, price in db.rows(
        "select symbol, happened_at::date, price from quote where symbol = any(%s) and price is not null", symbols
    ):
        known[symbol][day] = price
    for symbol, (accepted_at, price) in quarantine.accepted_levels(symbols).items():
        since = {day: close for day, close in known[symbol].items() if day > accepted_at.date()}
        known[symbol] = {accepted_at.date(): price, **since}
    return {
        quote.symbol: stocks.before(known[quote.symbol], quote.happened_at.date(), factors[quote.symbol])
        for quote in quotes
    }


def bars(symbol: str, first: date, last: date) -> list[stocks.Bar]:
    """A symbol's bars from `first` to `last`, in order."""
    return [
        stocks.Bar(*row)
        for row in db.rows(
            """select symbol, date, open, high, low, close, volume, source from daily_bar
               where symbol = %s and date between %s and %s order by date""",
            *(symbol, first, last),
        )
    ]


def keep_bars(found: Sequence[stocks.Bar], received_at: datetime) -> int:
    """Write bars that are new or other ones than before; how many. Of a day that a source has twice the last counts."""
    found = list({(bar.symbol, bar.date): bar for bar in found}.values())
    columns = ("symbol", "date", "open", "high", "low", "close", "volume", "source")
    ((written,),) = db.rows(_BARS, *(db.array(getattr(bar, name) for bar in found) for name in columns), received_at)
    return int(written)


_BARS = """
with said as materialized (
  select s.* from unnest(%s::text[], %s::date[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[],
                         %s::bigint[], %s::text[]) as s(symbol, date, open, high, low, close, volume, source)
), written as (
  insert into daily_bar as b (symbol, date, open, high, low, close, volume, source, received_at)
  select s.*, %s from said s left join daily_bar o using (symbol, date)
  where o.symbol is null or (o.open, o.high, o.low, o.close, o.volume) is distinct from
                            (s.open, s.high, s.low, s.close, coalesce(s.volume, o.volume))
  order by s.symbol, s.date
  on conflict (symbol, date) do update set
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = coalesce(excluded.volume, b.volume), source = excluded.source, received_at = excluded.received_at
  returning 1
)
select count(*) from written
"""


def keep_actions(
    splits: Iterable[stocks.Split], dividends: Iterable[stocks.Dividend], received_at: datetime
) -> dict[str, list[str]]:
    """Write splits and dividends that are new or other ones than before; the symbols of each kind that have some.

    A regular and a special dividend of one day are paid together.
    """
    splits, dividends = list(splits), list(dividends)
    split = db.rows(
        """insert into split as k (symbol, date, ratio, source, received_at)
           select distinct on (s.symbol, s.date) s.*, cast(%s as timestamptz)
           from unnest(%s::text[], %s::date[], %s::numeric[], %s::text[]) as s(symbol, date, ratio, source)
           where s.ratio <> 1
           on conflict (symbol, date) do update set
             ratio = excluded.ratio, source = excluded.source, received_at = excluded.received_at
           where abs(k.ratio / excluded.ratio - 1) > 0.0001
           returning symbol""",
        received_at,
        *(db.array(getattr(row, name) for row in splits) for name in ("symbol", "date", "ratio", "source")),
    )
    names = ("symbol", "ex_on", "amount", "declared_on", "recorded_on", "paid_on", "source")
    paid = db.rows(
        """insert into dividend as k
             (symbol, ex_on, amount, declared_on, recorded_on, paid_on, source, received_at)
           select symbol, ex_on, sum(distinct amount), min(declared_on), min(recorded_on), min(paid_on), min(source),
                  cast(%s as timestamptz)
           from unnest(%s::text[], %s::date[], %s::numeric[], %s::date[], %s::date[], %s::date[], %s::text[])
                as s(symbol, ex_on, amount, declared_on, recorded_on, paid_on, source)
           group by symbol, ex_on
           on conflict (symbol, ex_on) do update set
             amount = excluded.amount, declared_on = coalesce(excluded.declared_on, k.declared_on),
             recorded_on = coalesce(excluded.recorded_on, k.recorded_on),
             paid_on = coalesce(excluded.paid_on, k.paid_on),
             source = excluded.source, received_at = excluded.received_at
           where abs(k.amount / excluded.amount - 1) > 0.001 or (k.paid_on is null and excluded.paid_on is not null)
           returning symbol""",
        received_at,
        *(db.array(getattr(row, name) for row in dividends) for name in names),
    )
    return {"splits": sorted({s for (s,) in split}), "dividends": sorted({s for (s,) in paid})}


def lacking(symbols: Collection[str], last: date) -> dict[str, date]:
    """Those that have no bar of `last`, or fewer than alerts need, in the order given; from when on to ask for each.

    That is a year at first, or as far back as is needed, then the days that a source may correct. However much is asked
    for is one call; so is asking again each day for more than a young company has.
    """
    needed, found = _needed(symbols), {}
    for symbol, count, latest in db.rows(
        """select s.symbol, count(b.date), max(b.date) from unnest(%s::text[]) with ordinality as s(symbol, n)
             left join daily_bar b using (symbol) group by s.symbol, s.n order by s.n""",
        db.array(symbols),
    ):
        wanted = needed.get(symbol, 1)
        if count < wanted:
            found[symbol] = last - max(AT_FIRST, reach(wanted))
        elif latest < last:
            found[symbol] = latest - CORRECTED
    return found


def _needed(symbols: Collection[str]) -> dict[str, int]:
    """How many days the indicators and volumes are made of that alerts ask for, by symbol."""
    asked = db.rows(
        """select subject, split_part(measure, '@', 1) from gauge
           where subject = any(%s) and measure like '%%@1d' and measure <> 'price@1d'""",
        list(symbols),
    )
    needed: dict[str, int] = {}
    for symbol, name in asked:
        needed[symbol] = max(need(name).all, needed.get(symbol, 1))
    return needed


def reach(count: int) -> timedelta:
    """How far back so many bars of a stock reach, at least."""
    return timedelta(days=ceil(count * A_BAR))


def freshness(market: str, now: datetime) -> list[dict[str, Any]]:
    """How old each stock's last bar is, against the last session that has been closed for some hours."""
    last = calendar(market).closed(now - timedelta(hours=4)).date
    allowed = timedelta(days=(now.date() - last).days + 1)
    return [
        {"name": symbol, "age": timedelta(days=(now.date() - day).days), "allowed": allowed}
        for symbol, day in db.rows(
            """select symbol, max(date) from daily_bar join stock using (symbol) join instrument using (symbol)
               where active and market = %s and state = 'listed' group by symbol""",
            market,
        )
    ]  # fmt: skip
