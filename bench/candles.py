"""What does it cost to bring a minute of new trades into the candles? 1,000 pairs, nine intervals.

python -m bench.candles [--pairs 1000] [--before 2000000] [--trades 13300] [--rounds 9] [--peer 10] [--kept 3650]

*build* is `models.building.build` from its first statement to its commit: finding the new trades, and adding them to
the candles. *floor* is to read the new trades and to write as many candles as changed, with numbers that are there
already. *late* is a build of 1,000 trades spread over the time before, whose buckets are made anew, and *none* one
without new trades; *first* is that too, as the first thing in a connection, as in a job. *As of* is to read the last
candles of a pair, up to 500, as they were half an hour ago: those that have changed since are made again from their
trades. The peer is what most projects do: for each pair and interval one aggregate over the trades of the present
bucket and one upsert, on `--peer` pairs; its time is scaled to all of them. A build looks into each partition of the
trades: it must cost the same whether they are kept for ten years or for ten days (`--kept 10`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from statistics import median

import db
from bench import scratch, tape
from domain.candles import INTERVALS, LENGTHS
from models import building, candles, feeds

TARGET_MS = 150.0
MINUTE = timedelta(minutes=1)

READ = """
select count(*), sum(quantity), sum(price * quantity) from trade
where (xid, id) > (select xid, id from reader_position where reader = 'build_candles.trade')
  and xid < pg_snapshot_xmin(pg_current_snapshot())
"""
WRITE = """
insert into candle
select c.* from unnest(%s::text[]) as i("interval") cross join pair p cross join lateral (
  select * from candle c where c.symbol = p.symbol and c."interval" = i."interval" order by starts_at desc limit 1) c
on conflict (symbol, "interval", starts_at) do update set
  open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
  quote_volume = excluded.quote_volume, trades = excluded.trades, known_at = excluded.known_at
"""
NAIVE = """
insert into candle
select %(symbol)s, %(interval)s, candle_start(%(interval)s, %(at)s), (array_agg(price order by traded_at, id))[1],
       max(price), min(price), (array_agg(price order by traded_at desc, id desc))[1], sum(quantity),
       sum(price * quantity), count(*), max(received_at), max(traded_at)
from trade where symbol = %(symbol)s and traded_at >= candle_start(%(interval)s, %(at)s)
  and traded_at < candle_end(%(interval)s, candle_start(%(interval)s, %(at)s))
having count(*) > 0
on conflict (symbol, "interval", starts_at) do update set
  open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
  quote_volume = excluded.quote_volume, trades = excluded.trades, known_at = excluded.known_at
"""


def took(work: Callable[[], object]) -> float:
    """Milliseconds."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def build() -> None:
    list(building.build(feeds.TRADE, datetime.now(UTC)))


def first_build() -> float:
    """Milliseconds of a build in a connection that has not seen any."""
    with db.database.connection_context():
        return took(build)


def floor() -> None:
    """As if it were the build; undone."""
    with db.database.atomic() as transaction:
        db.rows(READ), db.rows(WRITE, db.array(INTERVALS))
        transaction.rollback()


def read(number: int, interval: str, at: datetime) -> None:
    """The last candles of a pair as they were at an instant."""
    candles.line(f"C{number}USD", interval, at - 500 * LENGTHS[interval], at, at)


def naive(pairs: int, at: datetime) -> None:
    """A statement for each pair and interval; undone."""
    with db.database.atomic() as transaction:
        for number in range(1, pairs + 1):
            for interval in INTERVALS:
                db.database.execute_sql(NAIVE, {"symbol": f"C{number}USD", "interval": interval, "at": at})
        transaction.rollback()


def settle() -> None:
    """Let tables and statistics rest, as autovacuum would."""
    db.rows("vacuum (analyze) trade, candle")
    db.rows("checkpoint")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--before", type=int, default=2_000_000, help="trades before, as many a minute as the new ones")
    parser.add_argument("--trades", type=int, default=13_300, help="new ones, a minute's")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer", type=int, default=10, help="pairs")
    parser.add_argument("--kept", type=int, default=3650, help="days for which trades are kept")
    arguments = parser.parse_args()
    pairs, trades = arguments.pairs, arguments.trades
    now = datetime.now(UTC).replace(second=0, microsecond=0) - arguments.rounds * MINUTE
    first = now - arguments.before // trades * MINUTE
    with scratch.started() as desk, db.database.connection_context():
        del desk
        tape.open_exchange(pairs)
        tape.keep(arguments.kept)
        tape.trade(pairs, arguments.before, first, now - first)
        settle()
        build()
        settle()
        times: dict[str, list[float]] = {
            name: [] for name in ("build", "floor", "none", "first", "late", "as of, 1m", "as of, 1M")
        }
        for number in range(arguments.rounds):
            tape.trade(pairs, trades, now + number * MINUTE, MINUTE)
            times["floor"].append(took(floor))
            times["build"].append(took(build))
            times["none"].append(took(build))
        for _ in range(5):
            tape.trade(pairs, 1000, first, now - first)
            times["late"].append(took(build))
            with ThreadPoolExecutor(1) as other:
                times["first"].append(other.submit(first_build).result())
        for number, width in product(range(1, 11), ("1m", "1M")):
            times[f"as of, {width}"].append(took(partial(read, number, width, now - 30 * MINUTE)))
        peer_ms = took(lambda: naive(arguments.peer, now + (arguments.rounds - 1) * MINUTE))
        ((count,),) = db.rows("select count(*) from candle")
    middle = {name: median(values) for name, values in times.items()}
    lines = [
        [f"build of {trades:,} new trades", f"{middle['build']:.1f}"],
        ["its floor", f"{middle['floor']:.1f}"],
        ["build of 1,000 late trades", f"{middle['late']:.1f}"],
        ["build of none", f"{middle['none']:.1f}"],
        ["build of none, first in a connection", f"{middle['first']:.1f}"],
        ["a pair's 1m candles as of half an hour ago", f"{middle['as of, 1m']:.1f}"],
        ["a pair's 1M candles as of half an hour ago", f"{middle['as of, 1M']:.1f}"],
    ]
    print(f"{pairs:,} pairs, {arguments.before:,} trades before, {count:,} candles, {arguments.kept:,} days kept")
    scratch.table(["", "ms"], lines)
    return scratch.verdict(
        "candles",
        middle["build"],
        f"ms for a minute of {trades:,} trades on {pairs:,} pairs, nine intervals",
        target=f"< {TARGET_MS:.0f} ms; {middle['build'] / middle['floor']:.2f} x the floor in this run",
        ok=middle["build"] < TARGET_MS,
        peer=f"a statement for each pair and interval, {arguments.peer} pairs scaled to {pairs:,}",
        peer_value=peer_ms * pairs / arguments.peer,
    )


if __name__ == "__main__":
    sys.exit(main())
