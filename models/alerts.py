"""Alerts, what each waits for, when each fired, and whose they are."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from peewee import BigIntegerField, BooleanField, DecimalField, IntegerField, TextField
from playhouse.postgres_ext import BinaryJSONField

import db
from domain.alerts import Rule, first_watch, true_at_once
from models import triggers
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
    """A rule of a user on a symbol.

    Insert one (it is `new`) and the next check, two seconds later at most, makes it `active`, or fires it if it is
    a level that holds already. Set the status to `removed` to end it; nothing else of it is yours to change.
    """

    app_may = "select, insert (user_id, symbol, kind, direction, level, frequency), update (status)"

    id = BigIntegerField(primary_key=True)
    user_id = BigIntegerField()
    symbol = TextField()
    kind = TextField()  # above, below, crosses
    direction = TextField(null=True)  # of crosses: either, up, down
    level = DecimalField()
    frequency = TextField()  # once
    status = TextField()  # new, active, triggered, removed
    trigger_count = IntegerField()
    last_triggered_at = InstantField(null=True)  # when the price that fired it was so
    created_at = InstantField()


class AlertWatch(db.BaseModel):
    """What an active alert waits for next; the rows that a price has reached are the ones that fire."""

    alert_id = BigIntegerField(primary_key=True)
    symbol = TextField()
    direction = TextField()  # up, down, either
    arms = BooleanField()
    level = DecimalField()
    since = InstantField()  # only prices that happened later count


class AlertTrigger(db.BaseModel):
    """One firing, with all that it was decided on."""

    app_may = "select"

    id = BigIntegerField(primary_key=True)
    alert_id = BigIntegerField()
    number = IntegerField()
    user_id = BigIntegerField()
    symbol = TextField()
    price = DecimalField()
    previous = DecimalField(null=True)
    happened_at = InstantField()
    received_at = InstantField()
    source = TextField()
    rule = BinaryJSONField(index=False)
    fired_at = InstantField()


class Created(NamedTuple):
    """A new alert, and whether it fired there and then."""

    id: int
    fired: bool


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


def create_alert(user_id: int, symbol: str, rule: Rule, now: datetime) -> Created:
    """Make an alert; a level rule that is already true fires at once, in the same transaction.

    The quote stays locked meanwhile: every later tick is later than the one that the alert was made against.
    Raises LookupError for a symbol that is not followed.
    """
    with db.transaction():
        quote = db.rows(
            """select case when q.state = 'fresh' and q.stale_at > %s then q.price end, q.happened_at
               from quote q join instrument i using (symbol) where symbol = %s and i.active for share of q""",
            now,
            symbol,
        )
        if not quote:
            raise LookupError(f"{symbol} is not followed: add it with `nightdesk prices add {symbol}`")
        ((alert_id,),) = db.rows(
            """insert into alert (user_id, symbol, kind, direction, level, status)
               values (%s, %s, %s, %s, %s, 'active') returning id""",
            *(user_id, symbol, rule.kind, rule.direction, rule.level),
        )
        price, happened_at = quote[0]
        fired = _watch(alert_id, symbol, rule, price, happened_at)
    return Created(alert_id, fired)


def adopt(now: datetime, limit: int = 500) -> int:
    """Make the alerts that the served app has inserted watch for their prices, as `create_alert` does; how many."""
    with db.transaction():
        new = db.rows(
            """select a.id, a.symbol, a.kind, a.level, a.direction,
                      case when q.state = 'fresh' and q.stale_at > %s then q.price end, q.happened_at
               from alert a join quote q using (symbol) where a.status = 'new'
               order by a.id limit %s for update of a skip locked for share of q""",
            now,
            limit,
        )
        db.rows("update alert set status = 'active' where id = any(%s)", [row[0] for row in new])
        for alert_id, symbol, kind, level, direction, price, happened_at in new:
            _watch(alert_id, symbol, Rule(kind, level, direction), price, happened_at)
    return len(new)


def _watch(
    alert_id: int,
    symbol: str,
    rule: Rule,
    price: Decimal | None,
    happened_at: datetime | None,
) -> bool:
    """Wait for the alert's price from now on, or fire it if it holds already (True)."""
    watch = first_watch(rule, price)
    db.rows(
        "insert into alert_watch values (%s, %s, %s, %s, %s, coalesce(%s, timestamptz '-infinity'))",
        *(alert_id, symbol, watch.direction, watch.arms, rule.level, happened_at),
    )
    return true_at_once(rule, price) and bool(triggers.fire_at_once(alert_id))


def remove_alert(alert_id: int) -> bool:
    """An alert waits for nothing any more; its history stays. False if there is none or it was removed before."""
    with db.transaction():
        db.rows("delete from alert_watch where alert_id = %s", alert_id)
        return bool(
            db.rows("update alert set status = 'removed' where id = %s and status <> 'removed' returning 1", alert_id)
        )


def alerts(now: datetime, *, email: str | None = None, alert_id: int | None = None) -> list[dict[str, Any]]:
    """Alerts that were not removed, newest first, each with its symbol's price and that price's age and state."""
    return db.maps(
        """select a.id, u.external_id as "user", u.email, a.symbol, a.kind, a.direction, a.level, a.frequency, a.status,
                  case when w.arms then 'the near side' when w.alert_id is not null then 'the level' end as waits_for,
                  a.trigger_count, a.last_triggered_at, a.created_at, q.price, t.now - q.happened_at as age,
                  case when not i.active then 'unfollowed' when q.stale_at <= t.now then 'stale'
                       else q.state end as state
           from alert a join app_user u on u.id = a.user_id join instrument i using (symbol) join quote q using (symbol)
                left join alert_watch w on w.alert_id = a.id, cast(%s as timestamptz) as t(now)
           where a.status <> 'removed' and (%s::text is null or lower(u.email) = lower(%s))
             and (%s::bigint is null or a.id = %s) order by a.id desc""",
        *(now, email, email, alert_id, alert_id),
    )
