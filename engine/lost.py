"""Runs, slots and workers that are in no list, ends that no history has: another tool or its death can leave them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine import steps

if TYPE_CHECKING:
    from redis import Redis

PAGE = 1000
SCAN, SUSPECTS = "nightdesk:scan", "nightdesk:suspects"

log = logging.getLogger("nightdesk.lost")


def find_lost(redis: Redis, between: Callable[[], None] = lambda: None, every: float = 120.0) -> None:
    """Requeue runs that two scans in a row found queued but in no list, or started but in nobody's hand.

    Runs of the schedule that a worker of rq's own class failed become dead letters, slots of a limit whose run is in
    nobody's hand are freed, and a dead worker that no list knows is put before the reapers. One worker at a time
    scans, once in `every` seconds; `between` is called after each page.
    """
    if not redis.set(SCAN, "1", nx=True, ex=max(1, int(every * 0.8))):
        return
    _list_workers(redis)
    for key in redis.scan_iter("nightdesk:running:*", count=PAGE, _type="zset"):
        freed = steps.step(redis, "sweep", key)
        if freed:
            log.warning("limit=%s: %d slot(s) were held by runs that nobody has", key.decode("utf-8", "replace"), freed)
    between()
    for key in redis.scan_iter("rq:failed:*", count=PAGE, _type="zset"):
        _tell_failed(redis, key, between)
    waiting: set[bytes] = set()
    for pattern in ("rq:queue:*", "nightdesk:waiting:*"):
        for key in redis.scan_iter(pattern, count=PAGE, _type="list"):
            for start in range(0, redis.llen(key), 10 * PAGE):
                waiting.update(redis.lrange(key, start, start + 11 * PAGE))  # type: ignore[arg-type]
                between()
    ids = [key[7:] for key in redis.scan_iter("rq:job:*", count=PAGE, _type="hash") if key[7:] not in waiting]
    suspects: set[bytes] = redis.smembers(SUSPECTS)  # type: ignore[assignment]
    lost: set[bytes] = set()
    for start in range(0, len(ids), PAGE):
        lost |= _look(redis, ids[start : start + PAGE], suspects)
        between()
    redis.delete(SUSPECTS)
    if lost:
        redis.sadd(SUSPECTS, *lost)


def _tell_failed(redis: Redis, key: bytes, between: Callable[[], None]) -> None:
    for start in range(0, redis.zcard(key), PAGE):
        ids: Any = redis.zrange(key, start, start + PAGE - 1)
        for run_id in steps.step(redis, "strangers", *ids):
            log.error("run=%s was failed by a worker of rq's own class", run_id.decode("utf-8", "replace"))
        between()


def _list_workers(redis: Redis) -> None:
    for key in redis.scan_iter("rq:worker:*:executions", count=PAGE, _type="set"):
        name = key.removeprefix(b"rq:worker:").removesuffix(b":executions")
        if redis.zadd(steps.WORKERS, {name: steps.now(redis)}, nx=True):
            log.warning("worker=%s had runs in hand and was in no list", name.decode("utf-8", "replace"))


def _look(redis: Redis, ids: list[bytes], suspects: set[bytes]) -> set[bytes]:
    """Requeue those of `ids` that were suspects before; returns the new suspects."""
    lost: set[bytes] = set()
    with redis.pipeline(transaction=False) as pipe:
        for run_id in ids:
            pipe.hmget(b"rq:job:" + run_id, "status", "origin")
            pipe.exists(b"rq:executions:" + run_id)
        answers: list[Any] = pipe.execute(raise_on_error=False)
    for run_id, found, in_hand in zip(ids, answers[::2], answers[1::2], strict=True):
        status, origin = found if isinstance(found, list) else (None, None)
        if not origin or in_hand or status not in (b"queued", b"started"):
            continue
        if run_id not in suspects:
            lost.add(run_id)
            continue
        log.warning("run=%s was in no list: queued again", run_id.decode("utf-8", "replace"))
        with redis.pipeline(transaction=True) as pipe:
            pipe.hset(b"rq:job:" + run_id, "status", "queued")
            pipe.lpush(b"rq:queue:" + origin, run_id)
            pipe.publish(steps.WAKE, origin)
            pipe.execute()
    return lost
