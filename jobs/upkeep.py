"""Upkeep: what keeps the database from growing and the next days from finding no place."""

from __future__ import annotations

from datetime import datetime, timedelta

import config
import events
import models.events
from models import partitions
from queues import LOW, job


@job(LOW, timeout=300)
def prune_history(due_at: datetime) -> dict[str, int]:
    """Make room for the coming week's runs and events and drop those older than RUN_DAYS and EVENT_DAYS."""
    days = {"run": config.settings.run_days, "event": config.settings.event_days}
    counts = {"made": 0, "dropped": 0, "strays": 0}
    for table, keep in days.items():
        strays = partitions.rescue_strays(table)
        counts["made"] += partitions.make_ahead(table)
        if table == "event":
            models.events.remember_floor(due_at - timedelta(days=keep))
        counts["dropped"] += partitions.drop_older(table, due_at - timedelta(days=keep))
        counts["strays"] += strays
        if strays:
            events.publish("partitions.strays", {"table": table, "rows": strays})
    return counts
