"""Run history on its way from the Redis stream to PostgreSQL, and the dead-man check of the schedule."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from peewee import DatabaseError, InterfaceError
from redis.exceptions import RedisError

import db
import events
from engine import outages, steps
from engine.outcome import Refused, is_full, sqlstate
from engine.payload import UNREADABLE, milliseconds, unpacked
from models import runs

if TYPE_CHECKING:
    from redis import Redis

BATCH = 1000
LARGEST_STATEMENT = 8_000_000  # characters
A_VALUE = ("22", "23", "54")  # classes of SQLSTATE: wrong data, broken constraint, beyond a limit
LOOK_EVERY = 5.0  # seconds between looks at the schedule
STOPPED_AFTER = 15.0  # seconds that the earliest due time may lie in the past
STOPPED = "nightdesk:schedule_stopped"  # since when, while the schedule stands still
STOPPED_TOPIC, RESUMED_TOPIC = "schedule.stopped", "schedule.resumed"

log = logging.getLogger("nightdesk.history")


class Keeper:
    """Writes what waits in the stream and looks whether the schedule moves; one in each work-horse."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.looked_at = 0.0

    def keep(self) -> bool:
        """One round; what a server that is away prevents is left for the next second. Whether PostgreSQL took lines."""
        if db.database.in_transaction():
            return False  # a job's, between two of its batches: ours would end with it
        written = 0
        try:
            while (count := write(self.redis)) == BATCH:
                written += count
            written += count
            if time.monotonic() - self.looked_at > LOOK_EVERY:
                self.looked_at = time.monotonic()
                watch_schedule(self.redis)
        except RedisError:
            db.drop_unusable()  # taking the next run says so, and waits
        except (DatabaseError, InterfaceError) as failure:
            outages.began(outages.SERVER_FULL if is_full(failure) else outages.POSTGRESQL_AWAY, failure)
            db.drop_unusable()
            return False
        return written > 0


def line(row: dict[str, Any]) -> str:
    """A row of history as one JSON text that PostgreSQL takes: no NUL, no half characters, no NaN."""
    try:
        text = json.dumps(row, default=str)
        if any(mark in text for mark in ("\\u0000", "\\ud", "NaN", "Infinity")):
            text = json.dumps(_plain(row), default=str)
    except RecursionError:
        return line({**row, "args": {"args": ["too deep to be kept"], "kwargs": {}}})
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def write(redis: Redis) -> int:
    """Move up to BATCH lines into PostgreSQL; writing a line twice is writing it once."""
    entries: list[tuple[bytes, dict[bytes, bytes]]] = redis.xrange(steps.RUNS, count=BATCH)  # type: ignore[assignment]
    if entries:
        for lines in _portions([_text(fields) for _, fields in entries]):
            _write(lines)
        outages.ended(outages.POSTGRESQL_AWAY)
        outages.ended(outages.SERVER_FULL, outages.CALM)
        # Whoever else read from the start of the stream wrote the same lines: trimming what we wrote loses none.
        newest = entries[-1][0].decode()
        milliseconds, _, sequence = newest.partition("-")
        redis.xtrim(steps.RUNS, minid=f"{milliseconds}-{int(sequence) + 1}", approximate=False)
    return len(entries)


def _portions(lines: list[str]) -> Iterator[list[str]]:
    """Lines in sets of some megabytes: a payload may have a quarter of one."""
    portion: list[str] = []
    size = 0
    for text in lines:
        if portion and size + len(text) > LARGEST_STATEMENT:
            yield portion
            portion, size = [], 0
        portion.append(text)
        size += len(text)
    yield portion


def _text(fields: dict[bytes, bytes]) -> str:
    """The line, with job and arguments taken from the payload where a step wrote it without reading that."""
    text = fields.get(b"r", b"").decode("utf-8", "replace")
    if b"d" not in fields:
        return text
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        return text  # found out, and told, when it is written
    try:
        call = unpacked(fields[b"d"])
    except Refused:
        call = UNREADABLE
    row.update(job=call.path, args={"args": call.args, "kwargs": call.kwargs})
    row["entry"] = row.get("entry") or call.path.rpartition(".")[2]
    row["due"] = row.get("due") or milliseconds(row.get("enqueued") or "") or row["ended"]
    return line(row)


def _write(lines: list[str]) -> None:
    """The set in one go; when it fails on a value, in halves, until the bad line stands alone."""
    try:
        with db.transaction():
            if runs.write(lines):
                db.after_commit(events.nudge)
    except (DatabaseError, ValueError) as failure:
        if isinstance(failure, DatabaseError) and not sqlstate(failure).startswith(A_VALUE):
            raise  # the server's state, not a line: disk full, read only, not migrated yet
        if len(lines) == 1:
            log.error("a line of run history cannot be stored as it is: %s: %s", failure, lines[0][:500])
            _write_bare(lines[0])
            return
        middle = len(lines) // 2
        _write(lines[:middle])
        _write(lines[middle:])


def _write_bare(text: str) -> None:
    """What a bad line says for sure: that the run ended, when and how. Nothing, if not even that."""
    try:
        row = json.loads(text)
        bare = {name: row[name] for name in ("run", "queue", "attempt", "ended", "outcome", "dead")}
        bare |= {"entry": str(row.get("entry"))[:200], "run": str(row["run"])[:200], "due": row["ended"]}
        with db.transaction():
            runs.write([line({**bare, "error": "its line could not be stored"})])
    except (ValueError, KeyError, TypeError):
        return  # the log has it
    except DatabaseError as failure:
        if not sqlstate(failure).startswith(A_VALUE):
            raise


def watch_schedule(redis: Redis) -> None:
    """Dead-man check, outside the scheduler: a due time long past means that nobody moves the schedule."""
    stopped_for = seconds_behind(redis)
    if stopped_for is not None and stopped_for > STOPPED_AFTER:
        if redis.set(STOPPED, round(time.time() - stopped_for), nx=True):
            try:
                _raise(STOPPED_TOPIC, stopped_for)
            except BaseException:
                redis.delete(STOPPED)  # nobody was told yet
                raise
            log.error("the schedule has stopped: nothing was enqueued for %.0f s; is a scheduler running?", stopped_for)
    elif since := redis.getdel(STOPPED):
        try:
            _raise(RESUMED_TOPIC, 0.0)
        except BaseException:
            redis.set(STOPPED, since)
            raise
        log.warning("the schedule moves again")


def seconds_behind(redis: Redis) -> float | None:
    """How far the earliest due time lies in the past (negative: ahead); None where no schedule was ever declared."""
    for start in range(0, redis.zcard(steps.SCHEDULED), 100):
        earliest: Any = redis.zrange(steps.SCHEDULED, start, start + 99, withscores=True)
        for entry, due in earliest:
            if redis.sismember(steps.ENTRIES, entry):  # others may use rq-scheduler's list too
                return steps.now(redis) / 1000 - float(due)
    return runs.seconds_since_last_due()


def _raise(topic: str, stopped_for: float) -> None:
    with db.transaction():
        events.publish(topic, {"seconds": round(stopped_for)})
