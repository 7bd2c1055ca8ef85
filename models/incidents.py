"""Odd things on chains: recorded once each, for the operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peewee import CompositeKey, IntegerField, TextField

import db
from models.fields import InstantField


class ChainIncident(db.BaseModel):
    """Something odd on a chain, for the operator: one row for each thing."""

    chain = TextField()
    kind = TextField()
    subject = TextField()
    detail = TextField()
    count = IntegerField()  # how often it was met in other words
    first_at = InstantField()
    last_at = InstantField()

    class Meta:
        primary_key = CompositeKey("chain", "kind", "subject")


def record(chain: str, kind: str, subject: str, detail: str) -> bool:
    """Record something odd; False if it is known in these words."""
    return bool(
        db.rows(
            """insert into chain_incident as i (chain, kind, subject, detail) values (%s, %s, %s, %s)
               on conflict (chain, kind, subject) do update
               set detail = excluded.detail, count = i.count + 1, last_at = now() where i.detail <> excluded.detail
               returning 1""",
            *(chain, kind, subject, detail),
        )
    )


def stuck(found: Mapping[str, tuple[str, str]]) -> list[str]:
    """Record which deposits are stuck now (id to chain and detail), and forget those that are not any more.

    In the open transaction; returns the ids that were not stuck before.
    """
    db.rows(
        "delete from chain_incident where kind = 'stuck' and subject <> all(%s::text[])",
        db.array(found),
    )
    return [
        subject
        for subject, new in db.rows(
            """insert into chain_incident as i (chain, kind, subject, detail)
               select chain, 'stuck', subject, detail from unnest(%s::text[], %s::text[], %s::text[])
                                                             as f(subject, chain, detail) order by chain, subject
               on conflict (chain, kind, subject) do update set detail = excluded.detail, last_at = now()
               returning subject, xmax = 0""",
            db.array(found),
            *(db.array(values[n] for values in found.values()) for n in (0, 1)),
        )
        if new
    ]


def newest(limit: int) -> list[dict[str, Any]]:
    """The newest oddities of all chains."""
    return db.maps("select * from chain_incident order by last_at desc, chain, kind, subject limit %s", limit)
