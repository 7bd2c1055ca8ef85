"""The schedule: declared, fired, overlapping, missed, paused, removed, forgotten; real servers, fixed instants."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from redis.exceptions import ResponseError
from rq_scheduler import Scheduler as StockScheduler

import config
import db
from config import WrongSetting
from domain.cadence import Every, after_close, cron, every, while_open
from domain.sessions import Calendar, Session, calendar, set_calendars
from engine import entries, history, outages, plans, steps
from engine.entries import Entry
from models import runs
from scheduler import SCHEDULE, Scheduler
from tests.engine import work
from tests.engine.desk import beat, end, rows, take, waiting
from tests.engine.desk import work as run_all
from tests.waiting import stopwatch, until

WEEK = 7 * 86400.0  # s: hardly a test is about to see such a period end


@pytest.fixture(autouse=True)
def _quiet():
    outages._began.clear()


def entry(seconds=60.0, job=work.fine, key="", **more):
    """An entry of the tests' own."""
    return Entry(every(seconds), job, key=key, stagger=False, **more)


@pytest.fixture
def scheduler(database, redis):
    """Make a scheduler that has looked once: `scheduler(entry(…), …)`."""

    def make(*schedule, name=None):
        made = Scheduler(schedule, name=name)
        made.look()
        return made

    return make


def set_due(redis, name, seconds_ago):
    """Pretend that an entry has been due for so long; returns its due time in ms."""
    due = (steps.now(redis) - int(seconds_ago * 1000)) // 1000 * 1000
    redis.hset(steps.ENTRY + name, "due", due)
    redis.zadd(steps.SCHEDULED, {name: due / 1000})
    return due


def fire(made):
    """What is due now, by name: `run`, `skip`, …"""
    made.states = {state.id: state for state in entries.load(db.redis())}
    made.held_back.clear()
    due = [state for state in made.states.values() if state.cadence and state.due_at <= made.now()]
    return dict(zip([state.id for state in due], made.fire(due), strict=True)) if due else {}


def skips():
    """Recorded due times without a run: `{(entry, reason): (count, last - first in s)}`."""
    history.write(db.redis())
    rows = db.maps("select * from skip order by entry, first_due_at")
    return [(r["entry"], r["reason"], r["count"], (r["last_due_at"] - r["first_due_at"]).total_seconds()) for r in rows]


# --- the table


def test_every_entry_of_the_schedule_can_be_declared_and_read_back(database, redis):
    before = steps.now(redis)
    made = Scheduler(SCHEDULE)
    made.look()
    assert set(made.states) == {entry.id for entry in SCHEDULE}
    assert all(state.cadence and state.due >= before for state in made.states.values())


def test_two_entries_of_one_name_stop_the_start():
    with pytest.raises(WrongSetting, match="fine"):
        entries.check((entry(), entry()))
    entries.check((entry(), entry(key="EURUSD")))


def test_an_entry_with_a_key_has_its_own_name_variable_and_runs(scheduler, redis):
    made = scheduler(entry(key="a", kwargs={"pair": "A"}), entry(key="b-2", kwargs={"pair": "B"}))
    due = set_due(redis, "fine-a", 1)
    set_due(redis, "fine-b-2", 1)
    assert fire(made) == {"fine-a": "run", "fine-b-2": "run"}
    assert entry(key="b-2").variable == "FINE_B_2_INTERVAL"
    run_all(redis)
    assert {row["entry"]: row["arguments"]["kwargs"] for row in rows()} == {
        "fine-a": {"pair": "A"},
        "fine-b-2": {"pair": "B"},
    }
    assert rows(f"fine-a-{due}")[0]["due_at"].timestamp() * 1000 == due


# --- the step that fires


def test_of_two_schedulers_one_fires_and_the_other_learns_the_next_due_time(scheduler, redis):
    one, two = scheduler(entry()), scheduler(entry())
    due = set_due(redis, "fine", 1)
    one.look(), two.look()
    states = [made.states["fine"] for made in (one, two)]
    assert one.fire([states[0]]) == ["run"]
    (seen,) = two.fire([states[1]])
    assert seen == steps.milliseconds(one.states["fine"].due_at) > due
    assert two.states["fine"].due == one.states["fine"].due
    assert waiting(redis) == [f"fine-{due}"]


def test_many_schedulers_at_once_enqueue_each_due_time_exactly_once(scheduler, redis):
    schedule = [entry(60, key=str(n)) for n in range(20)]
    made = [scheduler(*schedule) for _ in range(5)]
    expected = set()
    for _ in range(10):
        expected |= {f"fine-{n}-{set_due(redis, f'fine-{n}', 1)}" for n in range(20)}
        for one in made:
            one.states = {state.id: state for state in entries.load(redis)}
        threads = [threading.Thread(target=one.fire, args=(list(one.states.values()),)) for one in made]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        for n in range(20):
            redis.hdel(f"nightdesk:entry:fine-{n}", "queued")
        time.sleep(0.11)
    queued = waiting(redis)
    assert len(queued) == len(set(queued))
    assert set(queued) == expected


