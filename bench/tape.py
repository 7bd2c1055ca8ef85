"""A day of trades on many pairs, for benchmarks: written in bulk, in order of time, as an exchange would leave them."""

from __future__ import annotations

from datetime import datetime, timedelta

import db

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
