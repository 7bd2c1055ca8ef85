"""Firing alerts: what the values since the last check have reached, and everything that follows, in one statement.

What a value does to a watch is `domain.watches.step`; here it is done to all watches at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import db
from domain.alerts import VERSION
from domain.watches import STORM, STORM_TIME
from models import events
from models.events import Position
from models.titles import SAID, TITLE

READER = "check_alerts"
VALUES = 20_000  # so many are looked at in one statement, and so many watches are taken from it
WATCHES = 20_000
LEAST_PER_STREAM = 10  # however many have moved


class Batch(NamedTuple):
    """What one statement did."""

    values: int
    turned: int  # watches that wait for something else now
    fired: int
    paused: int  # by the storm brake


def fire_reached() -> Iterator[Batch]:
    """Fire what the values since the last check have reached, in one transaction per batch, until nothing is left.

    The reader's position is locked, so of two checks at once one ends without doing anything, and it moves in
    the transaction of the last batch: a check that is killed is taken up where it was.
    """
    more = True
    while more:
        with db.transaction():
            start = events.hold(READER)
            if not start:
                return  # another check is at it
            batch, more = _fire_page(start)
        if batch.values:
            yield batch


def _fire_page(start: Position) -> tuple[Batch, bool]:
    """One batch behind `start`, and whether there may be more; moves the position if these values are done with."""
    if not db.rows(_NEWS, str(start.xid), start.id):
        return Batch(0, 0, 0, 0), False
    ((*counts, full, xid, last),) = db.rows(_CHECK, str(start.xid), start.id, VALUES, WATCHES, LEAST_PER_STREAM)
    batch = Batch(*counts)
    done = not batch.turned and not full  # what waits for something else now may be reached later in the same values
    if batch.values and done:
        events.move(READER, Position(xid, last))
    return batch, not done or batch.values >= VALUES


def fire_due(now: datetime) -> Iterator[Batch]:
    """Fire the alerts whose date is as near as they want it, in one transaction per batch."""
    while db.rows("select 1 from alert_watch where direction = 'date' and since <= %s limit 1", now):
        ((due, turned, fired, paused),) = db.rows(_FIRE_DUE, now, WATCHES)
        if not due:
            return  # another check is at them
        yield Batch(due, turned, fired, paused)


def fire_at_once(alerts: Sequence[int]) -> int:
    """Fire alerts that are true already when they are made, on the present values; returns how many."""
    ((fired,),) = db.rows(_FIRE_NOW, list(alerts)) if alerts else ((0,),)
    return int(fired)


_STORM = f"'more than {STORM} times in {STORM_TIME.total_seconds() / 60:.0f} minutes'"


def _bar_end(at: str) -> str:
    return f"date_bin(a.bar::interval, {at}, timestamptz '1970-01-01 00:00+00') + a.bar::interval"


# What a value does to each watch in `hit`, then everything that follows. Whoever gets the row of the watch fires:
# deleting it is what makes an alert fire once, and another frequency puts it back to wait for something else. The row
# is found by its place, without an index; one that somebody else writes meanwhile is no longer there. What changes of
# the alert stands in no index either. JSON is made of whole rows, since a builder looks up the type of every name and
# value again; names are in its own order, short ones first: nothing is left to sort. A brake is told without a key, as
# an alert that is taken up while its storm lasts is braked again without having fired between. `ours` is materialized:
# of each alert that somebody else has changed meanwhile PostgreSQL would go through both its halves again.
_FIRE = f"""
aimed as materialized (
  select *, case
    when outcome in ('drop', 'expire', 'brake') or outcome = 'fire' and frequency = 'once' then 'gone'
    when outcome in ('arm', 'turn') then 'armed'
    when side = 'date' then 'dated'
    when not edge and (frequency <> 'every' or way_back is null) then 'same'
    when side = 'either' and abs(value - target) > back then 'armed'
    else 'spent' end as state,
    case when side in ('up', 'down') then side when value < target then 'up' else 'down' end as way
  from (
  select h.*, j.*, a.user_id, a.type, a.measure, a.condition, a.level as asked, a.direction as asked_direction, a.base,
         a.frequency, a.bar, a.cooldown, a.base_value, a.target, a.band as target_band, a.way_back,
         a.trigger_count, a.touches, a.last_triggered_at,
         case when a.status <> 'active' then 'drop' when a.expires_at <= h.happened_at then 'expire'
              when h.arms then 'arm'
              when j.side = 'at' and (h.direction = 'up' and h.value > a.target + a.band
                                      or h.direction = 'down' and h.value < a.target - a.band) then 'turn'
              when j.edge and h.happened_at <= j.quiet then 'touch'
              when a.frequency <> 'once' and exists (
                select from alert_trigger t where t.alert_id = a.id and t.number = a.trigger_count - {STORM - 1}
                and t.happened_at > h.happened_at - interval '{STORM_TIME.total_seconds()} s') then 'brake'
              else 'fire' end as outcome
  from hit h join alert a on a.id = h.alert_id cross join lateral (
    select a.condition = 'crosses' as edge,
           case a.condition when 'crosses' then a.direction when 'equals' then 'at' when 'within' then 'date'
             when 'below' then 'down' when 'percent_down' then 'down' else 'up' end as side,
           case when a.frequency = 'every' then coalesce(a.way_back, 0) else 0 end as back,
           case a.frequency when 'every' then a.last_triggered_at + a.cooldown
             when 'bar' then {_bar_end("a.last_triggered_at")} - interval '1 us' else a.last_triggered_at end as quiet,
           case a.frequency when 'every' then h.happened_at + a.cooldown
             when 'bar' then {_bar_end("h.happened_at")} - interval '1 us' else h.happened_at end as next_quiet) j
  offset 0) judged
), gone as (
  delete from alert_watch where ctid = any(array(select place from aimed where state = 'gone'))
  returning alert_id
), kept as (
  update alert_watch w set
    direction = case a.state when 'armed' then a.way
                  when 'spent' then case a.side when 'up' then 'down' when 'down' then 'up' else 'either' end
                  else w.direction end,
    level = case a.state when 'armed' then a.target + case a.way when 'up' then - a.target_band else a.target_band end
              when 'spent' then a.target + case a.side when 'up' then - a.back when 'down' then a.back else 0 end
              else w.level end,
    band = case a.state when 'armed' then a.target_band
             when 'spent' then case when a.side in ('up', 'down') then 0 else a.target_band + a.back end
             else w.band end,
    since = case when a.state = 'dated' then 'infinity' when a.state = 'same' then a.next_quiet
              when a.outcome = 'arm' and not a.edge then greatest(a.happened_at, a.quiet) else a.happened_at end,
    arms = a.state = 'spent',
    target = case when a.state = 'spent' and a.frequency = 'every' then a.target end
  from aimed a
  where w.alert_id = a.alert_id and w.ctid = any(array(select place from aimed where state <> 'gone'))
  returning w.alert_id
), ours as materialized (
  select alert_id from gone union all select alert_id from kept
), settled as (
  update alert a set
    trigger_count = d.trigger_count + (d.outcome = 'fire')::int,
    last_triggered_at = case d.outcome when 'fire' then d.happened_at else a.last_triggered_at end,
    touches = case d.outcome when 'fire' then 0
                else d.touches + (d.outcome = 'touch')::int + coalesce(b.touches, 0) end,
    status = case when d.outcome = 'expire' then 'expired' when d.outcome = 'brake' then 'paused'
               when d.outcome = 'fire' and d.frequency = 'once' then 'triggered' else a.status end,
    reason = case d.outcome when 'brake' then {_STORM} else a.reason end
  from ours join aimed d using (alert_id)
       left join brushed b using (alert_id)
  where a.id = d.alert_id and a.status = 'active' and (d.outcome not in ('arm', 'turn') or b.touches > 0)
  returning d.alert_id, d.outcome, a.trigger_count as number
), told as materialized (
  select f.*, to_jsonb(j) as data
  from (
    select nextval('alert_trigger_id_seq') as id, d.alert_id, s.number, d.user_id, d.subject, d.stream, d.value,
           d.previous, d.happened_at, d.received_at, d.source, d.about, d.touches, {TITLE} as title,
           to_jsonb(r) as rule, to_jsonb(w) as waited
    from settled s join aimed d using (alert_id) cross join lateral (
      select d.bar, trim_scale(d.target_band)::text as band, d.base, d.side, d.type,
             trim_scale(d.asked)::text as level, trim_scale(d.target)::text as target, d.measure, {VERSION} as version,
             extract(epoch from d.cooldown)::text as cooldown, d.way_back::text as way_back, d.condition,
             d.asked_direction as direction, d.frequency, trim_scale(d.base_value)::text as base_value) r
      cross join lateral (
      select trim_scale(d.band)::text as band, trim_scale(d.level)::text as level,
             nullif(d.since, '-infinity') as since, d.last_triggered_at as fired_at, d.direction) w
      cross join lateral ({SAID}) t
    where s.outcome = 'fire') f cross join lateral (
    select f.rule, f.about, trim_scale(f.value)::text as value, f.number, f.source, f.stream, f.subject, f.touches,
           f.alert_id, now() as fired_at, trim_scale(f.previous)::text as previous, f.id as trigger_id, f.happened_at,
           f.received_at) j
), triggered as (
  insert into alert_trigger (id, alert_id, number, user_id, subject, stream, value, previous, happened_at, received_at,
                             source, about, touches, rule, waited) overriding system value
  select id, alert_id, number, user_id, subject, stream, value, previous, happened_at, received_at, source, about,
         touches, rule, waited from told
), braked as (
  select d.user_id, alert_id, d.subject, d.subject || ': alert ' || alert_id || ' is paused, ' || {_STORM} as title
  from settled s join aimed d using (alert_id) where s.outcome = 'brake'
), noted as (
  insert into notification (user_id, kind, severity, subject, title, data, key)
  select user_id, 'alert', 'info', subject, title, data, 'trigger-' || id from told
  union all
  select user_id, 'alert', 'warning', subject, title, jsonb_build_object('alert_id', alert_id, 'details', '[]'::jsonb),
         null from braked
), published as (
  insert into event (topic, user_id, payload)
  select 'alert.triggered', t.user_id, to_jsonb(j) from told t cross join lateral (
    select t.title, trim_scale(t.value)::text as value, t.number, t.stream, t.subject, t.alert_id, t.id as trigger_id,
           t.happened_at) j
  union all
  select 'alert.paused', user_id, jsonb_build_object('alert_id', alert_id, 'title', title) from braked
)
"""

# A value's place in the order of its stream is its time: it rises within a stream, and positions with it. What a window
# reaches is one index range per stream and direction, nearest level first; from the window's values in order comes the
# first one that is at or beyond the level, and none that is older than the watch.
_NEAR = """
  select h.* from path p cross join cap cross join lateral (
    select w.ctid as place, w.alert_id, w.direction, w.level, w.arms, w.band, w.since, p.places[s.n] as n
    from alert_watch w cross join lateral (
      select x.n from unnest(p.values, p.times) with ordinality as x(value, at, n)
      where x.at > w.since and {reached} order by x.n limit 1) s
    where w.direction = '{direction}' and w.subject = p.subject and w.stream = p.stream and {range}
    order by w.level {order} limit cap.n) h
