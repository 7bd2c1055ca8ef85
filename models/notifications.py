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

from collections.abc import Iterator, Mapping
from datetime import datetime
from json import dumps
from typing import Any

from peewee import BigIntegerField, TextField
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


def of_user(user_id: int | None, limit: int) -> list[dict[str, Any]]:
    """The newest notifications of one user, or of everybody for None."""
    return db.maps(
        """select id, user_id, kind, title, data, created_at, read_at from notification
           where %s::bigint is null or user_id = %s order by id desc limit %s""",
        *(user_id, user_id, limit),
    )


BATCH = 5000  # rows that one statement looks at


def prune(before: datetime) -> Iterator[int]:
    """Delete what was told before, the oldest first, with its deliveries and their tries; how many at a time.

    Never one that is still on its way. Ids rise with time: the oldest are looked at, and no more.
    """
    gone = 1
    while gone:
        ((gone,),) = db.rows(
            """with old as materialized (
                 select o.id from (select id, created_at, routed_at from notification order by id limit %s) o
                 where o.created_at < %s and o.routed_at is not null
                   and not exists (select from delivery d where d.notification_id = o.id and d.ended_at is null)
               ), deliveries as (
                 delete from delivery where notification_id in (select id from old)
               ), gone as (
                 delete from notification where id in (select id from old) returning 1)
               select count(*) from gone""",
            *(BATCH, before),
        )
        yield gone


def prune_triggers(before: datetime) -> Iterator[int]:
    """Delete the firings of alerts from before, the oldest first; how many at a time."""
    gone = 1
    while gone:
        ((gone,),) = db.rows(
            """with gone as (
                 delete from alert_trigger where id in (
                   select id from (select id, fired_at from alert_trigger order by id limit %s) o where fired_at < %s)
                 returning 1)
               select count(*) from gone""",
            *(BATCH, before),
        )
        yield gone
