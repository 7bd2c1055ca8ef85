"""Alerts, what each waits for, when each fired, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from peewee import BigIntegerField, BooleanField, DateField, DecimalField, IntegerField, TextField
from playhouse.postgres_ext import BinaryJSONField, IntervalField

import db
from domain.alerts import Rule, check
from domain.measures import measure
from models import triggers
from models.adoption import Adopted, adopt
from models.fields import InstantField


class AppUser(db.BaseModel):
    """A user of the app that Nightdesk serves; `external_id` is the app's own. Never deleted."""

    app_may = "select, insert, update"

    id = BigIntegerField(primary_key=True)
    external_id = TextField(unique=True)
    email = TextField(null=True)
    zone = TextField()
    created_at = InstantField()


class Alert(db.BaseModel):
    """A rule of a user about a measure of a subject; docs/alerts.md says what there is.

    Insert one (it is `new`) and the next check, two seconds later at most, makes it `active`, fires it if it is a
    level that holds already, or says in `reason` why it is `refused`. Set the status to `paused` to let it rest, to
    `new` to take it up again, to `removed` to end it; nothing else of it is yours to change.
    """

    app_may = (
        "select, insert (user_id, type, subject, measure, condition, direction, level, base, frequency, bar, cooldown, "
        "expires_at), update (status)"
    )

    id = BigIntegerField(primary_key=True)
    user_id = BigIntegerField()
    type = TextField()  # price, stock_price, technical …
    subject = TextField()  # a symbol, mostly
    measure = TextField()  # price, rsi14 …
    condition = TextField()  # above, below, equals, crosses, percent_up, percent_down, happens, within
    direction = TextField(null=True)  # of crosses: either, up, down
    level = DecimalField()  # percent of a percentage, seconds of within, 0 of happens
    base = TextField(null=True)  # of a percentage: creation, close, 24h
    frequency = TextField()  # once, bar, close, every
    bar = TextField(null=True)  # 1m, 5m, 15m, 1h, 4h, 1d
    cooldown = IntervalField(null=True)  # of every
    expires_at = InstantField(null=True)
    status = TextField()  # new, active, triggered, paused, expired, refused, removed
    reason = TextField(null=True)  # why it is refused or paused
    stream = TextField(null=True)  # of values that it watches
    base_value = DecimalField(null=True)  # that a percentage since creation counts from
    target = DecimalField(null=True)  # what it waits for in the stream
    band = DecimalField(null=True)  # so far from it is still equal
    way_back = DecimalField(null=True)  # so far back it counts anew
    split_on = DateField(null=True)  # base_value and target are in the shares of this day
    silence = TextField(null=True)  # missing, stale: there is no fresh value, and its owner was told
    trigger_count = IntegerField()
    last_triggered_at = InstantField(null=True)  # when the value that fired it was so
    touches = IntegerField()  # how often its level was touched since it last fired, without firing it
    created_at = InstantField()
    due_at = InstantField(null=True)  # -infinity while it is new; its expiry while it is active


class AlertWatch(db.BaseModel):
    """What an active alert waits for next; the rows that a value has reached are the ones that fire."""

    alert_id = BigIntegerField(primary_key=True)
    subject = TextField()
    stream = TextField()
    direction = TextField()  # up, down, either, date
    arms = BooleanField()
    level = DecimalField()
    band = DecimalField()
    since = InstantField()  # only values that happened later count; of a date: when it is due
    target = DecimalField(null=True)


class AlertTrigger(db.BaseModel):
    """One firing, with all that it was decided on."""

    app_may = "select"

    id = BigIntegerField(primary_key=True)
    alert_id = BigIntegerField()
    number = IntegerField()
    user_id = BigIntegerField()
    subject = TextField()
    stream = TextField()
    value = DecimalField()
    previous = DecimalField(null=True)
    happened_at = InstantField()
    received_at = InstantField()
    source = TextField()
    about = TextField(null=True)  # of an event what it is; of a change `485.045 against 486.771 of` and an instant
    touches = IntegerField()
    rule = BinaryJSONField(index=False)
    waited = BinaryJSONField(index=False)
    fired_at = InstantField()


class Created(NamedTuple):
    """A new alert, and whether it fired there and then."""

    id: int
    fired: bool


def users_named(who: str) -> list[int]:
    """The users that are meant: by the app's id for them first, or by their mail address."""
    found = db.rows(
        "select id from app_user where external_id = %s or lower(email) = lower(%s) order by external_id <> %s, id",
        *(who, who, who),
    )
    return [user for (user,) in found]


def user_with(email: str, zone: str = "UTC") -> int:
    """The id of the user with this address, who is added if there is none."""
    known = db.rows("select id from app_user where lower(email) = lower(%s) order by id limit 1", email)
    if known:
        return int(known[0][0])
    ((added,),) = db.rows(
        """insert into app_user (external_id, email, zone) values (%s, %s, %s)
           on conflict (external_id) do update set email = excluded.email returning id""",
        email,
        email,
        zone,
    )
    return int(added)


def create_alert(
    user_id: int,
    subject: str,
    rule: Rule,
    now: datetime,
    *,
    type_: str = "price",
    measure_: str = "price",
    expires_at: datetime | None = None,
) -> Created:
    """Make an alert; a level rule that is already true fires at once, in the same transaction.

    Raises ValueError with the reason for one that makes no sense, and LookupError for an unknown subject.
    """
    check(rule, measure(type_, measure_))
    with db.transaction():
        ((alert_id,),) = db.rows(
            """insert into alert (user_id, type, subject, measure, condition, direction, level, base,
                                  frequency, bar, cooldown, expires_at)
               values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning id""",
            *(user_id, type_, subject, measure_, rule.condition, rule.direction, rule.level, rule.base),
            *(rule.frequency, rule.bar, rule.cooldown, expires_at),
        )
        adopted = adopt(now, only=alert_id)
        if adopted.refused:
            ((reason,),) = db.rows("select reason from alert where id = %s", alert_id)
            raise LookupError(reason)
    return Created(alert_id, bool(adopted.fired))


