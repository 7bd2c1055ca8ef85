"""Alerts: what the newest values have reached."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain

import config
import events
from domain.measures import believable
from models import adoption, alerts, derived, partitions, readings, silences, stocks, triggers
from queues import CRITICAL, DEFAULT, LOW, batches, job

JUST_NOW = timedelta(minutes=10)  # what is put on a watchlist or into a portfolio before is followed once markets open


@job(CRITICAL, timeout=60)
def check_alerts(due_at: datetime) -> dict[str, int]:
    """Fire the alerts that a value since the last check has reached, each with the first value that did it."""
    stocks.adopt(since=due_at - JUST_NOW)
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
def build_readings(due_at: datetime) -> dict[str, int]:
    """Work out the closes, changes, indicators and dates that alerts ask for, from what came since the last time."""
    now = datetime.now(UTC)  # the values' own time, however late the run is
    divided = alerts.divide_by_splits(now)
    kept, doubts = believable([*derived.closes(now), *derived.changes(now), *derived.indicator_values(now)])
    written = readings.record(kept, now)
    with readings.one_writer():  # of two runs at once the second sees what the first has announced
        written += readings.record(derived.dates(now), now)
    return {"written": written, "doubted": len(doubts), "divided": divided}


@job(DEFAULT, timeout=60)
def check_silences(due_at: datetime) -> dict[str, int]:
    """Tell the owners of alerts that wait for a value which does not come: once, and of all of them together."""
    change = silences.settle(due_at)
    return {"begun": change.begun, "ended": change.ended, "told": change.told}


@job(LOW, timeout=300)
def prune_readings(due_at: datetime) -> dict[str, int]:
    """Make room for the coming week's readings, drop those older than TICK_DAYS, forget what nobody asks for."""
    days = config.settings.tick_days
    counts = partitions.tidy("reading", days, due_at - timedelta(days=days))
    return {**counts, "forgotten": derived.forget()}
