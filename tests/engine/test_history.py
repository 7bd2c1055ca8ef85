"""Run history on its way from Redis to PostgreSQL, and the dead-man check of the schedule."""

from __future__ import annotations

import json
import threading

import peewee
import pytest

import db
from engine import history, steps
from engine.history import Keeper
from tests.engine.desk import beat, outcomes, put, rows, silence, take, work

DUE = 1_790_000_000_000


def note(redis, run="r", **more):
    """One line in the stream, as a step writes it."""
    row = {"entry": "e", "run": run, "job": "j", "queue": "default", "args": {}, "due": DUE, "attempt": 1}
    row |= {"enqueued": "", "started": DUE, "ended": DUE + 5, "outcome": "ok", "dead": False}
    redis.xadd(steps.RUNS, {"r": json.dumps(row | more)})


def events(topic):
    """How many facts of a topic were published."""
    return db.rows("select count(*) from event where topic = %s", topic)[0][0]


def test_lines_are_written_in_sets_and_leave_the_stream(database, redis):
    for number in range(2500):
        note(redis, f"r{number}")
    Keeper(redis).keep()
    assert db.rows("select count(*) from run") == [(2500,)]
    assert redis.xlen(steps.RUNS) == 0


def test_history_is_written_once_though_many_write_it_at_the_same_time(database, redis):
    for number in range(3000):
        note(redis, f"r{number}", outcome="failed", dead=True, error="x")

    def write():
        with db.database.connection_context():
            while history.write(redis):
                pass

    threads = [threading.Thread(target=write) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert db.rows("select count(*), count(distinct run_id) from run") == [(3000, 3000)]
    assert events("run.failed") == 3000


def test_a_line_written_twice_is_a_line_written_once(database, redis):
    for _ in range(2):
        note(redis, outcome="failed", dead=True, error="x")
        history.write(redis)
    assert len(rows("r")) == 1
    assert events("run.failed") == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"outcome": "no such outcome"}, {"attempt": 0}, {"due": 1e300}, {"due": "tomorrow"}, {"enqueued": "yesterday"},
        {"run": None}, {"ended": None}, {"error": "x" * 10, "dead": "perhaps"}, {"queue": None},
    ],
)  # fmt: skip
def test_a_bad_line_costs_only_itself(database, redis, bad):
    for number in range(10):
        note(redis, **{"run": f"r{number}", **(bad if number == 6 else {})})
    Keeper(redis).keep()
    written = {row["run_id"] for row in rows()}
    assert {f"r{n}" for n in range(10) if n != 6} <= written
    assert redis.xlen(steps.RUNS) == 0


@pytest.mark.parametrize("bad", [{"due": 1e300}, {"enqueued": "yesterday"}, {"args": {"x": "y" * 10}, "started": "?"}])
def test_a_line_that_cannot_be_stored_as_it_is_says_at_least_that_the_run_ended(database, redis, bad):
    note(redis, outcome="failed", dead=True, **bad)
    Keeper(redis).keep()
    (row,) = rows("r")
    assert (row["outcome"], row["dead"]) == ("failed", True)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"', "\xff", "\0"])
def test_a_line_that_is_no_line_is_dropped_alone(database, redis, text):
    note(redis, "before")
    redis.xadd(steps.RUNS, {"r": text})
    redis.xadd(steps.RUNS, {"r": text, "d": b"\x80\x04pickled"})
    redis.xadd(steps.RUNS, {"other": "field"})
    note(redis, "after")
    Keeper(redis).keep()
    assert {row["run_id"] for row in rows()} == {"before", "after"}
    assert len(rows()) == 2
    assert redis.xlen(steps.RUNS) == 0


