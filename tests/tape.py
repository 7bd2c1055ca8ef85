"""Pairs that trade, for tests: what the served app would write, and what brute force makes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import db
from domain.candles import INTERVALS, start

PAIRS = """
insert into asset (code, scale) values ('BTC', 8), ('ETH', 8), ('USDT', 6);
insert into pair (symbol, base, quote, tick_size, step_size)
values ('BTCUSDT', 'BTC', 'USDT', 0.01, 0.00001), ('ETHUSDT', 'ETH', 'USDT', 0.01, 0.0001)
"""


class Print(NamedTuple):
    """One trade as the tape has it."""

    symbol: str
    at: datetime
    price: Decimal
    quantity: Decimal


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


def brute_force(prints: Iterable[Print]) -> dict[tuple[str, str, datetime], tuple[Decimal | int, ...]]:
    """(symbol, interval, start) to its numbers; trades of one instant are in the order of the list."""
    buckets: dict[tuple[str, str, datetime], list[Print]] = defaultdict(list)
    for row in prints:
        for interval in INTERVALS:
            buckets[row.symbol, interval, start(interval, row.at)].append(row)
    found: dict[tuple[str, str, datetime], tuple[Decimal | int, ...]] = {}
    for key, rows in buckets.items():
        rows.sort(key=lambda row: row.at)
        prices = [row.price for row in rows]
        volume = sum((row.quantity for row in rows), Decimal(0))
        turnover = sum((row.quantity * row.price for row in rows), Decimal(0))
        found[key] = (prices[0], max(prices), min(prices), prices[-1], volume, turnover, len(rows))
    return found


def stored() -> dict[tuple[str, str, datetime], tuple[Decimal | int, ...]]:
    """All candles, as brute_force has them."""
    rows = db.rows(
        """select symbol, "interval", starts_at, open, high, low, close, volume, quote_volume, trades from candle"""
    )
    return {row[:3]: row[3:] for row in rows}
