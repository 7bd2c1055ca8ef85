"""Deliveries: claimed one at a time under a lease, tried until they end, and their channels' rest."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from peewee import BigIntegerField, CompositeKey, IntegerField, TextField, UUIDField

import db
from models.fields import InstantField
from models.targets import HELD_BACK, MUTED, UNWANTED


class Delivery(db.BaseModel):
    """A notification on its way to a user over one channel to one address, or why it does not go there."""

    app_may = "select"

    id = BigIntegerField(primary_key=True)
    notification_id = BigIntegerField()
    channel = TextField()  # email, telegram, line, discord, webhook, apprise, console
    target = TextField()  # the address
    key = UUIDField()  # the same over all tries
    state = TextField()  # held, pending, sending, failed (tried again), bundled; ended: sent, dead, skipped, dry
    leader_id = BigIntegerField(null=True)  # of bundled: the delivery in whose message it goes
    tries = IntegerField()
    due_at = InstantField()  # while sending: when its worker must have died
    expires_at = InstantField()
    reason = TextField(null=True)  # why it waits, or was not sent
    created_at = InstantField()
    tried_at = InstantField(null=True)
    ended_at = InstantField(null=True)


class DeliveryTry(db.BaseModel):
    """One try of a delivery and what came of it; a try without a row was cut off."""

    delivery_id = BigIntegerField()
    number = IntegerField()
    started_at = InstantField()
    ended_at = InstantField()
    outcome = TextField()  # sent, failed, dead, put_back, dry
    error = TextField(null=True)
    receipt = TextField(null=True)  # what the other side called it

    class Meta:
        primary_key = CompositeKey("delivery_id", "number", "started_at")


class Channel(db.BaseModel):
    """A channel that rests because nothing can be sent on it at present, or that has rested."""

    name = TextField(primary_key=True)
    off_until = InstantField(null=True)
    failures = IntegerField()
    reason = TextField(null=True)


LEASE = timedelta(minutes=2)  # longer than any job that sends may take
FEWEST_TOGETHER = 4  # deliveries to one address that are due, or wait for their turn, go in one message
MOST_TOGETHER = 200


def claim(channel: str, place: str) -> dict[str, Any] | None:
    """Take the delivery that is due first on a channel, with all that its message needs; None if none is due.

    One at a time: whoever dies while sending leaves one message in doubt and holds up no other. It is due again when
    the lease ends. The database's clock counts, since workers compare it with their own. Others of its kind that are
    for the same address go along in its message, and from then on with it (`others`). `mode` is live or dry-run;
    with the switch off nothing is claimed.
    """
    claimed = db.maps(_CLAIM, channel, MOST_TOGETHER - 1, FEWEST_TOGETHER, LEASE, place)
    if not claimed:
        return None
    (delivery,) = claimed
    delivery["others"] = db.maps(
        f"""select n.title, n.subject, n.created_at, {MUTED.format(now="now()")} as muted
            from delivery d join notification n on n.id = d.notification_id where d.leader_id = %s""",
        delivery["id"],
    )
    return delivery


_CLAIM = f"""
with first as materialized (
  select id, notification_id, target, channel, tries from delivery
  where channel = %s and state in ('pending', 'sending', 'failed') and due_at <= now()
    and (select mode <> 'off' from delivery_switch)
  order by due_at, id limit 1 for update skip locked
), others as materialized (
  select d.id from first f join notification fn on fn.id = f.notification_id
    join delivery d on d.channel = f.channel and d.target = f.target and d.id <> f.id
    join notification n on n.id = d.notification_id
  where d.state = 'pending' and d.tries = 0 and f.tries = 0 and n.kind = fn.kind
    and n.user_id = fn.user_id and n.severity = fn.severity and n.severity <> 'critical'
    -- What was put back may have arrived all the same, under its own key; who leads stays with those it has.
    and not exists (select from delivery_try where delivery_id in (d.id, f.id))
    and not exists (select from delivery where leader_id in (d.id, f.id))
  order by d.id limit %s for update of d skip locked
), bundled as (
  update delivery d set state = 'bundled', leader_id = f.id from first f
  where d.id in (select id from others) and (select count(*) + 1 from others) >= %s
)
update delivery d
set state = 'sending', tries = d.tries + 1, tried_at = now(), due_at = now() + %s, reason = null
from first f join notification n on n.id = f.notification_id join app_user u on u.id = n.user_id
  cross join delivery_switch s
  left join target t on t.user_id = n.user_id and t.channel = f.channel and t.address = f.target
  left join quiet_hours q on q.user_id = n.user_id and {HELD_BACK}
where d.id = f.id
returning d.id, d.channel, d.key, d.target, d.tries, d.tried_at, n.user_id, n.kind, n.severity, n.subject, n.title,
  n.data, n.created_at, u.email, u.zone, t.secret, t.verified_at, t.off_reason, s.link_key, q.from_time, q.until_time,
  {MUTED.format(now="now()")} as muted, {UNWANTED.format(channel="f.channel")} as unwanted,
  exists (select from delivery_try where delivery_id = d.id and outcome = 'put_back') as put_back,
  case when s.mode = 'live' and s.place = %s and s.place <> '' then 'live' else 'dry-run' end as mode
