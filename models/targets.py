"""Where each user is reached, what they want to hear there and when not, and whether anybody is reached at all."""

from __future__ import annotations

import re
from datetime import time
from typing import Any

from peewee import BigIntegerField, BooleanField, CompositeKey, TextField, TimeField

import db
from models import runs
from models.fields import InstantField


class Target(db.BaseModel):
    """An address of a user: a chat, a webhook, another mailbox. Nothing goes there before `verified_at` is set.

    Set it when the user has shown that it is theirs (by a code that your app has sent there, or their login). The
    address in `app_user.email` counts as verified and needs no row. `off_at` is set when an address takes nothing any
    more (the bot was blocked, the webhook is gone), and the user is told; set both to null to try again. `secret` is
    for the owner of a webhook: it signs what is sent there.
    """

    app_may = (
        "select, insert (user_id, channel, address, verified_at), update (verified_at, off_at, off_reason), delete"
    )

    user_id = BigIntegerField()
    channel = TextField()  # email, telegram, line, discord, webhook, apprise
    address = TextField()  # a mail address, a chat's id, a LINE user's id, a URL
    secret = TextField()
    verified_at = InstantField(null=True)
    off_at = InstantField(null=True)
    off_reason = TextField(null=True)
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("user_id", "channel", "address")


class Preference(db.BaseModel):
    """Whether a user wants a kind of notification on a channel. No row: yes; kind `*`: all that have no own row."""

    app_may = "select, insert, update, delete"

    user_id = BigIntegerField()
    kind = TextField()
    channel = TextField()
    wanted = BooleanField()

    class Meta:
        primary_key = CompositeKey("user_id", "kind", "channel")


class Mute(db.BaseModel):
    """A subject (a symbol, say) of which a user wants to hear in the app alone, for good or until an instant."""

    app_may = "select, insert, update, delete"

    user_id = BigIntegerField()
    subject = TextField()
    until = InstantField(null=True)

    class Meta:
        primary_key = CompositeKey("user_id", "subject")


class QuietHours(db.BaseModel):
    """Clock times in the user's zone between which nothing is sent but what is urgent enough to break through."""

    app_may = "select, insert, update, delete"

    user_id = BigIntegerField(primary_key=True)
    from_time = TimeField()
    until_time = TimeField()  # earlier than from_time: on the next day
    breaks_through = TextField(null=True)  # warning, critical; none: nothing

    class Meta:
        table_name = "quiet_hours"


class DeliverySwitch(db.BaseModel):
    """Who may be reached from here: one row. `live` holds for the desk whose PUBLIC_URL is `place`, and no other."""

    id = BooleanField(primary_key=True)
    mode = TextField()  # live, dry-run, off
    place = TextField()
    who = TextField(null=True)
    changed_at = InstantField(null=True)
    link_key = TextField()  # signs the links with which users unsubscribe

    class Meta:
        table_name = "delivery_switch"


# Of a notification `n`: whether its user wants none of its kind on a channel, has muted its subject, and whether quiet
# hours `q` hold it.
UNWANTED = """
  not coalesce((select p.wanted from preference p
                where p.user_id = n.user_id and p.channel = {channel} and p.kind in (n.kind, '*')
                order by p.kind = '*' limit 1), true)
"""
MUTED = """
  exists (select from mute m where m.user_id = n.user_id and m.subject = n.subject
          and (m.until is null or m.until > {now}))
"""
HELD_BACK = """
  (n.severity = 'info' or q.breaks_through is null or q.breaks_through = 'critical' and n.severity <> 'critical')
"""


def add(user_id: int, channel: str, address: str, *, verified: bool) -> None:
    """Reach a user at another address; one that was off is tried again. Raises ValueError for what is no address."""
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f]{1,2000}", address):
        raise ValueError("an address has no spaces, and at most 2000 characters")
    db.rows(
        """insert into target (user_id, channel, address, verified_at)
           values (%s, %s, %s, case when %s then now() end)
           on conflict (user_id, channel, address) do update set off_at = null, off_reason = null,
             verified_at = coalesce(target.verified_at, excluded.verified_at)""",
        *(user_id, channel, address, verified),
    )


