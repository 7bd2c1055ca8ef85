"""The warm work-horse: a forked child that runs many jobs, one Redis round trip each, before it is replaced."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from mmap import mmap
from pathlib import Path
from struct import pack_into
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import TimeoutError as RedisSlow

import db
import queues
from config import redact, settings
from engine import history, steps
from engine.outcome import Outcome, Refused, of_exception

if TYPE_CHECKING:
    from redis import Redis

JOBS_PER_HORSE = 10_000
SECONDS_PER_HORSE = 3600.0
LOOK_EVERY = 0.25  # seconds: for what others than our own steps enqueued
FLUSH_EVERY = 1.0  # seconds between writes of run history, at the most
RESULT_TTL = 60  # seconds a scheduled run's hash lives: history is in PostgreSQL
AD_HOC_TTL = 500  # seconds, as rq has it, for what `rq enqueue` fed

REDIS_AWAY = (RedisGone, RedisSlow)

T = TypeVar("T")
log = logging.getLogger("nightdesk.run")


@dataclass(frozen=True)
class Run:
    """A run in hand: what take.lua returned, decoded."""

    id: str
    queue: str
    execution: str
    started: int  # ms, Redis's clock
    attempt: int
    too_large: bool
    data: bytes
    due: int  # ms
    entry: str
    tried: int  # tries before this one
    tries: int | None
    limits: str | None  # JSON; None when nobody has looked for limits yet
    timeout: int
    enqueued: str
    hooks: bool  # callbacks or webhooks by name
    retries_left: int
    ttl: int

    @property
    def enqueued_ms(self) -> int:
        """When it was enqueued, ms; its start where that is unreadable."""
        return _milliseconds(self.enqueued, self.started)

    @property
    def scheduled(self) -> bool:
        """Whether our own steps enqueued it, with its due time and limits."""
        return self.limits is not None


def read(reply: list[Any], execution: str) -> Run:
    """The run in a reply of take.lua."""
    _, run_id, queue, now, attempt, too_large, h = reply
    data, due, entry, tried, tries, limits, timeout, enqueued, created = h[:9]
    enqueued_text = (enqueued or created or b"").decode()
    return Run(
        id=run_id.decode(),
        queue=queue.decode(),
        execution=execution,
        started=now,
        attempt=attempt,
        too_large=bool(too_large),
        data=data or b"",
        due=int(due) if due else _milliseconds(enqueued_text, now),
        entry=entry.decode() if entry else "",
        tried=int(tried or 0),
        tries=int(tries) if tries else None,
        limits=None if limits is None else limits.decode(),
        timeout=int(timeout) if timeout else 0,
        enqueued=enqueued_text,
        hooks=any(h[9:13]),
        retries_left=int(h[13] or 0),
        ttl=int(h[14]) if h[14] else RESULT_TTL if due else AD_HOC_TTL,
    )


def _milliseconds(text: str, otherwise: int) -> int:
    try:
        return steps.milliseconds(datetime.fromisoformat(text))
    except ValueError:
        return otherwise


def payload(run: Run) -> tuple[queues.Job, list[Any], dict[str, Any]]:
    """The registered job and its arguments. Raises Refused; never unpickles, never imports what a payload names."""
    import zlib

    if run.too_large:
        raise Refused(f"the payload is larger than {steps.LARGEST_PAYLOAD} bytes: pass a key, not the rows")
    if run.hooks:
        raise Refused("callbacks and webhooks by name are not run: publish an event in the job instead")
    data = run.data
    if data[:1] == b"\x78":  # rq compresses; ours is plain
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, steps.LARGEST_PAYLOAD)
        except zlib.error:
            raise Refused("the payload is not JSON: enqueue with `rq enqueue -S json`") from None
        if unpacker.unconsumed_tail:
            raise Refused(f"the payload is larger than {steps.LARGEST_PAYLOAD} bytes: pass a key, not the rows")
    try:
        path, instance, args, kwargs = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        raise Refused("the payload is not JSON: enqueue with `rq enqueue -S json`") from None
    if not (isinstance(path, str) and instance is None and isinstance(args, list) and isinstance(kwargs, dict)):
        raise Refused("the payload is not [function, null, arguments, keywords]")
    job = queues.registry.get(path)
    if job is None:
        raise Refused(f"no job {path[:200]!r} is registered in this version of the code")
    return job, args, kwargs


class Horse:
    """Runs in the child: take, run, finish, until it is old, too large, or told to stop."""

    def __init__(self, worker: str, queue_names: list[str], board: mmap, *, burst: bool, max_jobs: int | None) -> None:
        self.worker = worker
        self.queues = queue_names
        self.board = board
        self.burst = burst
        self.max_jobs = max_jobs
        self.stopping = False
        self.done = 0
        self.born = time.monotonic()
        self.flushed = 0.0
        self.last_query = 0.0
        self.last_look = 0.0
        self.redis: Redis = db.redis()
        self.keeper = history.Keeper(self.redis)

    def work(self) -> None:
        """Until told to stop; what was finished last is written before the horse goes."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._stop)
        random.seed()
        wake = self.redis.pubsub(ignore_subscribe_messages=True)
        patiently(lambda: wake.subscribe(steps.WAKE), "Redis", REDIS_AWAY, lambda: self.stopping)
        queues.should_yield = lambda: False
        finished: str = ""
        while True:
            take = [] if self.stopping or self.old() else self.queues
            execution = f"{os.getpid():x}{time.monotonic_ns():x}"
            reply = self._step(finished, take, execution)
            finished = ""
            if reply[0] != b"ok":
                log.warning("worker=%s a run was taken from us while it ran: its end is not recorded", self.worker)
            if len(reply) > 1:
                finished = self._run(read(reply, execution))
                if time.monotonic() - self.flushed > FLUSH_EVERY:
                    self._keep_house()
            elif not take or self.burst:
                self._keep_house()
                return
            else:
                self._keep_house()
                self._wait(wake)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def old(self) -> bool:
        """Whether a fresh horse should take over."""
        if self.max_jobs is not None and self.done >= self.max_jobs:
            return True
        if self.done % 64 == 0 and resident_mb() > settings.worker_memory_mb:
            return True
        return self.done >= JOBS_PER_HORSE or time.monotonic() - self.born > SECONDS_PER_HORSE

    def _step(self, finished: str, take: list[str], execution: str) -> list[Any]:
        """take.lua, for as long as Redis is away."""
        return patiently(
            lambda: steps.step(self.redis, "take", self.worker, finished, json.dumps(take), execution),
            "Redis",
            REDIS_AWAY,
            lambda: self.stopping and not finished,
        ) or [b"ok"]

    def _wait(self, wake: Any) -> None:
        """Until somebody enqueues something, at most LOOK_EVERY; then drop what else was said."""
        from redis.exceptions import RedisError

        try:
            if wake.get_message(timeout=LOOK_EVERY) is not None:
                while wake.get_message(timeout=0) is not None:
                    pass
        except (RedisError, OSError):
            time.sleep(LOOK_EVERY)

    def _run(self, run: Run) -> str:
        """Run one job; returns what take.lua needs to finish it, as JSON."""
        self.done += 1
        clock = time.perf_counter()
        outcome, path, args, kwargs, limits = self._attempt(run)
        took = time.perf_counter() - clock
        if outcome.name == "limited":  # somebody else's enqueue of a job with limits: back, now with them
            return json.dumps(_finish(run, replace(outcome, name="handed_back"), took, limits, None))
        row = {
            "entry": run.entry or path.rpartition(".")[2] or run.id,
            "run": run.id,
            "job": path,
            "queue": run.queue,
            "args": {"args": args, "kwargs": kwargs},
            "due": run.due,
            "attempt": run.attempt,
            "enqueued": run.enqueued,
            "started": run.started,
            "ended": run.started + took * 1000,
            "outcome": outcome.name,
            "counts": outcome.counts,
            "worker": self.worker,
            "error": outcome.error,
            "fingerprint": outcome.fingerprint,
            "version": settings.code_version,
            "dead": outcome.dead,
        }
        self._say(run, path, outcome, took)
        return json.dumps(_finish(run, outcome, took, run.limits or "", history.line(row)))

    def _attempt(self, run: Run) -> tuple[Outcome, str, list[Any], dict[str, Any], str]:
        """Call the function; whatever it raises becomes an outcome, `except` for what ends the process."""
        path, job = "", None
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        try:
            job, args, kwargs = payload(run)
            path = job.path
            if not run.scheduled and job.limit:
                return Outcome("limited"), path, args, kwargs, json.dumps([job.limit])
            if not self._database_answers():
                return Outcome("handed_back", error="the database is away"), path, args, kwargs, ""
            queues.should_yield = self._yielder(run.queue)
            timeout = run.timeout if run.scheduled and run.timeout else job.timeout
            with self._limited_to(timeout, run.id):
                counts = job.function(*args, due_at=steps.instant(run.due), **kwargs)
            return Outcome("ok", counts=counts), path, args, kwargs, ""
        except queues.Yielded:
            return Outcome("yielded"), path, args, kwargs, ""
        except (Exception, SystemExit, KeyboardInterrupt) as failure:  # noqa: BLE001 - recorded, whatever it is
            tries = run.tries or (max(job.tries, 1 + run.retries_left) if job else 1)
            outcome = self._after_deploy(run, failure) or of_exception(failure, run.tried + 1, tries)
            return outcome, path, args, kwargs, ""
        finally:
            queues.should_yield = lambda: False
            db.drop_unusable()

    def _after_deploy(self, run: Run, failure: BaseException) -> Outcome | None:
        """While two versions of the code run, a scheduled job that this one does not know waits for the other."""
        if isinstance(failure, Refused) and run.entry and "registered" in str(failure) and run.tried < 3:
            return replace(of_exception(failure, 1, 1), name="retried", delay=10.0)
        return None

    def _database_answers(self) -> bool:
        """A job starts on a connection that is known to work; without one it waits here and is handed back."""
        from peewee import InterfaceError, OperationalError

        if time.monotonic() - self.last_query < 1.0 and not db.database.is_closed():
            return True
        away = (OperationalError, InterfaceError)
        if patiently(db.ping, "PostgreSQL", away, lambda: self.stopping) is None:
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
    def _limited_to(self, timeout: int, run_id: str) -> Iterator[None]:
        """Raise JobTimeoutException in the job after `timeout` seconds; the board tells the parent, for hangs in C."""
        from rq.timeouts import JobTimeoutException

        def expire(*_: object) -> None:
            raise JobTimeoutException(f"ran longer than its time-out of {timeout} s")

        encoded = run_id.encode()[:200]
        pack_into(f"dH{len(encoded)}s", self.board, 0, time.monotonic() + timeout, len(encoded), encoded)
        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            pack_into("d", self.board, 0, 0.0)

    def _keep_house(self) -> None:
        """History to PostgreSQL, and a look whether the schedule still moves; at most twice a second."""
        if time.monotonic() - self.flushed < FLUSH_EVERY / 2:
            return
        self.flushed = time.monotonic()
        self.keeper.keep()

    def _say(self, run: Run, path: str, outcome: Outcome, took: float) -> None:
        late = max(0, run.started - run.due)
        counts = "".join(f" {k}={v}" for k, v in (outcome.counts or {}).items())
        level = logging.ERROR if outcome.dead else logging.WARNING if outcome.error else logging.INFO
        if log.isEnabledFor(level):
            error = f" error={json.dumps(outcome.error)} fingerprint={outcome.fingerprint}" if outcome.error else ""
            log.log(
                level,
                "job=%s run=%s attempt=%d outcome=%s ms=%.1f late_ms=%d%s%s",
                path.removeprefix("jobs."), run.id, run.attempt, outcome.name, took * 1000, late, counts, error,
            )  # fmt: skip
            if outcome.dead:
                log.error("%s", outcome.trace)


