"""What was doubted: kept with its reason and its neighbours; never data, unless an operator accepts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from json import dumps
from typing import Any

from peewee import BigIntegerField, IntegerField, TextField
from playhouse.postgres_ext import BinaryJSONField

import db
from domain.bad_ticks import NAMES, Neighbours
from domain.stocks import Bar, Quote
from models import events
from models.fields import InstantField


class Quarantined(db.BaseModel):
    """A price that cannot be: its value, its neighbours, and how often it was said."""

    id = BigIntegerField(primary_key=True)
    symbol = TextField()
    kind = TextField()  # quote, bar
    source = TextField()
    happened_at = InstantField()  # of a bar: the midnight that its date begins with
    reason = TextField()
    value = BinaryJSONField(index=False)
    neighbours = BinaryJSONField(index=False)
    first_received_at = InstantField()
    last_received_at = InstantField()
    times = IntegerField()
    accepted_at = InstantField(null=True)
    accepted_by = TextField(null=True)


def keep(doubted: Iterable[tuple[Quote | Bar, str, Neighbours]], received_at: datetime) -> None:
    """Put what was doubted aside; the same again is counted. What is news is told.

    Further prices of a source on a stock's day are none, while one of them waits for an operator: a fault lasts hours.
    """
    rows = list({(thing.symbol, thing.source, _when(thing), str(value(thing))): (thing, reason, near)
                 for thing, reason, near in doubted}.values())  # fmt: skip
    news = db.maps(
        """with doubted as (
             insert into quarantined as q (symbol, kind, source, happened_at, reason, value, neighbours,
                                           first_received_at, last_received_at)
             select s.*, t.now, t.now
             from unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::jsonb[], %s::jsonb[])
                    as s(symbol, kind, source, happened_at, reason, value, neighbours),
                  cast(%s as timestamptz) as t(now)
             on conflict (symbol, kind, source, happened_at, md5(value::text)) do update set
               times = q.times + 1, last_received_at = excluded.last_received_at
             returning id, symbol, kind, source, happened_at, reason, times)
           select id, symbol, kind, source, reason, times from doubted d
           where times = 1 and not exists (
             select from quarantined o
             where o.symbol = d.symbol and o.kind = d.kind and o.source = d.source and o.accepted_at is null
               and o.happened_at >= date_trunc('day', d.happened_at, 'UTC')
               and o.happened_at < date_trunc('day', d.happened_at, 'UTC') + interval '1 day')
           order by id""",
        db.array(thing.symbol for thing, _, _ in rows),
        db.array("bar" if isinstance(thing, Bar) else "quote" for thing, _, _ in rows),
        db.array(thing.source for thing, _, _ in rows),
        db.array(_when(thing).isoformat() for thing, _, _ in rows),
        db.array(reason for _, reason, _ in rows),
        db.array(dumps(value(thing)) for thing, _, _ in rows),
        db.array(dumps([str(price) for price in near.prices]) for _, _, near in rows),
        received_at,
    )
    for row in news:
        events.add("stocks.quarantined", row, None)


def _when(thing: Quote | Bar) -> datetime:
    if isinstance(thing, Bar):
        return datetime(thing.date.year, thing.date.month, thing.date.day, tzinfo=UTC)
    return thing.happened_at


def value(thing: Quote | Bar) -> dict[str, Any]:
    """Its prices and its volume as text, so that no digit and no NaN is lost."""
    numbers = {**thing.prices, "volume": thing.volume}
    if isinstance(thing, Quote):
        numbers |= {"previous_close": thing.previous_close, "bid": thing.bid, "ask": thing.ask}
    return {name: str(number) for name, number in numbers.items() if number is not None}


def rows(symbol: str | None = None, everything: bool = False) -> list[dict[str, Any]]:
    """What waits for an operator, or everything that ever was doubted, newest first."""
    return db.maps(
        """select * from quarantined where (%s or accepted_at is null) and (%s::text is null or symbol = %s)
           order by last_received_at desc, id desc""",
        *(everything, symbol, symbol),
    )


def accept(row_id: int, who: str, now: datetime) -> dict[str, Any] | None:
    """Mark a row as accepted, in the open transaction; None if there is none that waits."""
    found = db.maps(
        """update quarantined set accepted_at = %s, accepted_by = %s where id = %s and accepted_at is null
           returning *""",
        *(now, who, row_id),
    )
    return found[0] if found else None


def thing(row: Mapping[str, Any]) -> Quote | Bar:
    """A row as the quote or the bar that it was. Raises ValueError for what no table can hold: zeros, NaN."""
    numbers = {name: Decimal(text) for name, text in row["value"].items()}
    volume = int(numbers.pop("volume")) if "volume" in numbers else None
    if wrong := next((n for n, price in numbers.items() if not (price.is_finite() and price > 0)), None):
        raise ValueError(f"{wrong} is {numbers[wrong]}, which cannot be stored")
    if row["kind"] == "bar":
        first, high, low, last = (numbers[name] for name in NAMES)
        return Bar(row["symbol"], row["happened_at"].date(), first, high, low, last, volume, row["source"])
    return Quote(
        row["symbol"], numbers["price"], row["happened_at"], row["source"],
        open=numbers.get("open"), high=numbers.get("high"), low=numbers.get("low"), volume=volume,
        previous_close=numbers.get("previous_close"), bid=numbers.get("bid"), ask=numbers.get("ask"),
    )  # fmt: skip


def accepted_bars(symbol: str) -> dict[date, Any]:
    """Days of which an operator accepted a bar, with its close."""
    rows = db.rows(
        """select happened_at::date, (value ->> 'close')::numeric from quarantined
           where symbol = %s and kind = 'bar' and accepted_at is not null""",
        symbol,
    )
    return dict(rows)


def accepted_levels(symbols: Iterable[str]) -> dict[str, tuple[datetime, Any]]:
    """For each symbol of which an operator accepted a price: when it was so, and the price. Newest ones alone."""
    rows = db.rows(
        """select distinct on (symbol) symbol, happened_at, coalesce(value ->> 'price', value ->> 'close')::numeric
           from quarantined where accepted_at is not null and symbol = any(%s) order by symbol, happened_at desc""",
        sorted(symbols),
    )
    return {symbol: (happened_at, price) for symbol, happened_at, price in rows}
