"""Trades on a tape: made up or recorded, written as the served app would, and what brute force makes of them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import config
import db
from domain.candles import INTERVALS, ROLL_UP, start
from models import buckets, events, feeds, partitions

DATA = config.ROOT.parent / "shared" / "data"  # recorded trades, where they are
KEY = tuple[str, str, datetime]  # symbol, interval, start
NUMBERS = tuple[Decimal | int, ...]  # open, high, low, close, volume, quote volume, trades


class Print(NamedTuple):
    """One trade as the tape has it."""

    symbol: str
    at: datetime
    price: Decimal
    quantity: Decimal


def recorded(path: Path, symbol: str, price: str, quantity: str) -> Iterator[Print]:
    """A file of recorded trades by the names of its columns; those of one millisecond are a microsecond apart."""
    before, number = -1, 0
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            moment = int(row["time_ms"])
            number = number + 1 if moment == before else 0
            before = moment
            at = datetime.fromtimestamp(moment / 1000, UTC) + timedelta(microseconds=number)
            yield Print(symbol, at, Decimal(row[price]), Decimal(row[quantity]))


def follow(symbols: Iterable[str]) -> None:
    """Pairs with these names."""
    db.rows("insert into asset (code, scale) values ('USD', 2) on conflict do nothing")
    for symbol in symbols:
        db.rows("insert into asset (code, scale) values (%s, 8)", f"X-{symbol}"[:16])
        db.rows("insert into pair values (%s, %s, 'USD', 0.0001, 0.0001)", symbol, f"X-{symbol}"[:16])


def insert(prints: Iterable[Print]) -> list[int]:
    """Write trades in this order; returns their ids."""
    rows = list(prints)
    found = db.rows(
        """insert into trade (symbol, traded_at, price, quantity, side)
           select symbol, at, price, quantity, 'buy'
           from unnest(%s::text[], %s::timestamptz[], %s::numeric[], %s::numeric[]) with ordinality
             as t(symbol, at, price, quantity, n) order by n returning id""",
        *(db.array(getattr(row, name) for row in rows) for name in Print._fields),
    )
    return [number for (number,) in found]


def brute_force(prints: Iterable[Print]) -> dict[KEY, NUMBERS]:
    """All candles of these trades; of one instant in this order."""
    found: dict[KEY, list[Decimal | int]] = {}
    for symbol, at, price, quantity in sorted(prints, key=lambda row: row.at):
        turnover = price * quantity
        for interval in INTERVALS:
            key = symbol, interval, start(interval, at)
            c = found.get(key)
            if c is None:
                found[key] = [price, price, price, price, quantity, turnover, 1]
            else:
                c[1:] = max(c[1], price), min(c[2], price), price, c[4] + quantity, c[5] + turnover, c[6] + 1
    return {key: tuple(numbers) for key, numbers in found.items()}


def stored() -> dict[KEY, NUMBERS]:
    """All candles that are there."""
    rows = db.rows(
        """select symbol, "interval", starts_at, open, high, low, close, volume, quote_volume, trades from candle"""
    )
    return {row[:3]: row[3:] for row in rows}


PAIRS = """
insert into asset (code, scale) values ('USD', 2);
insert into asset (code, scale) select 'C' || n, 8 from generate_series(1, %(pairs)s) n;
insert into pair (symbol, base, quote, tick_size, step_size)
select 'C' || n || 'USD', 'C' || n, 'USD', 0.01, 0.0001 from generate_series(1, %(pairs)s) n
"""

# Pairs take turns in a scrambled order; the price of each walks along a sine with noise.
TRADES = """
insert into {into} (symbol, traded_at, price, quantity, side, received_at)
select 'C' || 1 + (n * 7919) %% %s || 'USD', t.at,
       (10000 + 2000 * sin(n / 1e5) + 100 * random())::int * 0.01, (100 + 10000 * random())::int * 0.0001,
       case when n %% 2 = 0 then 'buy' else 'sell' end, t.at
