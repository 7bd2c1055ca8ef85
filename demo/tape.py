"""The trades of the served app's exchange in the demo world: around the market's price, now and then late or wrong.

It meets Nightdesk as docs/contract.md says and no other way: it inserts assets, pairs and trades as `nightdesk_app`.
"""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from peewee import PeeweeException

import db
from demo.world import World
from demo.worlds.prices import Market

# Pair to what the world calls it, its step, and how much of it is traded at a time, about.
PAIRS = {
    "BTCUSDT": ("BTC", "0.00001", 0.05),
    "ETHUSDT": ("ETH", "0.0001", 1.0),
    "SOLUSDT": ("SOL", "0.001", 20.0),
    "XRPUSDT": ("XRP", "0.1", 900.0),
}
PAUSE = 0.4  # seconds between trades, on average
LATE, CORRECTED = 0.02, 0.01  # shares of all trades


class Tape:
    """An exchange that trades until it is stopped."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.dice = world, random.Random(seed)

    def run(self, stop: threading.Event) -> None:
        """Trade until `stop`; a database that is away is waited for."""
        while not stop.wait(1):
            try:
                with db.database.connection_context():
                    db.rows("set role nightdesk_app")
                    self.open()
                    while not stop.wait(self.dice.expovariate(1 / PAUSE)):
                        self.trade()
            except PeeweeException as error:
                print(f"demo exchange: {' '.join(str(error).split())[:200]}", flush=True)

    def open(self) -> None:
        """Assets and pairs, where they are not there yet."""
        for asset, scale in (("USDT", 6), *((base, 8) for base, _, _ in PAIRS.values())):
            db.rows("insert into asset (code, scale) values (%s, %s) on conflict do nothing", asset, scale)
        for symbol, (base, step, _) in PAIRS.items():
            db.rows(
                """insert into pair (symbol, base, quote, tick_size, step_size) values (%s, %s, 'USDT', %s, %s)
                   on conflict do nothing""",
                *(symbol, base, "0.0001" if base == "XRP" else "0.01", step),
            )

    def trade(self) -> None:
        """One trade near the price; it may come a minute late, or be corrected or cancelled at once."""
        symbol = self.dice.choice(list(PAIRS))
        base, step, usual = PAIRS[symbol]
        at = datetime.now(UTC) - timedelta(seconds=self.dice.uniform(20, 90) if self.dice.random() < LATE else 0)
        tick = self.world.part(Market).price(f"{base}USD", self.world.clock.world(time.time()))
        if tick is None:
            return
        side = self.dice.choice(("buy", "sell"))
        spread = Decimal("1.0001") if side == "buy" else Decimal("0.9999")
        price = (tick.price * spread).quantize(Decimal("0.0001") if base == "XRP" else Decimal("0.01"))
        quantity = (Decimal(usual * self.dice.expovariate(1)) // Decimal(step) + 1) * Decimal(step)
        number = insert(symbol, at, price, quantity, side)
        if self.dice.random() < CORRECTED:
            insert(symbol, at, price, self.dice.choice((Decimal(0), quantity * 2)), side, number)


def insert(*values: Any) -> int:
    """A trade or, with the id of another one at the end, its correction; returns its id."""
    ((number,),) = db.rows(
        """insert into trade (symbol, traded_at, price, quantity, side, corrects) values (%s, %s, %s, %s, %s, %s)
           returning id""",
        *values[:5],
        values[5] if len(values) > 5 else None,
    )
    return int(number)
