"""Tickers: the last 24 hours of every pair, every few seconds."""

from __future__ import annotations

from datetime import UTC, datetime

import config
import db
import events
from domain.tickers import CACHE_KEY, snapshot
from models import pairs, prices, tickers
from queues import DEFAULT, job


@job(DEFAULT, timeout=30)
def build_tickers(due_at: datetime) -> dict[str, int]:
    """Move every pair's 24 hours on to now: add the trades that came, take away those that left."""
    now = datetime.now(UTC)
    with db.transaction():
        step = tickers.advance(now)
        if step is None:  # another one is at it
            return {}
        pairs.adopt()
        prices.record(tickers.last_prices(step.changed), {}, now)  # alerts watch these
        db.after_commit(events.nudge)
    states = {CACHE_KEY.format(ticker["symbol"]): snapshot(ticker) for ticker in tickers.tickers()}
    changed = sorted(states.keys() & map(CACHE_KEY.format, step.changed))
    events.show("ticker", states, changed, config.settings.quote_ttl)
    return {"changed": len(step.changed), "afresh": step.afresh, "drifted": step.drifted}
