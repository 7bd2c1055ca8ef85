"""Routing: from what was told to where it goes: now, later, or not at all and why.

What stands against a delivery is written beside it, so that nobody has to guess later: a user who asks why a message
did not come finds a row that says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Any

import db
from domain.deliveries import is_back, quiet_until
from domain.figures import figure, name
from domain.notifications import known_zone
from models.targets import HELD_BACK, MUTED, UNWANTED

BATCH = 1000  # notifications, or held deliveries, that one statement looks at
MANY = 5  # messages of a kind to one user within WINDOW; further ones wait for its end and go together
WINDOW = timedelta(minutes=5)
LOOKED_AT = 20  # of a user's newest notifications, to see whether there are many
QUIET = "quiet hours"  # the one reason for which a message is held that its value can have left behind by then


def route(channels: Collection[str], now: datetime) -> Iterator[int]:
    """Make the deliveries of what was told since the last time, oldest first; how many notifications at a time."""
    full = bool(db.rows("select 1 from notification where routed_at is null limit 1"))
    while full:
        ((routed,),) = db.rows(_ROUTE, BATCH, now, WINDOW, MANY, LOOKED_AT, *_quiet(now), list(channels))
        full = routed == BATCH
        if routed:
            yield routed


def _quiet(now: datetime) -> list[str]:
    """The quiet hours of users who have news, as columns: zone, from, until, and when they end if it is quiet now."""
    found = db.rows(
        """select distinct u.zone, h.from_time, h.until_time
           from notification n join quiet_hours h using (user_id) join app_user u on u.id = n.user_id
           where n.routed_at is null"""
    )
    ends = [(*hours, quiet_until(now, known_zone(hours[0]), *hours[1:])) for hours in found]
    return [db.array(column) for column in zip(*ends, strict=True)] or ["{}"] * 4


# What a user has said about this kind, on this channel, of this subject: null if nothing stands against it.
_UNWANTED = f"""
  case when {UNWANTED} then n.kind || ' is not wanted by ' || {{channel}}
       when {MUTED.format(now="t.now")} then n.subject || ' is muted' end
"""

_ROUTE = f"""
with new as materialized (
  select id, user_id, kind, severity, subject, expires_at from notification
  where routed_at is null order by id limit %s for update skip locked
), routed as (
  update notification n set routed_at = now() from new where n.id = new.id returning n.id
), t as (
  select cast(%s as timestamptz) as now, cast(%s as interval) as span, %s as most, %s as looked_at
), quiet as (
  select h.user_id, h.breaks_through, q.ends_at from quiet_hours h join app_user u on u.id = h.user_id
    join unnest(%s::text[], %s::time[], %s::time[], %s::timestamptz[]) as q(zone, from_time, until_time, ends_at)
      on q.zone = u.zone and q.from_time = h.from_time and q.until_time = h.until_time
  where h.user_id in (select user_id from new)
), way as (
  select user_id, channel, address,
         case when off_at is not null then 'the address is off: ' || off_reason
              when verified_at is null and (channel <> 'email' or address is distinct from
                (select email from app_user u where u.id = user_id)) then 'the address is not verified' end as closed
  from target where user_id in (select user_id from new)
  union all
  select u.id, c.channel, case c.channel when 'email' then u.email else u.external_id end, null
  from app_user u cross join (values ('email'), ('console')) as c(channel)
  where u.id in (select user_id from new) and (c.channel = 'console' or u.email is not null)
    and not exists (select from target o where o.user_id = u.id and o.channel = c.channel and o.address = u.email)
), judged as (
  select n.id, n.expires_at, w.channel, w.address, t.now, t.span,
    coalesce(case when n.expires_at <= t.now then 'too late' end, w.closed,
             {_UNWANTED.format(channel="w.channel")}) as refused,
    case when {HELD_BACK} then q.ends_at end as quiet_until,
    n.severity <> 'critical' and t.most <= (
      select count(*) from (select o.kind, o.created_at from notification o
                            where o.user_id = n.user_id and o.id < n.id order by o.id desc limit t.looked_at) o
      where o.kind = n.kind and o.created_at > t.now - t.span) as many
  from new n join way w using (user_id) left join quiet q using (user_id) cross join t
  where w.channel = any(%s)
), placed as (
  select *, greatest(quiet_until, case when many then date_bin(span, now, 'epoch') + span end) as held_until from judged
), made as (
  insert into delivery (notification_id, channel, target, expires_at, state, due_at, reason, ended_at)
  select id, channel, address, expires_at,
         case when refused is not null then 'skipped' when held_until is not null then 'held' else 'pending' end,
         coalesce(held_until, now),
         coalesce(refused, case when quiet_until is not null then '{QUIET}'
                                when many then 'many at once: they go together' end),
         case when refused is not null then now end
  from placed order by id, channel, address  -- due at once, they go in the order in which they were told
)
select count(*) from routed
"""


def release(now: datetime) -> Iterator[tuple[int, int]]:
    """Let go of what was held until now, if it is still worth saying; how many go and how many are dropped.

    What was to go along in the message of one that was held is looked at as well, each by itself.
    """
    full = bool(db.rows("select 1 from delivery where state = 'held' and due_at <= %s limit 1", now))
    while full:
        with db.transaction():
            held = db.maps(_HELD, now, BATCH, now)
            reasons = [_against(delivery) for delivery in held]
            columns = [[each["id"] for each in held], [each["leader_id"] for each in held], reasons]
            db.rows(_RELEASE, *map(db.array, columns), now)
        full = len(held) >= BATCH
        if held:
            yield reasons.count(None), len(held) - reasons.count(None)


def _against(delivery: dict[str, Any]) -> str | None:
    """What stands against a message that was held: the user's wish, or the value by the end of their quiet hours."""
    if delivery["kind"] == "alert" and is_back(delivery["data"], delivery["value"]):
        stream = delivery["data"]["stream"]
        what = name("the price" if stream.startswith("price") else "the", stream)
        return f"{what} is back, at {figure(delivery['value'], stream)}: dropped"
    return delivery["refused"]


_HELD = f"""
with led as materialized (
  select d.id, d.reason from cast(%s as timestamptz) as t(now), delivery d
  where d.state = 'held' and d.due_at <= t.now and d.expires_at > t.now
  order by d.due_at, d.id limit %s for update of d skip locked
), every as (
  select id, null as leader_id, reason from led
  union all
  select d.id, led.id, led.reason from led join delivery d on d.leader_id = led.id where d.state = 'bundled'
)
select e.id, e.leader_id, n.kind, n.data,
  case when e.reason = '{QUIET}' and v.stale_at > t.now then v.value end as value,
  {_UNWANTED.format(channel="d.channel")} as refused
from cast(%s as timestamptz) as t(now), every e join delivery d using (id)
  join notification n on n.id = d.notification_id
  left join newest v on v.subject = n.subject and v.stream = n.data ->> 'stream'
"""

# What goes along stays with its leader, so that a repeat has the same key; where that one is dropped, it goes alone.
_RELEASE = """
with judged as materialized (
  select * from unnest(%s::bigint[], %s::bigint[], %s::text[]) as j(id, leader_id, reason)
)
update delivery d
set state = case when j.reason is not null then 'skipped' when l.id is not null and l.reason is null then 'bundled'
              else 'pending' end,
    leader_id = case when j.reason is null and l.reason is null then l.id end,
    reason = j.reason, ended_at = case when j.reason is not null then t.now end
from cast(%s as timestamptz) as t(now), judged j left join judged l on l.id = j.leader_id
where d.id = j.id
"""
