"""When everything runs: SCHEDULE, the table; and the rq-scheduler subclass that keeps it.

    python scheduler.py

Any number may run side by side: the step that enqueues is a compare-and-set on the entry's due
time and version, so there is no leader to lose and nothing to lock.
"""

from __future__ import annotations

import json
import logging
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq_scheduler import Scheduler as RqScheduler

import db
import models.bars
import models.chains
import models.feeds
import models.orders
import models.prices
import models.sessions
import models.stocks
from domain.cadence import Market, Plan, after_close, before_open, cron, every, while_open
from domain.stocks import MARKETS
from engine import entries, logs, memory, outages, plans, steps
from engine.entries import Entry, State
from engine.overrides import Overrides, Unknown
from jobs import (
    alerts,
    bars,
    candles,
    chains,
    deposits,
    digests,
    notifications,
    orders,
    prices,
    sessions,
    stocks,
    tickers,
    upkeep,
)

if TYPE_CHECKING:
    from redis.client import PubSub

SCHEDULE: tuple[Entry, ...] = (
    # what users wait for
    Entry(every(2), alerts.check_alerts, alias="ALERT_CHECKER_INTERVAL"),
    Entry(every(2, stagger=0.3), notifications.deliver_notifications),  # right after the check
    Entry(every(2, stagger=0.7), notifications.deliver_webhooks),
    Entry(every(10), orders.expire_orders, freshness=models.orders.freshness),
    Entry(every(5, stagger=1.5), alerts.build_readings),
    Entry(every(30, stagger=7), alerts.check_silences),
    Entry(every(10), deposits.credit_deposits),
    # money on its way
    *(
        Entry(every(60), chains.scan_chain, key=name, args=(name,), freshness=partial(models.chains.freshness, name))
        for name in chains.CHAINS
    ),
    Entry(every(30), chains.check_confirmations),
    # what users see
    Entry(every(5), prices.sync_prices, freshness=models.prices.freshness),
    Entry(every(5, stagger=0.5), candles.build_candles, freshness=models.feeds.freshness),
    Entry(every(5, stagger=0.9), tickers.build_tickers),  # of the trades that the candles have
    *(
        Entry(
            while_open(market, 15),
            stocks.sync_stock_prices,
            market,
            (market,),
            freshness=partial(models.stocks.freshness, market),
        )
        for market in MARKETS.values()
    ),
    Entry(every(60, stagger=11), digests.build_digests),
    # what operators see
    Entry(every(300), deposits.publish_deposit_report),
    Entry(every(3600), deposits.find_stuck_deposits),
    Entry(every(3600), deposits.verify_balances),
    # what a day of stocks leaves behind
    # Auctions end up to ten minutes after a close, and sources are up to twenty minutes late with what they brought.
    *(Entry(after_close(m, minutes=30), stocks.sync_closing_prices, m, (m,)) for m in MARKETS.values()),
    *(Entry(before_open(m, minutes=40), bars.sync_splits, m, (m,)) for m in MARKETS.values()),
    *(
        Entry(after_close(m, minutes=90), bars.sync_daily_bars, m, (m,), freshness=partial(models.bars.freshness, m))
        for m in MARKETS.values()
    ),
    Entry(cron("0 6 * * *"), stocks.sync_fundamentals),
    Entry(cron("11 6 * * *"), stocks.sync_earnings_calendar),
    Entry(cron("23 6 * * *"), bars.sync_dividends),
    Entry(cron("43 3 * * *"), bars.find_gaps, "bars"),
    # housekeeping, when it is quiet
    Entry(cron("17 3 * * *"), prices.prune_prices),
    Entry(cron("22 3 * * *"), candles.prune_candles),
    Entry(cron("32 3 * * *"), alerts.prune_readings),
    Entry(cron("27 3 * * *"), upkeep.prune_history),
    Entry(cron("37 3 * * *"), notifications.prune_notifications),
    Entry(cron("7 2 * * *"), sessions.sync_sessions, freshness=models.sessions.freshness),
    Entry(cron("47 3 * * *"), candles.verify_candles),
)

LOOK_AGAIN = 10.0  # seconds: clock offset, heartbeat, and all entries, in case a message was lost
LONGEST_SLEEP = 1.0  # seconds
SHORT_PATIENCE = 2.0  # seconds for PostgreSQL to say what is done with, before the schedule goes on without
SHORTLY = 0.02  # seconds
AT_HAND = timedelta(seconds=5)  # a due time so near is left alone: another scheduler may be at it

log = logging.getLogger("nightdesk.scheduler")


