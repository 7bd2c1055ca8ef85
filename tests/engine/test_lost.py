"""The scan for what is in no list."""

from __future__ import annotations

from rq import SimpleWorker

from engine import steps
from engine.history import Keeper
from engine.lost import find_lost
from models import runs
from tests.engine.desk import beat, end, put, put_raw, rows, silence, status, take, waiting, work


def scan(redis, between=lambda: None):
    redis.delete("nightdesk:scan")
    find_lost(redis, between)


def test_a_run_that_two_scans_found_in_no_list_is_queued_again(redis, caplog):
    put(redis, "fine", run_id="lost")
    fine = put(redis, "fine")
    redis.lrem("rq:queue:default", 0, "lost")
    scan(redis)
    assert waiting(redis) == [fine]
    scan(redis)
    assert waiting(redis) == ["lost", fine]
    assert "run=lost was in no list" in caplog.text
    scan(redis)
    scan(redis)
    assert waiting(redis) == ["lost", fine]


def test_a_run_that_is_started_but_in_nobodys_hand_is_queued_again(redis):
    put_raw(redis, "ghost", data="[]", status="started")
    redis.delete("rq:queue:default")
    scan(redis)
    scan(redis)
    assert waiting(redis) == ["ghost"]
    assert status(redis, "ghost") == "queued"


def test_what_is_on_its_way_is_left_alone(redis):
    beat(redis)
    limits = [["api", 1]]
    running, parked, retried, done = (put(redis, "fine", limits=limits) for _ in range(4))
    take(redis)
    beat(redis, "v")
    take(redis, "v")  # parks the others
    redis.lrem("nightdesk:waiting:api", 0, retried)
    redis.hset(f"rq:job:{retried}", "status", "scheduled")
    redis.lrem("nightdesk:waiting:api", 0, done)
    redis.hset(f"rq:job:{done}", "status", "finished")
    for _ in range(3):
        scan(redis)
    assert waiting(redis) == []
    assert redis.lrange("nightdesk:waiting:api", 0, -1) == [parked.encode()]
    assert status(redis, running) == "started"


def test_a_suspect_that_was_found_meanwhile_is_cleared(redis):
    put(redis, "fine", run_id="slow")
    redis.lrem("rq:queue:default", 0, "slow")
    scan(redis)
    redis.rpush("rq:queue:default", "slow")
    scan(redis)
    redis.lrem("rq:queue:default", 0, "slow")
    scan(redis)
    assert waiting(redis) == []


def test_a_slot_that_nobodys_run_holds_is_freed(redis):
    beat(redis)
    limits = [["api", 1]]
    redis.zadd("nightdesk:running:api", {"ghost": 1})
    run = put(redis, "fine", limits=limits)
    assert take(redis)[1] is None
    scan(redis)
    assert take(redis, execution="x")[1] == run
    scan(redis)
    assert redis.zcard("nightdesk:running:api") == 1
    take(redis, finished=end(run, "x", limits=limits))


def test_a_run_of_the_schedule_that_a_stock_worker_failed_is_a_dead_letter(redis, database):
    theirs = put(redis, "fine", entry="nightly")
    put(redis, "fine")  # by hand: rq's alone
    SimpleWorker(["default"], connection=redis, serializer="json").work(burst=True, logging_level="CRITICAL")
    ours = put(redis, "bug", entry="hourly", tries=1)
    work(redis)
    for _ in range(2):
        scan(redis)
    Keeper(redis).keep()
    assert [(row["run_id"], row["outcome"], row["worker"] != "w") for row in rows()] == [
        (ours, "failed", False),
        (theirs, "failed", True),
    ]
    assert "rq worker -w queues.Worker" in rows(theirs)[0]["error"]
    assert sum(group["letters"] for group in runs.dead_groups()) == 2


def test_a_worker_that_is_in_no_list_comes_before_the_reapers(redis):
    beat(redis)
    run = put(redis, "fine")
    take(redis)
    redis.zrem(steps.WORKERS, "w")
    scan(redis)
    assert redis.zscore(steps.WORKERS, "w")
    silence(redis)
    assert beat(redis, "v")[1] == [("w", 1)]
    assert waiting(redis) == [run]


def test_one_worker_at_a_time_scans_and_beats_between_pages(redis):
    for number in range(2500):
        put_raw(redis, f"n{number}", data="[]")
    redis.delete("rq:queue:default")
    beats = []
    scan(redis, lambda: beats.append(1))
    assert len(beats) >= 4
    find_lost(redis, lambda: beats.append(2))  # the lock outlives the scan
    assert 2 not in beats


def test_keys_that_are_not_what_they_should_be_cost_only_themselves(redis):
    put(redis, "fine", run_id="lost")
    redis.delete("rq:queue:default")
    redis.set("rq:job:text", "a text")
    redis.set("rq:queue:text", "a text")
    redis.hset("rq:job:\x80odd", "status", "queued")
    for _ in range(2):
        scan(redis)
    assert waiting(redis) == ["lost"]
