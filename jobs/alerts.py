"""Alerts: what the newest prices have reached."""

from __future__ import annotations

from datetime import datetime

import events
from models import alerts, triggers
from queues import CRITICAL, batches, job


@job(CRITICAL, timeout=60)
def check_alerts(due_at: datetime) -> dict[str, int]:
    """Fire the alerts that a price since the last check has reached: once, with the first price that did it."""
    adopted = alerts.adopt(due_at)
    ticks = armed = fired = 0
    for batch in batches(triggers.fire_reached()):
        ticks, armed, fired = max(ticks, batch.ticks), armed + batch.armed, fired + batch.fired
        if batch.fired:
            events.nudge()  # the events are committed with the batch
    return {"adopted": adopted, "ticks": ticks, "armed": armed, "fired": fired}
