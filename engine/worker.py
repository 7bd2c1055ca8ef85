"""The worker: a small parent that never touches PostgreSQL and forks warm horses, used as
`rq worker -w queues.Worker critical default low`.

The parent beats, reaps the dead among the other workers, and replaces its horse: at once when it
died, without a break when it is old. It keeps rq's data model, so `rq info` and rq-dashboard tell
the truth, and answers rq's own commands (shutdown, kill-horse, stop-job).
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import select
import signal
import sys
import time
from mmap import mmap
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq.worker import Worker as RqWorker

import db
import queues
from engine import steps
from engine.horse import REDIS_AWAY, Horse, patiently

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

BEAT_EVERY = 2.0  # seconds; every beat reaps
DEAD_AFTER = 10.0  # seconds without a beat
KEY_TTL = 90  # seconds a silent worker stays listed by rq's tools
SCAN_EVERY = 120.0  # seconds between looks for runs that are in no list
C_HANG_GRACE = 5.0  # seconds past its time-out that a job which answers to no signal lives

log = logging.getLogger("nightdesk.worker")


class Worker(RqWorker):
    """rq's worker with a warm, crash-isolated horse, one atomic step per job and rescue within 15 s."""

    def __init__(self, queue_names: Any, name: str | None = None, **options: Any) -> None:
        """As rq's; the connection is ours (explicit retries), the serializer is JSON whatever is asked."""
        options.update(connection=db.redis(), serializer="json", worker_ttl=KEY_TTL - 60)
        given = [queue_names] if isinstance(queue_names, str) else queue_names
        super().__init__([getattr(queue, "name", queue) for queue in given], name=name, **options)
        self.board = mmap(-1, 4096)  # shared with the horse: deadline and id of the run in hand
        self.horse: int | None = None
        self.forked_at = 0.0
        self.quick_deaths = 0  # in a row: a horse that cannot even start is not forked in a tight loop
        self.asked_to_stop: float | None = None
        self.answered_since = 0  # ms: since when Redis has answered every beat
        self.last_beat = 0.0
        self.last_scan = time.monotonic()

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # rq would raise our socket time-out to minutes

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = "%Y-%m-%dT%H:%M:%S",
        log_format: str = "%(asctime)s %(levelname)s %(message)s",
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: Any = None,
    ) -> bool:
        """Until SIGTERM or SIGINT; `burst`: until the queues are empty. True when any job ran."""
        start_logging(logging_level or "INFO")
        self.burst, self.max_jobs = burst, max_jobs
        patiently(self.register_birth, "Redis", REDIS_AWAY)
        queues.load_jobs()
        gc.collect()
        gc.freeze()  # what is loaded now is shared with every horse
        wakeup, waker = os.pipe()
        for end in (wakeup, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that it wakes us
        commands = self._commands()
        log.info("worker=%s started: %s", self.name, " ".join(self.queue_names()))
        try:
            while self._tend(commands):
                commands = self._sleep(wakeup, commands)
        finally:
            self._leave()
        return True

    def _stop(self, *_: object) -> None:
        if self.asked_to_stop is None:
            self.asked_to_stop = time.monotonic()

    def _tend(self, commands: PubSub | None) -> bool:
        """One round: bury a dead horse, beat, watch the time-out, fork the next horse. False: all is done."""
        ended = self._reap_horse()
        if self.asked_to_stop is not None:
            if self.horse is None:
                return False
            from config import settings

            if time.monotonic() - self.asked_to_stop > settings.shutdown_grace:
                log.warning("worker=%s the run in hand did not end in time: handed back", self.name)
                self._kill_horse("the worker was stopped before the run ended")
                return False
            os.kill(self.horse, signal.SIGTERM)
        elif self.horse is None and time.monotonic() - self.forked_at > min(5.0, 0.25 * max(0, self.quick_deaths - 3)):
            if ended and (self.burst or self.max_jobs is not None):
                return False
            self._fork()
        self._beat()
        self._watch_time_out()
        return True

    def _fork(self) -> None:
        if not db.database.is_closed():
            raise RuntimeError("PostgreSQL was opened before the fork")
        self.board[:2] = b"\0\0"
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.forked_at = time.monotonic()
        pid = os.fork()
        if pid:
            self.horse = pid
            return
        code = 1
        try:
            die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            Horse(self.name, self.queue_names(), self.board, burst=self.burst, max_jobs=self.max_jobs).work()
            code = 0
        except BaseException:
            log.exception("worker=%s the work-horse failed", self.name)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _reap_horse(self) -> bool:
        """Whether the horse ended well by itself; what a horse that died had in hand goes back at once."""
        if self.horse is None:
            return False
        pid, status = os.waitpid(self.horse, os.WNOHANG)
        if pid == 0:
            return False
        self.horse = None
        if status == 0:
            return True
        short_lived = time.monotonic() - self.forked_at < 1.0
        self.quick_deaths = self.quick_deaths + 1 if short_lived else 0
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        self._give_back(f"the work-horse died ({how})")
        return False

    def _give_back(self, reason: str, stopped: str = "") -> None:
        count = patiently(
            lambda: steps.rescue(self.connection, self.name, reason, stopped), "Redis", REDIS_AWAY, self._out_of_grace
        )
        log.warning("worker=%s %s: %s run(s) given back", self.name, reason, count)

    def _out_of_grace(self) -> bool:
        return self.asked_to_stop is not None and time.monotonic() - self.asked_to_stop > 29

    def _kill_horse(self, reason: str, stopped: str = "") -> None:
        if self.horse is None:
            return
        os.kill(self.horse, signal.SIGKILL)
        os.waitpid(self.horse, 0)
        self.horse = None
        self._give_back(reason, stopped)

    def _in_hand(self) -> tuple[float, str]:
        """Deadline (monotonic, 0 = none) and id of the run that the horse is in."""
        deadline, length = unpack_from("dH", self.board, 0)
        return deadline, self.board[10 : 10 + length].decode("utf-8", "replace")

    def _watch_time_out(self) -> None:
        deadline, run_id = self._in_hand()
        if self.horse is not None and deadline and time.monotonic() > deadline + C_HANG_GRACE:
            log.error("worker=%s run=%s answers to no time-out: killed", self.name, run_id)
            self._kill_horse("ran longer than its time-out and answered to no signal")

    def _beat(self) -> None:
        """Tell that we live; rescue what workers had in hand that have been silent for DEAD_AFTER."""
        if time.monotonic() - self.last_beat < BEAT_EVERY:
            return
        unbroken = time.monotonic() - self.last_beat < DEAD_AFTER / 2
        self.last_beat = time.monotonic()
        reason = f"its worker was silent for {DEAD_AFTER:.0f} s"
        try:
            now, declared_dead, dead = steps.step(
                self.connection, "beat", self.name, KEY_TTL, self.answered_since if unbroken else 0, DEAD_AFTER,
                reason, steps.rq_text(reason),
            )  # fmt: skip
            if not self.answered_since or not unbroken:
                self.answered_since = now
            if declared_dead:
                log.warning("worker=%s was taken for dead: starting over", self.name)
                self._kill_horse("its worker was taken for dead")
                self.connection.delete(self.key)
                self.register_birth()
            for name, count in json.loads(dead):
                log.warning("worker=%s died: %d run(s) given back", name, count)
            if time.monotonic() - self.last_scan > SCAN_EVERY:
                self.last_scan = time.monotonic()
                find_lost(self.connection)
        except RedisError as failure:
            if self.answered_since:
                log.warning("worker=%s Redis is away: %s", self.name, failure)
            self.answered_since = 0

    def _commands(self) -> PubSub | None:
        try:
            commands = self.connection.pubsub(ignore_subscribe_messages=True)
            commands.subscribe(self.pubsub_channel_name)
            commands.get_message(timeout=1)
        except RedisError:
            return None
        return commands

    def _sleep(self, wakeup: int, commands: PubSub | None) -> PubSub | None:
        """Until a signal, a command of rq's, or the next beat."""
        connection: Any = commands and commands.connection
        sockets = [connection._sock] if connection and connection._sock else []
        ready, _, _ = select.select([wakeup, *sockets], [], [], BEAT_EVERY / 4 if self.asked_to_stop else BEAT_EVERY)
        if wakeup in ready:
            os.read(wakeup, 4096)
        if commands is None:
            return self._commands() if self.answered_since else None
        if len(ready) > (wakeup in ready):
            try:
                message = commands.get_message(timeout=0)
                if message:
                    self._obey(json.loads(message["data"]))
            except (RedisError, OSError, ValueError):
                commands.close()
                return None
        return commands

    def _obey(self, command: dict[str, Any]) -> None:
        name, (_, run_id) = command.get("command"), self._in_hand()
        if name == "shutdown":
            self._stop()
        elif name == "kill-horse":
            self._kill_horse("an operator killed the work-horse")
        elif name == "stop-job" and command.get("job_id") == run_id:
            self._kill_horse("stopped by an operator", stopped=run_id)

    def _leave(self) -> None:
        self._kill_horse("the worker stopped")
        try:
            self.connection.zrem(steps.WORKERS, self.name)
            self.register_death()
        except RedisError as failure:
            log.warning("worker=%s could not say good-bye: %s", self.name, failure)
        log.info("worker=%s stopped", self.name)


def start_logging(level: str = "INFO") -> None:
    """One line per event on stdout, instants in UTC; rq's own loggers go the same way."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    handler.formatter.converter = time.gmtime  # type: ignore[union-attr]
    for name in (None, "rq.worker", "rq.job"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def die_with_parent(parent: int) -> None:
    """Linux kills this process when its parent dies, so that no run goes on beside its own rescue."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died between the fork and here
        os._exit(1)


def find_lost(redis: Redis) -> None:
    """Requeue runs that two scans in a row found marked as queued but in no list.

    Our own steps cannot leave one behind; another tool that died between two commands can. One
    worker at a time scans: the lock outlives any scan.
    """
    if not redis.set("nightdesk:scan", "1", nx=True, ex=int(SCAN_EVERY * 0.8)):
        return
    waiting: set[bytes] = set()
    for pattern in ("rq:queue:*", "nightdesk:waiting:*"):
        for key in redis.scan_iter(pattern, count=1000, _type="list"):
            waiting.update(redis.lrange(key, 0, -1))  # type: ignore[arg-type]
    lost: set[bytes] = set()
    suspects: set[bytes] = redis.smembers("nightdesk:suspects")  # type: ignore[assignment]
    ids = [key[7:] for key in redis.scan_iter("rq:job:*", count=1000, _type="hash") if key[7:] not in waiting]
    for start in range(0, len(ids), 1000):
        page = ids[start : start + 1000]
        with redis.pipeline(transaction=False) as pipe:
            for run_id in page:
                pipe.hmget(b"rq:job:" + run_id, "status", "origin")
            for run_id, (status, origin) in zip(page, pipe.execute(), strict=True):
                if status == b"queued" and origin and run_id in suspects:
                    log.warning("run=%s was in no list: queued again", run_id.decode())
                    redis.lpush(b"rq:queue:" + origin, run_id)
                elif status == b"queued" and origin:
                    lost.add(run_id)
    redis.delete("nightdesk:suspects")
    if lost:
        redis.sadd("nightdesk:suspects", *lost)
