"""What does a check of all alerts cost? 5,000 symbols, 1,000 to 1,000,000 active alerts, 0 to 5,000 symbols moved.

python -m bench.alerts [--sizes 1000,100000,1000000] [--rounds 15] [--peer 20000]

*check* is `models.triggers.fire_reached` from its first statement to its last commit: finding what was reached,
deleting watches, counting, triggers, notifications and events, on ticks that a price sync has just written. *floor* is
the two index ranges for each moved symbol and nothing else. The peer is the loop that most projects have (every active
alert as an ORM object, compared in Python, its rows saved one by one), on `--peer` alerts; its time is scaled to the
largest size. Levels lie evenly within 20 % of the price on both sides and a symbol moves by at most 0.44 % a round, so
that about every move fires one of 200 alerts of a symbol. At the end a process of its own checks 5,000 moved symbols
and says how much memory it took.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median

import db
from bench import scratch
from domain.prices import Price
from models import prices, triggers
from models.alerts import Alert, AlertTrigger, AlertWatch
from models.notifications import Notification

SYMBOLS = 5000
MOVES = (500, 0, 10, 5000)  # 5,000 last: it uses up the levels nearby
STEP = 0.0044
TARGET_MS, TARGET_GROWTH, TARGET_MB = 60.0, 2.0, 100.0

USERS = """insert into app_user (external_id, email)
           select 'user' || n, 'user' || n || '@example.com' from generate_series(1, 10000) n"""
INSTRUMENTS = """with added as (insert into instrument (symbol, kind)
                   select 'S' || n, 'other' from generate_series(1, %s) n returning symbol)
                 insert into quote (symbol) select symbol from added"""
ALERTS = """
with made as (
  insert into alert (user_id, subject, condition, level, stream, target, band, way_back, status)
  select 1 + n %% 10000, q.symbol, case when up then 'above' else 'below' end, l.level, 'price', l.level, 0,
         l.level * 0.002, 'active'
  from generate_series(%s + 1, %s) n cross join lateral (select (n / %s) %% 2 = 0 as up) u
       join quote q on q.symbol = 'S' || (1 + n %% %s) cross join lateral (
         select round(q.price * (1 + case when up then 1 else -1 end * (0.0001 + 0.2 * random()))::numeric, 4) as level
       ) l
  returning id, subject, stream, condition, level)
insert into alert_watch (alert_id, subject, stream, direction, arms, level, since)
select id, subject, stream, case condition when 'above' then 'up' else 'down' end, false, level, '-infinity' from made
"""
FLOOR = """
select count(*) from unnest(%s::text[], %s::numeric[]) as p(symbol, price) cross join lateral (
  (select 1 from alert_watch w
   where w.direction = 'up' and w.subject = p.symbol and w.stream = 'price' and w.level <= p.price limit 1000)
  union all
  (select 1 from alert_watch w
   where w.direction = 'down' and w.subject = p.symbol and w.stream = 'price' and w.level >= p.price limit 1000)) h
