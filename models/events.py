"""Events are facts: rows with a position. Written with what they tell of, read by position."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from peewee import BigIntegerField, CompositeKey, TextField
from playhouse.postgres_ext import BinaryJSONField

import db
from models.fields import InstantField, Xid8Field

FLOOR = "event.floor"  # reader_position of the last event that was dropped


class Position(NamedTuple):
    """How far a reader is in a stream: `(xid, id)`, never a serial id or a clock (those lose rows)."""

    xid: int
    id: int


class Event(db.BaseModel):
    """A fact that something happened: a trigger, an expiry, a credit, a failed run.

    Ordered by `(xid, id)`, never by `id` or `created_at` alone; read only rows whose `xid` is older than
    `pg_snapshot_xmin(pg_current_snapshot())`, or rows that commit late are lost. Kept EVENT_DAYS.
    """

    app_may = "select"

    id = BigIntegerField()
    xid = Xid8Field()
    created_at = InstantField()
    topic = TextField()
    user_id = BigIntegerField(null=True)  # whose it is; nobody's = everybody's
    payload = BinaryJSONField(index=False)

    class Meta:
        primary_key = CompositeKey("created_at", "id")


class ReaderPosition(db.BaseModel):
    """Where a named incremental reader stopped; moved in the transaction of what it did with the rows."""

    reader = TextField(primary_key=True)
    xid = Xid8Field()
    id = BigIntegerField()


def add(topic: str, payload: Any, user_id: int | None) -> None:
    """Append one event in the open transaction."""
    from json import dumps

    db.rows(
        "insert into event (topic, user_id, payload) values (%s, %s, %s)", topic, user_id, dumps(payload, default=str)
    )


def after(position: Position, limit: int = 500) -> list[dict[str, Any]]:
    """Events behind `position`, oldest first: only what no open transaction can still precede."""
    return db.maps(
        """select e.xid::text::bigint as xid, e.id, e.created_at, e.topic, e.user_id, e.payload from event e
           where (e.xid, e.id) > (%s::text::xid8, %s) and e.xid < pg_snapshot_xmin(pg_current_snapshot())
           order by e.xid, e.id limit %s""",
        str(position.xid),
        position.id,
        limit,
    )


def remember_floor(before: datetime) -> None:
    """Before events older than `before` go: note the last of them, so that whoever resumes behind it is told."""
    db.rows(
        """insert into reader_position (reader, xid, id)
           select %s, xid, id from event where created_at < %s order by xid desc, id desc limit 1
           on conflict (reader) do update set xid = excluded.xid, id = excluded.id""",
        FLOOR,
        before,
    )


def is_too_old(position: Position) -> bool:
    """Whether events behind `position` are no longer kept."""
    found = db.rows("select xid::text::bigint, id from reader_position where reader = %s", FLOOR)
    return bool(found) and position < Position(*found[0])


def tail() -> Position:
    """The position that is behind everything visible now."""
    (xmin,) = db.rows("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")[0]
    return Position(xmin - 1, 2**62)
