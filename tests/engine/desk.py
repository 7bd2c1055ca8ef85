"""What the engine's tests do again and again: enqueue, work, look."""

from __future__ import annotations

import json
from itertools import count

import db
from engine import steps
from engine.board import Board
from engine.horse import Horse

QUEUES = ["critical", "default", "low"]
MODULE = "tests.engine.work"

_ids = count(1)


def put(redis, job, *args, run_id=None, queue="default", due=None, entry="", tries=3, timeout=30, limits="", **kwargs):
    """Enqueue a run of one of the tests' jobs; returns its id."""
    run_id = run_id or f"{job}-{next(_ids)}"
    return steps.enqueue(
        redis, f"{MODULE}.{job}", queue, run_id=run_id, args=args, kwargs=kwargs, due=due or steps.now(redis),
        entry=entry, timeout=timeout, tries=tries, limits=json.dumps(limits) if limits else "",
    )  # fmt: skip


def put_raw(redis, run_id, queue="default", **fields):
    """Enqueue a hash as some other tool would have written it."""
    redis.hset(f"rq:job:{run_id}", mapping={"origin": queue, "status": "queued", **fields})
    redis.sadd("rq:queues", f"rq:queue:{queue}")
    redis.rpush(f"rq:queue:{queue}", run_id)
    return run_id


def beat(redis, worker="w", sent=0, heard_for=6):
    """A worker's beat; returns what it is to the others and whom it reaped."""
    if not redis.exists(f"rq:worker:{worker}"):
        redis.hset(f"rq:worker:{worker}", "birth", "now")
    standing, _, dead = steps.step(redis, "beat", worker, 90, 10, "silent", steps.rq_text("silent"), heard_for, sent)
    return standing.decode(), [tuple(pair) for pair in json.loads(dead)]


def silence(redis, worker="w", seconds=11):
    """Make a worker's last beat that old, while others were heard of."""
    redis.zadd(steps.WORKERS, {worker: steps.now(redis) - seconds * 1000})
    heard(redis)


def heard(redis, seconds=60):
    """Somebody was heard of without a gap for so long."""
    now = steps.now(redis)
    redis.hset("nightdesk:pulse", mapping={"at": now, "since": now - seconds * 1000})


_calls = count(1)


def take(redis, worker="w", finished="", queues=QUEUES, execution=None, number=None):
    """One call of a work-horse; returns the state and the id of the run that it got, or None."""
    number = number or next(_calls)
    finished, row = finished or ({}, "")
    ended = json.dumps(finished) if finished else ""
    execution = execution or f"e{number}"
    state, _, *run = steps.step(redis, "take", worker, ended, row, json.dumps(queues), execution, number)
    return state.decode(), run[0].decode() if run else None


def end(run_id, execution, outcome="ok", queue="default", limits="", **more):
    """What take.lua needs to finish a run, and its row of history."""
    row = {"entry": "e", "run": run_id, "job": "j", "queue": queue, "args": {}, "due": 1.7e12, "attempt": 1}
    row |= {"enqueued": "", "started": 1.7e12, "ended": 1.7e12, "outcome": outcome, "dead": outcome == "failed"}
    fields = {"id": run_id, "execution": execution, "queue": queue, "outcome": outcome}
    fields |= {"name": "e", "seconds": 0.1, "waited": 0.1, "ttl": 60, "exc": "", "tries": 1, "delay": 0}
    return fields | {"limits": json.dumps(limits) if limits else ""} | more, json.dumps(row)


def work(redis, worker="w", **options):
    """Let a work-horse run all that waits, in this process, and write the history."""
    beat(redis, worker)
    horse = Horse(worker, QUEUES, Board(), **{"burst": True, "max_jobs": None, **options})
    horse.work()
    redis.connection_pool.release(horse.line.connection)  # taken for good, and a process has a hundred


def rows(run_id=None):
    """Run history, oldest first."""
    return db.maps("select * from run where coalesce(%s, run_id) = run_id order by ended_at, attempt", run_id)


def outcomes(run_id):
    """How the attempts of a run ended."""
    return [row["outcome"] for row in sorted(rows(run_id), key=lambda row: row["attempt"])]


def status(redis, run_id):
    """rq's word for where a run is; None when it is forgotten."""
    word = redis.hget(f"rq:job:{run_id}", "status")
    return word and word.decode()


def waiting(redis, queue="default"):
    """Ids in a queue, first to last."""
    return [member.decode() for member in redis.lrange(f"rq:queue:{queue}", 0, -1)]