def test_a_very_long_id_does_not_hold_up_the_history_behind_it(database, redis):
    """PostgreSQL calls it a limit of the program, not of the value."""
    import random

    note(redis, "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20_000)))
    note(redis, "after")
    Keeper(redis).keep()
    assert {row["run_id"][:5] for row in rows()} >= {"after"}
    assert redis.xlen(steps.RUNS) == 0


@pytest.mark.parametrize("state", ["disk full", "read only", "not migrated yet", "shutting down"])
def test_a_state_of_the_server_costs_no_line(database, redis, monkeypatch, caplog, state):
    code = {"disk full": "53100", "read only": "25006", "not migrated yet": "42P01", "shutting down": "57P01"}[state]
    note(redis)
    written = history.runs.write

    def refuse(_):
        db.rows(f"do $$ begin raise exception '{state}' using errcode = '{code}'; end $$")

    keeper = Keeper(redis)
    monkeypatch.setattr(history.runs, "write", refuse)
    for _ in range(3):
        keeper.keep()
    assert redis.xlen(steps.RUNS) == 1
    assert len([r for r in caplog.records if state in r.message]) == 1
    monkeypatch.setattr(history.runs, "write", written)
    keeper.keep()
    assert len(rows("r")) == 1


def test_history_is_not_kept_inside_a_jobs_transaction(database, redis):
    """It would be undone with it, after it had left the stream."""
    note(redis)

    def job():
        with db.transaction():
            Keeper(redis).keep()
            db.rows("insert into skip values ('e', 'r', now(), now(), 0)")

    with pytest.raises(peewee.IntegrityError):
        job()
    assert redis.xlen(steps.RUNS) == 1
    Keeper(redis).keep()
    assert len(rows("r")) == 1


def test_large_arguments_are_written_in_several_statements(database, redis, monkeypatch):
    sizes = []
    write = history.runs.write
    monkeypatch.setattr(history.runs, "write", lambda lines: sizes.append(len(lines)) or write(lines))
    for number in range(100):
        note(redis, f"r{number}", args={"args": ["x" * 200_000], "kwargs": {}})
    Keeper(redis).keep()
    assert len(rows()) == 100
    assert max(sizes) * 200_000 < 9_000_000


def test_a_rescued_runs_line_has_its_job_and_arguments(database, redis):
    beat(redis), beat(redis, "v")
    run = put(redis, "fine", pair="EURUSD", entry="fine_entry", due=DUE)
    take(redis)
    silence(redis)
    beat(redis, "v")
    history.write(redis)
    (row,) = rows(run)
    assert (row["job"], row["entry"], row["outcome"]) == ("tests.engine.work.fine", "fine_entry", "lost")
    assert row["arguments"]["kwargs"] == {"pair": "EURUSD"}
    assert row["due_at"].timestamp() * 1000 == DUE
    assert row["error"] == "silent"


def test_the_latest_due_time_of_an_entry_never_goes_back(database, redis):
    for due in (DUE + 5000, DUE, DUE + 2500):
        note(redis, f"e-{due}", due=due)
        history.write(redis)
    (row,) = db.maps("select extract(epoch from last_due_at) * 1000 as at from entry where name = 'e'")
    assert row["at"] == DUE + 5000


@pytest.mark.parametrize("outcome", ["retried", "yielded", "lost", "handed_back"])
def test_an_entry_goes_on_after_what_is_done_with_not_after_what_is_to_be_tried_again(database, redis, outcome):
    note(redis, f"e-{DUE}")
    note(redis, f"e-{DUE + 1000}", due=DUE + 1000, outcome=outcome)
    note(redis, f"e-now-{DUE + 2000}-abc", due=DUE + 2000)
    skip = {"kind": "skip", "entry": "e", "reason": "overlap", "first": DUE + 2000, "last": DUE + 2000, "count": 1}
    redis.xadd(steps.RUNS, {"r": json.dumps(skip)})
    history.write(redis)
    assert last_due() == DUE
    note(redis, f"e-{DUE + 1000}", due=DUE + 1000, attempt=2, outcome="failed", dead=True, error="x")
    history.write(redis)
    assert last_due() == DUE + 1000
    redis.xadd(steps.RUNS, {"r": json.dumps(skip | {"reason": "paused"})})
    history.write(redis)
    assert last_due() == DUE + 2000


def last_due(entry="e"):
    """The entry's latest due time that is done with, in ms."""
    return db.rows("select extract(epoch from last_due_at)::float8 * 1000 from entry where name = %s", entry)[0][0]


def test_a_run_that_came_again_is_recorded_beside_what_is_known_of_it(database, redis):
    """Redis forgot it: its attempts are counted from one again."""
    first = [{"attempt": n, "ended": DUE + n, "outcome": "yielded"} for n in (1, 2)]
    second = [{"attempt": n, "ended": DUE + 10 + n, "outcome": "yielded"} for n in (1, 2)]
    second.append({"attempt": 3, "ended": DUE + 20, "outcome": "failed", "dead": True, "error": "x"})
    for portion in (first, second, second[1:], first):
        for line in portion:
            note(redis, **line)
        history.write(redis)
    assert sorted(row["attempt"] for row in rows("r")) == [1, 2, 3, 4, 5]
    assert sorted(row["ended_at"].timestamp() * 1000 - DUE for row in rows("r")) == [1, 2, 11, 12, 20]
    assert events("run.failed") == 1


# --- nobody moves the schedule


def schedule(redis, seconds_ago):
    """One entry that has been due for so long."""
    redis.sadd(steps.ENTRIES, "e")
    redis.zadd(steps.SCHEDULED, {"e": steps.now(redis) / 1000 - seconds_ago})


def test_a_schedule_that_nobody_moves_is_told_once_and_so_is_that_it_moves_again(database, redis, caplog):
    schedule(redis, 10)
    history.watch_schedule(redis)
    assert events("schedule.stopped") == 0
    schedule(redis, 20)
    for _ in range(3):
        history.watch_schedule(redis)
    assert events("schedule.stopped") == 1
    assert len([r for r in caplog.records if "the schedule has stopped" in r.message]) == 1
    schedule(redis, -1)
    for _ in range(3):
        history.watch_schedule(redis)
    assert events("schedule.resumed") == 1
    schedule(redis, 20)
    history.watch_schedule(redis)
    assert events("schedule.stopped") == 2


def test_it_is_told_later_if_postgresql_was_away(database, redis, monkeypatch):
    schedule(redis, 20)
    with monkeypatch.context() as patch:
        patch.setattr(history, "_raise", lambda *_: db.rows("select 1 / 0"))
        with pytest.raises(peewee.DatabaseError):
            history.watch_schedule(redis)
    history.watch_schedule(redis)
    assert events("schedule.stopped") == 1


def test_a_redis_without_any_schedule_is_told_if_there_was_one(database, redis):
    history.watch_schedule(redis)
    assert events("schedule.stopped") == 0  # never declared: nothing to miss
    db.rows("insert into entry (name, last_due_at) values ('e', now() - interval '1 minute')")
    history.watch_schedule(redis)
    assert events("schedule.stopped") == 1


def test_what_somebody_else_put_into_rq_schedulers_list_is_not_our_schedule(database, redis):
    schedule(redis, -5)
    redis.zadd(steps.SCHEDULED, {"somebody-elses": 1})
    history.watch_schedule(redis)
    assert events("schedule.stopped") == 0


def test_a_worker_notices_while_it_works(database, redis):
    schedule(redis, 20)
    run = put(redis, "fine")
    work(redis)
    assert outcomes(run) == ["ok"]
    assert events("schedule.stopped") == 1