def test_a_scheduler_with_a_stale_version_fires_nothing_and_reads_again(scheduler, redis):
    made = scheduler(entry())
    set_due(redis, "fine", 1)
    made.look()
    stale = made.states["fine"]
    redis.hset("nightdesk:entry:fine", "version", 7)
    assert made.fire([stale]) == ["changed"]
    assert made.states["fine"].version == 7
    assert waiting(redis) == []


def test_what_is_not_due_yet_is_not_fired_however_wrong_the_schedulers_clock_is(scheduler, redis):
    made = scheduler(entry(WEEK))
    made.offset += 2 * WEEK
    made.measured = time.monotonic() + 3600  # it does not measure again so soon, however slow this machine is
    before = redis.hget("nightdesk:entry:fine", "due")
    assert made.fire(list(made.states.values())) == ["early"]
    set_due(redis, "fine", 1)
    made.states = {state.id: state for state in entries.load(redis)}
    assert made.fire(list(made.states.values())) == ["early"]  # it is due, but not the week that this one would skip
    made.measured = 0.0
    made.fire(list(made.states.values()))  # and measures again
    assert fire(made) == {"fine": "run"}
    assert abs(int(redis.hget("nightdesk:entry:fine", "due")) - int(before)) <= 60_000
    assert skips() == []


def test_a_jump_of_this_machines_clock_changes_nothing(scheduler, redis, monkeypatch):
    made = scheduler(entry())
    before = made.now()
    wall = time.time
    for step in (3600, -3600):
        monkeypatch.setattr(time, "time", lambda step=step: wall() + step)
        assert abs((made.now() - before).total_seconds()) < 5
        made.look()
        assert abs((made.now() - before).total_seconds()) < 5


def test_an_entry_that_is_gone_is_forgotten_and_looked_for(scheduler, redis):
    made = scheduler(entry(), entry(key="b"))
    set_due(redis, "fine", 1)
    made.states = {state.id: state for state in entries.load(redis)}
    redis.delete("nightdesk:entry:fine")
    assert made.fire([made.states["fine"]]) == ["gone"]
    made._turn()
    assert set(made.states) == {"fine", "fine-b"}


@pytest.mark.parametrize("poison", ["entry is a text", "entry has no queue", "queue is a text", "run is a text"])
def test_a_key_that_is_not_what_it_should_be_costs_its_own_entry_and_says_why(scheduler, redis, caplog, poison):
    made = scheduler(entry(job=work.batched), entry(key="b"))
    set_due(redis, "fine-b", 1)
    due = set_due(redis, "batched", 1)
    made.look()
    states = list(made.states.values())
    if poison == "entry is a text":
        redis.delete("nightdesk:entry:batched")
        redis.set("nightdesk:entry:batched", "a text")
    elif poison == "entry has no queue":
        redis.hdel("nightdesk:entry:batched", "queue")
    elif poison == "queue is a text":
        redis.set("rq:queue:low", "a text")
    else:
        redis.set(f"rq:job:batched-{due}", "a text")
    results = dict(zip([s.id for s in states], made.fire(states), strict=True))
    assert results["fine-b"] == "run"
    assert results["batched"].startswith("error: ")
    assert "entry=batched was not enqueued, the others go on" in caplog.text
    if poison != "entry is a text":
        assert skips() == [("batched", "failed", 1, 0.0)]
    for _ in range(3):  # it does not spin on what cannot be mended, and the others go on
        set_due(redis, "fine-b", 1)
        redis.hdel("nightdesk:entry:fine-b", "queued")
        [redis.delete(key) for key in redis.keys("rq:job:fine-b-*")]
        made.look()
        made._turn()
    assert len([run for run in waiting(redis) if run.startswith("fine-b")]) == 4


