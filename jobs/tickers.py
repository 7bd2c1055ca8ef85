"""Tickers: the last 24 hours of every pair, every few seconds."""

from __future__ import annotations

from datetime import UTC, datetime

import config
import events
from domain.tickers import CACHE_KEY, snapshot
from models import tickers
from queues import DEFAULT, job


@job(DEFAULT, timeout=30)
def build_tickers(due_at: datetime) -> dict[str, int]:
    """Move every pair's 24 hours on to now: add the trades that came, take away those that left."""
    step = tickers.advance(datetime.now(UTC))
    if step is None:  # another one is at it
        return {}
    states = {CACHE_KEY.format(ticker["symbol"]): snapshot(ticker) for ticker in tickers.tickers()}
    changed = sorted(states.keys() & map(CACHE_KEY.format, step.changed))
    events.show("ticker", states, changed, config.settings.quote_ttl)
    return {"changed": len(step.changed), "afresh": step.afresh, "drifted": step.drifted}
