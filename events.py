"""The only road from a job to the web: `publish` facts, `broadcast` state."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from json import dumps
from typing import Any

import db
from models import events

NUDGE = "nightdesk:nudge"  # empty message: new facts are in the event table
LIVE = "nightdesk:live"  # {"topic", "payload"}: snapshots, never stored

TOPICS = {  # every fact: what it says; docs/contract.md and a test are made from this
    "alert.triggered": "an alert has fired",
    "alert.paused": "an alert fired so often that it was paused",
    "balance.credited": "a deposit is in the user's balance",
    "balance.drifted": "crediting of an asset stands still: what a chain holds is not what the ledger says",
    "balance.unlocked": "what an ended order held can be spent again",
    "candles.mended": "candles that were not what their trades say were made anew",
    "chain.false_decimals": "a contract's own decimals are not those of its asset; nothing of it is credited",
    "chain.paused": "a chain is read no further before an operator has looked",
    "chain.reorganized": "blocks were replaced, and what was read of them is taken back",
    "channel.off": "a channel of notifications rests",
    "channel.on": "it sends again",
    "delivery.dead": "a message cannot be delivered",
    "deposit.seen": "money is on its way",
    "deposit.confirmed": "it has as many confirmations as it needs",
    "deposit.credited": "it is in the balance",
    "deposit.held": "it waits for an operator, with the reason",
    "deposit.failed": "its transaction failed on the chain",
    "deposit.orphaned": "its block was replaced before it was credited",
    "deposit.reversed": "its block was replaced after that: it is taken back",
    "deposits.stuck": "deposits that are on their way for too long",
    "order.expired": "an order has come to its time",
    "orders.stuck": "the matching engine confirms no expiry",
    "partitions.strays": "rows had no partition of their day, because upkeep had not run for a week",
    "prices.fresh": "prices that are as young as they should be again",
    "prices.missing": "instruments of which no price has come yet",
    "prices.stale": "prices that are older than they may be",
    "run.failed": "a run ended for good without success; its letter waits",
    "schedule.resumed": "the schedule moves again",
    "schedule.stopped": "nothing was enqueued for so many seconds",
    "sessions.changed": "opening hours of a market are others than was known",
    "stocks.gaps": "daily bars that were missing or wrong, and those that were healed",
    "stocks.moved": "all that was of one symbol is of another now",
    "stocks.quarantined": "a price that cannot be, put aside with its reason",
    "stocks.renamed": "stocks that sources know by another symbol now",
    "stocks.split": "splits, by which bars and alerts are adjusted",
    "stocks.unknown": "stocks that no source knows",
}


def publish(topic: str, payload: dict[str, Any], user_id: int | None = None) -> None:
    """Write a fact in the open transaction; readers are nudged after its commit."""
    events.add(topic, payload, user_id)
    db.after_commit(nudge)


def nudge() -> None:
    """Tell every web process to read the event table. Losing it costs a second: they also read on their own."""
    from redis.exceptions import RedisError

    with suppress(RedisError):  # the fact is committed, and readers sweep once a second
        db.redis().publish(NUDGE, "")


def show(topic: str, states: Mapping[str, dict[str, Any]], changed: Collection[str], ttl: float) -> None:
    """Put states into the cache under their keys, for `ttl` seconds, and tell whoever listens of those that changed."""
    pipeline = db.redis().pipeline(transaction=False)
    for key, state in states.items():
        pipeline.set(key, dumps(state, default=str), px=int(ttl * 1000))
    pipeline.execute()
    for key in changed:
        broadcast(topic, states[key])


def broadcast(topic: str, payload: dict[str, Any]) -> None:
    """Send state (a quote, a ticker, a live candle) to whoever listens now; nothing is stored."""
    db.redis().publish(LIVE, dumps({"topic": topic, "payload": payload}, default=str))