def remove(user_id: int, channel: str, address: str) -> bool:
    """Reach a user there no more; False if there was no such address."""
    return bool(
        db.rows(
            "delete from target where user_id = %s and channel = %s and address = %s returning 1",
            *(user_id, channel, address),
        )
    )


def move(user_id: int, channel: str, address: str, to: str) -> None:
    """An address has become another one: what waits for it goes there too."""
    db.rows(
        """with gone as (delete from target where user_id = %s and channel = %s and address = %s returning *)
           insert into target select user_id, channel, %s, secret, verified_at, off_at, off_reason, created_at from gone
           on conflict do nothing""",
        *(user_id, channel, address, to),
    )
    db.rows(
        """update delivery d set target = %s from notification n
           where d.channel = %s and d.target = %s and d.state in ('held', 'pending', 'sending', 'failed', 'bundled')
             and n.id = d.notification_id and n.user_id = %s
             and not exists (select from delivery o where o.notification_id = d.notification_id
                             and o.channel = d.channel and o.target = %s)""",
        *(to, channel, address, user_id, to),
    )


def turn_off(user_id: int, channel: str, address: str, reason: str) -> bool:
    """An address takes nothing any more: what waits for it is given up. False if it was off before."""
    with db.transaction():
        db.rows(
            """with ended as (
                 update delivery d set state = 'dead', ended_at = now(), reason = %s from notification n
                 where d.channel = %s and d.target = %s and d.state in ('pending', 'failed', 'held')
                   and n.id = d.notification_id and n.user_id = %s
                 returning d.id, d.reason
               )
               update delivery d set state = 'dead', ended_at = now(), reason = e.reason
               from ended e where d.leader_id = e.id and d.state = 'bundled'""",
            *(f"the address is off: {reason}", channel, address, user_id),
        )
        return bool(
            db.rows(
                """insert into target (user_id, channel, address, verified_at, off_at, off_reason)
                   values (%s, %s, %s, now(), now(), %s) on conflict (user_id, channel, address) do update
                   set off_at = excluded.off_at, off_reason = excluded.off_reason where target.off_at is null
                   returning 1""",
                *(user_id, channel, address, reason),
            )
        )


def of_user(user_id: int) -> list[dict[str, Any]]:
    """A user's addresses, that of app_user among them."""
    return db.maps(
        """select channel, address, verified_at, off_at, off_reason from target where user_id = %s
           union all
           select 'email', email, created_at, null, null from app_user u where id = %s and email is not null
             and not exists (select from target t where t.user_id = u.id and t.channel = 'email'
                             and t.address = u.email)
           order by 1, 2""",
        *(user_id, user_id),
    )


def want(user_id: int, kind: str, channel: str, wanted: bool) -> None:
    """What a user wants on a channel; `*` for every kind that has no answer of its own."""
    db.rows(
        """insert into preference values (%s, %s, %s, %s)
           on conflict (user_id, kind, channel) do update set wanted = excluded.wanted""",
        *(user_id, kind, channel, wanted),
    )


def be_quiet(user_id: int, start: time, end: time, breaks_through: str | None = "critical") -> None:
    """A user's quiet hours, by the clock of their zone."""
    db.rows(
        """insert into quiet_hours values (%s, %s, %s, %s) on conflict (user_id) do update
           set from_time = excluded.from_time, until_time = excluded.until_time,
             breaks_through = excluded.breaks_through""",
        *(user_id, start, end, breaks_through),
    )


def switch() -> dict[str, Any]:
    """Mode, place, who and when."""
    return db.maps("select mode, place, who, changed_at from delivery_switch")[0]


def turn_switch(mode: str, place: str, who: str) -> None:
    """Live (for the desk at `place`), dry-run or off, from the next message on; with its audit row."""
    with db.transaction():
        before = switch()
        db.rows("update delivery_switch set mode = %s, place = %s, who = %s, changed_at = now()", mode, place, who)
        runs.audit(who, "deliver", mode, {"mode": before["mode"], "place": before["place"]}, {"place": place})


def is_new() -> bool:
    """Whether nobody was ever to be reached from this database: no delivery yet, and nobody has turned the switch."""
    ((new,),) = db.rows("select changed_at is null and not exists (select from delivery) from delivery_switch")
    return bool(new)


def link_key() -> str:
    """What signs the links with which users unsubscribe."""
    return str(db.rows("select link_key from delivery_switch")[0][0])
