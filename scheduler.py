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
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq_scheduler import Scheduler as RqScheduler

import db
import models.prices
from domain.cadence import Plan, cron, every, plan
from engine import entries, steps
from engine.entries import Entry, State
from jobs import alerts, notifications, prices, upkeep

if TYPE_CHECKING:
    from redis.client import PubSub

SCHEDULE: tuple[Entry, ...] = (
    # what users wait for
    Entry(every(2), alerts.check_alerts, alias="ALERT_CHECKER_INTERVAL"),
    Entry(every(2, stagger=0.3), notifications.deliver_notifications),  # right after the check
    # what users see
    Entry(every(5), prices.sync_prices, freshness=models.prices.freshness),
    # housekeeping, when it is quiet
    Entry(cron("17 3 * * *"), prices.prune_prices),
    Entry(cron("27 3 * * *"), upkeep.prune_history),
)

LOOK_AGAIN = 10.0  # seconds: clock offset, heartbeat, and all entries, in case a message was lost
LONGEST_SLEEP = 1.0  # seconds
SHORTLY = 0.02  # seconds
PLANNED_AHEAD = timedelta(seconds=1)  # a plan made for the due time itself holds so long

log = logging.getLogger("nightdesk.scheduler")


class Scheduler(RqScheduler):
    """Keeps rq-scheduler's keys and mends what is wrong in it, see docs/decisions/0001."""

    def __init__(self, schedule: Sequence[Entry] = SCHEDULE, name: str | None = None) -> None:
        """`schedule` is declared at start, and again whenever an entry of it is missing."""
        super().__init__(connection=db.redis(), interval=int(LOOK_AGAIN), name=name)
        entries.check(schedule)
        self.schedule = schedule
        self.states: dict[str, State] = {}
        self.offset = 0.0  # seconds that Redis's clock is ahead of ours
        self.looked = 0.0
        self.overrides_read = 0.0
        self.ready: Batch | None = None  # what falls due next, planned while there was time
        self.stopping = False

    def run(self, burst: bool = False) -> None:
        """Until SIGTERM or SIGINT; reconnects by itself. `burst`: what is due now, then return."""
        from engine.worker import start_logging

        start_logging()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        wait, away = 0.1, False
        while not self.stopping:
            try:
                news = self._listen()
                self.look()
                if away:
                    log.warning("Redis is back: the schedule goes on")
                wait, away = 0.1, False
                log.info("scheduler=%s keeps %d entries", self.name, len(self.states)) if not burst else None
                while not self.stopping:
                    self._turn()
                    if burst:
                        return
                    self._sleep(news)
            except (RedisError, OSError) as failure:
                if not away:
                    log.warning("Redis is away, the schedule waits: %s", failure)
                away = True
                time.sleep(wait)
                wait = min(wait * 2, 2.0)
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
        return steps.instant((time.time() + self.offset) * 1000)

    def look(self) -> None:
        """Measure the clock, declare what is missing, read every entry."""
        _, self.offset = min(self._measure() for _ in range(3))  # the quickest answer is the truest
        with self.connection.pipeline(transaction=False) as pipe:
            pipe.hset(self.key, mapping={"birth": time.time(), "offset": round(self.offset, 6)})
            pipe.expire(self.key, int(LOOK_AGAIN * 3))
            pipe.zadd(steps.SCHEDULERS, {self.name: (time.time() + self.offset) * 1000})
            pipe.execute()
        self.looked = time.monotonic()
        self.declare()
        self.states = {state.id: state for state in entries.load(self.connection)}

    def _measure(self) -> tuple[float, float]:
        sent = time.time()
        seconds, micros = self.connection.time()
        took = time.time() - sent
        return took, seconds + micros / 1e6 - sent - took / 2

    def declare(self) -> None:
        """Add entries that are missing, and operators' overrides that did not reach Redis; change nothing else."""
        known = set(self.states) & {m.decode() for m in self.connection.smembers(steps.ENTRIES)}
        missing = [entry for entry in self.schedule if entry.id not in known]
        stale = time.monotonic() - self.overrides_read > 60
        if not missing and not stale:
            return
        overrides = entry_rows()
        if overrides is None and missing and not self.states:
            raise OSError("PostgreSQL is away: the latest due times are not known")
        self.overrides_read = time.monotonic()
        changed = [e for e in self.schedule if (overrides or {}).get(e.id, {}).get("version", 0) > self._version(e.id)]
        wanted = {entry.id: entry for entry in [*missing, *changed]}
        if wanted and overrides is not None:
            now = self.now()
            touched = steps.declare(
                self.connection, [entries.declaration(e, overrides.get(e.id, {}), now) for e in wanted.values()]
            )
            if touched:
                log.info("scheduler=%s declared %s", self.name, " ".join(touched))

    def _version(self, entry: str) -> int:
        return self.states[entry].version if entry in self.states else 0

    def _turn(self) -> None:
        """Enqueue what is due; look after the rest only then, for what is due does not wait."""
        now, ready, self.ready = self.now(), self.ready, None
        if ready and ready.due_at <= now < ready.good_until:
            self._send(ready)
        elif due := [s for s in self.states.values() if s.cadence and s.due_at <= now]:
            self.fire(due)
        if time.monotonic() - self.looked > LOOK_AGAIN:
            self.look()

    def fire(self, due: Sequence[State]) -> list[str]:
        """One atomic step for all that is due; whoever was overtaken reads again."""
        return self._send(_batch(due, self.now()))

    def _send(self, batch: Batch) -> list[str]:
        answer = steps.fire(self.connection, batch.orders)
        again = []
        for (state, decided), result in zip(batch.plans, answer["results"], strict=True):
            if result in ("run", "skip"):
                self.states[state.id] = replace(state, due=steps.milliseconds(decided.next))
            elif isinstance(result, int):
                self.states[state.id] = replace(state, due=result)
            elif result == "gone":
                del self.states[state.id]
            elif result == "changed":
                again.append(state.id)
            elif result != "early":
                log.error("entry=%s was not enqueued: %s", state.id, result)
                again.append(state.id)
        if again:
            self.states.update({state.id: state for state in entries.load(self.connection, again)})
        return list(answer["results"])

    def _sleep(self, news: PubSub) -> None:
        """Until shortly before the next due time, then, with all planned, until it; or a change of the schedule."""
        earliest = min((s.due for s in self.states.values() if s.cadence), default=None)
        wait = LONGEST_SLEEP
        if earliest is not None:
            left = earliest / 1000 - self.offset - time.time() + 0.0002
            if left > SHORTLY:
                wait = min(wait, left - SHORTLY)  # Linux lets a long select() end late by a thousandth of its length
            else:
                due = [s for s in self.states.values() if s.due == earliest and s.cadence]
                self.ready = _batch(due, due[0].due_at)
                wait = max(0.0, earliest / 1000 - self.offset - time.time() + 0.0002)
        connection: Any = news.connection
        socket = connection and connection._sock
        if not socket:
            raise OSError("the connection for changes of the schedule was lost")
        ready, _, _ = select.select([socket], [], [], wait)
        if ready:
            while news.get_message(timeout=0) is not None:
                self.looked = 0.0  # somebody changed the schedule: read it again