from generate_series(1, %s::bigint) n cross join lateral (select %s::timestamptz + n * %s::interval as at) t
"""


def open_exchange(pairs: int) -> None:
    """Pairs C1USD to CnUSD, and days enough for their trades."""
    db.database.execute_sql(PAIRS, {"pairs": pairs})


def trade(pairs: int, count: int, since: datetime, length: timedelta, into: str = "trade") -> None:
    """`count` trades evenly over the time after `since`; foreign keys are not checked again for each."""
    with db.transaction():
        db.rows("set local session_replication_role = replica")
        db.rows(TRADES.format(into=into), pairs, count, since, length / count)


def keep(days: int) -> None:
    """Empty partitions as upkeep leaves them when trades have been kept for so many days."""
    clear(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    each = partitions.width(days)
    for ago in range(days, 0, -each):
        db.rows("select make_partition('trade', current_date - %s, %s)", ago, each)
    partitions.make_ahead("trade", each)


def clear(since: datetime, until: datetime) -> None:
    """Drop the partitions that have a part of a time."""
    for (name,) in db.rows("select name from partition_spans('trade') where until > %s and since < %s", since, until):
        db.rows(f"drop table {name}")


@contextmanager
def loading(first: datetime, days: int) -> Iterator[str]:
    """A table for millions of trades of these days, with no indexes until the end, when it becomes the exchange's."""
    begin = datetime.combine(first, time(), UTC)
    clear(begin, begin + timedelta(days=days))
    made = [(f"trade_{day:%Y%m%d}", day) for day in (first.date() + timedelta(days=n) for n in range(days))]
    db.rows("create table load (like trade including defaults including constraints) partition by range (traded_at)")
    db.rows("alter table load alter id set default nextval('trade_id_seq')")
    for name, day in made:
        db.rows(f"create table {name} partition of load for values from ('{day}') to ('{day + timedelta(1)}')")
    yield "load"
    db.rows("alter table load alter id drop default")
    for name, day in made:
        db.rows(f"alter table load detach partition {name}")
        with db.transaction():
            db.rows("set local maintenance_work_mem = '1GB'")
            db.rows(f"alter table trade attach partition {name} for values from ('{day}') to ('{day + timedelta(1)}')")
    db.rows("drop table load")


# What a build makes of trades of which none is corrected.
MINUTES = """
insert into candle
select symbol, '1m', starts_at, prices[1], high, low, prices[cardinality(prices)], volume, turnover, trades, known_at,
       last_at
from (
  select symbol, date_bin('1 minute', traded_at, timestamptz '2000-01-03 00:00Z') as starts_at,
         array_agg(price order by traded_at, id) as prices, max(price) as high, min(price) as low,
         sum(quantity) as volume, sum(quantity * price) as turnover, count(*) as trades, max(received_at) as known_at,
         max(traded_at) as last_at
  from trade group by 1, 2) t
"""
HIGHER = """
insert into candle
select symbol, %(interval)s, candle_start(%(interval)s, starts_at), (array_agg(open order by starts_at))[1], max(high),
       min(low), (array_agg(close order by starts_at desc))[1], sum(volume), sum(quote_volume), sum(trades),
       max(known_at), max(last_at)
from candle where "interval" = %(lower)s group by 1, 3
"""


def build_whole(since: datetime, until: datetime, proven: list[str]) -> None:
    """All candles of what was loaded, in one go, with proof for some symbols that they are what a build makes."""
    ((xid, id_),) = db.rows("select t.xid::text::bigint, t.id from trade t order by t.xid desc, t.id desc limit 1")
    with db.transaction():
        db.rows("set local work_mem = '256MB'")
        db.rows(MINUTES)
        for interval, lower in ROLL_UP:
            db.database.execute_sql(HIGHER, {"interval": interval, "lower": lower})
        events.move(f"build_candles.{feeds.TRADE}", events.Position(xid, id_))
    db.rows("analyze candle")
    if wrong := buckets.mend(feeds.TRADE, since, until, proven):
        raise ValueError(f"candles that a build makes otherwise: {wrong}")
