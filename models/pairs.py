"""Assets, and the pairs in which the served app's exchange trades them."""

from __future__ import annotations

from collections.abc import Collection

from peewee import BooleanField, DecimalField, SmallIntegerField, TextField

import db
from models import prices
from models.fields import InstantField


class Asset(db.BaseModel):
    """What can be held: a currency, a coin, a token."""

    app_may = "select, insert"

    code = TextField(primary_key=True)
    scale = SmallIntegerField()  # decimal places of its smallest unit
    created_at = InstantField()


class Pair(db.BaseModel):
    """A market: so much of the quote asset for one of the base asset.

    Choose `step_size` so that a step costs a unit of the quote asset at least: a trade that costs less is refused.
    """

    app_may = "select, insert, update (tick_size, step_size, active, market)"

    symbol = TextField(primary_key=True)
    base = TextField()
    quote = TextField()
    tick_size = DecimalField()  # of a price, in the quote asset
    step_size = DecimalField()  # of a quantity, in the base asset
    active = BooleanField()
    created_at = InstantField()
    market = TextField()  # XNYS, FX, CRYPTO …: with whose session its day orders end


def unknown(symbols: Collection[str]) -> list[str]:
    """Those that are no pairs, or are traded no more."""
    found = db.rows(
        """select symbol from unnest(%s::text[]) as s(symbol)
           where not exists (select from pair p where p.symbol = s.symbol and p.active)""",
        db.array(symbols),
    )
    return [symbol for (symbol,) in found]


def adopt() -> None:
    """Follow the prices of pairs that are new: a pair is an instrument from its first day on."""
    new = db.rows(
        """select p.symbol from pair p
           where p.active and not exists (select from instrument i where i.symbol = p.symbol)"""
    )
    if new:
        prices.follow([symbol for (symbol,) in new], "pair")