def _finish(run: Run, outcome: Outcome, took: float, limits: str, row: str | None) -> dict[str, Any]:
    """What take.lua needs to end a run, see there."""
    end = {
        "id": run.id,
        "execution": run.execution,
        "queue": run.queue,
        "outcome": outcome.name,
        "name": run.entry or "ad-hoc",
        "seconds": round(took, 6),
        "waited": max(0, run.started - run.enqueued_ms) / 1000,
        "late": max(0, run.started - run.due) / 1000 if run.scheduled and run.attempt == 1 else None,
        "limits": limits,
        "row": row,
        "ttl": run.ttl,
        "result": steps.rq_json(outcome.counts) if outcome.counts is not None else None,
        "exc": steps.rq_text(outcome.trace or outcome.error or "") if outcome.dead else None,
        "tries": run.tried + 1,
        "delay": round(outcome.delay * 1000),
    }
    return {name: value for name, value in end.items() if value is not None}  # JSON's null is true in Lua


def patiently(
    call: Callable[[], T], what: str, away: tuple[type[Exception], ...], give_up: Callable[[], bool] = lambda: False
) -> T | None:
    """`call()`, again and again while a server is away: one line when it goes, one when it is back; None: gave up."""
    wait, left = 0.1, None
    while True:
        try:
            answer = call()
        except away as failure:
            if left is None:
                left = time.monotonic()
                log.warning("%s is away, waiting for it: %s", what, redact(str(failure)).strip().splitlines()[:1])
            if give_up():
                return None
            time.sleep(wait)
            wait = min(wait * 2, 2.0)
        else:
            if left is not None:
                log.warning("%s is back after %.1f s", what, time.monotonic() - left)
            return answer


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:  # not Linux: the peak will do
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
