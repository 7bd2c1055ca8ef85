"""Run history: what ran, what was skipped and why, what an operator changed."""

from __future__ import annotations

from peewee import BigIntegerField, BooleanField, CompositeKey, IntegerField, TextField
from playhouse.postgres_ext import BinaryJSONField

import db
from models.fields import InstantField


class Run(db.BaseModel):
    """One attempt of one run. Unique by (entry, due, attempt); a run without an entry has the job's name there."""

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
        primary_key = CompositeKey("entry", "due_at", "attempt")


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
    """What must outlive Redis of a schedule entry: its latest due time and the operator's override."""

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
