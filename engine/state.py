"""What an operator asks first: does the schedule move, who is alive, what waits. Reads only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import history, steps
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
    """A scheduler or worker; `silent` in seconds since it was last heard of, `queues` those that it serves."""

    name: str
    silent: float
    state: str
    queues: tuple[str, ...]

    @property
    def is_alive(self) -> bool:
        return self.silent * 1000 <= WORKER_MS


@dataclass(frozen=True)
class Obstacle:
    """Why runs wait or fail though the schedule moves, and what helps."""

    what: str
    remedy: str


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
    return [m for m in _members(redis, steps.SCHEDULERS) if m.silent * 1000 < ALIVE_MS]


def workers(redis: Redis) -> list[Member]:
    """Workers that live or whose runs nobody has rescued yet."""
    return _members(redis, steps.WORKERS)


def obstacles(redis: Redis) -> list[Obstacle]:
    """What keeps living workers from doing the work."""
    found = []
    if redis.exists("rq:suspended"):
        found.append(Obstacle("the work is suspended", "no run is taken before `rq resume`"))
    ours = workers(redis)
    strangers = _rq_workers(redis, {worker.name for worker in ours})
    for name, queues in strangers.items():
        if taken := [queue for queue in queues if queue in QUEUES]:
            remedy = f"it fails what it takes from {', '.join(taken)}: start it as `rq worker -w queues.Worker`"
            found.append(Obstacle(f"{name} is a worker of rq's own class", remedy))
    served = {queue for worker in ours if worker.is_alive for queue in worker.queues}
    if served:  # where nobody lives, that is told already
        served.update(queue for queues in strangers.values() for queue in queues)
        found += [
            Obstacle(f"nobody serves {depth.queue}", f"{depth.waiting} wait there: start a worker for it, see Procfile")
            for depth in depths(redis)
            if depth.waiting and depth.queue not in served
        ]
    return found


def _rq_workers(redis: Redis, ours: set[str]) -> dict[str, list[str]]:
    """Workers of rq's own classes, with the queues that they serve."""
    names = sorted(m.decode().removeprefix("rq:worker:") for m in redis.smembers("rq:workers"))  # type: ignore[union-attr]
    found = zip(names, _of_workers(redis, names, "queues"), strict=True)
    return {name: queues.split(",") for name, (queues,) in found if name not in ours and queues}


def _members(redis: Redis, key: str) -> list[Member]:
    now = steps.now(redis)
    beats: Any = redis.zrange(key, 0, -1, withscores=True)
    found = [(name.decode(), (now - beat) / 1000) for name, beat in beats]
    notes = _of_workers(redis, [name for name, _ in found], "state", "queues")
    return [
        Member(name, silent, state, tuple(queues.split(",")) if queues else ())
        for (name, silent), (state, queues) in zip(found, notes, strict=True)
    ]


def _of_workers(redis: Redis, names: list[str], *fields: str) -> list[list[str]]:
    """Fields of workers as rq keeps them, empty where there are none."""
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(f"rq:worker:{name}", *fields)
        return [[(value or b"").decode() for value in values] for values in pipe.execute()]


def running(redis: Redis) -> set[str]:
    """Entries of which a run is under way."""
    prefix = "nightdesk:running:entry:"
    keys = [key.decode() for key in redis.scan_iter(f"{prefix}*", count=1000)]
    return {key.removeprefix(prefix) for key in keys}
