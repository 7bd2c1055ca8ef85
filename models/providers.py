"""What outside services were asked for: the credits of a day and a month, which must outlive Redis."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from json import dumps

from peewee import BigIntegerField, CompositeKey, TextField

import db
from models.fields import InstantField


class ProviderUsage(db.BaseModel):
    """Credits spent with one provider in one calendar day or month of UTC."""

    provider = TextField()
    period = TextField()  # day, month
    started_at = InstantField()
    used = BigIntegerField()

    class Meta:
        primary_key = CompositeKey("provider", "period", "started_at")


def spend(provider: str, cost: int, periods: Sequence[tuple[str, datetime, int]]) -> set[str]:
    """Spend `cost` in each period `(period, started_at, ceiling)`, or in none: returns those that refused.

    The ceiling stands in the statement, so that racing workers never pass it. Raises RuntimeError inside
    a transaction: its rollback would give back credits that the provider has counted.
    """
    if db.database.in_transaction():
        raise RuntimeError(f"{provider} is asked inside a transaction: fetch first, then write")
    asked = [{"period": period, "started_at": at.isoformat(), "ceiling": ceiling} for period, at, ceiling in periods]
    with db.database.atomic() as attempt:
        passed = {period for (period,) in db.rows(_SPEND, dumps(asked), provider, cost, cost)}
        refused = {period for period, _, _ in periods} - passed
        if refused:
            attempt.rollback()
    return refused


_SPEND = """
with asked as (
  select * from jsonb_to_recordset(%s::jsonb) as a (period text, started_at timestamptz, ceiling bigint))
insert into provider_usage as u (provider, period, started_at, used)
select %s, period, started_at, %s from asked where ceiling >= %s order by period
on conflict (provider, period, started_at) do update set used = u.used + excluded.used
where u.used + excluded.used <= (select ceiling from asked where asked.period = u.period)
returning period
"""


def used(since: datetime) -> dict[tuple[str, str, datetime], int]:
    """Credits spent by (provider, period, start) in the periods that began at `since` or later."""
    found = db.rows("select provider, period, started_at, used from provider_usage where started_at >= %s", since)
    return {(provider, period, started_at): int(spent) for provider, period, started_at, spent in found}
