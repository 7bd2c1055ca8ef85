"""Orders of the served app's exchange, and their end: who gets the row in time decides, and its money moves with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

from peewee import BigIntegerField, DecimalField, TextField

import db
from models import events
from models.events import Position
from models.fields import InstantField

BATCH = 1000  # orders that end in one transaction
READER, EVENTS = "tell_expired", 5000  # who follows the events, and how many it looks at in one statement
ALLOWED = timedelta(minutes=1)  # for an order to be expiring


class TradeOrder(db.BaseModel):
    """An order on the exchange. Insert one and its money is held for it in the same transaction, or it is refused.

    A buyer's hold is quantity * price and the fee on it, each rounded up to the quote asset's unit; a seller's the
    quantity. A `DAY` order without `expires_at` ends with the session of its pair's market. When `expires_at` has
    passed the order becomes `expired` and what its hold still holds is available again: where a matching engine is
    used, not before the engine has let go of it, and it is `expiring` until then. `external_id` is yours, once a user.
    Place, fill and cancel in transactions of their own: each locks what it needs in an order that all others keep.
    """

    app_may = "select, insert (external_id, user_id, pair, side, price, quantity, fee_rate, time_in_force, expires_at)"
    app_calls: ClassVar[dict[str, str]] = {
        "fill_orders(fill[])": "post trades, each `(trade_id, buy_id, sell_id, quantity, price)::fill`; returns the "
        "ids of those that are posted, now or before: one that is missing came too late",
        "cancel_orders(bigint[])": "cancel open orders and give back what they hold, once your engine has let go of "
        "them; returns those that are cancelled, now or before",
    }

    id = BigIntegerField(primary_key=True)
    external_id = TextField(null=True)
    user_id = BigIntegerField()
    pair = TextField()
    side = TextField()  # buy, sell
    price = DecimalField()
    quantity = DecimalField()
    filled = DecimalField()
    fee_rate = DecimalField()
    account_id = BigIntegerField()  # whose money it holds
    reserved = DecimalField()  # what it held at first
    held = DecimalField()  # what it holds now
    paid = DecimalField()  # the sum of what its fills took of it; the rest was given back
    time_in_force = TextField()  # GTC, GTD, DAY
    expires_at = InstantField(null=True)
    status = TextField()  # open, filled, cancelled, expiring, expired
    expiring_since = InstantField(null=True)
    ask_at = InstantField(null=True)  # the matching engine, next
    trouble = TextField(null=True)  # why it is expiring still
    created_at = InstantField()
    ended_at = InstantField(null=True)


# Everything that expiry is, for the orders in `due`, whose rows are locked: nobody fills or cancels them meanwhile.
# `(… in …) is true` is looked up in a hash, however few rows the planner expects; a join would then compare each row
# with each. What is given back is not looked up so: the planner would expect half of them, and read accounts for none.
_DUE = "o.id, o.user_id, o.account_id, o.pair, o.side, o.quantity, o.filled, o.held"
_END = """
ended as (
  update trade_order o
  set status = 'expired', held = 0, ended_at = now(), expiring_since = null, ask_at = null, trouble = null
  where o.id = any(array(select id from due)) and o.status in ('open', 'expiring')
  returning o.id
), given_back as materialized (
  select account_id, sum(held) as amount from due where id in (select id from ended) group by 1
), locked as materialized (
  select id from account where id = any(array(select account_id from given_back)) order by id for update
), unlocked as (
  update account a set locked = a.locked - g.amount, owed = greatest(a.owed - g.amount, 0)
  from given_back g where a.id = g.account_id and (select count(*) from locked) >= 0
), published as (
  insert into event (topic, user_id, payload)
  select t.topic, d.user_id, case t.topic
    when 'order.expired' then jsonb_build_object(
      'order_id', d.id, 'pair', d.pair, 'side', d.side, 'quantity', d.quantity::text, 'filled', d.filled::text)
    else jsonb_build_object(
      'order_id', d.id, 'asset', case d.side when 'buy' then p.quote else p.base end, 'amount', d.held::text) end
  from due d join pair p on p.symbol = d.pair
       cross join (values ('order.expired'), ('balance.unlocked')) t(topic)
  where (d.id in (select id from ended)) is true
)
select count(*) from ended
"""

_EXPIRE = f"""
with due as materialized (
  select {_DUE} from trade_order o where status = 'open' and expires_at <= %s
  order by expires_at limit %s for update skip locked
), {_END}
"""

_FINISH = f"""
with due as materialized (
  select {_DUE} from unnest(%s::bigint[], %s::numeric[]) as said(id, filled)
       join trade_order o on o.id = said.id and o.filled = said.filled
  where o.status = 'expiring' order by o.id for update of o skip locked
), {_END}
"""


def expire(now: datetime) -> Iterator[int]:
    """End the orders whose time has passed, oldest first, in one statement a batch: for apps without an engine."""
    yield from _batches(_EXPIRE, now)


def begin(now: datetime) -> Iterator[int]:
    """Make the orders whose time has passed `expiring`, oldest first: their money stays locked."""
    yield from _batches(
        """with due as materialized (
             select id from trade_order where status = 'open' and expires_at <= %s
             order by expires_at limit %s for update skip locked
           ), begun as (
             update trade_order set status = 'expiring', expiring_since = now(), ask_at = now()
             where id = any(array(select id from due)) and status = 'open' returning 1)
           select count(*) from begun""",
        now,
    )


def _batches(sql: str, now: datetime) -> Iterator[int]:
    """How many a batch changed, until one is not full; each is committed by itself."""
    while True:
        ((count,),) = db.rows(sql, now, BATCH)
        if count:
            yield int(count)
        if count < BATCH:
            return


def tell() -> Iterator[int]:
    """Tell users of their orders that have expired, each user once for all of a batch; how many notifications.

    It follows the events by position, so that whoever was killed after an expiry leaves nobody untold.
    """
    seen = EVENTS
    while seen == EVENTS:
        with db.transaction():
            place = events.hold(READER)
            if not place:
                return  # another run is at it
            ((seen, xid, id_, notes),) = db.rows(_TELL, str(place.xid), place.id, EVENTS)
            if seen:
                events.move(READER, Position(xid, id_))
        if seen:
            yield int(notes)


_TELL = """
with page as materialized (
  select e.xid, e.id, e.topic, e.user_id, e.payload from event e
  where (e.xid, e.id) > (%s::text::xid8, %s) and e.xid < pg_snapshot_xmin(pg_current_snapshot())
  order by e.xid, e.id limit %s
), noted as (
  insert into notification (user_id, kind, subject, title, data)
  select user_id, 'order', case when count(distinct payload -> 'pair') = 1 then min(payload ->> 'pair') end,
         case when count(*) > 1 then count(*) || ' of your orders have expired'
              else min(format('Your order to %%s %%s %%s has expired, %%s filled', payload ->> 'side',
                              trim_scale((payload ->> 'quantity')::numeric), payload ->> 'pair',
                              trim_scale((payload ->> 'filled')::numeric))) end,
         jsonb_build_object('order_ids', jsonb_agg(payload -> 'order_id'))
  from page where topic = 'order.expired' group by user_id
  returning 1
)
select (select count(*) from page), last.xid::text::bigint, last.id, (select count(*) from noted)
from (select 1) one left join (select xid, id from page order by xid desc, id desc limit 1) last on true
"""


def to_ask(limit: int) -> list[dict[str, Any]]:
    """Orders that are expiring, of which the engine is to be asked now."""
    return db.maps(
        """select id, filled, now() - expiring_since as age from trade_order
           where status = 'expiring' and ask_at <= now() order by ask_at limit %s""",
        limit,
    )


def finish(filled: Mapping[int, Decimal]) -> int:
    """End those orders that the engine let go of with just so much filled as we know of; returns how many."""
    ((count,),) = db.rows(_FINISH, db.array(filled), db.array(filled.values()))
    return int(count)


def put_off(troubles: Mapping[int, str | None], wait: timedelta) -> set[str]:
    """Ask again after `wait` of those orders that did not end, and note why; returns the reasons that are new."""
    known = {reason for (reason,) in db.rows("select distinct trouble from trade_order where status = 'expiring'")}
    noted = db.rows(
        """with still as materialized (
             select id from trade_order where id = any(%s) and status = 'expiring' order by id for update)
           update trade_order o set ask_at = now() + %s, trouble = n.trouble
           from unnest(%s::bigint[], %s::text[]) as n(id, trouble)
           where o.id = n.id and o.id = any(array(select id from still)) returning o.trouble""",
        *(list(troubles), wait, db.array(troubles), db.array(troubles.values())),
    )
    return {reason for (reason,) in noted if reason} - known


def expiring(order_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Orders that are expiring still, the oldest first, each with what it holds and why it has not ended."""
    return db.maps(
        """select o.id, u.external_id as "user", o.pair, o.side, o.price, o.quantity, o.filled, o.expires_at,
                  now() - o.expiring_since as age, o.held, o.trouble
           from trade_order o join app_user u on u.id = o.user_id
           where o.status = 'expiring' and (%s::bigint[] is null or o.id = any(%s::bigint[]))
           order by o.expiring_since, o.id""",
        *[None if order_ids is None else list(order_ids)] * 2,
    )


def freshness(now: datetime) -> list[dict[str, Any]]:
    """How long the oldest order has been expiring or due: with the engine away it turns the page red."""
    return db.maps(
        """select name, now - least(since, now) as age, %s as allowed
           from cast(%s as timestamptz) as t(now), lateral (
             (select 'orders that are expiring' as name, expiring_since as since from trade_order
              where status = 'expiring' order by expiring_since limit 1)
             union all
             (select 'orders that are due', expires_at from trade_order
              where status = 'open' and expires_at is not null order by expires_at limit 1)) d""",
        *(ALLOWED, now),
    )
