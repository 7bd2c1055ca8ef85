"""What an operator is told of workers that live and do not do the work."""

from __future__ import annotations

import pytest
from rq.suspension import resume, suspend

from engine import state, steps
from tests.engine.desk import MODULE, put
from tests.waiting import until


@pytest.fixture
def worker(database, redis, start):
    """Start one of our workers and wait until it beats."""

    def begin(*queues):
        start("rq", "worker", "-w", f"{MODULE}.Worker", *queues)
        until(lambda: redis.zcard(steps.WORKERS))

    return begin


def told(redis):
    """What stands in the way."""
    return [obstacle.what for obstacle in state.obstacles(redis)]


def test_workers_that_serve_all_queues_are_in_nobodys_way(worker, redis):
    worker("critical", "default", "low")
    assert told(redis) == []


def test_suspended_work_is_told_until_it_goes_on(worker, redis):
    worker("critical", "default", "low")
    suspend(redis)
    assert told(redis) == ["the work is suspended"]
    resume(redis)
    assert told(redis) == []


def test_a_queue_that_no_living_worker_serves_is_told_once_something_waits_there(worker, redis):
    worker("critical")
    assert told(redis) == []
    put(redis, "fine", queue="low")
    assert told(redis) == ["nobody serves low"]


def test_rqs_own_worker_on_our_queues_is_told_and_one_of_another_application_is_not(worker, redis, start):
    worker("critical")
    start("rq", "worker", "--name", "stranger", "default")
    start("rq", "worker", "--name", "neighbour", "theirs")
    until(lambda: redis.scard("rq:workers") == 3)
    until(lambda: all(redis.hget(f"rq:worker:{name}", "queues") for name in ("stranger", "neighbour")))
    assert told(redis) == ["stranger is a worker of rq's own class"]
    put(redis, "fine", queue="theirs")
    assert told(redis) == ["stranger is a worker of rq's own class"]
