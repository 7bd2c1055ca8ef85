"""Silences: streams without a fresh value, told once to the owners of the alerts that wait for one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from peewee import CompositeKey, TextField

import db
from models.fields import InstantField
from models.titles import name

WAIT = timedelta(minutes=10)  # for a value that is late, before anybody is told
ALERTS = 100_000  # so many say so at one look: when every source is away, the rest follows at the next ones


class Silence(db.BaseModel):
    """A stream of which there has been no fresh value for so long that the owners of alerts on it are told."""

    subject = TextField()
    stream = TextField()
    state = TextField()  # missing, stale
    told_at = InstantField(null=True)  # since when nobody is left to be told

    class Meta:
        primary_key = CompositeKey("subject", "stream")


class Change(NamedTuple):
    """Streams that fell silent and that speak again, and owners who were told."""

    begun: int
    ended: int
    told: int


def settle(now: datetime) -> Change:
    """Note which streams that alerts wait for are silent, and which are no more; tell each owner once, of all."""
    with db.transaction():
        ((begun, ended),) = db.rows(_NOTE, now - WAIT, now - WAIT)
        ((told,),) = db.rows(_TELL, ALERTS)
        db.rows(_SPEAK, ALERTS)
    return Change(begun, ended, told)


def tell_of(alerts: Sequence[int]) -> int:
    """Tell the owners of new alerts that wait for a stream that is silent already; how many."""
    ((told,),) = db.rows(_TELL_NEW, list(alerts), ALERTS)
    return int(told)


_WATCHED = " or ".join(
    f"exists (select from alert_watch w where w.direction = '{direction}' and w.subject = v.subject"
    " and w.stream = v.stream)"
    for direction in ("up", "down", "either", "date")
)

# What is worked out of a stream (`price@1h`, `rsi14@1d`, `odds/24h`) is silent when that is, not for having no value
# yet: the first comes with the next bar. Of events and dates nobody knows when the first is due.
_NOTE = f"""
with plain as materialized (
  select q.symbol as subject, 'price'::text collate "C" as stream, case when q.price is null then 'missing'
           else 'stale' end as state
  from quote q join instrument i using (symbol) left join stock s using (symbol), cast(%s as timestamptz) as t(due)
  where case when q.price is null then i.created_at
          else least(q.stale_at, case q.reason when 'rejected' then q.failing_since end) end <= t.due
    and (q.price is not null or s.symbol is null or exists (
      select from market_session m where m.market = s.market and m.opens_at <= t.due and m.closes_at > i.created_at))
  union all
  select g.subject, g.measure, 'stale' from gauge g where g.stale_at <= %s
), late as materialized (
  select * from plain
  union
  select g.subject, g.measure, p.state from gauge g join plain p on p.subject = g.subject
    and p.stream in ('price', substring(g.measure from '^[^@/]*'))
  where g.measure ~ '[@/]'
), over as (
  delete from silence v
  where not exists (select from late l where l.subject = v.subject and l.stream = v.stream) or not ({_WATCHED})
  returning 1
), begun as (
  insert into silence (subject, stream, state)
  select distinct on (subject, stream) subject, stream, state from late v
  where ({_WATCHED}) and not exists (select from silence s where s.subject = v.subject and s.stream = v.stream)
  on conflict do nothing
  returning 1
)
select (select count(*) from begun), (select count(*) from over)
"""

_WATCHES = " union all ".join(
    f"""select w.alert_id, v.subject, v.stream, v.state from silence v join alert_watch w
          on w.direction = '{direction}' and w.subject = v.subject and w.stream = v.stream
        where v.told_at is null"""
    for direction in ("up", "down", "either", "date")
)

# `quiet` are alerts and the states of their streams: they say so in their rows, and each owner gets one message. An
# alert that a check is firing, or its owner changing, is not waited for: the check waits for ours, in another order.
_HUSH = f"""
free as materialized (
  select a.id, q.state from quiet q join alert a on a.id = q.alert_id where a.status = 'active' and a.silence is null
  order by a.user_id limit %s for update of a skip locked
), hushed as (
  update alert a set silence = f.state from free f where a.id = f.id
  returning a.id, a.user_id, a.subject, a.stream
), by_stream as (
  select user_id, subject, stream, count(*) as alerts from hushed group by 1, 2, 3
), by_owner as (
  select b.user_id, count(*) as streams, sum(b.alerts) as alerts, min(b.subject) as subject,
         (array_agg({name("b.subject", "b.stream")} order by b.subject))[:5] as names,
         jsonb_agg(jsonb_build_array({name("b.subject", "b.stream")}, case when v.value is null then '"none yet"'::jsonb
           else jsonb_build_object('at', v.happened_at) end) order by b.subject) as details
  from by_stream b left join newest v using (subject, stream) group by b.user_id
), told as (
  insert into notification (user_id, kind, severity, subject, title, data)
  select user_id, 'alert', 'warning', case when streams = 1 then subject end,
         'No fresh value of ' || array_to_string(names, ', ')
           || case when streams > 5 then ' and ' || streams - 5 || ' more' else '' end || ': '
           || case when alerts = 1 then 'one alert of yours waits' else alerts || ' of your alerts wait' end,
         jsonb_build_object('details', details) from by_owner
  returning 1
)
"""

# A stream is looked at until nobody is left: who had no turn, or whose alert somebody else had, is told at the next
# look, and so is one whose alert was made at the moment at which its stream fell silent.
_TELL = f"""
with quiet as materialized (
  select w.alert_id, w.subject, w.stream, w.state from ({_WATCHES}) w join alert a on a.id = w.alert_id
  where a.status = 'active' and a.silence is null
), {_HUSH}, done as (
  update silence s set told_at = now()
  where told_at is null and not exists (select from quiet q where q.subject = s.subject and q.stream = s.stream)
)
select count(*) from told
"""

# One that is held by somebody else now says so at the next look.
_SPEAK = """
update alert set silence = null where id = any(array(
  select id from alert a
  where a.silence is not null
    and not exists (select from silence s where s.subject = a.subject and s.stream = a.stream)
  limit %s for update skip locked))
"""

_TELL_NEW = f"""
with quiet as materialized (
  select a.id as alert_id, s.state from alert a join silence s using (subject, stream) where a.id = any(%s)
), {_HUSH}
select count(*) from told
"""
