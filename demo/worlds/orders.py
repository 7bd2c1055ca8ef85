"""The book of a matching engine: price before time, and what has been removed is never matched again."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple


@dataclass
class Resting:
    """An order in the book."""

    id: int
    user_id: int
    pair: str
    side: str
    price: Decimal
    quantity: Decimal
    filled: Decimal = field(default=Decimal(0))

    @property
    def left(self) -> Decimal:
        """What is not filled."""
        return self.quantity - self.filled


class Trade(NamedTuple):
    """A fill as the served app posts it."""

    id: int
    buy_id: int
    sell_id: int
    quantity: Decimal
    price: Decimal


class Book:
    """All orders that the engine knows of, by id; those that have ended stay, so that it can say how."""

    def __init__(self) -> None:
        self.orders: dict[int, Resting] = {}
        self.open: set[int] = set()
        self.removed: set[int] = set()
        self._lock = threading.Lock()
        self._trades = itertools.count(time.time_ns() // 1000)  # ids that no engine before this one gave

    def submit(self, order: Resting) -> list[Trade]:
        """Match a new order against the other side; what is left of it rests. One that was removed stays out."""
        with self._lock:
            if order.id in self.removed or order.id in self.orders:
                return []
            self.orders[order.id] = order
            trades = [self._match(order, other) for other in self._facing(order) if order.left]
            if order.left:
                self.open.add(order.id)
            return trades

    def _facing(self, order: Resting) -> list[Resting]:
        """The orders of others that it meets, the best price first."""
        sign = 1 if order.side == "buy" else -1
        others = (self.orders[other] for other in self.open)
        met = [o for o in others if o.pair == order.pair and o.side != order.side and o.user_id != order.user_id]
        return sorted((o for o in met if sign * o.price <= sign * order.price), key=lambda o: (sign * o.price, o.id))

    def _match(self, order: Resting, other: Resting) -> Trade:
        quantity = min(order.left, other.left)
        order.filled, other.filled = order.filled + quantity, other.filled + quantity
        if not other.left:
            self.open.discard(other.id)
        buy, sell = (order, other) if order.side == "buy" else (other, order)
        return Trade(next(self._trades), buy.id, sell.id, quantity, other.price)

    def remove(self, order_id: int) -> Decimal:
        """Let go of an order for good, known or not; how much of it was filled."""
        with self._lock:
            self.removed.add(order_id)
            self.open.discard(order_id)
            known = self.orders.get(order_id)
            return known.filled if known else Decimal(0)


PART = Book


def simulate(seed: int) -> Book:
    """An empty book."""
    return Book()


def replay(folder: Path) -> Book:
    """An empty book: recorded worlds hold prices alone."""
    return Book()