@pytest.mark.parametrize("key", [steps.SCHEDULED, "rq:queues"])
def test_a_list_of_other_tools_that_is_none_costs_no_run(scheduler, redis, key):
    made = scheduler(entry(job=work.batched), entry())
    due = set_due(redis, "fine", 1), set_due(redis, "batched", 1)
    made.look()
    redis.delete(key)
    redis.set(key, "a text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        made.fire(list(made.states.values()))
    assert [len(waiting(redis, queue)) for queue in ("low", "default")] == [1, 1]
    made.look()
    assert min(state.due for state in made.states.values()) > max(due)


@pytest.mark.parametrize("many", [1001, 5000])
def test_any_number_of_entries_that_are_due_together_is_enqueued_in_one_step(redis, many):
    names = [f"e{number}" for number in range(many)]
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            fields = {"due": 1, "version": 1, "overlap": "skip", "queue": "low" if name < "e2" else "default"}
            pipe.hset(steps.ENTRY + name, mapping=fields | {"data": "[]", "tries": 1, "limits": "", "timeout": 9})
            pipe.hset(steps.ENTRY + name, "description", "d")
        pipe.execute()
    redis.zadd("nightdesk:running:entry:e7", {"its run of before": 1})
    orders = [{"id": name, "due": 1, "version": 1, "next": 2, "run": 1, "missed": None} for name in names]
    assert steps.fire(redis, json.dumps(orders))["results"] == ["skip" if name == "e7" else "run" for name in names]
    assert waiting(redis, "low") == [f"{name}-1" for name in names if name < "e2"]
    assert waiting(redis, "default") == [f"{name}-1" for name in names if name >= "e2" and name != "e7"]
    assert redis.zcount(steps.SCHEDULED, 0.002, 0.002) == many
    assert steps.fire(redis, json.dumps(orders))["results"] == [2] * many  # a second scheduler


def test_a_cadence_that_has_no_due_time_any_more_costs_its_own_entry(scheduler, redis, caplog):
    made = scheduler(entry(job=work.bug), entry(key="b"))
    redis.hset("nightdesk:entry:bug", "cadence", "cron 0 0 30 2 * UTC")
    set_due(redis, "bug", 1)
    set_due(redis, "fine-b", 1)
    made.look()
    made._turn()
    assert [run[:6] for run in waiting(redis)] == ["fine-b"]
    assert "entry=bug was not enqueued" in caplog.text


def test_an_entry_of_a_newer_version_with_a_cadence_that_we_do_not_know_is_left_to_it(scheduler, redis):
    made = scheduler(entry())
    redis.hset("nightdesk:entry:fine", "cadence", "while_raining 15s")
    set_due(redis, "fine", 1)
    made.look()
    made._turn()
    assert waiting(redis) == []
    assert int(redis.hget("nightdesk:entry:fine", "version")) == 0


@pytest.mark.parametrize("text", ["cron 0 0 30 2 *", "until_off 10s"])  # never comes, cannot be read
def test_a_stored_cadence_that_is_none_stops_no_scheduler_and_leaves_what_redis_has(scheduler, redis, caplog, text):
    running = scheduler(entry(), entry(key="b"))
    before = redis.hgetall("nightdesk:entry:fine")
    db.rows("insert into entry (name, cadence, version) values ('fine', %s, 1790000000000)", text)
    running.overrides.read(at_once=True)
    running.look()
    assert redis.hgetall("nightdesk:entry:fine") == before
    running.look()
    assert caplog.text.count("entry=fine is not declared and stays as Redis has it") == 1
    redis.flushall()
    running.look()
    fresh = scheduler(entry(), entry(key="b"))
    assert set(running.states) == set(fresh.states) == {"fine-b"}


# --- markets


@pytest.fixture
def market(redis):
    """`market(open_in=…, closes_in=…)`, hours from now: New York's only session within days, or none at all."""

    def make(open_in: float | None, closes_in: float = 0.0):
        now = steps.instant(steps.now(redis)).replace(microsecond=0)
        span = [now + timedelta(hours=hours) for hours in (open_in or 0, closes_in)]
        sessions = [] if open_in is None else [Session("XNYS", now.date(), *span)]
        set_calendars([Calendar("XNYS", sessions, now.date() - timedelta(days=5), now.date() + timedelta(days=5))])
        return span

    yield make
    set_calendars()


def test_an_entry_of_a_market_runs_while_it_is_open_and_then_waits_for_the_next_session(scheduler, redis, market):
    market(-1, (590 - steps.now(redis) / 1000 % 600) / 3600)  # it closes before the next run would be due
    made = scheduler(Entry(while_open("XNYS", 600), work.fine, stagger=False))
    set_due(redis, "fine", 60)
    assert fire(made) == {"fine": "run"}
    assert made.states["fine"].due_at - made.now() > timedelta(days=4)


def test_entries_follow_sessions_that_are_closed_added_or_moved_after_their_due_time_was_found(
    scheduler, redis, market
):
    opens, _ = market(1, 3)
    made = scheduler(
        Entry(after_close("XNYS", minutes=5), work.fine), Entry(while_open("XNYS", 60), work.fine, "w", stagger=False)
    )
    opened = made.states["fine-w"].due_at
    assert timedelta() <= opened - opens < timedelta(minutes=1)
    market(None)  # closed, as was published today
    made.look()
    made.look()
    assert made.states["fine"].due_at - made.now() > timedelta(days=4)
    _, closes = market(0.5, 2)
    made.look()
    made.look()
    assert made.states["fine"].due_at == closes + timedelta(minutes=5)
    assert made.states["fine-w"].due_at < opened
    set_due(redis, "fine-w", 1)
    assert fire(made) == {"fine-w": "run"}
    assert waiting(redis)[0].endswith("-again") is False


def test_a_variable_that_sets_the_period_of_an_entry_leaves_it_at_its_market(monkeypatch):
    monkeypatch.setitem(config.settings.intervals, "FINE_INTERVAL", "30s")
    assert str(Entry(while_open("XNYS", 60), work.fine).declared()[0]) == "while_open XNYS 30s"
    monkeypatch.setitem(config.settings.intervals, "FINE_INTERVAL", "2h")
    with pytest.raises(WrongSetting, match="FINE_INTERVAL: 2h is too long"):
        Entry(while_open("XNYS", 60), work.fine).declared()


def test_another_programs_interval_is_none_of_ours_and_a_wrong_one_of_ours_stops_the_start():
    settings = config.load({"KEEPALIVE_INTERVAL": "0", "FINE_INTERVAL": "often"})
    assert "KEEPALIVE_INTERVAL" in settings.intervals
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "settings", settings)
        with pytest.raises(WrongSetting, match="FINE_INTERVAL: 'often' is not"):
            entries.check([entry()])
        entries.check([entry(key="b")])


