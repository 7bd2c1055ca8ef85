"""Alerts: what the newest values have reached."""

from __future__ import annotations

from datetime import datetime
from itertools import chain

import events
from models import adoption, alerts, silences, triggers
from queues import CRITICAL, DEFAULT, batches, job


@job(CRITICAL, timeout=60)
def check_alerts(due_at: datetime) -> dict[str, int]:
    """Fire the alerts that a value since the last check has reached, each with the first value that did it."""
    adopted = adoption.adopt(due_at)
    values = turned = fired = paused = 0
    for batch in batches(chain(triggers.fire_reached(), triggers.fire_due(due_at))):
        values, turned = max(values, batch.values), turned + batch.turned
        fired, paused = fired + batch.fired, paused + batch.paused
        if batch.fired or batch.paused:
            events.nudge()  # the events are committed with the batch
    counts = {"adopted": adopted.active, "refused": adopted.refused, "values": values, "turned": turned}
    return {**counts, "fired": fired, "paused": paused, "expired": alerts.expire(due_at)}


@job(DEFAULT, timeout=60)
def check_silences(due_at: datetime) -> dict[str, int]:
    """Tell the owners of alerts that wait for a value which does not come: once, and of all of them together."""
    change = silences.settle(due_at)
    return {"begun": change.begun, "ended": change.ended, "told": change.told}
