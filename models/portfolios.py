"""Portfolios and watchlists: what users hold and watch."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from peewee import BigIntegerField, BooleanField, CompositeKey, DecimalField, TextField

import db
from models.fields import InstantField


class WatchlistItem(db.BaseModel):
    """A symbol that a user watches: the app inserts it, and sets `active` false when the user does not any more.

    A stock that nobody wanted before is followed from the next check of alerts on, two seconds later at most.
    """

    app_may = "select, insert (user_id, symbol, active), update (active)"

    user_id = BigIntegerField()
    symbol = TextField()
    active = BooleanField()
    created_at = InstantField()

    class Meta:
        table_name = "watchlist_item"
        primary_key = CompositeKey("user_id", "symbol")


class PortfolioItem(db.BaseModel):
    """How much of a symbol a user's portfolio holds; 0 once it is sold. Prices of what is held come most often."""

    app_may = "select, insert (user_id, symbol, quantity), update (quantity)"

    user_id = BigIntegerField()
    symbol = TextField()
    quantity = DecimalField()
    created_at = InstantField()

    class Meta:
        table_name = "portfolio_item"
        primary_key = CompositeKey("user_id", "symbol")


def watch(user_id: int, symbols: Collection[str]) -> None:
    """Put symbols on a user's watchlist."""
    db.rows(
        """insert into watchlist_item (user_id, symbol) select %s, s from unnest(%s::text[]) s
           on conflict (user_id, symbol) do update set active = true""",
        user_id,
        db.array(sorted(set(symbols))),
    )


def is_watched() -> bool:
    """Whether anybody ever watched anything."""
    return bool(db.rows("select 1 from watchlist_item limit 1"))


def hold(user_id: int, symbol: str, quantity: Decimal) -> None:
    """Let a user's portfolio hold so much of a symbol."""
    db.rows(
        """insert into portfolio_item (user_id, symbol, quantity) values (%s, %s, %s)
           on conflict (user_id, symbol) do update set quantity = excluded.quantity""",
        *(user_id, symbol, quantity),
    )
