"""Sessions: when markets are open, looked up well before anything depends on it."""

from __future__ import annotations

from datetime import datetime, timedelta

import db
import events
from clients import calendars
from domain.failures import Rejected
from domain.sessions import BY_RULE, EXCHANGES, regular_sessions
from models import sessions
from queues import LOW, job

BEHIND = timedelta(days=400)  # days that have been tell on which a bar is missing, and by how much a price is old


@job(LOW, timeout=150)
def sync_sessions(due_at: datetime) -> dict[str, int]:
    """Know the sessions of every market two years ahead: holidays, half-days, breaks, special closings."""
    first, last = (due_at - BEHIND).date(), (due_at + sessions.AHEAD).date()
    found, failures, source = calendars.fetch_sessions(EXCHANGES, first, last)
    found += [session for market in BY_RULE for session in regular_sessions(market, first, last)]
    said_by = {**dict.fromkeys(EXCHANGES, source), **dict.fromkeys(BY_RULE, "rule")}
    with db.transaction():
        changes = sessions.replace(found, said_by, first, last)
        if changes["changed"]:
            events.publish("sessions.changed", {"sessions": changes["changed"]})
    if failures:
        raise Rejected("; ".join(f"{market}: {failure}" for market, failure in sorted(failures.items())))
    return {"sessions": len(found), "added": len(changes["added"]), "changed": len(changes["changed"])}
