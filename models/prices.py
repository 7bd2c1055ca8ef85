"""Instruments, the newest quote of each with its age, and every observation as a tick."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from peewee import BigIntegerField, BooleanField, CompositeKey, DecimalField, TextField
from playhouse.postgres_ext import IntervalField

import db
from domain.failures import Rejected
from domain.prices import Price, allowed_age
from models import events
from models.fields import InstantField, Xid8Field


class Instrument(db.BaseModel):
    """A symbol whose price we follow."""

    app_may = "select"

    symbol = TextField(primary_key=True)
    kind = TextField()  # crypto, fx, metal, stock, index, other; pair: of the app's exchange
    max_age = IntervalField(null=True)  # how old its price may be; none: as long as the source allows
    tick_size = DecimalField(null=True)
    active = BooleanField()
    created_at = InstantField()


class Quote(db.BaseModel):
    """The newest price of an instrument and the last one that was different; each with source and both times.

    Its age is now minus `happened_at`; from `stale_at` on it is stale, whatever `state` says.
    """

    app_may = "select"

    symbol = TextField(primary_key=True)
    state = TextField()  # missing, fresh, stale; from stale_at on it is stale whatever stands here
    reason = TextField(null=True)  # of stale: old, rejected
    price = DecimalField(null=True)
    source = TextField(null=True)
    happened_at = InstantField(null=True)
    received_at = InstantField(null=True)
    said_at = InstantField(null=True)  # by the source's clock: later than happened_at where that runs ahead of ours
    stale_at = InstantField(null=True)
    previous = DecimalField(null=True)
    previous_source = TextField(null=True)
    previous_happened_at = InstantField(null=True)
    previous_received_at = InstantField(null=True)
    error = TextField(null=True)  # the latest failure in words, until an answer comes
    failing_since = InstantField(null=True)


class Tick(db.BaseModel):
    """One observation. In a symbol each happened later than the one before it, and has the higher id."""

    app_may = "select"

    symbol = TextField()
    happened_at = InstantField()
    received_at = InstantField()
    price = DecimalField()
    previous = DecimalField(null=True)  # the last price that was another one
    source = TextField()
    changed = BooleanField()  # false: the same price again
    fresh = BooleanField()  # false: it was old news when it came
    id = BigIntegerField()
    xid = Xid8Field()

    class Meta:
        primary_key = CompositeKey("symbol", "happened_at", "received_at")


def active_instruments() -> list[dict[str, Any]]:
    """Symbol and kind of what is to be synced, but for stocks (models.stocks) and the exchange's pairs (tickers)."""
    return db.maps("select symbol, kind from instrument where active and kind not in ('stock', 'pair') order by symbol")