"""


def close_try(
    delivery: dict[str, Any],
    outcome: str,
    *,
    error: str | None = None,
    wait: timedelta | None = None,
    receipt: str | None = None,
) -> bool:
    """Record what came of a claimed delivery: sent, dry, dead, failed (tried again after `wait`) or put_back.

    Those that went in its message end with it. False, and all is left alone, if another worker has claimed it since.
    """
    return bool(
        db.rows(
            """with tried as (
                 insert into delivery_try (delivery_id, number, started_at, outcome, error, receipt)
                 values (%s, %s, %s, %s, %s, %s)
               ), ours as (
                 update delivery set
                   state = case %s when 'put_back' then 'pending' else %s end,
                   tries = tries - case %s when 'put_back' then 1 else 0 end,
                   reason = %s, due_at = now() + coalesce(%s, interval '0'),
                   ended_at = case when %s in ('sent', 'dead', 'dry') then clock_timestamp() end
                 where id = %s and state = 'sending' and tries = %s and tried_at = %s
                 returning id, state, reason, tried_at, ended_at
               ), along as (
                 update delivery d set state = o.state, reason = o.reason, tried_at = o.tried_at, ended_at = o.ended_at
                 from ours o where d.leader_id = o.id and d.state = 'bundled' and o.ended_at is not null)
               select 1 from ours""",
            *(delivery["id"], delivery["tries"], delivery["tried_at"], outcome, error, receipt),
            *(outcome, outcome, outcome, error, wait, outcome),
            *(delivery["id"], delivery["tries"], delivery["tried_at"]),
        )
    )


def postpone(delivery: dict[str, Any], wait: timedelta, reason: str, state: str = "pending") -> None:
    """A claimed delivery was not tried, as its turn comes later; `held`: it is looked at again before it goes."""
    db.rows(
        """update delivery set state = %s, tries = tries - 1, due_at = now() + %s, reason = %s
           where id = %s and state = 'sending' and tries = %s and tried_at = %s""",
        *(state, wait, reason, delivery["id"], delivery["tries"], delivery["tried_at"]),
    )


def hold_back(delivery: dict[str, Any], wait: timedelta, pace: timedelta) -> None:
    """What else is due at the address of a delivery waits as long as it does, and then goes one each `pace`."""
    db.rows(
        """with due as materialized (
             select id, due_at from delivery where channel = %s and target = %s and state in ('pending', 'failed')
               and id <> %s and due_at < now() + %s order by due_at, id for update skip locked)
           update delivery d set due_at = now() + %s + n * %s
           from (select id, row_number() over (order by due_at, id) as n from due) o where d.id = o.id""",
        *(delivery["channel"], delivery["target"], delivery["id"], wait, wait, pace),
    )


def bury(max_tries: int) -> list[dict[str, Any]]:
    """Give up deliveries that were cut off at every try, and those that are news no more; returns them."""
    return db.maps(
        """with given_up as (
             update delivery set state = 'dead', ended_at = now(), reason = case
               when expires_at <= now() then coalesce('too late: ' || reason, 'too late')
               else 'cut off ' || tries || ' times' end
             where (state in ('pending', 'sending', 'failed') or state = 'held')  -- each half has its index
               and due_at <= now()
               and (expires_at <= now() or state = 'sending' and tries >= %s)
             returning id, channel, reason, ended_at
           ), along as (
             update delivery d set state = 'dead', ended_at = g.ended_at, reason = g.reason
             from given_up g where d.leader_id = g.id and d.state = 'bundled'
             returning d.id, d.channel, d.reason)
           select id, channel, reason from given_up union all select * from along""",
        max_tries,
    )


def awake_channels(channels: Collection[str]) -> dict[str, int]:
    """Those of the channels that have something due and do not rest, each with how often in a row it had to."""
    found = db.rows(
        """select c.name, coalesce(r.failures, 0) from unnest(%s::text[]) with ordinality as c(name, n)
             left join channel r on r.name = c.name
           where exists (select from delivery where channel = c.name and state in ('pending', 'sending', 'failed')
                         and due_at <= now())
             and (r.off_until is null or r.off_until <= now())
           order by c.n""",
        list(channels),
    )
    return dict(found)


def lay_to_rest(channel: str, rest: timedelta, reason: str) -> None:
    """Let a channel rest: nothing is sent on it for a while."""
    db.rows(
        """insert into channel as c (name, off_until, failures, reason) values (%s, now() + %s, 1, %s)
           on conflict (name) do update
           set off_until = excluded.off_until, failures = c.failures + 1, reason = excluded.reason""",
        channel,
        rest,
        reason,
    )


def wake(channel: str) -> bool:
    """A channel works again; False if it was not known to rest."""
    return bool(
        db.rows(
            """update channel set off_until = null, failures = 0, reason = null
               where name = %s and failures > 0 returning 1""",
            channel,
        )
    )


def summary(channels: Collection[str]) -> list[dict[str, Any]]:
    """Each channel: what waits, what ended within a day, and its rest."""
    return db.maps(
        """select c.name as channel, w.waits, w.held, e.sent, e.dead, e.skipped, e.dry,
             case when r.off_until > now() then r.off_until end as off_until,
             case when r.off_until > now() then r.reason end as reason
           from unnest(%s::text[]) with ordinality as c(name, n) left join channel r on r.name = c.name
             cross join lateral (
               select count(*) filter (where state <> 'held') as waits, count(*) filter (where state = 'held') as held
               from delivery where channel = c.name and (state in ('pending', 'sending', 'failed') or state = 'held')) w
             cross join lateral (
               select count(*) filter (where state = 'sent') as sent, count(*) filter (where state = 'dead') as dead,
                 count(*) filter (where state = 'skipped') as skipped, count(*) filter (where state = 'dry') as dry
               from delivery where channel = c.name and ended_at > now() - interval '1 day') e
           order by c.n""",
        list(channels),
    )


def standing() -> dict[str, Any]:
    """What stands in the way of all messages: the switch, and channels that rest."""
    resting = db.maps("select name, reason, off_until from channel where off_until > now() order by name")
    return {"off": bool(db.rows("select 1 from delivery_switch where mode = 'off'")), "resting": resting}