@dataclass(frozen=True)
class Batch:
    """What is to be enqueued together: planned, and written down for fire.lua."""

    plans: list[tuple[State, Plan]]
    orders: str
    due_at: datetime
    good_until: datetime  # later, the plans would be others


def _batch(due: Sequence[State], now: datetime) -> Batch:
    plans = [
        (
            state,
            plan(state.cadence, state.due_at, max(now, state.due_at), skip_late=state.fields["misfire"] == "skip"),
        )
        for state in due
        if state.cadence
    ]
    orders = json.dumps([_order(state, decided) for state, decided in plans])
    good_until = min([now + PLANNED_AHEAD, *(decided.next for _, decided in plans)])
    return Batch(plans, orders, now, good_until)


def _order(state: State, decided: Plan) -> dict[str, Any]:
    """A plan as fire.lua takes it."""
    missed = decided.missed and {
        "reason": "misfire",
        "first": steps.milliseconds(decided.missed.first),
        "last": steps.milliseconds(decided.missed.last),
        "count": decided.missed.count,
    }
    return {
        "id": state.id,
        "due": state.due,
        "version": state.version,
        "run": decided.run and steps.milliseconds(decided.run),
        "missed": missed,
        "next": steps.milliseconds(decided.next),
    }


def entry_rows() -> dict[str, dict[str, Any]] | None:
    """What PostgreSQL remembers of the entries, by name; None while it is away."""
    from peewee import InterfaceError, OperationalError

    try:
        db.ping()
        return {row["name"]: row for row in db.maps("select * from entry")}
    except (OperationalError, InterfaceError) as failure:
        log.warning("PostgreSQL is away: overrides and latest due times are not known: %s", str(failure).strip())
        return None


if __name__ == "__main__":
    Scheduler().run()
