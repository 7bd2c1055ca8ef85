"""Traders of the served app in the demo world: their orders come, are filled, cancelled, and expire.

They meet Nightdesk as docs/contract.md says and no other way: orders are inserted and read as `nightdesk_app`, trades
are posted with `fill_orders`, and the matching engine is the stand-in `engine`. What they have to begin with is an
operator's gift.
"""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from peewee import IntegrityError, PeeweeException

import db
from demo.world import World
from demo.worlds.orders import Book, Resting, Trade
from demo.worlds.prices import Market
from models import ledger, runs

USERS = 12
ASSETS = {"USD": 2, "BTC": 8, "ETH": 18}
PAIRS = {"BTCUSD": ("BTC", "0.01", "0.0001"), "ETHUSD": ("ETH", "0.01", "0.001")}
GIFTS = {"USD": Decimal(500_000), "BTC": Decimal(5), "ETH": Decimal(100)}
FEE = Decimal("0.001")


class Traders:
    """They and the matching engine that they use."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.book, self.dice = world, world.part(Book), random.Random(seed)
        self.users: list[int] = []

    def run(self, stop: threading.Event) -> None:
        """Trade until `stop`; a database that is away is waited for."""
        while not stop.wait(1):
            try:
                with db.database.connection_context():
                    self._begin()
                    while not stop.wait(self.dice.uniform(0.3, 1.2)):
                        self._step()
            except PeeweeException as error:
                print(f"demo traders: {' '.join(str(error).split())[:200]}", flush=True)

    def _begin(self) -> None:
        """Users with money, and the orders that are open from before into the book."""
        for code, scale in ASSETS.items():
            db.rows("insert into asset (code, scale) values (%s, %s) on conflict do nothing", code, scale)
        for symbol, (base, tick, step) in PAIRS.items():
            db.rows(
                """insert into pair (symbol, base, quote, tick_size, step_size) values (%s, %s, 'USD', %s, %s)
                   on conflict do nothing""",
                *(symbol, base, tick, step),
            )
        self.users = [self._user(number) for number in range(1, USERS + 1)]
        db.rows("set role nightdesk_app")
        for order in db.maps(
            """select id, user_id, pair, side, price, quantity, filled from trade_order
               where status in ('open', 'expiring') order by id"""
        ):
            self.book.submit(Resting(**order))

    def _user(self, number: int) -> int:
        db.rows("insert into app_user (external_id) values (%s) on conflict do nothing", f"trader{number}")
        ((user,),) = db.rows("select id from app_user where external_id = %s", f"trader{number}")
        given = "select 1 from transfer join account a on a.id = credit_id where a.user_id = %s and cause = 'operator'"
        if not db.rows(given, user):
            for asset, amount in GIFTS.items():
                with db.transaction():
                    gift = {"asset": asset, "amount": str(amount), "why": "to trade with in the demo"}
                    ledger.credit(user, asset, amount, runs.audit("demo", "ledger credit", str(user), None, gift))
        return int(user)

    def _step(self) -> None:
        """One order near the price; sometimes one is cancelled."""
        if self.dice.random() < 0.1:
            self._cancel()
        symbol = self.dice.choice(list(PAIRS))
        tick = self.world.part(Market).price(symbol, self.world.clock.world(time.time()))
        if tick is None:
            return
        values = self._order(symbol, tick.price)
        try:
            ((order_id,),) = db.rows(_PLACE, *values.values())
        except IntegrityError:
            return  # this user has spent all
        order = {name: values[name] for name in ("user_id", "pair", "side", "price", "quantity")}
        self._post(self.book.submit(Resting(order_id, **order)))

    def _order(self, symbol: str, price: Decimal) -> dict[str, Any]:
        _, tick, step = PAIRS[symbol]
        side = self.dice.choice(("buy", "sell"))
        away = Decimal(1 + (-1 if side == "buy" else 1) * self.dice.uniform(-0.0005, 0.003))
        force = self.dice.choice(("GTD", "GTD", "GTD", "DAY", "GTC"))
        for_s = self.dice.choice((15, 30, 60, 120))
        return {
            "user_id": self.dice.choice(self.users),
            "pair": symbol,
            "side": side,
            "price": (price * away).quantize(Decimal(tick)),
            "quantity": self.dice.randint(1, 200) * Decimal(step),
            "fee": FEE,
            "force": force,
            "expires_at": datetime.now(UTC) + timedelta(seconds=for_s) if force == "GTD" else _end_of_day(force),
        }

    def _post(self, trades: list[Trade]) -> None:
        for trade in trades:
            db.rows("select fill_orders(array[(%s, %s, %s, %s, %s)::fill])", *trade)

    def _cancel(self) -> None:
        """Out of the book first; what it has filled was posted in the step that filled it."""
        resting = sorted(self.book.open)
        if resting:
            order_id = self.dice.choice(resting)
            self.book.remove(order_id)
            db.rows("select cancel_orders(array[%s])", order_id)


_PLACE = """
insert into trade_order (user_id, pair, side, price, quantity, fee_rate, time_in_force, expires_at)
values (%s, %s, %s, %s, %s, %s, %s, %s) returning id
"""


def _end_of_day(force: str) -> datetime | None:
    """An exchange that never closes ends its day at midnight UTC."""
    if force != "DAY":
        return None
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
