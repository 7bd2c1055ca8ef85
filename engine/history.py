"""Run history on its way from the Redis stream to PostgreSQL, and the dead-man check of the schedule."""

from __future__ import annotations

import json
import logging
import time
import zlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

from peewee import DatabaseError, InterfaceError, OperationalError
from redis.exceptions import RedisError

import db
import events
from engine import steps
from models import runs

if TYPE_CHECKING:
    from redis import Redis

BATCH = 2000
LOOK_EVERY = 5.0  # seconds between looks at the schedule
STOPPED_AFTER = 15.0  # seconds that the earliest due time may lie in the past
STOPPED = "nightdesk:schedule_stopped"  # since when, while the schedule stands still
STOPPED_TOPIC, RESUMED_TOPIC = "schedule.stopped", "schedule.resumed"

log = logging.getLogger("nightdesk.history")


class Keeper:
    """Writes what waits in the stream and looks whether the schedule moves; one in each work-horse."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.failing = False
        self.looked_at = 0.0

    def keep(self) -> None:
        """One round; what a server that is away prevents is left for the next second."""
        try:
            while write(self.redis) == BATCH:
                pass
            if time.monotonic() - self.looked_at > LOOK_EVERY:
                self.looked_at = time.monotonic()
                watch_schedule(self.redis)
        except (RedisError, OperationalError, InterfaceError) as failure:
            if not self.failing:
                log.warning("run history waits in Redis: %s", str(failure).strip().splitlines()[:1])
            self.failing = True
            db.drop_unusable()
        else:
            self.failing = False


def line(row: dict[str, Any]) -> str:
    """A row of history as one JSON text; PostgreSQL takes no NUL."""
    return json.dumps(row, default=str).replace("\\u0000", "")


def write(redis: Redis, limit: int = BATCH) -> int:
    """Move up to `limit` lines into PostgreSQL in one transaction; writing a line twice is writing it once."""
    entries: list[tuple[bytes, dict[bytes, bytes]]] = redis.xrange(steps.RUNS, count=limit)  # type: ignore[assignment]
    if entries:
        _write([_text(fields) for _, fields in entries])
        # Whoever else read from the start of the stream wrote the same lines: trimming what we wrote loses none.
        newest = entries[-1][0].decode()
        milliseconds, _, sequence = newest.partition("-")
        redis.xtrim(steps.RUNS, minid=f"{milliseconds}-{int(sequence) + 1}", approximate=False)
    return len(entries)


def _text(fields: dict[bytes, bytes]) -> str:
    """The line, with job and arguments taken from the payload where a step wrote it without reading that."""
    text = fields[b"r"].decode("utf-8", "replace")
    if b"d" not in fields:
        return text
    row, data = json.loads(text), fields[b"d"]
    try:
        path, _, args, kwargs = json.loads(zlib.decompress(data) if data[:1] == b"\x78" else data)
    except (ValueError, TypeError, zlib.error):
        path, args, kwargs = "unreadable", [], {}
    row.update(job=path, args={"args": args, "kwargs": kwargs})
    row["entry"] = row.get("entry") or str(path).rpartition(".")[2]
    row["due"] = row.get("due") or steps.milliseconds(datetime.fromisoformat(row["enqueued"]))
    return line(row)


def _write(lines: list[str]) -> None:
    """The set in one go; when it fails on a value, in halves, until the bad line stands alone."""
    try:
        with db.transaction():
            if runs.write(lines):
                db.after_commit(events.nudge)
    except OperationalError:
        raise  # the server, not a line
    except (DatabaseError, ValueError) as failure:
        if len(lines) == 1:
            log.error("a line of run history cannot be stored and is dropped: %s: %s", failure, lines[0][:500])
            return
        middle = len(lines) // 2
        _write(lines[:middle])
        _write(lines[middle:])


def watch_schedule(redis: Redis) -> None:
    """Dead-man check, outside the scheduler: a due time long past means that nobody moves the schedule."""
    stopped_for = seconds_behind(redis)
    if stopped_for is not None and stopped_for > STOPPED_AFTER:
        if redis.set(STOPPED, round(time.time() - stopped_for), nx=True):
            _raise(STOPPED_TOPIC, stopped_for)
            log.error("the schedule has stopped: nothing was enqueued for %.0f s; is a scheduler running?", stopped_for)
    elif redis.delete(STOPPED):
        _raise(RESUMED_TOPIC, 0.0)
        log.warning("the schedule moves again")


def seconds_behind(redis: Redis) -> float | None:
    """How far the earliest due time lies in the past (negative: ahead); None where no schedule was ever declared."""
    earliest = redis.zrange(steps.SCHEDULED, 0, 0, withscores=True)
    if earliest:
        return steps.now(redis) / 1000 - float(earliest[0][1])
    return runs.seconds_since_last_due()


def _raise(topic: str, stopped_for: float) -> None:
    with db.transaction():
        events.publish(topic, {"seconds": round(stopped_for)})