def test_a_scheduler_knows_the_sessions_of_the_table(scheduler, redis):
    db.rows("insert into market_session (market, date, source) values ('XNYS', '2026-12-09', 'operator')")
    made = scheduler(entry())
    made.overrides.read(at_once=True)
    assert not calendar("XNYS").is_open(datetime(2026, 12, 9, 15, tzinfo=UTC))
    set_calendars()


# --- overlap


def test_a_due_time_is_skipped_while_the_run_before_waits_or_goes_on(scheduler, redis):
    made = scheduler(entry(WEEK))
    set_due(redis, "fine", 120)
    assert fire(made) == {"fine": "run"}
    set_due(redis, "fine", 60)
    assert fire(made) == {"fine": "skip"}  # it waits
    beat(redis)
    run = take(redis, execution="x")[1]
    set_due(redis, "fine", 1)
    assert fire(made) == {"fine": "skip"}  # it goes on
    limits = [["entry:fine", 1]]
    take(redis, finished=end(run, "x", limits=limits), queues=[])
    assert skips()[-1][:3] == ("fine", "overlap", 2)
    due = set_due(redis, "fine", 0)
    until(lambda: made.now() > steps.instant(due))
    assert fire(made) == {"fine": "run"}


def test_with_overlap_queue_one_due_time_waits_and_the_others_are_skipped(scheduler, redis):
    made = scheduler(entry(WEEK, overlap="queue"))
    beat(redis), beat(redis, "v")
    set_due(redis, "fine", 180)
    fire(made)
    first = take(redis, execution="x")[1]
    due = set_due(redis, "fine", 120)
    assert fire(made) == {"fine": "run"}
    assert take(redis, "v")[1] is None  # parked behind the first one
    set_due(redis, "fine", 60)
    assert fire(made) == {"fine": "skip"}
    assert take(redis, finished=end(first, "x", limits=[["entry:fine", 1]]))[1] == f"fine-{due}"


def test_a_queued_run_that_another_tool_deleted_or_cancelled_does_not_block_its_entry(scheduler, redis):
    made = scheduler(entry(WEEK))
    for ago, how in ((300, "delete"), (200, "cancel"), (100, None)):
        due = set_due(redis, "fine", ago)
        assert fire(made) == {"fine": "run"}
        run = f"fine-{due}"
        if how == "delete":
            redis.delete(f"rq:job:{run}")
        elif how:
            redis.hset(f"rq:job:{run}", "status", "canceled")
            redis.lrem("rq:queue:default", 0, run)


def test_a_run_that_waits_for_its_next_try_is_still_its_entrys_run(scheduler, redis):
    made = scheduler(entry(job=work.unavailable, kwargs={"retry_after": 600}))
    set_due(redis, "unavailable", 60)
    fire(made)
    run_all(redis)
    set_due(redis, "unavailable", 1)
    assert fire(made) == {"unavailable": "skip"}
    assert skips()[-1][:3] == ("unavailable", "overlap", 1)


# --- missed, paused


def test_of_missed_due_times_the_latest_runs_and_the_others_are_one_row(scheduler, redis):
    made = scheduler(entry(10))
    due = set_due(redis, "fine", 100) // 10_000 * 10_000
    redis.hset("nightdesk:entry:fine", "due", due)
    before = steps.now(redis)
    assert fire(made) == {"fine": "run"}
    (run,) = waiting(redis)
    assert before - 10_000 < int(run.split("-")[1]) <= steps.now(redis)
    ((name, reason, count, span),) = skips()
    assert (name, reason) == ("fine", "misfire")
    assert span == (count - 1) * 10
    assert due + count * 10_000 == int(run.split("-")[1])