def remove_alert(alert_id: int) -> bool:
    """An alert waits for nothing any more; its history stays. False if there is none or it was removed before."""
    return _end(alert_id, "removed", None, ("new", "active", "triggered", "paused", "expired", "refused"))


def pause_alert(alert_id: int, reason: str) -> bool:
    """An alert rests until it is taken up again. False if it is not active."""
    return _end(alert_id, "paused", reason, ("new", "active"))


def _end(alert_id: int, status: str, reason: str | None, before: Sequence[str]) -> bool:
    """The watch first and then the alert, as when it fires: neither waits for the other in a circle."""
    with db.transaction():
        db.rows(
            """delete from alert_watch where alert_id = %s
               and exists (select from alert where id = %s and status = any(%s::text[]))""",
            *(alert_id, alert_id, list(before)),
        )
        ended = db.rows(
            "update alert set status = %s, reason = %s where id = %s and status = any(%s::text[]) returning 1",
            *(status, reason, alert_id, list(before)),
        )
    return bool(ended)


def resume_alert(alert_id: int, now: datetime) -> Adopted | None:
    """Take up a paused alert as if it were made now; None if it is not paused."""
    with db.transaction():
        resumed = db.rows("update alert set status = 'new' where id = %s and status = 'paused' returning 1", alert_id)
        return adopt(now, only=alert_id) if resumed else None


def expire(now: datetime) -> int:
    """End the alerts whose time is over; how many. Their watches go first, as when they fire."""
    with db.transaction():
        db.rows(
            """delete from alert_watch where alert_id in (
                 select w.alert_id from alert a join alert_watch w on w.alert_id = a.id
                 where a.status = 'active' and a.due_at <= %s
                 order by a.due_at limit 5000 for update of w skip locked)""",
            now,
        )
        ended = db.rows(
            """update alert set status = 'expired' where id = any(array(
                 select id from alert a where status = 'active' and due_at <= %s
                   and not exists (select from alert_watch w where w.alert_id = a.id)
                 order by due_at limit 5000 for update skip locked)) returning 1""",
            now,
        )
    return len(ended)


def divide_by_splits(now: datetime) -> int:
    """Bring the percentages that count from their creation into today's shares; how many alerts.

    Done in the night before the day of the split, when its market is closed, and never while a check looks at them.
    """
    with db.transaction():
        db.rows("select 1 from reader_position where reader = %s for update", triggers.READER)
        ((divided,),) = db.rows(
            """with due as materialized (
                 select a.id, product(s.ratio) as ratio, max(s.date) as date
                 from cast(%s as timestamptz) as t(now), split s join alert a on a.subject = s.symbol
                 where s.date between (t.now - interval '7 days')::date and (t.now + interval '2 hours')::date
                   and a.status = 'active' and a.base = 'creation' and a.measure = 'price'
                   and s.date > a.split_on
                 group by a.id
               ), divided as (
                 update alert a set base_value = a.base_value / d.ratio, target = a.target / d.ratio,
                   way_back = a.way_back / d.ratio, split_on = d.date
                 from due d where a.id = d.id returning a.id
               ), moved as (
                 update alert_watch w set level = w.level / d.ratio, band = w.band / d.ratio,
                   target = w.target / d.ratio
                 from due d where w.alert_id = d.id
               )
               select count(*) from divided""",
            now,
        )
    return int(divided)


def alerts(
    now: datetime, *, email: str | None = None, alert_id: int | None = None, limit: int = 500
) -> list[dict[str, Any]]:
    """Alerts that were not removed, newest first, each with the newest value of its stream, its age and state."""
    return db.maps(
        """select a.id, u.external_id as "user", u.email, a.type, a.subject, a.measure, a.condition, a.direction,
                  a.level, a.base, a.frequency, a.bar, a.cooldown, a.expires_at, a.status, a.reason, a.stream, a.target,
                  a.silence,
                  case when w.direction = 'date' then 'the date' when w.arms and a.trigger_count > 0 then 'the way back'
                       when w.arms then 'the near side' when w.alert_id is not null then 'the level' end as waits_for,
                  a.trigger_count, a.last_triggered_at, a.touches, a.created_at, v.value, t.now - v.happened_at as age,
                  case when not i.active then 'unfollowed' when v.value is null then 'missing'
                       when v.stale_at <= t.now then 'stale' else 'fresh' end as state
           from alert a join app_user u on u.id = a.user_id left join instrument i on i.symbol = a.subject
                left join newest v on v.subject = a.subject and v.stream = coalesce(a.stream, a.measure)
                left join alert_watch w on w.alert_id = a.id, cast(%s as timestamptz) as t(now)
           where a.status <> 'removed' and (%s::text is null or lower(u.email) = lower(%s))
             and (%s::bigint is null or a.id = %s) order by a.id desc limit %s""",
        *(now, email, email, alert_id, alert_id, limit),
    )


def trigger(trigger_id: int) -> dict[str, Any] | None:
    """One firing with all that it was decided on."""
    found = db.maps("select * from alert_trigger where id = %s", trigger_id)
    return found[0] if found else None
