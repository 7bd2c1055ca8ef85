"""Dead letters: retried once, under their entry's limits, whoever else does so."""

from __future__ import annotations

import json

import pytest
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

import queues
from engine import history, letters, steps
from models import runs
from tests.engine.desk import MODULE, beat, end, outcomes, put, put_raw, status, take, waiting, work

pytestmark = pytest.mark.usefixtures("database", "redis")


def dead_letter(run_id, job="fine", entry="fine", **more):
    """A run that ended as one, long ago."""
    row = {"entry": entry, "run": run_id, "job": f"tests.engine.work.{job}", "queue": "default"}
    row |= {"args": {"args": [], "kwargs": {}}, "due": 1.7e12, "attempt": 1, "ended": 1.7e12, "outcome": "failed"}
    runs.write([json.dumps(row | {"dead": True, "error": "x"} | more)])
    return run_id


def test_a_letter_that_another_tool_enqueued_is_settled_and_not_enqueued_twice(redis):
    run = put(redis, "bug")
    work(redis)
    FailedJobRegistry("default", connection=redis, serializer=JSONSerializer).requeue(run)
    assert letters.retry(redis, [run], "ann") == 1
    assert waiting(redis) == [run]
    assert runs.dead_groups() == []
    work(redis)
    assert outcomes(run) == ["failed", "failed"]


def test_a_key_that_is_not_what_it_should_be_keeps_no_letter_from_its_retry(redis):
    two = [dead_letter("fine-1"), dead_letter("fine-2")]
    redis.set("rq:job:fine-1", "no hash")
    assert letters.retry(redis, two, "ann") == 2
    assert waiting(redis) == two


def test_a_run_that_only_another_version_of_the_code_knows_is_retried_there_with_its_arguments(redis, monkeypatch):
    run = put(redis, "fine", 7, pair="EURUSD")
    with monkeypatch.context() as old:
        old.delitem(queues.registry, f"{MODULE}.fine")
        work(redis)
    letters.retry(redis, [run], "ann")
    assert json.loads(redis.hget(f"rq:job:{run}", "data")) == [f"{MODULE}.fine", None, [7], {"pair": "EURUSD"}]


@pytest.mark.parametrize("seen", ["queued", "scheduled"])
def test_a_run_in_hand_is_handed_to_nobody_else_whatever_became_of_its_hash(redis, seen):
    beat(redis), beat(redis, "v")
    run = put(redis, "fine")
    take(redis, execution="x")
    put_raw(redis, run, status=seen, nd_attempt=1)
    assert take(redis, "v") == ("ok", None)
    take(redis, finished=end(run, "x"), queues=[])
    assert status(redis, run) == "finished"


def test_retried_runs_of_an_entry_wait_for_the_one_that_goes_on(redis):
    beat(redis), beat(redis, "v")
    limits = [["entry:fine", 1]]
    running = put(redis, "fine", entry="fine", limits=limits)
    take(redis, execution="x")
    two = [dead_letter("fine-1"), dead_letter("fine-2")]
    assert letters.retry(redis, two, "ann") == 2
    assert take(redis, "v") == ("ok", None)
    take(redis, finished=end(running, "x", limits=limits), queues=[])
    assert take(redis, "v", execution="y")[1] == "fine-1"
    assert take(redis)[1] is None
    take(redis, "v", finished=end("fine-1", "y", limits=limits), queues=[])
    assert take(redis)[1] == "fine-2"


def test_retried_runs_that_no_entry_enqueued_do_not_wait_for_one(redis):
    for name in ("one", "two"):
        dead_letter(name)
    letters.retry(redis, ["one", "two"], "ann")
    for worker, run in (("w", "one"), ("v", "two")):
        beat(redis, worker)
        assert take(redis, worker)[1] == run


def test_a_run_that_could_not_be_given_back_is_retried_in_its_own_queue(redis):
    beat(redis)
    run = put(redis, "fine", queue="low")
    take(redis, execution="x")
    redis.set(f"rq:job:{run}", "a text")
    redis.sadd("rq:worker:w:executions", "without-colon")
    steps.rescue(redis, "w", "its worker died")
    history.write(redis)
    assert letters.retry(redis, [f"{run}:x", "without-colon"], "ann") == 2
    assert (waiting(redis, "low"), waiting(redis)) == ([f"{run}:x"], ["without-colon"])