def test_a_frequent_cron_line_is_counted_to_the_last_due_time_while_the_others_go_on(scheduler, redis):
    made = scheduler(Entry(cron("* * * * *"), work.bug), entry(WEEK))
    due = set_due(redis, "bug", 20 * 3600) // 60_000 * 60_000
    redis.hset("nightdesk:entry:bug", "due", due)
    set_due(redis, "fine", 1)
    assert fire(made) == {"bug": "skip", "fine": "run"}  # the others do not wait until all is counted
    while waiting(redis)[-1][:3] != "bug":
        made._turn()
    run = int(waiting(redis)[-1].split("-")[1])
    assert 0 <= steps.now(redis) - run < 120_000
    assert skips() == [("bug", "misfire", (run - due) // 60_000, (run - due) / 1000 - 60)]


def test_a_burst_ends_when_nothing_is_due_any_more(scheduler, redis, start):
    scheduler(Entry(cron("* * * * *"), work.bug))
    set_due(redis, "bug", 20 * 3600)
    code = CODE.partition("Scheduler(")[0] + "Scheduler([]).run(burst=True)"
    assert start("python", "-c", code).wait(60) == 0
    assert len(waiting(redis)) == 1


def test_where_a_late_run_is_worthless_missed_due_times_are_skipped(scheduler, redis):
    half_an_hour_ago = (steps.now(redis) - 1_800_000) // 1000 * 1000
    hourly = Every(timedelta(hours=1), timedelta(milliseconds=half_an_hour_ago % 3_600_000))
    made = scheduler(Entry(hourly, work.fine, misfire="skip", stagger=False))
    redis.hset("nightdesk:entry:fine", "due", half_an_hour_ago)
    assert fire(made) == {"fine": "skip"}
    assert skips() == [("fine", "misfire", 1, 0.0)]
    assert waiting(redis) == []
    assert int(redis.hget("nightdesk:entry:fine", "due")) == half_an_hour_ago + 3_600_000


def test_a_paused_entrys_due_times_are_one_row_with_a_count(scheduler, redis):
    made = scheduler(entry(10))
    redis.hset("nightdesk:entry:fine", "paused", "1")
    base = set_due(redis, "fine", 100)
    for n in range(5):
        redis.hset("nightdesk:entry:fine", "due", base + n * 10_000)
        made.states = {state.id: state for state in entries.load(redis)}
        order = {"id": "fine", "due": base + n * 10_000, "version": 0, "run": base + n * 10_000, "missed": None}
        steps.fire(redis, json.dumps([order | {"next": base + (n + 1) * 10_000}]))
        if n == 2:
            assert redis.xlen(steps.RUNS) == 1  # what waits for PostgreSQL does not pile up
            assert skips() == [("fine", "paused", 3, 20.0)]
    assert skips() == [("fine", "paused", 5, 40.0)]
    redis.hset("nightdesk:entry:fine", "paused", "0")
    assert fire(made) == {"fine": "run"}
    redis.hset("nightdesk:entry:fine", "paused", "1")
    set_due(redis, "fine", 1)
    fire(made)
    assert [row[:3] for row in skips() if row[1] == "paused"] == [("fine", "paused", 5), ("fine", "paused", 1)]


# --- what Redis forgets


def test_after_a_lost_redis_each_entry_goes_on_from_its_latest_recorded_due_time(scheduler, redis):
    made = scheduler(entry(1800), entry(3600, key="hourly"), entry(86400 * 7, key="weekly"))
    now = made.now()
    recorded = {
        "fine": now - timedelta(hours=5),
        "fine-hourly": now - timedelta(minutes=1),
        "fine-weekly": now - timedelta(days=7),  # one due time has passed, whatever the weekday
    }
    for name, at in recorded.items():
        db.rows("insert into entry (name, last_due_at) values (%s, %s)", name, at)
    redis.flushall()
    made._turn()
    made.look()
    due = {name: state.due_at for name, state in made.states.items()}
    assert due["fine"] == every(1800).after(recorded["fine"]) < now
    assert due["fine-hourly"] == every(3600).after(recorded["fine-hourly"])
    assert due["fine-weekly"] == every(86400 * 7).after(recorded["fine-weekly"]) < now
    assert fire(made)["fine"] == "run"
    assert fire(made) == {}
    assert [row[:2] for row in skips()] == [("fine", "misfire")]


def test_a_run_that_was_lost_with_redis_before_it_ended_is_enqueued_again(scheduler, redis):
    db.rows("insert into entry (name, last_due_at) values ('fine', now() - interval '61 minutes')")
    made = scheduler(entry(3600))
    made._turn()
    (run,) = waiting(redis)
    redis.flushall()
    made.look()
    made._turn()
    made._turn()
    assert waiting(redis) == [run]


def test_a_run_that_was_lost_with_redis_before_its_next_try_is_enqueued_again(scheduler, redis):
    db.rows("insert into entry (name, last_due_at) values ('unavailable', now() - interval '61 minutes')")
    made = scheduler(entry(3600, job=work.unavailable))
    made._turn()
    (run,) = waiting(redis)
    run_all(redis)
    redis.flushall()
    made.look()
    made._turn()
    assert waiting(redis) == [run]
    run_all(redis)
    assert [row["attempt"] for row in rows(run)] == [1, 2]


def test_what_is_done_with_is_not_due_again_where_redis_came_back_from_an_older_state(scheduler, redis, caplog):
    table = (entry(10), entry(10, key="twice"), entry(10, key="unknown"))
    scheduler(*table)
    due = set_due(redis, "fine", 60) // 10_000 * 10_000
    for name in ("fine", "fine-twice", "fine-unknown"):
        redis.hset(steps.ENTRY + name, "due", due)
    redis.hset("nightdesk:entry:fine-twice", "again_until", due + 3_600_000)  # the clock was set back
    for name in ("fine", "fine-twice"):
        db.rows("insert into entry (name, last_due_at) values (%s, %s)", name, steps.instant(due + 20_000))
    made = scheduler(*table)
    assert "Redis came back from an older state: 1 entries" in caplog.text
    made.look()
    assert {name: state.due - due for name, state in made.states.items()} == {
        "fine": 30_000, "fine-twice": 0, "fine-unknown": 0,
    }  # fmt: skip
    assert set(fire(made).values()) == {"run"}


def test_a_schedule_that_came_back_waits_for_postgresql_to_say_what_is_done_with_but_only_shortly(
    scheduler, redis, monkeypatch
):
    made = scheduler(entry(WEEK))
    due = set_due(redis, "fine", 60)
    db.rows("insert into entry (name, last_due_at) values ('fine', %s)", steps.instant(due))
    for patience, goes_on in ((60.0, False), (0.01, True)):
        monkeypatch.setattr("scheduler.SHORT_PATIENCE", patience)
        redis.hset(steps.ENTRY + "fine", "due", due)
        made.is_new = True
        look = threading.Thread(target=made.look)
        with db.transaction():
            db.rows("lock table entry in access exclusive mode")
            look.start()
            until(lambda: db.rows("select pid from pg_locks where relation = 'entry'::regclass and not granted"))
            if goes_on:
                look.join()
        look.join()
        made._turn()
        made._turn()
        assert bool(waiting(redis)) is goes_on


def test_a_scheduler_whose_redis_knows_less_than_itself_asks_what_is_done_with_before_it_goes_on(scheduler, redis):
    made = scheduler(entry(WEEK))
    due = set_due(redis, "fine", 2)
    made.states["fine"] = replace(made.states["fine"], due=due + 1000)
    db.rows("insert into entry (name, last_due_at) values ('fine', %s)", steps.instant(due))
    made._turn()
    made._turn()
    assert waiting(redis) == []
    assert int(redis.hget("nightdesk:entry:fine", "due")) > steps.now(redis)


def test_a_scheduler_whose_connection_was_made_anew_looks_again_before_it_goes_on(scheduler, redis):
    made = scheduler(entry(WEEK))
    news = made._listen()
    redis.client_kill_filter(_type="pubsub")
    with pytest.raises(OSError, match="was made anew"):
        made._sleep(news)


def test_a_run_that_waits_for_its_next_try_is_what_its_entry_did_last(scheduler, redis):
    made = scheduler(entry(job=work.unavailable))
    set_due(redis, "unavailable", 1)
    fire(made)
    run_all(redis)
    (last,) = runs.latest()
    assert (last["entry"], last["outcome"]) == ("unavailable", "retried")
    assert last["error"].startswith("Unavailable")
    assert db.rows("select last_due_at from entry") == [(None,)]


@pytest.mark.parametrize(
    ("when", "again_until"), [(every(60), "soon"), (cron("0 0 30 2 *"), "0")], ids=["no number", "never comes"]
)
def test_an_entry_that_cannot_be_moved_on_ends_no_scheduler(when, again_until):
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    due = steps.milliseconds(now - timedelta(minutes=1))
    assert plans.is_behind(entries.State("fine", due, 0, every(60), {}), now, now)
    assert not plans.is_behind(entries.State("fine", due, 0, when, {"again_until": again_until}), now, now)


def test_without_redis_memory_and_without_postgresql_nothing_is_guessed(scheduler, redis, monkeypatch):
    made = scheduler(entry())
    redis.flushall()
    monkeypatch.setattr(made.overrides, "read", lambda **_: None)
    with pytest.raises(Exception, match="from when on the schedule is to go on"):
        made.look()
    assert redis.keys("nightdesk:entry:*") == []


def test_operators_overrides_survive_a_lost_redis_and_reach_it_if_they_had_not(scheduler, redis):
    made = scheduler(entry(60))
    db.rows("insert into entry (name, cadence, paused, version) values ('fine', 'every 5m', true, 1790000000000)")
    made.overrides.read_at = None
    made.overrides.read(at_once=True)
    made.look()
    assert str(made.states["fine"].cadence) == "every 5m"
    assert made.states["fine"].fields["paused"] == "1"
    redis.flushall()
    made.look()
    assert str(made.states["fine"].cadence) == "every 5m"


# --- two versions of the schedule


def release(redis, *schedule):
    """The release step of a deploy."""
    now = steps.instant(steps.now(redis))
    return steps.declare(redis, [entries.declaration(e, {}, now) for e in schedule], reconcile=True)


def test_schedules_a_new_entry_and_leaves_an_existing_one(scheduler, redis):
    old = scheduler(entry(60))
    before = redis.hgetall("nightdesk:entry:fine")
    new = scheduler(entry(60), entry(60, key="new"))
    assert set(new.states) == {"fine", "fine-new"}
    assert redis.hgetall("nightdesk:entry:fine") == before
    old.look()
    assert set(old.states) == {"fine", "fine-new"}  # the older version fires it too
    set_due(redis, "fine-new", 1)
    assert fire(old)["fine-new"] == "run"


def test_reschedules_a_modified_entry_from_now_on_and_only_at_the_release_step(scheduler, redis):
    scheduler(entry(3600))
    set_due(redis, "fine", 3)
    db.rows("insert into entry (name, last_due_at) values ('fine', now() - interval '50 minutes')")
    new = scheduler(entry(10))
    assert str(new.states["fine"].cadence) == "every 1h"
    before = steps.now(redis)
    assert release(redis, entry(10)) == ["fine"]
    new.look()
    assert str(new.states["fine"].cadence) == "every 10s"
    assert before < new.states["fine"].due <= steps.now(redis) + 10_000
    assert skips() == []


def test_removes_an_entry_no_longer_defined_and_older_schedulers_do_not_bring_it_back(scheduler, redis):
    old = scheduler(entry(60), entry(60, key="old"))
    assert release(redis, entry(60)) == ["fine-old"]
    for _ in range(3):
        old.look()
    assert set(old.states) == {"fine"}
    set_due(redis, "fine", 1)
    assert fire(old) == {"fine": "run"}
    assert release(redis, entry(60), entry(60, key="old")) == ["fine-old"]  # rolled back
    old.look()
    assert set(old.states) == {"fine", "fine-old"}


def test_a_release_that_changes_nothing_touches_nothing(scheduler, redis):
    scheduler(entry(60))
    before = redis.hgetall("nightdesk:entry:fine")
    assert release(redis, entry(60)) == []
    assert redis.hgetall("nightdesk:entry:fine") == before


def test_a_key_that_is_not_what_it_should_be_does_not_keep_the_others_from_being_declared(scheduler, redis, caplog):
    redis.set("nightdesk:entry:fine", "a text")
    made = scheduler(entry(60), entry(60, key="b"))
    assert set(made.states) == {"fine-b"}
    assert "entry=fine cannot be declared" in caplog.text


# --- the clock of Redis


def test_when_redis_clock_is_set_back_entries_go_on_and_repeat_due_times(scheduler, redis, caplog):
    made = scheduler(entry(10), Entry(cron("17 3 * * *"), work.bug))
    daily = redis.hget("nightdesk:entry:bug", "due")
    set_due(redis, "fine", -3600)  # as if an hour had been worked off before the clock was put right
    made.look()
    made.look()  # not a turn: ten seconds may be over just now
    assert made.states["fine"].due_at < made.now() + timedelta(seconds=11)
    assert "Redis's clock was set back" in caplog.text
    due = set_due(redis, "fine", 1)
    assert fire(made) == {"fine": "run"}
    assert waiting(redis) == [f"fine-{due}-again"]
    assert redis.hget("nightdesk:entry:bug", "due") == daily  # once a day is once a day


def test_when_redis_clock_was_years_ahead_and_is_right_again_fixed_hours_come_back(scheduler, redis, caplog):
    daily = cron("17 3 * * *")
    made = scheduler(entry(10), Entry(daily, work.bug))
    for name in ("fine", "bug"):
        set_due(redis, name, -12 * 365 * 86400)
    made.look()
    made.look()
    assert made.states["fine"].due_at < made.now() + timedelta(seconds=11)
    assert made.states["bug"].due_at in (daily.after(made.now()), daily.after(made.now() - timedelta(minutes=1)))
    assert "2 entries go on from now" in caplog.text
    db.rows("insert into entry (name, last_due_at) values ('fine', '2038-01-19'), ('bug', '2038-01-19')")
    redis.flushall()
    made.look()
    made.look()
    assert made.states["fine"].due_at < made.now() + timedelta(seconds=11)
    assert made.states["bug"].due_at in (daily.after(made.now()), daily.after(made.now() - timedelta(minutes=1)))


def test_when_redis_clock_is_set_back_over_a_fixed_hour_that_has_run_the_day_is_not_repeated():
    when = cron("17 3 * * *")
    now = datetime(2026, 6, 15, 3, 0, tzinfo=UTC)  # it was 3:30 just now, and 3:17 has run
    for day, is_ahead in ((15, False), (16, False), (17, True)):
        due = steps.milliseconds(datetime(2026, 6, day, 3, 17, tzinfo=UTC))
        assert plans.is_ahead(entries.State("bug", due, 1, when, {}), now) is is_ahead


# --- rq-scheduler's keys


def test_rq_schedulers_own_listing_shows_the_entries_and_deletes_none(scheduler, redis):
    made = scheduler(entry(60), entry(3600, key="b"), Entry(cron("17 3 * * *", "Europe/London"), work.bug))
    stock = StockScheduler(connection=redis)
    listed = {job.id: at for job, at in stock.get_jobs(with_times=True)}
    assert set(listed) == {"fine", "fine-b", "bug"}
    for name, at in listed.items():
        assert abs(at.replace(tzinfo=UTC) - made.states[name].due_at) < timedelta(seconds=1)
    assert redis.zcard(steps.SCHEDULED) == 3
    assert next(job.description for job, _ in stock.get_jobs(with_times=True)).startswith("tests.engine.work.")
    set_due(redis, "fine", 1)
    fire(made)
    assert {job.id for job in stock.get_jobs()} == {"fine", "fine-b", "bug"}


def test_what_a_listing_needs_is_declared_again_when_a_tool_deleted_it(scheduler, redis):
    made = scheduler(entry(WEEK), entry(WEEK, key="b"))
    redis.delete("rq:job:fine")
    list(StockScheduler(connection=redis).get_jobs())
    assert redis.zcard(steps.SCHEDULED) == 1
    made.look()
    made._turn()
    assert redis.zcard(steps.SCHEDULED) == 2
    assert redis.exists("rq:job:fine")
    set_due(redis, "fine", 1)
    assert fire(made)["fine"] == "run"


# --- the process


CODE = """
from domain.cadence import every
from engine.entries import Entry
from scheduler import Scheduler
from tests.engine import work
Scheduler([Entry(every(0.5), work.fine, key=str(n), stagger=False) for n in range(5)]).run()
"""


def test_schedulers_are_killed_and_stopped_and_each_due_time_is_enqueued_once_and_soon(database, redis, start):
    one, two = (start("python", "-c", CODE) for _ in range(2))
    worker = start("rq", "worker", "-w", "tests.engine.work.Worker", "critical", "default", "low")
    until(lambda: redis.zcard(steps.SCHEDULERS) == 2 and redis.zcard(steps.WORKERS) == 1)
    with stopwatch() as took:
        time.sleep(1.5)
        one.kill()
        time.sleep(1.0)
        before = set(redis.zrange(steps.SCHEDULERS, 0, -1))
        three = start("python", "-c", CODE)
        until(lambda: set(redis.zrange(steps.SCHEDULERS, 0, -1)) - before)
        time.sleep(0.7)
        two.send_signal(signal.SIGTERM)
        assert two.wait(60) == 0
        time.sleep(1.0)
        three.send_signal(signal.SIGTERM)
        assert three.wait(60) == 0
    until(lambda: not waiting(redis))
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    history.write(redis)
    for n in range(5):
        due = [row["due_at"] for row in db.maps("select due_at from run where entry = %s order by due_at", f"fine-{n}")]
        missed = sum(row["count"] for row in db.maps("select count from skip where entry = %s", f"fine-{n}"))
        assert len(due) == len(set(due))
        assert len(due) + missed == (due[-1] - due[0]) / timedelta(seconds=0.5) + 1 >= 8
    late = [row["late"] for row in db.maps("select extract(epoch from enqueued_at - due_at)::float as late from run")]
    assert max(late) < 0.3 + took.longest


def test_sigterm_ends_a_scheduler_at_once_and_takes_it_off_the_list(database, redis, start):
    process = start("python", "-c", CODE)
    until(lambda: redis.zcard(steps.SCHEDULERS) == 1)
    with stopwatch() as took:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert took.seconds < 1.5
    assert redis.zcard(steps.SCHEDULERS) == 0
