"""Digests: who wants the day or the week summed up, when the next one is due, and what there is to say."""

from __future__ import annotations

from datetime import time

from peewee import BigIntegerField, CompositeKey, TextField, TimeField

import db
from models.fields import InstantField


class Digest(db.BaseModel):
    """A user who wants a digest, `daily` or `weekly`; delete the row and there are no more.

    At `at_time` in the user's zone, weekly ones on Sundays; none: 12:00 UTC, on Sundays 14:00 UTC. On which channels
    it goes is a preference like any other (kind `daily`, `weekly`).
    """

    app_may = "select, insert (user_id, kind, at_time), update (at_time, next_at), delete"

    user_id = BigIntegerField()
    kind = TextField()  # daily, weekly
    at_time = TimeField(null=True)
    next_at = InstantField(null=True)  # set it to null with a new at_time

    class Meta:
        primary_key = CompositeKey("user_id", "kind")


def want(user_id: int, kind: str, at: time | None) -> None:
    """A user wants a digest, or wants it at another time."""
    db.rows(
        """insert into digest (user_id, kind, at_time) values (%s, %s, %s)
           on conflict (user_id, kind) do update set at_time = excluded.at_time, next_at = null""",
        *(user_id, kind, at),
    )


def unwant(user_id: int, kind: str) -> None:
    """A user wants no more of a digest."""
    db.rows("delete from digest where user_id = %s and kind = %s", user_id, kind)
