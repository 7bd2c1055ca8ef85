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
    run_days, event_days = config.settings.run_days, config.settings.event_days
    events_before = due_at - timedelta(days=event_days)
    events.remember_floor(events_before)
    counts = Counter(partitions.tidy("run", run_days, due_at - timedelta(days=run_days)))
    counts.update(partitions.tidy("event", event_days, events_before))
    return dict(counts)
