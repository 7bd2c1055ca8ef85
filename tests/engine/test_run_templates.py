"""What every run of an entry begins as is kept beside the entry and copied."""

from __future__ import annotations

import pytest

from domain.cadence import every
from engine import entries, steps
from engine.entries import Entry
from scheduler import Scheduler
from tests.engine import work
from tests.waiting import until

ENTRY = Entry(every(0.2), work.fine, key="a", kwargs={"size": 1}, stagger=False)
OTHER = Entry(every(0.2), work.fine, key="a", kwargs={"size": 2}, stagger=False)


def declare(redis, *wanted):
    steps.declare(redis, [entries.declaration(e, {}, steps.instant(steps.now(redis))) for e in wanted], reconcile=True)


def fire(redis):
    """Enqueue the next run of each entry; returns the hash of the first."""
    redis.delete("rq:queue:default")
    for key in redis.scan_iter("rq:job:fine-a-*"):
        redis.delete(key)
    keeper = Scheduler([])
    keeper.look()
    until(lambda: all(state.due <= steps.now(redis) for state in keeper.states.values()), every=0.01)
    assert keeper.fire(list(keeper.states.values())) == ["run"] * len(keeper.states)
    (run_id,) = redis.lrange("rq:queue:default", 0, -1)
    return {name.decode(): value.decode() for name, value in redis.hgetall(b"rq:job:" + run_id).items()}


def test_a_run_carries_all_that_rq_and_a_worker_read(database, redis):
    declare(redis, ENTRY)
    first, second = fire(redis), fire(redis)
    spec = ENTRY.fields({})
    expected = {"nd_entry": "fine-a", "nd_max": spec["tries"], "nd_limits": spec["limits"], "data": spec["data"]}
    expected |= {"origin": "default", "description": spec["description"], "timeout": "30", "status": "queued"}
    for run in (first, second):
        assert {name: run[name] for name in expected} == expected
        assert run.keys() == expected.keys() | {"nd_due", "created_at", "enqueued_at"}
    assert int(second["nd_due"]) > int(first["nd_due"])


def test_a_change_of_the_entry_is_in_its_next_run(database, redis):
    declare(redis, ENTRY)
    assert '"size": 1' in fire(redis)["data"]
    declare(redis, OTHER)
    assert '"size": 2' in fire(redis)["data"]


@pytest.mark.parametrize("lost", ["template", "everything of it"])
def test_a_template_that_somebody_deleted_is_made_again(database, redis, lost):
    declare(redis, ENTRY)
    fire(redis)
    redis.delete("nightdesk:entry:fine-a:run", *(["rq:job:fine-a"] if lost != "template" else []))
    assert fire(redis)["origin"] == "default"


def test_an_entry_that_is_removed_leaves_no_template(database, redis):
    declare(redis, ENTRY)
    fire(redis)
    declare(redis)
    assert list(redis.scan_iter("nightdesk:entry:*")) == []
