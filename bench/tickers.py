"""What does it cost to move the tickers of 1,000 pairs on by five seconds, with 1 or 20 million trades in 24 hours?

python -m bench.tickers [--sizes 1000000,20000000] [--pairs 1000] [--trades 1157] [--rounds 25]

*step* is `models.tickers.advance` from its first statement to its commit; in every round `--trades` new trades have
come and are in the candles, and about as many leave. *floor* is to read those two lots and to update the tickers of
their pairs by key. The peer is one aggregate over the whole window, a GROUP BY by pair, and writing that. The trades of
the window are as many a second as the new ones near its two edges, where they are read, and fill it up in between.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime, timedelta
from statistics import median

import db
from bench import scratch, tape
from bench.candles import settle, took
from models import building, feeds, tickers

TARGET_MS, TARGET_GROWTH = 50.0, 1.2
STEP = timedelta(seconds=5)
DAY = timedelta(hours=24)

FLOOR = """
with came as materialized (
  select symbol, count(*), sum(quantity), sum(price * quantity), max(price), min(price) from trade
  where (xid, id) > (select xid, id from reader_position where reader = 'build_tickers')
    and (xid, id) <= (select xid, id from reader_position where reader = 'build_candles.trade') group by 1
), gone as materialized (
  select symbol, count(*), sum(quantity), sum(price * quantity), max(price), min(price) from trade
  where traded_at > %s and traded_at <= %s group by 1
)
update ticker t set volume = t.volume + 1
where t.symbol = any(array(select symbol from came union select symbol from gone))
"""
WHOLE = """
insert into ticker (symbol, open, high, low, last, volume, quote_volume, trades, opened_at, last_at)
select symbol, (min(array[id, price]))[2], max(price), min(price), (max(array[id, price]))[2], sum(quantity),
       sum(price * quantity), count(*), min(traded_at), max(traded_at)
from trade where traded_at > %s and traded_at <= %s group by symbol
on conflict (symbol) do update set open = excluded.open, high = excluded.high, low = excluded.low,
  last = excluded.last, volume = excluded.volume, quote_volume = excluded.quote_volume, trades = excluded.trades
"""


def undone(sql: str, *parameters: object) -> float:
    """Milliseconds of a statement that leaves nothing behind."""
    with db.database.atomic() as transaction:
        spent = took(lambda: db.rows(sql, *parameters))
        transaction.rollback()
    return spent


def measure(arguments: argparse.Namespace, size: int) -> dict[str, float]:
    """Milliseconds of a step, of its floor and of the peer, and how many tickers a step made afresh."""
    rounds, pairs, trades = arguments.rounds, arguments.pairs, arguments.trades
    now = datetime.now(UTC).replace(minute=30, second=0, microsecond=0) - timedelta(hours=1)
    edge = (rounds + 2) * STEP  # with as many trades a step as are new, whatever lies between
    between = size - 2 * (rounds + 2) * trades
    db.rows("truncate trade, candle, ticker"), db.rows("update ticker_window set until = null")
    with tape.loading(now - DAY, 2) as load:
        tape.trade(pairs, (rounds + 2) * trades, now - DAY, edge, load)
        tape.trade(pairs, between, now - DAY + edge, DAY - 2 * edge, load)
        tape.trade(pairs, (rounds + 2) * trades, now - edge, edge, load)
    settle()
    tape.build_whole(now - DAY, now, ["C1USD", f"C{pairs}USD"])
    settle()
    tickers.advance(now)
    db.rows("vacuum (analyze) ticker")
    times: dict[str, list[float]] = {"step": [], "floor": [], "peer": [], "afresh": []}
    for number in range(1, rounds + 1):
        before, at = now + (number - 1) * STEP, now + number * STEP
        tape.trade(pairs, trades, before, STEP)
        for _ in building.build(feeds.TRADE, at):
            pass
        times["floor"].append(undone(FLOOR, before - DAY, at - DAY))
        begin = time.perf_counter()
        step = tickers.advance(at)
        times["step"].append((time.perf_counter() - begin) * 1000)
        times["afresh"].append(step.afresh if step else 0)
    times["peer"] = [undone(WHOLE, at - DAY, at)]
    return {name: median(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000000,20000000")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--trades", type=int, default=1157, help="new ones a step, and leaving ones")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    results: dict[int, dict[str, float]] = {}
    with scratch.started() as desk, db.database.connection_context():
        del desk
        db.rows("set statement_timeout = 0")
        tape.open_exchange(arguments.pairs)
        tape.keep(3650)
        for size in sizes:
            results[size] = measure(arguments, size)
    lines = [
        [f"{n:,}", *(f"{r[name]:.1f}" for name in ("step", "floor", "peer", "afresh"))] for n, r in results.items()
    ]
    scratch.table(["trades in the window", "step ms", "floor ms", "one GROUP BY ms", "made afresh"], lines)
    value, growth = results[sizes[-1]]["step"], results[sizes[-1]]["step"] / results[sizes[0]]["step"]
    return scratch.verdict(
        "tickers",
        value,
        f"ms a step of {arguments.pairs:,} pairs, {sizes[-1]:,} trades in the window, {arguments.trades:,} new",
        target=f"< {TARGET_MS:.0f} ms; {growth:.2f} x that with {sizes[0]:,} (<= {TARGET_GROWTH:.1f})",
        ok=value < TARGET_MS and growth <= TARGET_GROWTH,
        peer="one GROUP BY over the window, and writing it",
        peer_value=results[sizes[-1]]["peer"],
    )


if __name__ == "__main__":
    sys.exit(main())
