"""Trades on a tape: made up or recorded, written as the served app would, and what brute force makes of them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import config
import db
from domain.candles import INTERVALS, start

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
insert into trade (symbol, traded_at, price, quantity, side, received_at)
select 'C' || 1 + (n * 7919) %% %s || 'USD', t.at,
       round((100 + 20 * sin(n / 1e5) + random())::numeric, 2), round((0.01 + random())::numeric, 4),
       case when n %% 2 = 0 then 'buy' else 'sell' end, t.at
from generate_series(1, %s::bigint) n cross join lateral (select %s::timestamptz + n * %s::interval as at) t
"""


def open_exchange(pairs: int) -> None:
    """Pairs C1USD to CnUSD, and days enough for their trades."""
    db.database.execute_sql(PAIRS, {"pairs": pairs})


def trade(pairs: int, count: int, since: datetime, length: timedelta) -> None:
    """`count` trades evenly over the time after `since`; foreign keys are not checked again for each."""
    with db.transaction():
        db.rows("set local session_replication_role = replica")
        db.rows(TRADES, pairs, count, since, length / count)


def make_days(first: datetime, days: int) -> None:
    """Partitions for days that are past."""
    for n in range(days):
        day = first.date() + timedelta(days=n)
        name = f"trade_{day:%Y%m%d}"
        if not db.rows("select to_regclass(%s)", name)[0][0]:
            db.rows(f"create table {name} partition of trade for values from ('{day}') to ('{day + timedelta(1)}')")
