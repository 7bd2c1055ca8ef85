"""What users are told: in the app at once, and on other channels by deliveries that are tried until they end."""

from __future__ import annotations

from peewee import BigIntegerField, CompositeKey, IntegerField, TextField, UUIDField
from playhouse.postgres_ext import BinaryJSONField

import db
from models.fields import InstantField


class Notification(db.BaseModel):
    """What a user sees in the app; written in the transaction of the fact that it tells."""

    id = BigIntegerField(primary_key=True)
    user_id = BigIntegerField()
    kind = TextField()  # alert
    trigger_id = BigIntegerField(null=True, unique=True)
    title = TextField()
    data = BinaryJSONField(index=False)
    created_at = InstantField()
    read_at = InstantField(null=True)


class Delivery(db.BaseModel):
    """A notification on its way to a user over one channel: one row for each pair."""

    id = BigIntegerField(primary_key=True)
    notification_id = BigIntegerField()
    channel = TextField()  # email, console
    target = TextField()
    key = UUIDField()  # the same over all tries
    state = TextField()  # pending, sending, sent, failed (will be tried again), dead
    tries = IntegerField()
    due_at = InstantField()  # while sending: when its worker must have died
    error = TextField(null=True)
    created_at = InstantField()
    tried_at = InstantField(null=True)
    ended_at = InstantField(null=True)


class DeliveryTry(db.BaseModel):
    """One try of a delivery and what came of it; a try without a row was cut off."""

    delivery_id = BigIntegerField()
    number = IntegerField()
    started_at = InstantField()
    ended_at = InstantField()
    outcome = TextField()  # sent, failed, dead, put_back
    error = TextField(null=True)
    receipt = TextField(null=True)  # what the other side called it

    class Meta:
        primary_key = CompositeKey("delivery_id", "number", "started_at")


class Channel(db.BaseModel):
    """A channel that rests because nothing can be sent on it at present, or that has rested."""

    name = TextField(primary_key=True)
    off_until = InstantField(null=True)
    failures = IntegerField()
    reason = TextField(null=True)
