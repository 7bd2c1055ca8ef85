"""Events are facts: rows with a position. Written with what they tell of, read by position."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from peewee import BigIntegerField, CompositeKey, TextField
from playhouse.postgres_ext import BinaryJSONField

import db
from models.fields import InstantField, Xid8Field

FLOOR = "event.floor"  # reader_position of the last event that was dropped
LAST_ID = 2**62  # behind every id
CLUSTER = "(select system_identifier from pg_control_system())"
FOREIGN = f"(f.cluster <> {CLUSTER} or f.xid >= pg_snapshot_xmax(pg_current_snapshot()))"  # a position f from elsewhere


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
    cluster = BigIntegerField()  # whose transactions it counts: a backup that is read in elsewhere brings it along


def hold(reader: str, *, wait: bool = False) -> Position | None:
    """Lock a reader's position for the transaction; None while another one has it, unless we are to `wait` for that.

    Raises LookupError where positions mean nothing, as the database was restored from a backup of another cluster:
    by the mark that they bear, for soon enough this cluster has counted on to where they are.
    """
    db.rows("insert into reader_position values (%s, '0', 0) on conflict do nothing", reader)
    held = db.rows(
        f"""select p.xid::text::bigint, p.id, exists (select from reader_position f where {FOREIGN})
            from reader_position p where p.reader = %s for update of p {"" if wait else "skip locked"}""",
        reader,
    )
    if held and held[0][2]:
        raise LookupError(
            f"the position of {reader} is of another cluster, as this database was restored from a backup:"
            " nothing is read before `nightdesk restore` was run"
        )
    return Position(*held[0][:2]) if held else None


def move(reader: str, position: Position) -> None:
    """Everything up to here is done with, in the transaction that holds the position."""
    db.rows(
        "update reader_position set xid = %s::text::xid8, id = %s where reader = %s",
        str(position.xid),
        position.id,
        reader,
    )


def add(topic: str, payload: Any, user_id: int | None) -> None:
    """Append one event in the open transaction."""
    from json import dumps

    db.rows(
        "insert into event (topic, user_id, payload) values (%s, %s, %s)", topic, user_id, dumps(payload, default=str)
    )


class Page(NamedTuple):
    """What one snapshot of the database says of a part of the stream."""

    rows: list[dict[str, Any]]  # oldest first, `payload` as JSON text: those that no open transaction can precede
    settled: Position  # nothing can come at or before it any more
    next_xid: int  # no position of this cluster is as far
    floor: Position  # events up to here may be gone
    is_full: bool  # there may be more of it
    is_held_back: bool  # committed events wait for an older transaction that is still open


def after(
    position: Position, limit: int = 500, user_id: int | None = None, public: frozenset[str] = frozenset()
) -> Page:
    """The first events behind `position`; with `user_id` that user's and, of the `public` topics, nobody's."""
    mine = ("and (e.user_id = %s or e.user_id is null and e.topic = any(%s::text[]))", user_id, db.array(public))
    whose, *who = mine if user_id is not None else ("",)
    behind = f"where (e.xid, e.id) > (%s::text::xid8, %s) {whose} order by e.xid, e.id limit %s"
    return _page(behind, limit, str(position.xid), position.id, *who)


def latest(limit: int) -> Page:
    """The newest events."""
    return _page("order by e.xid desc, e.id desc limit %s", limit)


def _page(which: str, limit: int, *parameters: Any) -> Page:
    rows = db.maps(
        f"""with seen as materialized (select pg_current_snapshot() as s)
            select pg_snapshot_xmin(seen.s)::text::bigint as xmin, pg_snapshot_xmax(seen.s)::text::bigint as xmax,
                   floor.xid::text::bigint as floor_xid, floor.id as floor_id, found.*
            from seen left join reader_position floor on floor.reader = '{FLOOR}' left join lateral (
              select e.xid::text::bigint as xid, e.id, e.created_at, e.topic, e.user_id, e.payload::text as payload
              from event e {which}) found on true
            order by found.xid, found.id""",
        *parameters,
        limit,
    )
    xmin, seen = rows[0]["xmin"], [row for row in rows if row["xid"] is not None]
    settled = [row for row in seen if row["xid"] < xmin]
    is_full = len(seen) == limit
    return Page(
        rows=settled,
        settled=Position(settled[-1]["xid"], settled[-1]["id"]) if settled and is_full else Position(xmin - 1, LAST_ID),
        next_xid=rows[0]["xmax"],
        floor=Position(rows[0]["floor_xid"] or 0, rows[0]["floor_id"] or 0),
        is_full=is_full,
        is_held_back=len(settled) < len(seen),
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