"""


class Market:
    """Prices that move, one second after the other."""

    def __init__(self) -> None:
        self.random = random.Random(7)
        self.now = datetime.now(UTC)
        self.price = {f"S{n}": 100.0 for n in range(1, SYMBOLS + 1)}

    def move(self, count: int, step: float = STEP) -> list[Price]:
        """The next prices of `count` symbols."""
        self.now += timedelta(milliseconds=100)
        moved = self.random.sample(sorted(self.price), count)
        for symbol in moved:
            self.price[symbol] *= 1 + self.random.uniform(-step, step)
        return [Price(s, Decimal(f"{self.price[s]:.4f}"), self.now, "binance") for s in moved]


def measure(market: Market, count: int, rounds: int, step: float = STEP) -> tuple[float, float, float]:
    """Milliseconds of a check and of its floor (medians), and alerts fired per check."""
    took, floors, fired = [], [], 0
    for _ in range(rounds):
        moved = market.move(count, step)
        if moved:
            prices.record(moved, {}, market.now)
        start = time.perf_counter()
        db.rows(FLOOR, db.array(p.symbol for p in moved), db.array(p.price for p in moved))
        floors.append(time.perf_counter() - start)
        start = time.perf_counter()
        fired += sum(batch.fired for batch in triggers.fire_reached())
        took.append(time.perf_counter() - start)
    return median(took) * 1000, median(floors) * 1000, fired / rounds


def loop(market: Market) -> tuple[float, int]:
    """Milliseconds of one check as an ORM loop, and alerts fired."""
    prices.record(market.move(500), {}, market.now)
    start = time.perf_counter()
    quotes = {quote.symbol: quote for quote in prices.Quote.select()}
    fired = 0
    with db.database.atomic():
        for alert in Alert.select().where(Alert.status == "active"):
            quote = quotes[alert.subject]
            if quote.price >= alert.level if alert.condition == "above" else quote.price <= alert.level:
                fired += 1
                alert.status, alert.last_triggered_at = "triggered", quote.happened_at
                alert.trigger_count += 1
                alert.save(only=[Alert.status, Alert.last_triggered_at, Alert.trigger_count])
                AlertWatch.delete().where(AlertWatch.alert_id == alert.id).execute()
                trigger = AlertTrigger.insert(
                    alert_id=alert.id, number=1, user_id=alert.user_id, subject=alert.subject, stream="price",
                    value=quote.price, happened_at=quote.happened_at, received_at=quote.received_at,
                    source=quote.source, touches=0, rule={}, waited={},
                ).execute()  # fmt: skip
                Notification.insert(
                    user_id=alert.user_id, kind="alert", title="…", data={}, key=f"trigger-{trigger}"
                ).execute()
    return (time.perf_counter() - start) * 1000, fired


def check() -> None:
    """A worker's check, in this process; prints what fired and the most memory that it took, in MB."""
    with db.database.connection_context():
        fired = sum(batch.fired for batch in triggers.fire_reached())
    print(fired, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(desk: scratch.Desk, market: Market) -> float:
    """MB that a worker takes for a check of all symbols."""
    prices.record(market.move(SYMBOLS), {}, market.now)
    desk.start("python", "-m", "bench.alerts", "--check", log="check.log").wait()
    fired, peak = (desk.folder / "check.log").read_text().split()
    print(f"a worker that fires {fired} of {SYMBOLS:,} moved symbols: {float(peak):.0f} MB")
    return float(peak)


def settle() -> None:
    """Let the tables and their statistics rest, as autovacuum would."""
    db.rows("vacuum (analyze) alert, alert_watch, quote, instrument, tick")
    db.rows("checkpoint")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer", type=int, default=20_000)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check:
        check()
        return 0
    sizes = [int(size) for size in arguments.sizes.split(",")]
    with scratch.started() as desk, db.database.connection_context():
        market = Market()
        db.rows(USERS), db.rows(INSTRUMENTS, SYMBOLS)
        prices.record(market.move(SYMBOLS), {}, market.now)
        list(triggers.fire_reached())
        results, equal, peer_ms, lines, made = {}, {}, 0.0, [], 0
        for size in sorted({*sizes, arguments.peer}):
            for start in range(made, size, 100_000):
                db.rows(ALERTS, start, min(start + 100_000, size), SYMBOLS, SYMBOLS)
            made = size
            settle()
            if size == arguments.peer:
                peer_ms, fired = loop(market)
                print(f"ORM loop, {size:,} alerts, 500 symbols moved, {fired} fired: {peer_ms:.0f} ms", flush=True)
                db.rows("update reader_position set xid = pg_current_xact_id()")  # what it has fired is dealt with
                continue
            if size < max(sizes) <= 10 * size:  # as many firing as of the largest number
                equal[size], floor, fired = measure(market, 500, arguments.rounds, STEP * max(sizes) / size)
                lines.append([f"{size:,}", "500 far", f"{fired:.0f}", f"{equal[size]:.1f}", f"{floor:.1f}"])
            for count in MOVES:
                ms, floor, fired = measure(market, count, arguments.rounds)
                results[size, count] = ms
                lines.append([f"{size:,}", f"{count:,}", f"{fired:.0f}", f"{ms:.1f}", f"{floor:.1f}"])
        peak = memory(desk, market)
        scratch.table(["alerts", "moved", "fired", "check ms", "floor ms"], lines)
    largest = max(sizes)
    value = results[largest, 500]
    growth = max((value / ms for ms in equal.values()), default=0.0)
    return scratch.verdict(
        "alerts",
        value,
        f"ms a check, {largest:,} active alerts, 500 symbols moved",
        target=f"< {TARGET_MS:.0f} ms; {growth:.2f} x the cost at a tenth with as many firing (<= {TARGET_GROWTH:.0f})"
        f"; {peak:.0f} MB in a worker (< {TARGET_MB:.0f})",
        ok=value < TARGET_MS and growth <= TARGET_GROWTH and peak < TARGET_MB,
        peer=f"ORM loop over {arguments.peer:,} alerts, scaled to {largest:,}",
        peer_value=peer_ms * largest / arguments.peer,
    )


if __name__ == "__main__":
    sys.exit(main())
