"""Candles: from trades and ticks, in nine intervals; verified every night, and thinned by age."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from itertools import groupby
from json import dumps

import config
import db
import events
from domain.candles import CACHE_KEY, snapshot, start
from models import buckets, building, candles, feeds, partitions
from queues import DEFAULT, LOW, batches, job

CACHED_FOR = 60  # seconds after the last change
LISTED = 500  # candles in one event


@job(DEFAULT, timeout=120)
def build_candles(due_at: datetime) -> dict[str, int]:
    """Bring new trades and ticks into the candles they belong to, late and corrected ones too."""
    now = datetime.now(UTC)  # what has happened until now is looked at, however late the run is
    counts: Counter[str] = Counter()
    for feed in feeds.FEEDS:
        for batch in batches(building.build(feed, now)):
            counts.update({feed: batch.rows, "changed": batch.changed, "too_late": batch.too_late})
            show(batch.symbols)
    return dict(counts)


def show(symbols: Collection[str]) -> None:
    """Put the newest candles of these symbols into the cache in one go, and tell whoever listens."""
    pipeline = db.redis().pipeline(transaction=False)
    news = []
    for symbol, rows in groupby(candles.newest(symbols), key=lambda row: row["symbol"]):
        found = {row["interval"]: snapshot(row) for row in rows}
        pipeline.hset(CACHE_KEY.format(symbol), mapping={name: dumps(candle) for name, candle in found.items()})
        pipeline.expire(CACHE_KEY.format(symbol), CACHED_FOR)
        news.append({"symbol": symbol, "candles": found})
    pipeline.execute()
    for payload in news:
        events.broadcast("candle", payload)


@job(LOW, timeout=1800)
def verify_candles(due_at: datetime) -> dict[str, int]:
    """Compare the candles of the last VERIFY_DAYS days with their trades and ticks; mend and list what was wrong."""
    until = start("1h", due_at)
    counts: Counter[str] = Counter()
    for hour in batches(until - timedelta(hours=n) for n in range(1, 24 * config.settings.verify_days + 1)):
        for feed in feeds.FEEDS:
            with db.transaction():
                wrong = buckets.mend(feed, hour, hour + timedelta(hours=1))
                for first in range(0, len(wrong), LISTED):
                    events.publish("candles.mended", {"candles": wrong[first : first + LISTED]})
            counts.update(candle["was"] for candle in wrong)
    return dict(counts)


@job(LOW, timeout=600)
def prune_candles(due_at: datetime) -> dict[str, int]:
    """Make room for the coming week's trades; drop trades older than TRADE_DAYS, short candles than MINUTE_DAYS."""
    short_before = due_at - timedelta(days=config.settings.minute_days)
    trades_before = due_at - timedelta(days=config.settings.trade_days)
    kept_from = feeds.keep_from(feeds.TRADE, max(short_before, trades_before))
    counts = partitions.tidy("trade", config.settings.trade_days, min(kept_from, trades_before))
    gone = candles.prune(min(kept_from, feeds.keep_from(feeds.TICK, short_before), short_before))
    return {**counts, "candles": gone}
