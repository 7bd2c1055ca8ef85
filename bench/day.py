"""Does the proof hold after a day at 50 orders a second, 4.3 million orders, in accelerated time?

python -m bench.day [--orders 4320000] [--rate 50]

The day goes by minute by minute, as fast as the machine can: orders are placed (each for 1 to 30 minutes), two of
five are filled, whole or in part, one of ten is cancelled, and a process of its own expires what is due, as
`expire_orders` does, while the next ones are placed. Every four hours, and at the end, the whole ledger is added up; at
the end all orders have ended, nothing is locked, and every order's money was paid or given back.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing import Value, get_context
from typing import Any

import db
from bench import exchange, scratch
from models import ledger, orders

USERS = 10_000
DAWN, MINUTE = datetime(2026, 1, 1, tzinfo=UTC), timedelta(minutes=1)

# Of two orders that follow each other, one buys at least as dear as the other sells.
PLACE = """
with made as (
  insert into trade_order (user_id, pair, side, price, quantity, fee_rate, time_in_force, expires_at)
  select 1 + (n * 7919::bigint) %% %s, 'BTCUSD', case n %% 2 when 0 then 'buy' else 'sell' end,
         60000 + (n / 2 * 31::bigint) %% 1000 * 0.01 + (1 - n %% 2) * 0.05, 0.001 + n %% 9 * 0.00000001, 0.001, 'GTD',
         %s + (1 + n * 17::bigint %% 30) * interval '1 minute'
  from generate_series(%s::bigint, %s) n returning id, side, quantity, price, user_id
), numbered as (
  select *, row_number() over (partition by side order by id) as n from made
)
select array_agg((b.id, b.id, s.id, trunc(least(b.quantity, s.quantity) * (1 + b.n %% 2) / 2, 8), s.price)::fill)::text
from numbered b join numbered s on s.n = b.n and s.side = 'sell' and s.user_id <> b.user_id
where b.side = 'buy' and b.n %% 5 < 2
"""
CANCEL = """
select count(*) from cancel_orders(array(
  select id from trade_order where id between %s and %s and status = 'open' and id %% 10 = 3))
"""


def expire(minute: Any, ending: Any) -> None:
    """A process that expires what is due, until the day has ended and nothing is left."""
    with db.database.connection_context():
        while True:
            last = bool(ending.value)
            if not sum(orders.expire(DAWN + minute.value * MINUTE)):
                if last:
                    return
                time.sleep(0.01)


def trade(count: int, rate: int, say: Callable[[str], None]) -> tuple[float, list[str]]:
    """The day; returns the seconds that it took, and what did not add up on the way."""
    fork, a_minute = get_context("fork"), rate * 60
    minute, ending = Value("i", 0), Value("i", 0)
    worker = fork.Process(target=expire, args=(minute, ending))
    worker.start()
    start, wrong = time.monotonic(), []
    for first in range(0, count, a_minute):
        last = min(first + a_minute, count) - 1
        ((fills,),) = db.rows(PLACE, USERS, DAWN + minute.value * MINUTE, first, last)
        db.rows("select count(*) from fill_orders(%s::fill[])", fills)
        db.rows(CANCEL, first - 2 * a_minute, last - 2 * a_minute)
        minute.value += 1
        if minute.value % 240 == 0:
            wrong += [str(problem) for problem in ledger.problems()]
            took = time.monotonic() - start
            say(f"{minute.value // 60:>3} h: {last + 1:,} orders in {took:.0f} s: {wrong[:5] or 'all adds up'}")
    minute.value += 60
    ending.value = 1
    worker.join()
    return time.monotonic() - start, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=4_320_000)
    parser.add_argument("--rate", type=int, default=50)
    arguments = parser.parse_args()
    with scratch.started() as desk, db.database.connection_context():
        del desk
        exchange.open_exchange(USERS, 10_000_000)
        db.rows("set statement_timeout = 0")
        seconds, wrong = trade(arguments.orders, arguments.rate, lambda line: print(line, flush=True))
        start = time.monotonic()
        wrong += [str(problem) for problem in ledger.problems()]
        proof = time.monotonic() - start
        ends = dict(db.rows("select status, count(*) from trade_order group by 1 order by 1"))
        ((locked, transfers, events),) = db.rows(
            """select (select sum(locked) from account), (select count(*) from transfer),
                      (select count(*) from event where topic = 'order.expired')"""
        )
    scratch.table(["orders", "how many"], [[status, f"{count:,}"] for status, count in ends.items()])
    print(f"{transfers:,} transfers; added up in {proof:.1f} s: {wrong[:5] or 'all is well'}", flush=True)
    if set(ends) - {"filled", "cancelled", "expired"} or locked or events != ends.get("expired", 0):
        wrong.append(f"{ends}, {locked} locked, {events} expiries told")
    if sum(ends.values()) != arguments.orders:
        wrong.append(f"{sum(ends.values())} orders")
    return scratch.verdict(
        "day",
        arguments.orders / seconds,
        f"orders a second, placed, filled and ended; {len(wrong)} wrong of {arguments.orders:,} orders",
        target=f"the proof holds after a day at {arguments.rate} orders a second, which it outruns",
        ok=not wrong and arguments.orders / seconds > arguments.rate,
    )


if __name__ == "__main__":
    sys.exit(main())
