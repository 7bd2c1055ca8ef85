"""An exchange with two rich users, for tests of orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import db
from models.alerts import user_with
from models.ledger import Posting, account_of, our_account, post

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RICH = Decimal(1_000_000)


def open_market() -> None:
    """BTC and USD with two users who have a million of each."""
    db.rows("insert into asset (code, scale) values ('USD', 2), ('BTC', 8)")
    db.rows(
        """insert into pair (symbol, base, quote, tick_size, step_size)
           values ('BTCUSD', 'BTC', 'USD', 0.01, 0.00000001)"""
    )
    for number, (name, asset) in enumerate([(name, asset) for name in ("ann", "bob") for asset in ("USD", "BTC")]):
        account = account_of(user_with(f"{name}@example.com"), asset)
        post([Posting("operator", number, 0, our_account("house", asset), account, RICH)])


def place(who: str, side: str, quantity: str | int, price: str | int, *, fee: str = "0", due: int | None = 0) -> int:
    """An order that expires `due` seconds after NOW; never, for None."""
    ((order_id,),) = db.rows(
        """insert into trade_order (user_id, pair, side, quantity, price, fee_rate, time_in_force, expires_at)
           values (%s, 'BTCUSD', %s, %s, %s, %s, %s, %s) returning id""",
        *(user_with(f"{who}@example.com"), side, Decimal(quantity), Decimal(price), Decimal(fee)),
        *(("GTC", None) if due is None else ("GTD", NOW + timedelta(seconds=due))),
    )
    return int(order_id)


def fill(trade: int, buy: int, sell: int, quantity: str | int, price: str | int) -> bool:
    values = (trade, buy, sell, Decimal(quantity), Decimal(price))
    return bool(db.rows("select fill_orders(array[(%s, %s, %s, %s, %s)::fill])", *values))


def has(who: str, asset: str) -> tuple[Decimal, Decimal]:
    """(available, locked)."""
    account = account_of(user_with(f"{who}@example.com"), asset)
    return db.rows("select available, locked from account where id = %s", account)[0]


def row(order_id: int) -> tuple[str, Decimal]:
    return db.rows("select status, filled from trade_order where id = %s", order_id)[0]


def held(order_id: int) -> tuple[Decimal, Decimal, Decimal]:
    """(reserved, paid, held)."""
    return db.rows("select reserved, paid, held from trade_order where id = %s", order_id)[0]
