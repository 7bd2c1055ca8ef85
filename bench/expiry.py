"""What does it cost to expire orders? 1,000 due among 1,000,000 open ones, and none due.

python -m bench.expiry [--orders 1000000] [--due 1000] [--rounds 11] [--peer 200]

*expire* is `models.orders.expire` from its first statement to its last commit: the orders' end, their holds, what
their users have, two events and a notification each. *floor* is an UPDATE of the status of as many other orders by
their ids. *with an engine* is the same in the two steps that an engine needs (its answer not counted). The peer is
the loop that most projects have (each order as an ORM object in a transaction of its own, its rows saved one by one),
on `--peer` orders and scaled to `--due`. The orders fall due in another order than they were made, so that the rows
of a round lie all over the table. For a check with nothing due the plan is read: it touches the partial index alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from json import dumps
from statistics import median

import db
from bench import exchange, scratch
from models import orders
from models.events import Event
from models.ledger import Account
from models.notifications import Notification
from models.orders import TradeOrder

USERS = 10_000
START = datetime(2026, 1, 1, tzinfo=UTC)
TARGET_RATIO, TARGET_EMPTY_MS = 2.5, 3.0
FLOOR = "update trade_order set status = 'expired', held = 0, ended_at = now() where id = any(%s)"


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def due(now: datetime) -> list[int]:
    """Ids of the orders that are due."""
    return [order_id for (order_id,) in db.rows(
        "select id from trade_order where status = 'open' and expires_at <= %s order by expires_at", now)]  # fmt: skip


def with_engine(now: datetime) -> None:
    """The two steps around an engine's answer."""
    list(orders.begin(now))
    orders.finish({order["id"]: order["filled"] for order in orders.to_ask(10_000)})


WAYS: dict[str, Callable[[datetime, list[int]], object]] = {
    "floor": lambda now, ids: db.rows(FLOOR, ids),
    "expire": lambda now, ids: list(orders.expire(now)),
    "with an engine": lambda now, ids: with_engine(now),
}


def row_by_row(now: datetime) -> None:
    """As an ORM loop."""
    for order in TradeOrder.select().where(TradeOrder.status == "open", TradeOrder.expires_at <= now):
        with db.database.atomic():
            account = Account.get_by_id(order.account_id)
            account.locked -= order.held
            account.save(only=[Account.locked])
            order.status, order.held, order.ended_at = "expired", 0, datetime.now(UTC)
            order.save(only=[TradeOrder.status, TradeOrder.held, TradeOrder.ended_at])
            for topic in ("order.expired", "balance.unlocked"):
                Event.insert(topic=topic, user_id=order.user_id, payload={"order_id": order.id}).execute()
            Notification.insert(
                user_id=order.user_id, kind="order", subject=order.pair, title="…", data={"order_id": order.id}
            ).execute()


PAGES = """
select relname::text, heap_blks_read + heap_blks_hit from pg_statio_user_tables
union all select indexrelname::text, idx_blks_read + idx_blks_hit from pg_statio_user_indexes
"""


def touched(now: datetime) -> dict[str, int]:
    """Tables and indexes of which a check with nothing due reads pages, and how many."""
    before = _pages()
    list(orders.expire(now))
    return {name: pages - before.get(name, 0) for name, pages in _pages().items() if pages > before.get(name, 0)}


def _pages() -> dict[str, int]:
    db.rows("select pg_stat_force_next_flush()")
    return dict(db.rows(PAGES))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--peer", type=int, default=200)
    arguments = parser.parse_args()
    orders.BATCH = max(orders.BATCH, arguments.due + 1)
    with scratch.started() as desk, db.database.connection_context():
        del desk
        exchange.open_exchange(USERS, 1_000_000)
        exchange.place(arguments.orders, USERS, START, timedelta(days=1))
        db.rows("vacuum (analyze) trade_order, account, transfer, app_user"), db.rows("checkpoint")
        step = timedelta(days=1) / arguments.orders
        clock, took = START - step, {"floor": [], "expire": [], "with an engine": [], "none due": []}
        for number in range(arguments.rounds + 1):
            for name, sink in took.items():
                if name == "none due":
                    list(orders.expire(clock))  # passes the dead entries of what has just expired, once for all
                    ms = timed(partial(WAYS["expire"], clock, []))
                else:
                    clock += step * arguments.due
                    ids = due(clock)
                    assert len(ids) == arguments.due, len(ids)
                    ms = timed(partial(WAYS[name], clock, ids))
                    assert not due(clock)
                if number:  # the first warms the statements
                    sink.append(ms)
        pages = touched(clock)
        clock += step * arguments.peer
        peer = timed(lambda: row_by_row(clock)) * arguments.due / arguments.peer
    figures = {name: median(ms) for name, ms in took.items()}
    lines = [
        [name, f"{ms:.1f}", f"{ms / figures['floor']:.2f}"] for name, ms in {**figures, "row by row": peer}.items()
    ]
    scratch.table([f"{arguments.due:,} due of {arguments.orders:,} open", "ms", "x floor"], lines)
    print(f"a check with nothing due reads pages of {dumps(pages)}", flush=True)
    ratio = figures["expire"] / figures["floor"]
    return scratch.verdict(
        "expiry",
        figures["expire"],
        f"ms, {ratio:.2f} x the floor; {figures['none due']:.2f} ms with none due",
        target=f"<= {TARGET_RATIO} x the floor, < {TARGET_EMPTY_MS:.0f} ms with none due, the partial index alone",
        ok=ratio <= TARGET_RATIO and figures["none due"] < TARGET_EMPTY_MS and set(pages) <= {"trade_order_due"},
        peer="ORM objects, a transaction each",
        peer_value=peer,
    )


if __name__ == "__main__":
    sys.exit(main())