def record(
    prices: Sequence[Price],
    failures: Mapping[str, Exception],
    received_at: datetime,
    old_at: Mapping[str, datetime] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write what a sync has learnt: observations newer than what we have (the others write nothing), and states.

    An outage leaves a price fresh until it is too old; a refused or malformed answer makes it stale at once, and
    it stays so until an answer comes. `prices` has one observation per symbol; `old_at` says when that is old, where
    another age than the instrument's or the source's counts. Returns the quotes written, with `changed` where the
    price itself is another one, and the quotes whose state was another one before (`was`), of which it also tells.
    """
    with one_writer():
        written = db.maps(
            _WRITE,
            db.array(price.symbol for price in prices),
            db.array(price.price for price in prices),
            db.array(price.happened_at for price in prices),
            db.array(price.source for price in prices),
            db.array(f"{allowed_age(price.source).total_seconds()}s" for price in prices),
            db.array((old_at or {}).get(price.symbol) for price in prices),
            received_at,
            received_at,
            db.array([*(price.symbol for price in prices), *failures]),
        )
        settled = db.maps(
            _SETTLE,
            db.array(price.symbol for price in prices),
            db.array(failures),
            db.array(str(failure) for failure in failures.values()),
            db.array(isinstance(failure, Rejected) for failure in failures.values()),
            received_at,
        )
        turned = [quote for quote in written + settled if quote["was"] != quote["state"]]
        for state in {quote["state"] for quote in turned}:
            symbols = {quote["symbol"]: quote["reason"] for quote in turned if quote["state"] == state}
            events.add(f"prices.{state}", {"symbols": symbols}, None)
    return written, turned


@contextmanager
def one_writer() -> Iterator[None]:
    """A transaction in which nobody else writes quotes or renames a stock: one order of ticks, and no deadlocks.

    Whoever writes more of a stock than its quote takes this lock before any other.
    """
    with db.transaction():
        db.rows("select pg_advisory_xact_lock(hashtext('quote'))")
        yield


# A tick is appended under the lock of its quote: in one symbol, ids and times of ticks rise together. Quotes that are
# settled afterwards are locked here too, all in the order in which readings.newest has them: nobody waits in a circle.
# What a source whose clock runs ahead says again is the same observation, though ours, by which it is written, went on.
_WRITE = """
with seen as materialized (
  select s.symbol, s.price, least(s.said_at, now) as happened_at, s.said_at, s.source, s.allowed, s.old_at, now
  from unnest(%s::text[], %s::numeric[], %s::timestamptz[], %s::text[], %s::interval[], %s::timestamptz[])
         as s(symbol, price, said_at, source, allowed, old_at), cast(%s as timestamptz) as now
), held as materialized (
  select q.*, i.max_age
  from cast(%s as timestamptz) as t(now), quote q join instrument i on i.symbol = q.symbol and i.active
  where q.symbol = any(%s::text[]) or coalesce(q.stale_at <= t.now, false) <> coalesce(q.reason = 'old', false)
  order by q.symbol for no key update of q
), newer as materialized (
  select s.*, q.state as was, q.price is distinct from s.price as changed,
         coalesce(s.old_at, s.happened_at + coalesce(q.max_age, s.allowed)) as stale_at
  from seen s join held q on q.symbol = s.symbol
  where q.happened_at is null or q.happened_at < s.happened_at and (q.said_at <> s.said_at or q.source <> s.source)
), written as (
  update quote q set
    price = n.price, source = n.source, happened_at = n.happened_at, received_at = n.now, said_at = n.said_at,
    stale_at = n.stale_at,
    state = case when n.stale_at > n.now then 'fresh' else 'stale' end,
    reason = case when n.stale_at > n.now then null else 'old' end,
    previous = case when n.changed then q.price else q.previous end,
    previous_source = case when n.changed then q.source else q.previous_source end,
    previous_happened_at = case when n.changed then q.happened_at else q.previous_happened_at end,
    previous_received_at = case when n.changed then q.received_at else q.previous_received_at end,
    error = null, failing_since = null
  from newer n where q.symbol = n.symbol
  returning q.symbol, q.price, q.previous, q.happened_at, q.received_at, q.source, q.state, q.reason,
            n.was, n.changed
), appended as (
  insert into tick (symbol, happened_at, received_at, price, previous, source, changed, fresh)
  select symbol, happened_at, received_at, price, previous, source, changed, state = 'fresh' from written
)
select * from written order by symbol
"""

_SETTLE = """
with answered as materialized (
  select symbol from unnest(%s::text[]) as a(symbol)
), failed as materialized (
  select * from unnest(%s::text[], %s::text[], %s::boolean[]) as f(symbol, error, rejected)
), judged as materialized (
  select q.symbol, q.state as was, t.now, q.price is null as missing,
         case when q.price is null then null when q.stale_at <= t.now then 'old' when f.rejected then 'rejected'
              when q.reason = 'rejected' and a.symbol is null then 'rejected' end as reason,
         case when f.symbol is not null then f.error when a.symbol is null then q.error end as error
  from cast(%s as timestamptz) as t(now), instrument i join quote q on q.symbol = i.symbol
       left join answered a on a.symbol = q.symbol left join failed f on f.symbol = q.symbol
  where i.active
), next as (
  select *, case when missing then 'missing' when reason is null then 'fresh' else 'stale' end as state from judged
)
update quote q set
  state = n.state, reason = n.reason, error = n.error,
  failing_since = case when n.error is not null then coalesce(q.failing_since, n.now) end
from next n
where q.symbol = n.symbol and (q.state, q.reason, q.error) is distinct from (n.state, n.reason, n.error)
returning q.symbol, q.price, q.happened_at, q.received_at, q.source, q.state, q.reason, q.error, n.was
"""


def quotes(now: datetime, symbols: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Every active instrument's quote as readers must see it: with its age, and stale if it is old by now."""
    return db.maps(
        """select q.symbol, i.kind, case when q.stale_at <= t.now then 'stale' else q.state end as state,
                  case when q.stale_at <= t.now then 'old' else q.reason end as reason,
                  q.price, q.source, q.happened_at, q.received_at, q.stale_at, t.now - q.happened_at as age,
                  q.previous, q.previous_source, q.previous_happened_at, q.previous_received_at,
                  q.error, q.failing_since, i.max_age, i.tick_size
           from quote q join instrument i using (symbol), cast(%s as timestamptz) as t(now)
           where i.active and (%s::text[] is null or q.symbol = any(%s::text[])) order by q.symbol""",
        now,
        *[None if symbols is None else list(symbols)] * 2,
    )


def awaited(now: datetime) -> list[str]:
    """Instruments that could have no price yet: a pair that never traded, a stock whose market was shut ever since."""
    rows = db.rows(
        """select q.symbol from quote q join instrument i using (symbol) left join stock s using (symbol)
           where i.active and q.price is null and q.error is null
             and (i.kind = 'pair' or s.market is not null and not exists (
               select from market_session m
               where m.market = s.market and m.opens_at < %s and m.closes_at > i.created_at))
           order by q.symbol""",
        now,
    )
    return [symbol for (symbol,) in rows]


def add(symbol: str, kind: str, max_age: timedelta | None, tick_size: Decimal | None) -> bool:
    """Follow an instrument from now on, or change how; its quote row stands ready. False if it was followed already."""
    with db.transaction():
        known = bool(db.rows("select 1 from instrument where symbol = %s and active", symbol))
        db.rows(
            """insert into instrument (symbol, kind, max_age, tick_size) values (%s, %s, %s, %s)
               on conflict (symbol) do update set kind = excluded.kind, max_age = excluded.max_age,
                 tick_size = excluded.tick_size, active = true""",
            symbol,
            kind,
            max_age,
            tick_size,
        )
        db.rows("insert into quote (symbol) values (%s) on conflict do nothing", symbol)
        for (source,) in db.rows("select source from quote where symbol = %s and price is not null", symbol):
            db.rows(
                "update quote set stale_at = happened_at + %s where symbol = %s", max_age or allowed_age(source), symbol
            )
    return not known


def kind_of(symbol: str) -> str | None:
    """The kind of an instrument that was ever followed, or of a pair that is traded here; None for any other."""
    found = db.rows(
        """select kind from instrument where symbol = %s union all
           select 'pair' from pair where symbol = %s limit 1""",
        *(symbol, symbol),
    )
    return found[0][0] if found else None


def follow(symbols: Collection[str], kind: str) -> None:
    """Follow instruments of a kind that are new; what is known, retired ones too, stays as it is."""
    db.rows(
        """with added as (
             insert into instrument (symbol, kind) select s, %s from unnest(%s::text[]) as s order by s
             on conflict do nothing returning symbol)
           insert into quote (symbol) select symbol from added on conflict do nothing""",
        kind,
        db.array(symbols),
    )


def retire(symbol: str) -> bool:
    """Follow an instrument no longer; its history and the alerts on it stay, silent. False if it was not followed."""
    return bool(db.rows("update instrument set active = false where symbol = %s and active returning 1", symbol))


def as_of(symbol: str, at: datetime) -> dict[str, Any] | None:
    """The price that was known at an instant, with its source and both times; None if there was none.

    Never one that we received later. Where the ticks are gone it is the close of the last candle that was known.
    """
    found = db.maps(
        """select p.* from cast(%s as text) as s(symbol), cast(%s as timestamptz) as t(at) cross join lateral (
             (select price, source, happened_at, received_at, 1 as nearest from tick
              where tick.symbol = s.symbol and received_at <= t.at order by happened_at desc limit 1)
             union all
             (select close, '1m candle', last_at, known_at, 2 from candle c
              where c.symbol = s.symbol and "interval" = '1m' and starts_at <= t.at and known_at <= t.at
              order by starts_at desc limit 1)
             union all
             (select close, '1d candle', last_at, known_at, 3 from candle c
              where c.symbol = s.symbol and "interval" = '1d' and starts_at <= t.at and known_at <= t.at
              order by starts_at desc limit 1)) p
           order by p.happened_at desc, p.nearest limit 1""",
        *(symbol, at),
    )
    return {name: value for name, value in found[0].items() if name != "nearest"} if found else None


def freshness(now: datetime) -> list[dict[str, Any]]:
    """Each quote's age against what is allowed for it, but for stocks; a missing one counts as a day old."""
    return db.maps(
        """select q.symbol as name, coalesce(cast(%s as timestamptz) - q.happened_at, interval '1 day') as age,
                  coalesce(q.stale_at - q.happened_at, i.max_age, interval '1 hour') as allowed
           from quote q join instrument i using (symbol) where i.active and i.kind not in ('stock', 'pair')""",
        now,
    )
