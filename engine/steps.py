"""The atomic steps in Redis, one Lua file each in `lua/`: enqueue what is due, take a run, beat, rescue.

Keys of ours: `nightdesk:entry:<id>` (the truth about an entry; with `:run`, what each of its runs begins as),
`nightdesk:entries` (their ids), `nightdesk:runs` (stream of history on its way to PostgreSQL), `nightdesk:workers`
(last beats), `nightdesk:running:<limit>` and `nightdesk:waiting:<limit>` (concurrency limits; `nightdesk:limits` has
those that somebody waits for), `nightdesk:pulse` (since when somebody was heard of without a gap),
`nightdesk:dead:<worker>` (it was given up), `nightdesk:removed` (entries that a release removed), `nightdesk:parents`
(ended jobs of rq's with dependents), `nightdesk:measured` and `nightdesk:metrics` (what runs measured, and its sums),
`nightdesk:schedulers` (when each looked last), `nightdesk:schedule_stopped` (since when), `nightdesk:scan` and
`nightdesk:suspects` (see lost.py), `nightdesk:room` (a full server refuses to write it), the channels `nightdesk:wake`
and `nightdesk:schedule`. Everything else of the engine's is rq's and rq-scheduler's own data model.
"""

from __future__ import annotations

import json
import logging
import zlib
from base64 import b64encode
from datetime import UTC, datetime
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

    from engine.line import Line

RUNS = "nightdesk:runs"
WAKE = "nightdesk:wake"
SCHEDULE = "nightdesk:schedule"
WORKERS = "nightdesk:workers"
ENTRIES = "nightdesk:entries"
ENTRY = "nightdesk:entry:"
REMOVED = "nightdesk:removed"
SCHEDULERS = "nightdesk:schedulers"  # zset: name and when it last looked, ms
SCHEDULED = "rq:scheduler:scheduled_jobs"
NO_WRITES = ("OOM ", "MISCONF ", "READONLY ", "NOREPLICAS ", "MASTERDOWN ", "LOADING ", "BUSY ")
LARGEST_PAYLOAD = 262_144  # bytes; the same figure stands in common.lua

log = logging.getLogger("nightdesk.steps")


@cache
def _script(name: str) -> tuple[str, str]:
    folder = Path(__file__).parent / "lua"
    text = (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


def step(redis: Redis | Line, name: str, *arguments: Any) -> Any:
    """Run one step; the script is sent again after a server forgot it.

    Raises redis.ConnectionError too while the server takes no writes (memory or disk full, loading,
    a replica): the step has then done nothing, and waiting is all that is left.
    """
    from redis.exceptions import ConnectionError as RedisGone
    from redis.exceptions import NoScriptError, ResponseError

    text, sha = _script(name)
    try:
        try:
            return redis.execute_command("EVALSHA", sha, 0, *arguments)
        except NoScriptError:
            return redis.execute_command("EVAL", text, 0, *arguments)
    except ResponseError as refusal:
        if refuses_writes(refusal):
            raise RedisGone(f"it takes no writes: {refusal}") from None
        raise


def refuses_writes(failure: BaseException) -> bool:
    """Whether Redis is there but full, loading, busy, or a replica."""
    from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

    if isinstance(failure, OutOfMemoryError | ReadOnlyError):  # these two lose their first word on the way
        return True
    return isinstance(failure, ResponseError) and str(failure).startswith(NO_WRITES)


def fire(redis: Redis, batch: bytes | str) -> dict[str, Any]:
    """Enqueue due entries, see fire.lua; returns `{"now": ms, "results": [...]}` in the batch's order."""
    answer: dict[str, Any] = json.loads(step(redis, "fire", batch))
    return answer


def declare(redis: Redis, entries: list[dict[str, Any]], *, reconcile: bool = False) -> list[str]:
    """Add missing entries; `reconcile` (the release step) also changes and removes. Returns the ids touched."""
    answer = json.loads(step(redis, "declare", json.dumps(entries), "reconcile" if reconcile else ""))
    for entry, problem in answer["problems"]:
        log.error("entry=%s cannot be declared: %s", entry, problem)
    return list(answer["touched"])  # an empty table is {} in Lua's JSON


def rescue(redis: Redis, worker: str, reason: str, stopped: str = "", *, counted: bool = True) -> int:
    """Give back what `worker` had in hand; a run that an operator stopped is not tried again.

    `counted`: as one of the run's tries, of which it has so many.
    """
    return int(step(redis, "rescue", worker, "lost" if counted else "handed_back", reason, rq_text(reason), stopped))


def rq_text(text: str) -> str:
    """A text as rq keeps it in a result: base64 of zlib."""
    return b64encode(zlib.compress(text.encode("utf-8", "replace"))).decode()


def rq_json(value: Any) -> str:
    """A return value as rq's JSON serializer keeps it in a result."""
    return b64encode(json.dumps(value, default=str).encode()).decode()


def now(redis: Redis) -> int:
    """Redis's clock in Unix milliseconds: the one clock for what is due."""
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def milliseconds(instant: datetime) -> int:
    """Unix milliseconds of an aware instant."""
    return round(instant.timestamp() * 1000)


def instant(ms: float) -> datetime:
    """The aware instant of Unix milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def enqueue(
    redis: Redis,
    path: str,
    queue: str,
    *,
    run_id: str,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    due: int,
    entry: str,
    timeout: int,
    tries: int,
    limits: str = "",
    attempt: int = 0,
) -> str:
    """Enqueue one run outside the schedule (run now, retry of a dead letter); returns its id."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    text = ", ".join([*(repr(a) for a in args), *(f"{k}={v!r}" for k, v in (kwargs or {}).items())])
    fields: dict[str, Any] = {
        "nd_entry": entry,
        "nd_due": due,
        "nd_max": tries,
        "nd_limits": limits,
        "nd_attempt": attempt,
        "created_at": at,
        "enqueued_at": at,
        "data": json.dumps([path, None, list(args), kwargs or {}]),
        "origin": queue,
        "description": f"{path}({text})",
        "timeout": timeout,
        "status": "queued",
    }
    with redis.pipeline(transaction=True) as pipe:
        pipe.hset(f"rq:job:{run_id}", mapping=fields)  # type: ignore[arg-type]
        pipe.sadd("rq:queues", f"rq:queue:{queue}")
        pipe.rpush(f"rq:queue:{queue}", run_id)
        pipe.publish(WAKE, queue)
        pipe.execute()
    return run_id
