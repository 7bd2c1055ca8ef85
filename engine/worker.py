"""The worker: a small parent that never touches PostgreSQL and forks warm horses, used as
`rq worker -w queues.Worker critical default low`.

The parent beats, reaps the dead among the other workers, and replaces its horse: at once when it
died, without a break when it is old. It keeps rq's data model, so `rq info` and rq-dashboard tell
the truth, and answers rq's own commands (shutdown, kill-horse, stop-job, stop-execution).
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq.worker import Worker as RqWorker

import db
import queues
from config import settings
from engine import logs, memory, outages, parents, steps
from engine.board import Board
from engine.horse import GONE, Horse
from engine.lost import find_lost
from engine.outages import patiently

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

BEAT_EVERY = 2.0  # seconds; every beat reaps
DEAD_AFTER = 10.0  # seconds without a beat
HEARD_FOR = 6.0  # seconds in which whoever lives has beaten again after Redis was away
KEY_TTL = 90  # seconds a silent worker stays listed by rq's tools
SCAN_EVERY = 120.0  # seconds between looks for runs that are in no list
C_HANG_GRACE = 5.0  # seconds past its time-out that a job which answers to no signal lives
ANOTHER = 3  # exit status of a horse that is old: there is more to do

log = logging.getLogger("nightdesk.worker")


class Worker(RqWorker):
    """rq's worker with a warm, crash-isolated horse, one atomic step per job and rescue within 15 s."""

    def __init__(self, queue_names: Any, name: str | None = None, **options: Any) -> None:
        """As rq's; the connection is ours (explicit retries), the serializer is JSON whatever is asked."""
        options.update(connection=db.redis(), serializer="json", worker_ttl=KEY_TTL - 60)  # rq adds 60
        given = [queue_names] if isinstance(queue_names, str) else queue_names
        super().__init__([getattr(queue, "name", queue) for queue in given], name=name, **options)
        # Nothing here may wait for long: signals and time-outs are to be seen to.
        self.connection.connection_pool.connection_kwargs.update(
            socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 1)
        )
        self.board = Board()
        self.horse: int | None = None
        self.forked_at = 0.0
        self.quick_deaths = 0  # in a row: a horse that cannot even start is not forked in a tight loop
        self.asked_to_stop: float | None = None
        self.last_beat: float | None = None
        self.last_scan = time.monotonic()
        self.cut_off: float | None = None  # when we last could not reach Redis, or stood still ourselves
        self.redis_ahead: float | None = None  # ms: Redis's clock less time.monotonic()

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
        logs.start(logging_level or "INFO")
        self.burst, self.max_jobs = burst, max_jobs
        wakeup, waker = os.pipe()
        for end in (wakeup, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that it wakes us
        queues.load_jobs()
        memory.settle()  # what is loaded now is shared with every horse
        patiently(self._register, outages.REDIS_AWAY, GONE, self._stopping)
        commands = self._commands()
        log.info("worker=%s started: %s", self.name, " ".join(self.queue_names()))
        try:
            while self._tend():
                commands = self._sleep(wakeup, commands)
        finally:
            self._leave()
        return self.board.count > 0

    def _register(self) -> None:
        """List us in rq's registries; of a worker of our name that died we take the place."""
        beat: float | None = None
        while True:
            try:
                self.register_birth()
            except ValueError:
                latest: Any = self.connection.zscore(steps.WORKERS, self.name)
                if beat is not None and latest is not None and latest > beat:
                    raise  # it lives
                before, beat = beat, latest
            else:
                return
            if self._stopping():
                return
            silence = math.inf if beat is None else (steps.now(self.connection) - beat) / 1000
            # A beat that is ahead of us was made before the clock was set back: see whether there is another.
            if silence > DEAD_AFTER or (silence < -DEAD_AFTER and beat == before):
                steps.rescue(self.connection, self.name, "its worker died")
                self.connection.delete(self.key)
            else:
                time.sleep(BEAT_EVERY * 1.5)

    def _stop(self, *_: object) -> None:
        if self.asked_to_stop is None:
            self.asked_to_stop = time.monotonic()

    def _stopping(self) -> bool:
        return self.asked_to_stop is not None

    def _tend(self) -> bool:
        """One round: bury a dead horse, beat, fork the next horse, watch its time-out. False: all is done."""
        ended = self._reap_horse()
        if self.asked_to_stop is not None:
            if self.horse is None:
                return False
            if time.monotonic() - self.asked_to_stop > settings.shutdown_grace:
                log.warning("worker=%s the run in hand did not end in time: handed back", self.name)
                self._kill_horse("the worker was stopped before the run ended", counted=False)
                return False
            os.kill(self.horse, signal.SIGTERM)
        elif ended and (self.burst or self.max_jobs is not None):
            return False
        self._beat()
        if self.horse is None and not self._stopping() and time.monotonic() > self.forked_at + self._pause():
            self._fork()
        self._watch_time_out()
        return True

    def _pause(self) -> float:
        """Seconds between two forks: none, unless horses cannot even start."""
        return min(5.0, 0.25 * max(0, self.quick_deaths - 3))

    def _fork(self) -> None:
        if not db.database.is_closed():
            raise RuntimeError("PostgreSQL was opened before the fork")
        self.board.clear()
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
            parents.die_with(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            horse = Horse(self.name, self.queue_names(), self.board, burst=self.burst, max_jobs=self.max_jobs)
            code = ANOTHER if horse.work() else 0
        except BaseException:
            log.exception("worker=%s the work-horse failed", self.name)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _reap_horse(self) -> bool:
        """Whether the horse has done all there was; what a horse that died had in hand goes back at once."""
        if self.horse is None:
            return False
        pid, status = os.waitpid(self.horse, os.WNOHANG)
        if pid == 0:
            return False
        self.horse = None
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, ANOTHER):
            self.quick_deaths = 0
            done = self.max_jobs is not None and self.board.count >= self.max_jobs
            return done or os.WEXITSTATUS(status) == 0
        died_of_itself = time.monotonic() - self.forked_at < 1.0 and self.board.in_hand() is None
        self.quick_deaths = self.quick_deaths + 1 if died_of_itself else 0
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        self._give_back(f"the work-horse died ({how})")
        return False

    def _give_back(self, reason: str, stopped: str = "", *, counted: bool = True) -> None:
        self.board.clear()
        count = patiently(
            lambda: steps.rescue(self.connection, self.name, reason, stopped, counted=counted),
            outages.REDIS_AWAY,
            GONE,
            self._out_of_grace,
        )
        log.warning("worker=%s %s: %s run(s) given back", self.name, reason, count)

    def _out_of_grace(self) -> bool:
        return self.asked_to_stop is not None and time.monotonic() - self.asked_to_stop > settings.shutdown_grace + 3

    def _kill_horse(self, reason: str, stopped: str = "", *, counted: bool = True) -> None:
        if self.horse is None:
            return
        os.kill(self.horse, signal.SIGKILL)
        os.waitpid(self.horse, 0)
        self.horse = None
        self._give_back(reason, stopped, counted=counted)

    def _watch_time_out(self) -> None:
        run = self.board.in_hand()
        if self.horse is not None and run and run.deadline and time.monotonic() > run.deadline + C_HANG_GRACE:
            log.error("worker=%s run=%s answers to no time-out: killed", self.name, run.run_id)
            self._kill_horse("ran longer than its time-out and answered to no signal")

    def _beat(self) -> None:
        """Tell that we live; rescue what workers had in hand that have been silent for DEAD_AFTER."""
        first = self.last_beat is None
        if self.last_beat is not None and time.monotonic() - self.last_beat < BEAT_EVERY:
            return
        if self.last_beat is not None and time.monotonic() - self.last_beat > 2 * BEAT_EVERY:
            self.cut_off = time.monotonic()
        self.last_beat = time.monotonic()
        reason = f"its worker was silent for {DEAD_AFTER:.0f} s"
        try:
            standing, now, dead = steps.step(
                self.connection, "beat", self.name, KEY_TTL, DEAD_AFTER, reason, steps.rq_text(reason), HEARD_FOR,
                self._sent_at(),
            )  # fmt: skip
            self.redis_ahead = now - time.monotonic() * 1000
            if not first and standing != b"known":
                self._introduce_again(standing.decode())
            if standing == b"dead":
                self.last_beat = None  # the next one, at once, is the first of a new life
                self._beat()
                return
            for name, count in json.loads(dead):
                log.warning("worker=%s died: %d run(s) given back", name, count)
            if time.monotonic() - self.last_scan > SCAN_EVERY:
                self.last_scan = time.monotonic()
                find_lost(self.connection, between=self._beat, every=SCAN_EVERY)
        except RedisError as failure:
            outages.began(outages.REDIS_AWAY, failure)
            self.cut_off = time.monotonic()
        else:
            outages.ended(outages.REDIS_AWAY)

    def _sent_at(self) -> int:
        """Now by Redis's clock, ms; 0: not known yet; -1: we were cut off, and others may still be."""
        if self.cut_off is not None and time.monotonic() - self.cut_off < HEARD_FOR:
            return -1
        return 0 if self.redis_ahead is None else round(time.monotonic() * 1000 + self.redis_ahead)

    def _introduce_again(self, standing: str) -> None:
        """The others took us for dead, or Redis lost its memory; a run that somebody else may begin must end here."""
        run = self.board.in_hand()
        if standing == "dead":
            log.warning("worker=%s was taken for dead: starting over", self.name)
            self._kill_horse("its worker was taken for dead")
        elif standing == "forgotten":
            log.warning("worker=%s Redis has forgotten us: introducing ourselves again", self.name)
            if run and run.comes_again:  # the schedule goes on from the latest due time that was done with
                self._kill_horse("Redis has forgotten it")
        self.connection.delete(self.key)
        self.register_birth()

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
        ready, _, _ = select.select([wakeup, *sockets], [], [], self._idle_time())
        if wakeup in ready:
            os.read(wakeup, 4096)
        if commands is None:
            return self._commands() if not outages.ongoing(outages.REDIS_AWAY) else None
        if len(ready) > (wakeup in ready):
            try:
                message = commands.get_message(timeout=0)
                if message:
                    self._obey(json.loads(message["data"]))
            except (RedisError, OSError, ValueError):
                commands.close()
                return None
        return commands

    def _idle_time(self) -> float:
        """Seconds until there is something to do without being woken."""
        if self._stopping():
            return BEAT_EVERY / 4
        until = (self.last_beat or 0.0) + BEAT_EVERY
        if self.horse is None:
            until = min(until, self.forked_at + self._pause())
        elif (run := self.board.in_hand()) and run.deadline:
            until = min(until, run.deadline + C_HANG_GRACE)
        return min(BEAT_EVERY, max(0.01, until - time.monotonic()))

    def _obey(self, command: dict[str, Any]) -> None:
        name, run = command.get("command"), self.board.in_hand()
        if name == "shutdown":
            self._stop()
        elif name == "kill-horse":
            self._kill_horse("an operator killed the work-horse")
        elif name in ("stop-job", "stop-execution") and run and command.get("job_id") == run.run_id:
            self._kill_horse("stopped by an operator", stopped=run.run_id)

    def _leave(self) -> None:
        self._kill_horse("the worker stopped", counted=False)
        try:
            steps.rescue(self.connection, self.name, "the worker stopped", counted=False)  # nothing, as a rule
            self.connection.zrem(steps.WORKERS, self.name)
            self.register_death()
        except RedisError as failure:
            log.warning("worker=%s could not say good-bye: %s", self.name, failure)
        log.info("worker=%s stopped", self.name)
