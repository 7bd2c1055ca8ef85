"""The warm work-horse: a forked child that runs many jobs, one Redis round trip each, before it is replaced."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisSlow

import db
import queues
from config import settings
from engine import dependents, ends, history, outages, steps
from engine.board import Board
from engine.line import Line
from engine.memory import peak_mb, resident_mb
from engine.outages import patiently
from engine.outcome import Outcome, Refused, checked_counts, of_exception
from engine.payload import UNREADABLE, Call, Run, Unregistered, asked, read, registered

if TYPE_CHECKING:
    from redis import Redis

JOBS_PER_HORSE = 10_000
SECONDS_PER_HORSE = 3600.0
LOOK_EVERY = 0.25  # seconds: for what others than our own steps enqueued
FLUSH_EVERY = 1.0  # seconds between writes of run history, at the most

GONE = (RedisGone, RedisSlow)
NOTHING = ("", "")  # is finished
NO_QUEUE = "[]"  # to take from

log = logging.getLogger("nightdesk.run")


class Horse:
    """Runs in the child: take, run, finish, until it is old, too large, or told to stop."""

    def __init__(self, worker: str, queue_names: list[str], board: Board, *, burst: bool, max_jobs: int | None) -> None:
        self.worker = worker
        self.queues = queue_names
        self.wanted = json.dumps(queue_names)  # as take.lua takes them
        self.board = board
        self.burst = burst
        self.max_jobs = max_jobs
        self.stopping = False
        self.timeout = 0  # seconds, of the run in hand
        self.done = 0
        self.born = time.monotonic()
        self.flushed = 0.0
        self.last_query = 0.0
        self.last_look = 0.0
        self.redis: Redis = db.redis()
        self.line = Line(self.redis)
        self.keeper = history.Keeper(self.redis)

    def work(self) -> bool:
        """Until told to stop; what was finished last is written before the horse goes. True: another takes over."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGALRM, self._expire)
        random.seed()
        wake = self.redis.pubsub(ignore_subscribe_messages=True)
        patiently(lambda: wake.subscribe(steps.WAKE), outages.REDIS_AWAY, GONE, lambda: self.stopping)
        queues.should_yield = lambda: False
        finished = NOTHING
        while True:
            old = self._is_old()
            take = NO_QUEUE if self.stopping or old else self.wanted
            state, run = self._step(finished, take)
            finished = NOTHING
            if run:
                finished = self._run(run)
                if time.monotonic() - self.flushed > FLUSH_EVERY:
                    self._keep_house()
            elif state == b"more":
                continue
            elif take == NO_QUEUE or (self.burst and state != b"unknown"):
                self._keep_house(at_once=True)
                return old and not self.stopping
            else:
                self._keep_house()
                self._wait(wake)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _is_old(self) -> bool:
        """Whether a fresh horse should take over, or the work is done."""
        if self.max_jobs is not None and self.board.count >= self.max_jobs:
            return True
        if not self.done:
            return False  # one that is too large from the start would be replaced for ever
        if self.done >= JOBS_PER_HORSE or time.monotonic() - self.born > SECONDS_PER_HORSE:
            return True
        return peak_mb() > settings.worker_memory_mb and resident_mb() > settings.worker_memory_mb

    def _step(self, finished: tuple[str, str], take: str) -> tuple[bytes, Run | None]:
        """take.lua, for as long as Redis is away; made again with its own number, it gives the same answer."""
        number = time.monotonic_ns() // 1000
        execution = f"{os.getpid():x}{number:x}"
        reply = patiently(
            lambda: steps.step(self.line, "take", self.worker, *finished, take, execution, number),
            outages.REDIS_AWAY,
            GONE,
            lambda: self.stopping and finished == NOTHING,
            self._make_room,
        ) or [b"ok", 0]
        state, parents, *run = reply
        if state == b"fenced":
            log.warning("worker=%s a run was taken from us while it ran: its end is not recorded", self.worker)
        elif state not in (b"ok", b"more", b"unknown", b"late"):
            log.error("worker=%s %s", self.worker, state.decode("utf-8", "replace"))
        if parents:
            self._enqueue_dependents()
        return state, read(run, execution) if run else None

    def _make_room(self, failure: Exception) -> None:
        """A full Redis takes no step, but gives away what waits for PostgreSQL: perhaps that is what fills it."""
        if "takes no writes" in str(failure):
            self._keep_house()

    def _enqueue_dependents(self) -> None:
        try:
            dependents.enqueue(self.redis)
        except RedisError as failure:
            log.warning("dependents wait for the next look: %s", failure)

    def _wait(self, wake: Any) -> None:
        """Until somebody enqueues something, at most LOOK_EVERY; then drop what else was said."""
        try:
            if wake.get_message(timeout=LOOK_EVERY) is not None:
                while wake.get_message(timeout=0) is not None:
                    pass
        except (RedisError, OSError):
            time.sleep(LOOK_EVERY)

    def _run(self, run: Run) -> tuple[str, str]:
        """Run one job; returns what take.lua needs to finish it and its row of history, as JSON."""
        self.done += 1
        self.board.add_one()
        self.board.begin(run.id, comes_again=run.comes_again)
        call, clock = UNREADABLE, time.perf_counter()
        try:
            call = asked(run)
            job = registered(run, call)
            if job.limit and not run.scheduled:  # somebody else's enqueue of a job with a limit: back, now with it
                limited = replace(run, limits=json.dumps([job.limit]))
                return ends.finish(limited, Outcome("handed_back"), 0), ""
            outcome = self._attempt(run, job, call)
        except Refused as refusal:
            outcome = _refused(run, refusal)
        finally:
            self.board.clear()
        took = time.perf_counter() - clock
        self.line.meanwhile = partial(ends.say, run, call, outcome, took)
        return ends.finish(run, outcome, took), ends.row(self.worker, run, call, outcome, took)

    def _attempt(self, run: Run, job: queues.Job, call: Call) -> Outcome:
        """Call the function; whatever it raises becomes an outcome, `except` for what ends the process."""
        try:
            if self.stopping:  # the signal came while the run was on its way to us
                return Outcome("handed_back")
            if not self._database_answers():
                return Outcome("handed_back", error="the database is away")
            queues.should_yield = self._yielder(run.queue)
            timeout = run.timeout if run.scheduled and run.timeout else job.timeout
            with self._limited_to(timeout):
                counts = job.function(*call.args, due_at=steps.instant(run.due), **call.kwargs)
            return Outcome("ok", counts=checked_counts(counts))
        except queues.Yielded:
            return Outcome("yielded")
        except (Exception, SystemExit, KeyboardInterrupt) as failure:  # noqa: BLE001 - recorded, whatever it is
            tries = run.tries or max(job.tries, 1 + run.retries_left)
            return of_exception(failure, run.tried + 1, tries, run.attempt)
        finally:
            queues.should_yield = lambda: False
            db.drop_unusable()

    def _database_answers(self) -> bool:
        """A job starts on a connection that is known to work; without one it waits here and is handed back."""
        if time.monotonic() - self.last_query < 1.0 and not db.database.is_closed():
            return True
        from peewee import InterfaceError, OperationalError

        away = (OperationalError, InterfaceError)
        if patiently(db.ping, outages.POSTGRESQL_AWAY, away, lambda: self.stopping) is None:
            return False
        self.last_query = time.monotonic()
        return True

    def _yielder(self, queue: str) -> Callable[[], bool]:
        above = self.queues[: self.queues.index(queue)] if queue in self.queues else []
        higher = [f"rq:queue:{name}" for name in above]

        def should_yield() -> bool:
            if time.monotonic() - self.flushed > FLUSH_EVERY:
                self._keep_house()
            if self.stopping:
                return True
            if not higher or time.monotonic() - self.last_look < 0.05:
                return False
            self.last_look = time.monotonic()
            return bool(self.redis.exists(*higher))

        return should_yield

    @contextmanager
    def _limited_to(self, timeout: int) -> Iterator[None]:
        """Raise JobTimeoutException in the job after `timeout` seconds; the board tells the parent, for hangs in C."""
        self.timeout = timeout
        self.board.limit(timeout)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            yield
        finally:
            self.board.limit(0)  # first: the alarm may still ring in the next line
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _expire(self, *_: object) -> None:
        from rq.timeouts import JobTimeoutException

        raise JobTimeoutException(f"ran longer than its time-out of {self.timeout} s")

    def _keep_house(self, *, at_once: bool = False) -> None:
        """History to PostgreSQL, and a look whether the schedule still moves; at most twice a second."""
        if not at_once and time.monotonic() - self.flushed < FLUSH_EVERY / 2:
            return
        self.flushed = time.monotonic()
        signal.signal(signal.SIGALRM, self._expire)  # a job may have put its own there
        if self.keeper.keep():
            self.last_query = self.flushed  # so long ago at the most, the database answered


def _refused(run: Run, refusal: Refused) -> Outcome:
    """While two versions of the code run, a scheduled job that this one does not know waits for the other."""
    outcome = of_exception(refusal, 1, 1)
    waits = isinstance(refusal, Unregistered) and run.entry and run.tried < 3
    return replace(outcome, name="retried", delay=10.0) if waits else outcome
