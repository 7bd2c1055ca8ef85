"""Run history: what ran, what was skipped and why, what an operator changed."""

from __future__ import annotations

from datetime import datetime
from json import dumps, loads
from typing import Any

from peewee import BigIntegerField, BooleanField, CompositeKey, IntegerField, TextField
from playhouse.postgres_ext import BinaryJSONField

import db
from models.fields import InstantField


class Run(db.BaseModel):
    """One attempt of one run. Unique by (entry, due, attempt); a run without an entry has the job's name there,
    and as several of those may be enqueued in one instant, the run's id is part of the key."""

    entry = TextField()
    due_at = InstantField()
    attempt = IntegerField()
    run_id = TextField()
    job = TextField()
    queue = TextField()
    arguments = BinaryJSONField(index=False)
    enqueued_at = InstantField(null=True)
    started_at = InstantField(null=True)
    ended_at = InstantField()
    outcome = TextField()  # ok, failed, retried, lost, yielded, refused, handed_back
    counts = BinaryJSONField(index=False, null=True)
    worker = TextField(null=True)
    error = TextField(null=True)
    fingerprint = TextField(null=True)
    code_version = TextField(null=True)
    dead = BooleanField()  # a dead letter: nothing will try it again unless an operator does
    settled_at = InstantField(null=True)  # when an operator retried or discarded the dead letter

    class Meta:
        primary_key = CompositeKey("entry", "due_at", "attempt", "run_id")


class Skip(db.BaseModel):
    """Due times that did not run: consecutive ones of an entry for one reason are one row with a count."""

    entry = TextField()
    reason = TextField()  # overlap, misfire, paused, failed
    first_due_at = InstantField()
    last_due_at = InstantField()
    count = IntegerField()

    class Meta:
        primary_key = CompositeKey("entry", "reason", "first_due_at")


class Entry(db.BaseModel):
    """What must outlive Redis of a schedule entry: the latest due time done with, the operator's override."""

    name = TextField(primary_key=True)
    last_due_at = InstantField(null=True)
    cadence = TextField(null=True)  # the operator's, over environment and code
    paused = BooleanField()
    version = BigIntegerField()


class Audit(db.BaseModel):
    """Who changed what: one row in the transaction of the change."""

    id = BigIntegerField(primary_key=True)
    at = InstantField()
    who = TextField()
    action = TextField()
    target = TextField()
    old = BinaryJSONField(index=False, null=True)
    new = BinaryJSONField(index=False, null=True)


def write(lines: list[str]) -> int:
    """Store lines of history (JSON texts: runs and skips) in the open transaction; known ones change nothing.

    A run that became a dead letter is an event in the same transaction, and each entry's latest due
    time that is done with is kept, so that the schedule goes on from there after a lost Redis. A run that
    Redis forgot and that came again counts its attempts anew: they get numbers after those that are there.
    Returns the events written.
    """
    told, met = db.rows(_WRITE, _array(lines))[0]
    numbered = db.rows(_NUMBERED, _array(lines)) if met else []
    again = [dumps(loads(lines[position]) | {"attempt": attempt}) for position, attempt in numbered]
    return int(told) + (write(again) if again else 0)


def _array(lines: list[str]) -> str:
    return "[" + ",".join(lines) + "]"


# One statement: json_to_recordset reads each line once, in PostgreSQL, not in Python.
_WRITE = """
with line as materialized (
  select * from json_to_recordset(%s) as l(
    kind text, entry text, reason text, first float8, last float8, count int,
    run text, job text, queue text, args jsonb, due float8, attempt int, enqueued text, started text, ended float8,
    outcome text, counts jsonb, worker text, error text, fingerprint text, version text, dead boolean)
), ran as (
  insert into run (entry, due_at, attempt, run_id, job, queue, arguments, enqueued_at, started_at, ended_at,
                   outcome, counts, worker, error, fingerprint, code_version, dead)
  select coalesce(nullif(entry, ''), job), to_timestamp(due / 1000), attempt, run, coalesce(job, '?'), queue,
         coalesce(args, '{}'), nullif(enqueued, '')::timestamptz,
         case when started ~ '^[0-9.]+$' then to_timestamp(started::float8 / 1000)
              else nullif(started, '')::timestamptz end,
         to_timestamp(ended / 1000), outcome, counts, worker, error,
         coalesce(fingerprint, case when error is not null then left(md5(error), 8) end), version, coalesce(dead, false)
  from line where kind is null
  on conflict do nothing
  returning entry, due_at, run_id, job, error, fingerprint, dead
), skipped as (
  insert into skip as s (entry, reason, first_due_at, last_due_at, count)
  select entry, reason, to_timestamp(first / 1000), to_timestamp(max(last) / 1000), max(count)
  from line where kind = 'skip' group by 1, 2, 3 order by 1, 2, 3
  on conflict (entry, reason, first_due_at) do update
  set last_due_at = greatest(s.last_due_at, excluded.last_due_at), count = greatest(s.count, excluded.count)
), latest as (
  insert into entry as e (name, last_due_at)
  select entry, max(at) filter (where is_done) from (
    -- What waits for its next try, or goes on, is not done with, nor is what it keeps from running.
    select entry, to_timestamp(due / 1000) as at, outcome = 'ok' or dead as is_done
    from line cross join lateral (select entry || '-' || due::bigint) s(scheduled)
    where kind is null and run in (scheduled, scheduled || '-again')
    union all select entry, to_timestamp(last / 1000), reason <> 'overlap' from line where kind = 'skip') d
  group by 1 order by 1
  on conflict (name) do update set last_due_at = greatest(e.last_due_at, excluded.last_due_at)
), told as (
  insert into event (topic, payload)
  select 'run.failed', jsonb_build_object('entry', entry, 'due_at', due_at, 'run_id', run_id, 'job', job,
                                          'error', error, 'fingerprint', fingerprint)
  from ran where dead
  returning 1
)
select (select count(*) from told), (select count(*) from line where kind is null) > (select count(*) from ran)
"""

