"""What users are told: in the app at once, and on other channels by deliveries that are tried until they end.

Whoever has news for a user inserts one row into `notification`, in the transaction of the fact that it tells:

    tell(user_id, "deposit", "0.5 BTC are credited", subject="BTC", key=f"deposit-{deposit_id}",
         data={"details": [["Amount", "0.5 BTC"], ["Credited", {"at": "2026-11-26T12:00:00+00:00"}]]})

    insert into notification (user_id, kind, severity, subject, title, data, key)
    select user_id, 'order', 'info', symbol, symbol || ' has expired', jsonb_build_object('order_id', id),
           'order-expired-' || id
    from expired on conflict (key) do nothing

`kind` is what a user may want on one channel and not on another: the area's word (alert, order, deposit …; `system` is
the desk speaking of itself). `severity` warning or critical may break through a user's quiet hours. `subject` is what
a user may mute: a symbol, mostly. `key` makes sure that the same news is told once. A message on a channel is the
title and the `details` of `data`, pairs of label and value, in which `{"at": instant}` is shown in the user's zone;
the rest of `data` is for the app. After `expires_at` (a day, by default) it is not sent any more. The deliveries are
routing's business: never insert them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from json import dumps
from typing import Any

from peewee import BigIntegerField, CompositeKey, IntegerField, TextField, UUIDField
from playhouse.postgres_ext import BinaryJSONField

import db
from models.fields import InstantField


class Notification(db.BaseModel):
    """What a user sees in the app; written in the transaction of the fact that it tells. Set `read_at` when it is."""

    app_may = "select, update (read_at)"

    id = BigIntegerField(primary_key=True)
    user_id = BigIntegerField()
    kind = TextField()  # alert, order, deposit, system …: the area's word
    severity = TextField()  # info, warning, critical
    subject = TextField(null=True)  # the symbol, say
    title = TextField()
    data = BinaryJSONField(index=False)
    key = TextField(null=True, unique=True)
    created_at = InstantField()
    expires_at = InstantField()
    routed_at = InstantField(null=True)
    read_at = InstantField(null=True)


class Delivery(db.BaseModel):
    """A notification on its way to a user over one channel to one address: one row for each."""

    app_may = "select"

    id = BigIntegerField(primary_key=True)
    notification_id = BigIntegerField()
    channel = TextField()  # email, console
    target = TextField()
    key = UUIDField()  # the same over all tries
    state = TextField()  # pending, sending, sent, failed (will be tried again), dead
    tries = IntegerField()
    due_at = InstantField()  # while sending: when its worker must have died
    error = TextField(null=True)
    created_at = InstantField()
    tried_at = InstantField(null=True)
    ended_at = InstantField(null=True)


class DeliveryTry(db.BaseModel):
    """One try of a delivery and what came of it; a try without a row was cut off."""

    delivery_id = BigIntegerField()
    number = IntegerField()
    started_at = InstantField()
    ended_at = InstantField()
    outcome = TextField()  # sent, failed, dead, put_back
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


BATCH = 1000  # notifications that are routed by one statement
LEASE = timedelta(minutes=2)  # longer than any job that sends may take
OF_USE = timedelta(days=1)  # what could not be sent for so long is news no more


def tell(
    user_id: int,
    kind: str,
    title: str,
    *,
    severity: str = "info",
    subject: str | None = None,
    data: Mapping[str, Any] | None = None,
    key: str | None = None,
) -> int | None:
    """Tell a user something, in the open transaction; returns the notification, None if its key was told before."""
    told = db.rows(
        """insert into notification (user_id, kind, severity, subject, title, data, key)
           values (%s, %s, %s, %s, %s, %s, %s) on conflict (key) do nothing returning id""",
        *(user_id, kind, severity, subject, title, dumps(data or {}, default=str), key),
    )
    return int(told[0][0]) if told else None


def route(channels: Collection[str]) -> Iterator[int]:
    """Make the deliveries of what was told since the last time, oldest first; how many at a time."""
    full = True
    while full:
        ((routed,),) = db.rows(_ROUTE, BATCH, list(channels))
        full = routed == BATCH
        if routed:
            yield routed


_ROUTE = """
with new as materialized (
  select id, user_id from notification where routed_at is null order by id limit %s for update skip locked
), routed as (
  update notification n set routed_at = now() from new where n.id = new.id returning n.id, n.user_id
), made as (
  insert into delivery (notification_id, channel, target)
  select r.id, c.channel, case c.channel when 'email' then u.email else u.external_id end
  from routed r join app_user u on u.id = r.user_id cross join unnest(%s::text[]) as c(channel)
  where c.channel <> 'email' or u.email is not null
)
select count(*) from routed
"""


def claim(channel: str) -> dict[str, Any] | None:
    """Take the delivery that is due first on a channel, with all that its message needs; None if none is due.

    One at a time: whoever dies while sending leaves one delivery in doubt and holds up no other. It is
    due again when the lease ends. The database's clock counts, since workers compare it with their own.
    """
    claimed = db.maps(
        """update delivery d
           set state = 'sending', tries = d.tries + 1, tried_at = now(), due_at = now() + %s, error = null
           from notification n join app_user u on u.id = n.user_id
           where n.id = d.notification_id and d.id = (
             select id from delivery
             where channel = %s and state in ('pending', 'sending', 'failed') and due_at <= now()
             order by due_at, id limit 1 for update skip locked)
           returning d.id, d.channel, d.key, d.target, d.tries, d.tried_at,
             n.kind, n.title, n.data, n.created_at, u.zone""",
        LEASE,
        channel,
    )
    return claimed[0] if claimed else None


def close_try(
    delivery: dict[str, Any],
    outcome: str,
    *,
    error: str | None = None,
    wait: timedelta | None = None,
    receipt: str | None = None,
) -> bool:
    """Record what came of a claimed delivery: sent, dead, failed (tried again after `wait`) or put_back (not tried).

    False, and the delivery is left alone, if another worker has claimed it since.
    """
    return bool(
        db.rows(
            """with tried as (
                 insert into delivery_try (delivery_id, number, started_at, outcome, error, receipt)
                 values (%s, %s, %s, %s, %s, %s))
               update delivery set
                 state = case %s when 'put_back' then 'pending' else %s end,
                 tries = tries - case %s when 'put_back' then 1 else 0 end,
                 error = %s, due_at = now() + coalesce(%s, interval '0'),
                 ended_at = case when %s in ('sent', 'dead') then clock_timestamp() end
               where id = %s and state = 'sending' and tries = %s and tried_at = %s returning 1""",
            *(delivery["id"], delivery["tries"], delivery["tried_at"], outcome, error, receipt),
            *(outcome, outcome, outcome, error, wait, outcome),
            *(delivery["id"], delivery["tries"], delivery["tried_at"]),
        )
    )


def bury(max_tries: int) -> list[dict[str, Any]]:
    """Give up deliveries that were cut off at every try, and those that are news no more; returns them."""
    return db.maps(
        """update delivery set state = 'dead', ended_at = now(), error = case
             when created_at < now() - %s then coalesce('too late: ' || error, 'too late')
             else 'cut off ' || tries || ' times' end
           where state in ('pending', 'sending', 'failed') and due_at <= now()
             and (created_at < now() - %s or state = 'sending' and tries >= %s)
           returning id, channel, error""",
        OF_USE,
        OF_USE,
        max_tries,
    )


def awake_channels(channels: Collection[str]) -> list[str]:
    """Those of the channels that have something due and do not rest."""
    found = db.rows(
        """select c.name from unnest(%s::text[]) with ordinality as c(name, n)
           where exists (select from delivery where channel = c.name and state in ('pending', 'sending', 'failed')
                         and due_at <= now())
             and not exists (select from channel r where r.name = c.name and r.off_until > now())
           order by c.n""",
        list(channels),
    )
    return [name for (name,) in found]


def failures_of(channel: str) -> int:
    """How often in a row nothing could be sent on a channel."""
    return sum(failures for (failures,) in db.rows("select failures from channel where name = %s", channel))


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


def of_user(user_id: int | None, limit: int) -> list[dict[str, Any]]:
    """The newest notifications of one user, or of everybody for None."""
    return db.maps(
        """select id, user_id, kind, title, data, created_at, read_at from notification
           where %s::bigint is null or user_id = %s order by id desc limit %s""",
        *(user_id, user_id, limit),
    )
