"""Upkeep: what keeps the database from growing and the next days from finding no place."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import config
from models import events, partitions
from queues import LOW, job


@job(LOW, timeout=300)
def prune_history(due_at: datetime) -> dict[str, int]:
    """Make room for the coming week's runs and events and drop those older than RUN_DAYS and EVENT_DAYS."""
    runs_before, events_before = (
        due_at - timedelta(days=days) for days in (config.settings.run_days, config.settings.event_days)
    )
    events.remember_floor(events_before)
    counts = Counter(partitions.tidy("run", runs_before))
    counts.update(partitions.tidy("event", events_before))
    return dict(counts)
