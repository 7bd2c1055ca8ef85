"""Orders: those whose time has passed end, and their users have their money back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import db
import events
from clients import engine
from domain.failures import Rejected, Unavailable
from domain.orders import trouble
from models import orders
from queues import CRITICAL, batches, job

ASK_AGAIN = timedelta(seconds=15)  # of an order that the engine could not let go of, or whose last fills are to come


@job(CRITICAL, timeout=60)
def expire_orders(due_at: datetime) -> dict[str, int]:
    """End orders whose time has passed: the matching engine lets go of them, then what they held is available again."""
    counts = end_due(due_at) if engine.ENGINE.off else let_go(due_at)
    return {**counts, "told": sum(batches(orders.tell()))}


def end_due(due_at: datetime) -> dict[str, int]:
    """Without an engine each batch ends in one step."""
    return {"expired": sum(told(batches(orders.expire(due_at))))}


def let_go(due_at: datetime) -> dict[str, int]:
    """With an engine they are expiring first; one that does not answer leaves them so, with their money locked."""
    begun, expired, waiting = sum(batches(orders.begin(due_at))), 0, 0
    for asked in batches(pages()):
        try:
            answers = engine.remove([order["id"] for order in asked])
        except (Unavailable, Rejected) as failure:
            put_off({order["id"]: str(failure) for order in asked}, timedelta())
            waiting += len(asked)
            break
        ended = end(asked, answers)
        expired, waiting = expired + ended, waiting + len(asked) - ended
    return {"begun": begun, "expired": expired, "waiting": waiting}


def told(counts: Iterator[int]) -> Iterator[int]:
    """Readers are nudged after each batch: its events are committed with it."""
    for count in counts:
        yield count
        events.nudge()


def pages() -> Iterator[list[dict[str, Any]]]:
    """Orders of which the engine is to be asked, until none is left."""
    while asked := orders.to_ask(engine.MOST_ORDERS):
        yield asked


def end(asked: Sequence[dict[str, Any]], answers: dict[int, Decimal | str]) -> int:
    """End the orders of which engine and ledger say the same, and put off the others; returns how many ended."""
    agreed = {order["id"]: order["filled"] for order in asked if answers.get(order["id"]) == order["filled"]}
    ended = sum(told(iter([orders.finish(agreed)])))
    put_off(
        {order["id"]: trouble(order["filled"], answers.get(order["id"]), order["age"]) for order in asked}, ASK_AGAIN
    )
    return ended


def put_off(troubles: dict[int, str | None], wait: timedelta) -> None:
    """Ask again later of those that are expiring still; a reason that is new is a fact."""
    with db.transaction():
        for reason in sorted(orders.put_off(troubles, wait)):
            events.publish("orders.stuck", {"reason": reason})
