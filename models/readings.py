"""Readings: the values of whatever alerts are about besides prices; written by the areas, read by the check.

    readings.record([Reading("M123", "starts_at", Decimal(1_795_000_000), now, "fixtures")], now)

An area that has values for alerts calls `record` in its own transaction. Ticks of instruments are not written again:
the view `stream` shows them beside the readings, and the view `newest` quotes beside gauges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from peewee import BigIntegerField, BooleanField, CompositeKey, DecimalField, TextField

import db
from domain.measures import Reading as Observation
from domain.measures import of_stream
from models.fields import InstantField, Xid8Field


class Gauge(db.BaseModel):
    """The newest value of each measure of a subject; one that is asked for by an alert and has none is a row too."""

    subject = TextField()
    measure = TextField()
    value = DecimalField(null=True)
    previous = DecimalField(null=True)
    happened_at = InstantField(null=True)
    received_at = InstantField(null=True)
    stale_at = InstantField(null=True)
    source = TextField(null=True)
    about = TextField(null=True)
    created_at = InstantField()

    class Meta:
        primary_key = CompositeKey("subject", "measure")


class Reading(db.BaseModel):
    """One value of a measure of a subject. In a measure each happened later than the one before it."""

    subject = TextField()
    measure = TextField()
    happened_at = InstantField()
    received_at = InstantField()
    value = DecimalField()  # of a date: seconds since 1970
    previous = DecimalField(null=True)
    source = TextField()
    about = TextField(null=True)
    changed = BooleanField()
    fresh = BooleanField()
    id = BigIntegerField()
    xid = Xid8Field()

    class Meta:
        primary_key = CompositeKey("subject", "measure", "happened_at", "received_at")


def record(seen: Sequence[Observation], received_at: datetime) -> int:
    """Write readings that are newer than what we have; returns how many. The others write nothing.

    Events are never too late: one that has the time of another, or an earlier one, is put a microsecond behind it.
    A date is written when it is another one, and moves what waits for it; an alert that has fired waits for the end of
    its cool-down, and for nothing if the date is past by then. Raises ValueError for an unknown measure: leave out with
    `domain.measures.believable` what cannot be.
    """
    measures = {reading.measure: of_stream(reading.measure) for reading in seen}
    with one_writer():
        ((written,),) = db.rows(
            _WRITE,
            db.array(reading.subject for reading in seen),
            db.array(reading.measure for reading in seen),
            db.array(reading.value for reading in seen),
            db.array(reading.happened_at for reading in seen),
            db.array(reading.source for reading in seen),
            db.array(reading.about and reading.about[:300] for reading in seen),
            db.array(measures[reading.measure].kind for reading in seen),
            db.array(measures[reading.measure].max_age for reading in seen),
            received_at,
        )
    return int(written)


@contextmanager
def one_writer() -> Iterator[None]:
    """A transaction in which nobody else writes readings: no deadlocks, and one order of them."""
    with db.transaction():
        db.rows("select pg_advisory_xact_lock(hashtext('gauge'))")
        yield


_WRITE = """
with seen as materialized (
  select s.*, least(s.at, t.now) as capped, t.now,
         row_number() over (partition by s.subject, s.measure order by s.at, s.n) * interval '1 us' as place
  from unnest(%s::text[], %s::text[], %s::numeric[], %s::timestamptz[], %s::text[], %s::text[], %s::text[],
              %s::interval[]) with ordinality as s(subject, measure, value, at, source, about, kind, max_age, n),
       cast(%s as timestamptz) as t(now)
), placed as (
  select s.*, g.value as standing, g.happened_at as last_at, case s.kind when 'event'
           then s.place + greatest(g.happened_at, max(s.capped - s.place) over (
             partition by s.subject, s.measure order by s.place)) else s.capped end as happened_at
  from seen s left join gauge g using (subject, measure)
), newer as (
  select distinct on (subject, measure, happened_at) * from placed
  where last_at is null or happened_at > last_at order by subject, measure, happened_at, n desc
), lined as materialized (
  select *, lag(value, 1, standing) over (partition by subject, measure order by happened_at) as previous from newer
), new as materialized (
  select *, value is distinct from previous as changed from lined
  where kind <> 'date' or value is distinct from previous
), written as (
  insert into reading (subject, measure, happened_at, received_at, value, previous, source, about, changed, fresh)
  select subject, measure, happened_at, now, value, previous, source, about, changed,
         coalesce(happened_at + max_age > now, true) from new
  returning 1
), shown as (
  insert into gauge (subject, measure, value, previous, happened_at, received_at, stale_at, source, about)
  select distinct on (subject, measure) subject, measure, value, previous, happened_at, now, happened_at + max_age,
         source, about from new order by subject, measure, happened_at desc
  on conflict (subject, measure) do update set
    value = excluded.value, previous = excluded.previous, happened_at = excluded.happened_at,
    received_at = excluded.received_at, stale_at = excluded.stale_at, source = excluded.source, about = excluded.about
  returning subject, measure, value, received_at
), near as (
  select w.alert_id, to_timestamp(s.value::float8) as date, greatest(
           to_timestamp(s.value::float8) - w.level * interval '1 s', s.received_at, a.last_triggered_at + a.cooldown
         ) as due
  from shown s join alert_watch w on w.direction = 'date' and w.subject = s.subject and w.stream = s.measure
       join alert a on a.id = w.alert_id
  where s.measure = any(select measure from new where kind = 'date')
), moved as (
  update alert_watch w set since = case when n.due < n.date then n.due else 'infinity' end
  from near n where w.alert_id = n.alert_id
)
select count(*) from written
"""


def ask_for(streams: Sequence[tuple[str, str]]) -> None:
    """Note that an alert wants (subject, measure): whoever makes such values finds it here."""
    db.rows(
        """insert into gauge (subject, measure) select * from unnest(%s::text[], %s::text[])
           on conflict do nothing""",
        db.array(subject for subject, _ in streams),
        db.array(measure for _, measure in streams),
    )


def newest(streams: Sequence[tuple[str, str]], now: datetime) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest value of each stream, locked until the end of the transaction: every later one is later than it.

    `value` is None where there is none, or none that is fresh; `last` is the value however old.
    """
    subjects, names = db.array(s for s, _ in streams), db.array(n for _, n in streams)
    db.rows(
        """select 1 from quote where symbol in (select s from unnest(%s::text[], %s::text[]) as w(s, n)
                                                where n = 'price') order by symbol for share""",
        subjects,
        names,
    )
    db.rows(
        """select 1 from gauge where (subject, measure) in (select * from unnest(%s::text[], %s::text[]))
           order by subject, measure for share""",
        subjects,
        names,
    )
    found = db.maps(
        """select subject, stream, value as last, case when stale_at > %s then value end as value, happened_at
           from newest where (subject, stream) in (select * from unnest(%s::text[], %s::text[]))""",
        *(now, subjects, names),
    )
    return {(row["subject"], row["stream"]): row for row in found}