"""
_BEYOND = "(x.value {} w.level or x.value = w.level and not w.arms)"
_UP = _NEAR.format(direction="up", reached=_BEYOND.format(">"), range="w.level <= p.high", order="")
_DOWN = _NEAR.format(direction="down", reached=_BEYOND.format("<"), range="w.level >= p.low", order="desc")
_EITHER = _NEAR.format(
    direction="either",
    reached="abs(x.value - w.level) > w.band",
    range="(select exists (select from alert_watch where direction = 'either'))",  # mostly there is none
    order="",
)

_NEWS = """
select 1 from stream t where (t.xid, t.id) > (%s::text::xid8, %s) and t.xid < pg_snapshot_xmin(pg_current_snapshot())
limit 1
"""

# `brushed`: values that come to the level of an alert that has fired and not been far enough away from it since; of
# such a one the watch is written before the alert, too, so that nobody is waited for in a circle.
_CHECK = f"""
with page as materialized (
  select row_number() over (order by s.xid, s.id) as n, s.* from (
    select * from stream t
    where (t.xid, t.id) > (%s::text::xid8, %s) and t.xid < pg_snapshot_xmin(pg_current_snapshot())
    order by t.xid, t.id fetch first %s rows with ties) s
), path as materialized (
  select subject, stream, max(value) as high, min(value) as low,
         max(greatest(value, previous)) as highest, min(least(value, previous)) as lowest,
         array_agg(value order by happened_at) as values, array_agg(happened_at order by happened_at) as times,
         array_agg(n order by happened_at) as places
  from page where fresh group by subject, stream
), cap as (
  select greatest(%s / greatest(count(*), 1), %s) as n from path
), near as materialized ({_UP} union all {_DOWN} union all {_EITHER}
), hit as materialized (
  select n.place, n.alert_id, n.direction, n.level, n.arms, n.band, n.since, n.n, t.subject, t.stream,
         t.value, t.previous, t.happened_at, t.received_at, t.source, t.about
  from near n join page t using (n)
), crowded as materialized (
  select exists(select from hit cross join cap group by subject, stream, cap.n having count(*) >= cap.n) as yes
), brushed as materialized (
  select w.alert_id, count(*) as touches, max(t.happened_at) as at
  from (select * from path where exists (select from alert_watch where target is not null)) p cross join lateral (
         select * from alert_watch w where w.subject = p.subject and w.stream = p.stream
           and w.target between p.lowest and p.highest offset 0) w
       join page t on t.subject = p.subject and t.stream = p.stream and t.happened_at > w.since
                      and t.fresh and t.changed
                      and (t.previous < w.target and t.value >= w.target and w.direction <> 'up'
                           or t.previous > w.target and t.value <= w.target and w.direction <> 'down')
       left join near n on n.alert_id = w.alert_id
  where n.n is null or t.n < n.n
  group by w.alert_id
), {_FIRE}, seen as (
  update alert_watch w set since = b.at from brushed b
  where w.alert_id = b.alert_id and w.alert_id = any(array(
    select alert_id from brushed where not (select yes from crowded) except select alert_id from near))
  returning w.alert_id
), touched as (
  update alert a set touches = a.touches + b.touches
  from brushed b where a.id = b.alert_id and a.id = any(array(select alert_id from seen))
), last as (
  select n, xid, id from page order by n desc limit 1
)
select coalesce((select n from last), 0), (select count(*) from kept), (select count(*) from told),
       (select count(*) from braked), (select yes from crowded),
       (select xid::text::bigint from last), (select id from last)
"""

_UNTOUCHED = "brushed as (select null::bigint as alert_id, 0 as touches where false)"

_FIRE_NOW = f"""
with hit as materialized (
  select w.ctid as place, w.alert_id, w.direction, w.level, w.arms, w.band, null::timestamptz as since,
         w.subject, w.stream,
         v.value, v.previous, v.happened_at, v.received_at, v.source, v.about
  from alert_watch w join newest v using (subject, stream) where w.alert_id = any(%s)
), {_UNTOUCHED}, {_FIRE}
select count(*) from told
"""

_FIRE_DUE = f"""
with hit as materialized (
  select w.ctid as place, w.alert_id, w.direction, w.level, w.arms, w.band, null::timestamptz as since,
         w.subject, w.stream,
         v.value, v.previous, w.since as happened_at, v.received_at, v.source, v.about
  from alert_watch w join gauge v on v.subject = w.subject and v.measure = w.stream
  where w.direction = 'date' and w.since <= %s order by w.since limit %s for update of w skip locked
), {_UNTOUCHED}, {_FIRE}
select (select count(*) from hit), (select count(*) from kept), (select count(*) from told),
       (select count(*) from braked)
"""
