"""What an operator asks first: does the schedule move, who is alive, what waits. Reads only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import history, steps
from engine.steps import SCHEDULERS
from queues import QUEUES

if TYPE_CHECKING:
    from redis import Redis

ALIVE_MS = 30_000  # a scheduler looks every 10 s
WORKER_MS = 10_000


@dataclass(frozen=True)
class Depth:
    """One queue: what waits, runs, waits for its next try, and failed within a day."""

    queue: str
    waiting: int
    running: int
    later: int
    failed: int


@dataclass(frozen=True)
class Member:
    """A scheduler or worker; `silent` in seconds since it was last heard of."""

    name: str
    silent: float
    state: str


def behind(redis: Redis) -> float | None:
    """Seconds that the schedule is behind (0: it moves); None where no schedule was ever declared."""
    seconds = history.seconds_behind(redis)
    return None if seconds is None else max(0.0, seconds)


def depths(redis: Redis) -> list[Depth]:
    """The queues, ours first."""
    others = sorted(m.decode()[9:] for m in redis.smembers("rq:queues"))  # type: ignore[union-attr]
    names = [*QUEUES, *(name for name in others if name not in QUEUES)]
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(f"rq:queue:{name}")
            pipe.zcard(f"rq:wip:{name}")
            pipe.zcard(f"rq:scheduled:{name}")
            pipe.zcount(f"rq:failed:{name}", time.time(), "+inf")
        counts = pipe.execute()
    return [Depth(name, *counts[4 * i : 4 * i + 4]) for i, name in enumerate(names)]


def schedulers(redis: Redis) -> list[Member]:
    """Schedulers heard of lately."""
    return [m for m in _members(redis, SCHEDULERS) if m.silent * 1000 < ALIVE_MS]


def workers(redis: Redis) -> list[Member]:
    """Workers that live or whose runs nobody has rescued yet."""
    return _members(redis, steps.WORKERS)


def _members(redis: Redis, key: str) -> list[Member]:
    now = steps.now(redis)
    beats: Any = redis.zrange(key, 0, -1, withscores=True)
    found = [(name.decode(), (now - beat) / 1000) for name, beat in beats]
    with redis.pipeline(transaction=False) as pipe:
        for name, _ in found:
            pipe.hget(f"rq:worker:{name}", "state")
        states = pipe.execute()
    return [Member(name, silent, (state or b"").decode()) for (name, silent), state in zip(found, states, strict=True)]


def running(redis: Redis) -> set[str]:
    """Entries of which a run is under way."""
    prefix = "nightdesk:running:entry:"
    keys = [key.decode() for key in redis.scan_iter(f"{prefix}*", count=1000)]
    return {key.removeprefix(prefix) for key in keys}