class Scheduler(RqScheduler):
    """Keeps rq-scheduler's keys and mends what is wrong in it, see docs/decisions/0001."""

    def __init__(self, schedule: Sequence[Entry] = SCHEDULE, name: str | None = None) -> None:
        """`schedule` is declared at start, and again whenever an entry of it is missing."""
        super().__init__(connection=db.redis(), interval=int(LOOK_AGAIN), name=name)
        entries.check(schedule)
        self.schedule = schedule
        self.states: dict[str, State] = {}
        self.offset = 0.0  # seconds that Redis's clock is ahead of time.monotonic(), which nobody sets
        self.looked = self.measured = 0.0
        self.is_new = True  # Redis: perhaps it came back from an older state, and the schedule with it
        self.ready: plans.Batch | None = None  # what falls due next, planned while there was time
        self.held_back: dict[str, float] = {}  # entries that cannot be enqueued, and until when they are left alone
        self.overrides = Overrides()
        self.refused: dict[str, str] = {}  # entries that cannot be declared, and why
        self.stopping = False

    def run(self, burst: bool = False) -> None:
        """Until SIGTERM or SIGINT; reconnects by itself. `burst`: what is due now, then return."""
        logs.start()
        memory.settle()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        wait = 0.1
        while not self.stopping:
            try:
                news = self._listen()
                self.look()
                wait = 0.1
                log.info("scheduler=%s keeps %d entries", self.name, len(self.states))
                while not self.stopping:
                    self._turn()
                    outages.ended(outages.REDIS_AWAY)
                    if burst and not self._due():
                        self.stopping = True
                    else:
                        self._sleep(news)
            except (RedisError, OSError, Unknown) as failure:
                self.is_new = True
                outages.began(outages.POSTGRESQL_AWAY if isinstance(failure, Unknown) else outages.REDIS_AWAY, failure)
                time.sleep(wait)
                wait = min(wait * 2, 1.0)
        self._leave()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _leave(self) -> None:
        try:
            self.connection.zrem(steps.SCHEDULERS, self.name)
            self.register_death()
        except RedisError:
            pass
        log.info("scheduler=%s stopped", self.name)

    def _listen(self) -> PubSub:
        news = self.connection.pubsub(ignore_subscribe_messages=True)
        news.subscribe(steps.SCHEDULE)
        news.get_message(timeout=1)
        return news

    def now(self) -> datetime:
        """Redis's clock, as far as we know it."""
        return steps.instant((time.monotonic() + self.offset) * 1000)

    def look(self) -> None:
        """Measure the clock, declare what is missing, read every entry."""
        self.measure()
        now = (time.monotonic() + self.offset) * 1000
        with self.connection.pipeline(transaction=False) as pipe:
            offset = now / 1000 - time.time()  # from this machine's clock, for whoever asks
            pipe.hset(self.key, mapping={"birth": time.time(), "offset": round(offset, 6)})
            pipe.expire(self.key, int(LOOK_AGAIN * 3))
            pipe.zremrangebyscore(steps.SCHEDULERS, "-inf", now - 86_400_000)
            pipe.zadd(steps.SCHEDULERS, {self.name: now})
            pipe.execute()
        self.looked = time.monotonic()
        self.states = {state.id: state for state in entries.load(self.connection)}
        if self.declare():
            self.states = {state.id: state for state in entries.load(self.connection)}
        self._go_back()
        self._go_on()
        self._follow_sessions()

    def measure(self) -> None:
        """How far Redis's clock is from ours; the quickest of three answers is the truest."""
        _, self.offset = min(self._measure() for _ in range(3))
        self.measured = time.monotonic()

    def _measure(self) -> tuple[float, float]:
        sent = time.monotonic()
        seconds, micros = self.connection.time()
        took = time.monotonic() - sent
        return took, seconds + micros / 1e6 - sent - took / 2

    def declare(self) -> list[str]:
        """Add entries that are missing, and operators' overrides that did not reach Redis; change nothing else."""
        removed = {member.decode() for member in self.connection.smembers(steps.REMOVED)}
        missing = [entry for entry in self.schedule if entry.id not in self.states and entry.id not in removed]
        overrides = self.overrides.read(at_once=any(entry.id not in self.refused for entry in missing))
        if overrides is None:
            if missing and not self.states:
                raise Unknown("it knows from when on the schedule is to go on")
            return []
        with self.connection.pipeline(transaction=False) as pipe:
            for entry in self.schedule:
                pipe.exists(f"rq:job:{entry.id}")
            listed = pipe.execute(raise_on_error=False)
        unlisted = [entry for entry, there in zip(self.schedule, listed, strict=True) if there == 0]
        changed = [e for e in self.schedule if overrides.get(e.id, {}).get("version", 0) > self._version(e.id)]
        wanted = {entry.id: entry for entry in [*missing, *changed, *unlisted]}
        if not wanted:
            return []
        declared, refused = entries.declarations(wanted.values(), overrides, self.now())
        for name, problem in refused.items() - self.refused.items():
            log.error("entry=%s is not declared and stays as Redis has it: %s", name, problem)
        self.refused = refused
        touched = steps.declare(self.connection, declared)
        if touched:
            log.info("scheduler=%s declared %s", self.name, " ".join(touched))
        return touched

    def _version(self, entry: str) -> int:
        return self.states[entry].version if entry in self.states else 0

    def _go_back(self) -> None:
        """Redis's clock was set back: entries begin again now, not when it is where it was."""
        now = self.now()
        ahead = [plans.moved(s, now) | {"again": True} for s in self.states.values() if plans.is_ahead(s, now)]
        if ahead and steps.step(self.connection, "rewind", json.dumps(ahead)):
            log.error("Redis's clock was set back: %d entries go on from now, and repeat due times", len(ahead))
            self.looked = 0.0

    def _go_on(self) -> None:
        """Redis came back from an older state: what PostgreSQL knows to be done with is not due again."""
        rows, now = self.overrides.read(at_once=self.is_new, patience=SHORT_PATIENCE) or {}, self.now()
        self.is_new = False
        last = {name: row["last_due_at"] for name, row in rows.items() if row["last_due_at"]}
        behind = [
            plans.moved(s, last[s.id]) for s in self.states.values() if plans.is_behind(s, last.get(s.id), now)
        ]  # fmt: skip
        if behind and steps.step(self.connection, "rewind", json.dumps(behind)):
            log.warning("Redis came back from an older state: %d entries go on after what has run", len(behind))
            self.looked = 0.0

    def _follow_sessions(self) -> None:
        """A market's sessions have changed, or are known by now: its entries wait for the due times that there are."""
        soon = self.now() + AT_HAND
        moved = [
            plans.moved(s, soon) for s in self.states.values() if isinstance(s.cadence, Market) and s.due_at > soon
        ]  # fmt: skip
        moved = [move for move in moved if move["due"] != move["to"]]
        if moved and steps.step(self.connection, "rewind", json.dumps(moved)):
            log.info("scheduler=%s: sessions changed for %s", self.name, " ".join(str(move["id"]) for move in moved))
            self.looked = 0.0

    def _turn(self) -> None:
        """Enqueue what is due; look after the rest only then, for what is due does not wait."""
        now, ready, self.ready = self.now(), self.ready, None
        if ready and ready.due_at <= now < ready.good_until:
            self._send(ready)
        elif due := self._due():
            self.fire(due)
        if time.monotonic() - self.looked > LOOK_AGAIN:
            self.look()

    def _due(self) -> list[State]:
        now = self.now()
        return [state for state in self.states.values() if state.due_at <= now and self._is_ours(state)]

    def _is_ours(self, state: State) -> bool:
        return state.cadence is not None and self.held_back.get(state.id, 0.0) <= time.monotonic()

    def fire(self, due: Sequence[State]) -> list[str]:
        """One atomic step for all that is due; whoever was overtaken reads again."""
        return self._send(plans.planned(due, self.now()))

    def _send(self, batch: plans.Batch) -> list[str]:
        for state, problem in batch.unplanned:
            self._hold_back(state, problem)
        answer = steps.fire(self.connection, batch.orders)
        again = [
            state.id
            for (state, decided), result in zip(batch.plans, answer["results"], strict=True)
            if not self._settle(state, decided, result)
        ]
        if again:
            read = {state.id: state for state in entries.load(self.connection, again)}
            self.states.update(read)
            for entry in set(again) - set(read):
                self.held_back[entry] = time.monotonic() + LOOK_AGAIN
        return list(answer["results"])

    def _settle(self, state: State, decided: Plan, result: str | int) -> bool:
        """What became of an entry; False if it has to be read again."""
        if result in ("run", "skip"):
            self.states[state.id] = replace(state, due=steps.milliseconds(decided.next))
        elif isinstance(result, int):
            if result < state.due:  # Redis knew this already
                self.is_new, self.looked = True, 0.0
            self.states[state.id] = replace(state, due=result)
        elif result == "gone":
            del self.states[state.id]
            self.looked = 0.0  # removed, or Redis has lost its memory
        elif result == "early":
            if time.monotonic() - self.measured > 1:
                self.measure()
        else:
            if result != "changed":
                self._hold_back(state, result)
            return False
        return True

    def _hold_back(self, state: State, problem: object) -> None:
        log.error("entry=%s was not enqueued, the others go on: %s", state.id, problem)
        self.held_back[state.id] = time.monotonic() + LOOK_AGAIN

    def _sleep(self, news: PubSub) -> None:
        """Until shortly before the next due time, then, with all planned, until it; or a change of the schedule."""
        earliest = min((s.due for s in self.states.values() if self._is_ours(s)), default=None)
        wait = LONGEST_SLEEP
        if earliest is not None:
            left = earliest / 1000 - self.offset - time.monotonic() + 0.0002
            if left > SHORTLY:
                wait = min(wait, left - SHORTLY)  # Linux lets a long select() end late by a thousandth of its length
            else:
                due = [s for s in self.states.values() if s.due == earliest and self._is_ours(s)]
                self.ready = plans.planned(due, steps.instant(earliest))
                wait = max(0.0, earliest / 1000 - self.offset - time.monotonic() + 0.0002)
        connection: Any = news.connection
        socket = connection and connection._sock
        if not socket:
            raise OSError("the connection for changes of the schedule was lost")
        ready, _, _ = select.select([socket], [], [], wait)
        if ready:
            while news.get_message(timeout=0) is not None:
                self.looked = 0.0  # somebody changed the schedule: read it again
            if connection._sock is not socket:
                raise OSError("the connection for changes of the schedule was made anew")


if __name__ == "__main__":
    Scheduler().run()
