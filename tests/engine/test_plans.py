"""What falls due is planned shortly before, so that at the due time nothing is left but to send it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

import scheduler
from domain.cadence import Every, cron, every
from engine import plans, steps
from engine.entries import Entry, State
from tests.engine import work
from tests.engine.desk import waiting
from tests.waiting import until

DUE = 1_800_000_000_000


def state(entry, when, misfire="run"):
    return State(entry, DUE, 1, when, {"misfire": misfire})


def pass_by(keeper, at):
    """Wait until an instant is over by Redis's clock and by what the scheduler knows of it, which are not quite one."""
    until(lambda: at < min(keeper.now(), steps.instant(steps.now(keeper.connection))), every=0.01)


@pytest.mark.parametrize("misfire", ["run", "skip"])
@pytest.mark.parametrize("when", [every(0.5), every(5), every(3600), cron("0 8 * * *")])
def test_a_plan_made_for_the_due_time_is_the_plan_of_any_moment_it_is_good_for(when, misfire):
    due = [state("a", when, misfire), state("b", when, misfire)]
    ahead = plans.planned(due, due[0].due_at)
    later = ahead.good_until - timedelta(microseconds=1)
    assert ahead.good_until <= due[0].due_at + plans.PLANNED_AHEAD
    assert ahead.orders == plans.planned(due, later).orders


def test_a_plan_is_not_good_beyond_the_next_due_time():
    due = [state("a", every(0.5))]
    ahead = plans.planned(due, due[0].due_at)
    assert ahead.good_until == due[0].due_at + timedelta(seconds=0.5)
    missed = json.loads(plans.planned(due, ahead.good_until).orders)[0]
    assert (missed["run"], missed["missed"]["count"]) == (DUE + 500, 1)


def test_what_is_due_is_enqueued_before_anything_else_is_looked_at(database, redis, monkeypatch):
    keeper = scheduler.Scheduler([Entry(every(0.2), work.fine, stagger=False)])
    keeper.look()
    keeper.looked = 0.0
    monkeypatch.setattr(keeper, "look", lambda: seen.append(waiting(redis)))
    seen = []
    pass_by(keeper, next(iter(keeper.states.values())).due_at)
    keeper._turn()
    assert [len(queue) for queue in seen] == [1]


def test_a_plan_that_lay_too_long_is_made_again(database, redis):
    keeper = scheduler.Scheduler([Entry(every(0.2), work.fine, stagger=False, overlap="queue")])
    keeper.look()
    (entry,) = keeper.states.values()
    assert isinstance(entry.cadence, Every)
    keeper.ready = plans.planned([entry], entry.due_at)
    pass_by(keeper, keeper.ready.good_until)
    keeper._turn()
    assert int(waiting(redis)[0].rpartition("-")[2]) > entry.due


def test_an_operators_change_while_a_plan_lies_ready_is_obeyed(database, redis):
    keeper = scheduler.Scheduler([Entry(every(0.2), work.fine, stagger=False)])
    keeper.look()
    (entry,) = keeper.states.values()
    keeper.ready = plans.planned([entry], entry.due_at)
    redis.hset(steps.ENTRY + entry.id, mapping={"paused": "1", "version": entry.version + 1})
    pass_by(keeper, entry.due_at)
    keeper._turn()
    assert waiting(redis) == []
    assert keeper.states[entry.id].version == entry.version + 1