# Lines (by position) whose place is taken by an attempt that ended at another time, and the next free numbers.
_NUMBERED = """
with line as (
  select n, coalesce(nullif(entry, ''), job) as entry, to_timestamp(due / 1000) as due_at, run as run_id, attempt,
         to_timestamp(ended / 1000) as ended_at
  from rows from (json_to_recordset(%s) as (
    kind text, entry text, job text, due float8, run text, attempt int, ended float8)) with ordinality l(
    kind, entry, job, due, run, attempt, ended, n)
  where kind is null
)
select n - 1, highest + row_number() over (partition by line.entry, line.due_at, line.run_id order by line.ended_at)
from line join run taken using (entry, due_at, run_id, attempt)
cross join lateral (
  select max(r.attempt) as highest, bool_or(r.ended_at = line.ended_at) as known
  from run r where (r.entry, r.due_at, r.run_id) = (line.entry, line.due_at, line.run_id)) there
where taken.ended_at <> line.ended_at and not known
"""


def seconds_since_last_due() -> float | None:
    """How long ago the latest recorded due time of any entry was; None where none is recorded."""
    (seconds,) = db.rows("select extract(epoch from clock_timestamp() - max(last_due_at)) from entry")[0]
    return None if seconds is None else float(seconds)


def latest() -> list[dict[str, Any]]:
    """For each entry its latest attempt and when it last went well."""
    return db.maps(
        """
        select e.name as entry, e.paused, e.cadence as override, r.due_at, r.started_at, r.ended_at, r.outcome,
               r.attempt, r.counts, r.error, r.worker, good.ended_at as last_good_at
        from entry e
        left join lateral (select * from run where run.entry = e.name order by ended_at desc limit 1) r on true
        left join lateral (select ended_at from run where run.entry = e.name and outcome = 'ok'
                           order by ended_at desc limit 1) good on true
        order by e.name
        """
    )


def skips(since: datetime) -> list[dict[str, Any]]:
    """Due times that did not run since `since`, newest first."""
    return db.maps("select * from skip where last_due_at >= %s order by last_due_at desc limit 200", since)


def dead_groups() -> list[dict[str, Any]]:
    """Open dead letters, grouped by the error's fingerprint."""
    return db.maps(
        """
        select fingerprint, count(*)::int as letters, array_agg(distinct entry order by entry) as entries,
               min(ended_at) as first_at, max(ended_at) as last_at,
               (array_agg(error order by ended_at desc))[1] as error
        from run where dead and settled_at is null group by fingerprint order by max(ended_at) desc
        """
    )


def settle(fingerprint: str | None, run_ids: list[str]) -> list[dict[str, Any]]:
    """Close dead letters of a group or by run id in the open transaction; returns the rows that were open."""
    return db.maps(
        """
        update run set settled_at = now()
        where dead and settled_at is null and (fingerprint = %s or run_id = any(%s))
        returning entry, due_at, attempt, run_id, job, queue, arguments, fingerprint
        """,
        fingerprint,
        run_ids,
    )


def override(name: str, who: str, action: str, change: dict[str, Any], version: int) -> dict[str, Any]:
    """Change an operator's override (keys: cadence, paused) with its audit row in the open transaction."""
    db.rows("insert into entry (name) values (%s) on conflict do nothing", name)
    (old,) = db.maps("select cadence, paused from entry where name = %s for update", name)
    new = {**old, **change}
    (row,) = db.maps(
        """update entry set cadence = %s, paused = %s, version = greatest(%s, version + 1) where name = %s
           returning name, cadence, paused, version""",
        new["cadence"],
        new["paused"],
        version,
        name,
    )
    audit(who, action, name, old, new)
    return row


def audit(who: str, action: str, target: str, old: Any = None, new: Any = None) -> int:
    """Who changed what, in the transaction of the change; returns the row's id."""
    ((audit_id,),) = db.rows(
        "insert into audit (who, action, target, old, new) values (%s, %s, %s, %s, %s) returning id",
        who, action, target, dumps(old, default=str), dumps(new, default=str),
    )  # fmt: skip
    return int(audit_id)
