"""Firing alerts: what the ticks since the last check have reached, and everything that follows, in one statement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import db
from models.events import Position

READER = "check_alerts"
TICKS = 20_000  # so many are looked at in one statement, and so many watches are taken from it
WATCHES = 20_000
LEAST_PER_SYMBOL = 10  # however many symbols have moved


class Batch(NamedTuple):
    """What one statement did."""

    ticks: int
    armed: int
    fired: int


def fire_reached() -> Iterator[Batch]:
    """Fire what the ticks since the last check have reached, in one transaction per batch, until nothing is left.

    The reader's position is locked, so of two checks at once one ends without doing anything, and it moves in
    the transaction of the last batch: a check that is killed is taken up where it was.
    """
    db.rows("insert into reader_position values (%s, '0', 0) on conflict do nothing", READER)
    more = True
    while more:
        with db.transaction():
            held = db.rows(
                "select xid::text::bigint, id from reader_position where reader = %s for update skip locked", READER
            )
            if not held:
                return  # another check is at it
            batch, more = _fire_page(Position(*held[0]))
        if batch.ticks:
            yield batch


def _fire_page(start: Position) -> tuple[Batch, bool]:
    """One batch behind `start`, and whether there may be more; moves the position if these ticks are done with."""
    ((ticks, last_xid, last_id, armed, fired, full),) = db.rows(
        _CHECK, str(start.xid), start.id, TICKS, WATCHES, LEAST_PER_SYMBOL
    )
    done = not armed and not full  # what was armed may be reached later in the same ticks
    if ticks and done:
        db.rows(
            "update reader_position set xid = %s::text::xid8, id = %s where reader = %s", str(last_xid), last_id, READER
        )
    return Batch(ticks, armed, fired), not done or ticks == TICKS


def fire_at_once(alert_id: int) -> int:
    """Fire an alert that is true already when it is made, on the present quote; returns how many fired (one)."""
    ((fired,),) = db.rows(_FIRE_ONE, alert_id)
    return int(fired)


# Everything that firing is, for the watches in `hit` that do not arm. Deleting its watch is what makes an alert
# fire once: whoever gets the row fires. Frequencies other than once put a watch back here instead.
_FIRE = """
gone as (
  delete from alert_watch where alert_id = any(array(select alert_id from hit where not arms))
  returning alert_id, direction
), counted as (
  update alert a set trigger_count = a.trigger_count + 1, last_triggered_at = h.happened_at, status = 'triggered'
  from gone g join hit h using (alert_id) where a.id = g.alert_id and a.status = 'active'
  returning a.id as alert_id, a.trigger_count as number, a.user_id, a.symbol, a.kind, a.direction, a.level,
            g.direction as way, h.price, h.previous, h.happened_at, h.received_at, h.source
), triggered as (
  insert into alert_trigger (alert_id, number, user_id, symbol, price, previous, happened_at, received_at, source, rule)
  select alert_id, number, user_id, symbol, price, previous, happened_at, received_at, source,
         jsonb_strip_nulls(jsonb_build_object('kind', kind, 'level', trim_scale(level)::text, 'direction', direction))
  from counted
  returning *
), told as materialized (
  select t.id, t.user_id,
         t.symbol || case c.kind when 'crosses' then ' crossed ' || trim_scale(c.level) || case c.way
                                   when 'up' then ' upwards, at ' else ' downwards, at ' end || trim_scale(t.price)
                     else ' is at ' || trim_scale(t.price) || ', ' || c.kind || ' ' || trim_scale(c.level) end as title,
         to_jsonb(t) - 'id' - 'user_id' || jsonb_build_object(
           'trigger_id', t.id, 'price', trim_scale(t.price)::text, 'previous', trim_scale(t.previous)::text) as data
  from triggered t join counted c using (alert_id)
), noted as (
  insert into notification (user_id, kind, subject, title, data, key)
  select user_id, 'alert', data->>'symbol', title, data, 'trigger-' || id from told
), published as (
  insert into event (topic, user_id, payload)
  select 'alert.triggered', user_id, data || jsonb_build_object('title', title) from told
)
"""

# A tick's place in the order of its symbol is its time: it rises within a symbol, and ids with it (models/prices.py).
# What a window reaches is one index range per symbol and direction, nearest level first; from the window's prices
# in order comes the first one that reached the level, and none that is older than the watch.
_NEAR = """
  select h.* from path p cross join cap cross join lateral (
    select w.alert_id, w.arms, p.ids[s.n] as tick_id from alert_watch w cross join lateral (
      select x.n from unnest(p.prices, p.times) with ordinality as x(price, at, n)
      where x.at > w.since and (x.price {beyond} w.level or (x.price = w.level and not w.arms)) order by x.n limit 1) s
    where w.direction = '{direction}' and w.symbol = p.symbol and {range}
    order by w.level {order} limit cap.n) h
"""

_CHECK = f"""
with page as materialized (
  select t.symbol, t.price, t.previous, t.happened_at, t.received_at, t.source, t.fresh, t.id, t.xid
  from tick t
  where (t.xid, t.id) > (%s::text::xid8, %s) and t.xid < pg_snapshot_xmin(pg_current_snapshot())
  order by t.xid, t.id limit %s
), path as materialized (
  select symbol, max(price) as high, min(price) as low, array_agg(price order by happened_at) as prices,
         array_agg(happened_at order by happened_at) as times, array_agg(id order by happened_at) as ids
  from page where fresh group by symbol
), cap as (
  select greatest(%s / greatest(count(*), 1), %s) as n from path
), near as materialized (
  {_NEAR.format(direction="up", beyond=">", range="w.level <= p.high", order="")}
  union all {_NEAR.format(direction="down", beyond="<", range="w.level >= p.low", order="desc")}
  union all {_NEAR.format(direction="either", beyond="<>", range="true", order="")}
), hit as materialized (
  select n.alert_id, n.arms, t.price, t.previous, t.happened_at, t.received_at, t.source
  from near n join page t on t.id = n.tick_id
), armed as (
  update alert_watch w
  set direction = case when h.price < w.level then 'up' else 'down' end, arms = false, since = h.happened_at
  from hit h where w.alert_id = h.alert_id and h.arms
  returning 1
), {_FIRE}
select (select count(*) from page), (select xid::text::bigint from page p order by p.xid desc, p.id desc limit 1),
       (select id from page p order by p.xid desc, p.id desc limit 1),
       (select count(*) from armed), (select count(*) from triggered),
       exists(select from near n join page t on t.id = n.tick_id join cap on true
              group by t.symbol, cap.n having count(*) >= cap.n)
"""

_FIRE_ONE = f"""
with hit as materialized (
  select w.alert_id, w.arms, q.price, q.previous, q.happened_at, q.received_at, q.source
  from alert_watch w join quote q using (symbol) where w.alert_id = %s
), {_FIRE}
select count(*) from triggered
"""
