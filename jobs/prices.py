"""Prices: the newest quote of every instrument, each observation as a tick, and their cleaning up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import clients.prices
import config
import db
import events
from domain.failures import Rejected
from domain.prices import CACHE_KEY, believable, snapshot
from models import feeds, partitions, prices
from queues import DEFAULT, LOW, job


@job(DEFAULT, timeout=30)
def sync_prices(due_at: datetime) -> dict[str, int]:
    """Fetch the newest price of every instrument; one that fails costs only itself."""
    fetched, failures = clients.prices.fetch(prices.active_instruments())
    received_at = datetime.now(UTC)  # the answers' time, however late the run is
    seen, doubts = believable(fetched, received_at)
    failed = {**failures, **{symbol: Rejected(reason) for symbol, reason in doubts.items()}}
    with db.transaction():
        feeds.look(feeds.TICK, received_at)
        written, turned = prices.record(seen, failed, received_at)
        db.after_commit(events.nudge)
    changed = {quote["symbol"] for quote in written if quote["changed"]}
    states = {CACHE_KEY.format(quote["symbol"]): snapshot(quote) for quote in prices.quotes(received_at)}
    events.show("quote", states, sorted(map(CACHE_KEY.format, changed)), config.settings.quote_ttl)
    return {"written": len(written), "changed": len(changed), "failed": len(failed), "turned": len(turned)}


@job(LOW, timeout=300)
def prune_prices(due_at: datetime) -> dict[str, int]:
    """Make room for the ticks of the coming week and drop those older than TICK_DAYS; their candles stay."""
    days = config.settings.tick_days
    return partitions.tidy("tick", days, feeds.keep_from(feeds.TICK, due_at - timedelta(days=days)))
