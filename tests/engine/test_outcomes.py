"""What becomes of a run: a work-horse in this process, real servers, history looked up in PostgreSQL."""

from __future__ import annotations

import json
import os
import pickle
import signal
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import db
from domain.failures import Unavailable
from engine import horse, steps
from engine.board import Board
from engine.outcome import Refused, fingerprint, of_exception
from engine.payload import unpacked
from tests.engine.desk import MODULE, QUEUES, beat, outcomes, put, put_raw, rows, status, waiting, work
from tests.engine.work import lines, words


def test_a_run_is_recorded_with_all_that_an_operator_asks(database, redis):
    run = put(redis, "fine", due=1_790_000_000_123, entry="fine_entry", pair="EURUSD")
    work(redis)
    (row,) = rows(run)
    assert (row["entry"], row["outcome"], row["attempt"], row["counts"]) == ("fine_entry", "ok", 1, {"done": 1})
    assert (row["job"], row["queue"], row["worker"], row["dead"]) == (f"{MODULE}.fine", "default", "w", False)
    assert row["arguments"] == {"args": [], "kwargs": {"pair": "EURUSD"}}
    assert row["due_at"].timestamp() == 1_790_000_000.123
    assert row["enqueued_at"] <= row["started_at"] <= row["ended_at"]
    assert status(redis, run) == "finished"


def test_an_argument_too_many_is_a_bug_and_kept_with_the_run(database, redis):
    run = put(redis, "fine", 7)
    work(redis)
    (row,) = rows(run)
    assert (row["outcome"], row["arguments"]) == ("failed", {"args": [7], "kwargs": {}})


def test_a_job_is_handed_its_due_time_whenever_it_runs(database, redis, tmp_path):
    put(redis, "note", str(tmp_path / "log"), due=1_790_000_000_000)
    work(redis)
    assert lines(tmp_path / "log")[0][1] == "2026-09-21T14:13:20+00:00"


def test_a_bug_is_a_dead_letter_at_once_with_its_fingerprint_and_an_event(database, redis):
    first, second = put(redis, "bug", 1), put(redis, "bug", 2)
    work(redis)
    prints = {rows(run)[0]["fingerprint"] for run in (first, second)}
    assert len(prints) == 1  # the same error at the same place, whatever the number in it
    assert [row["outcome"] for row in rows()] == ["failed", "failed"]
    assert all(row["dead"] and "KeyError" in row["error"] for row in rows())
    assert db.rows("select topic from event") == [("run.failed",), ("run.failed",)]
    assert status(redis, first) == "failed"


def test_rejected_is_not_tried_again(database, redis):
    run = put(redis, "rejected", tries=5)
    work(redis)
    assert outcomes(run) == ["failed"]


def test_unavailable_is_tried_again_with_growing_waits_and_is_then_a_dead_letter(database, redis):
    run = put(redis, "unavailable")
    waits = []
    for _ in range(3):
        work(redis)
        score = redis.zscore("rq:scheduled:default", run)
        waits.append(score and score - steps.now(redis) / 1000)
        redis.zadd("rq:scheduled:default", {run: 1}, xx=True)
    assert 1.2 < waits[0] < 2.6
    assert 2.7 < waits[1] < 5.1
    assert waits[2] is None
    assert outcomes(run) == ["retried", "retried", "failed"]
    assert {row["due_at"] for row in rows(run)} == {rows(run)[0]["due_at"]}  # kept over retries


def test_a_retry_waits_as_long_as_the_service_asked(database, redis):
    run = put(redis, "unavailable", 120)
    work(redis)
    assert redis.zscore("rq:scheduled:default", run) - steps.now(redis) / 1000 > 115


def test_a_run_that_takes_too_long_is_stopped_and_tried_again(database, redis):
    run = put(redis, "slow", timeout=1, tries=2)
    work(redis)
    redis.zadd("rq:scheduled:default", {run: 1}, xx=True)
    work(redis)
    assert outcomes(run) == ["retried", "failed"]
    assert "time-out of 1 s" in rows(run)[0]["error"]


def test_a_job_that_takes_the_alarm_for_itself_costs_the_next_ones_no_time_out(database, redis, monkeypatch):
    monkeypatch.setattr(horse, "FLUSH_EVERY", 0.0)
    put(redis, "rude")
    run = put(redis, "slow", timeout=1, tries=1)
    work(redis)
    assert "time-out of 1 s" in rows(run)[0]["error"]


@pytest.mark.parametrize("kind", ["list", "text", "key"])
def test_an_answer_that_is_no_count_is_a_bug_and_costs_only_itself(database, redis, kind):
    run, other = put(redis, "wrong_answer", kind), put(redis, "fine")
    work(redis)
    assert outcomes(run) == ["failed"]
    assert "WrongCounts" in rows(run)[0]["error"]
    assert outcomes(other) == ["ok"]


@pytest.mark.parametrize("kind", ["surrogate", "mute"])
def test_an_error_that_is_hard_to_write_down_is_recorded_all_the_same(database, redis, kind):
    run, other = put(redis, "strange_error", kind), put(redis, "fine")
    work(redis)
    assert outcomes(run) == ["failed"]
    assert outcomes(other) == ["ok"]


def test_a_full_disk_is_nobodys_failure_the_run_waits_and_uses_up_no_try(database, redis, caplog):
    run = put(redis, "full_disk", tries=1)
    for _ in range(3):
        work(redis)
        redis.zadd("rq:scheduled:default", {run: 1}, xx=True)
    assert outcomes(run) == ["retried"] * 3
    told = [r.message for r in caplog.records if "takes no writes" in r.message and r.levelname == "WARNING"]
    assert len(told) == 1
    assert "No space left on device" in told[0]


def test_an_outcome_of_any_exception_is_short_and_has_no_nul():
    @given(st.text(max_size=3000), st.integers(1, 9), st.integers(1, 9))
    def law(words, tried, tries):
        outcome = of_exception(Unavailable(words), tried, tries)
        assert outcome.name == ("retried" if tried < tries else "failed")
        assert "\0" not in outcome.error + outcome.trace
        assert len(outcome.error) <= 1000
        assert 0 <= outcome.delay <= 900 * 1.25
        assert len(fingerprint(ValueError(words))) == 8
        steps.rq_text(outcome.trace)

    law()


# --- what is refused


@pytest.fixture
def bait(tmp_path):
    """A file that exists only if somebody unpickled the payload."""
    return tmp_path / "unpickled"


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


def deep(levels):
    return b'["x", null, ' + b"[" * levels + b"]" * levels + b", {}]"


PATH = f"{MODULE}.fine"

CRAFTED = {
    "unknown function": json.dumps(["os.system", None, ["true"], {}]).encode(),
    "a function of ours that is no job": json.dumps(["engine.steps.rq_text", None, ["x"], {}]).encode(),
    "a method": json.dumps([PATH, "object", [], {}]).encode(),
    "arguments that are no list": json.dumps([PATH, None, {}, {}]).encode(),
    "keywords that are no object": json.dumps([PATH, None, [], []]).encode(),
    "too few parts": json.dumps([PATH, None]).encode(),
    "an object": b"{}",
    "a number": b"7",
    "nothing": b"",
    "no JSON": b"sync_prices()",
    "invalid UTF-8": b'["\xff\xfe", null, [], {}]',
    "half a character": b'["\\ud83d", null, [], {}]',
    "a NUL in the name": b'["a\\u0000b", null, [], {}]',
    "NUL characters": b"\0" * 100,
    "deep JSON": deep(100_000),
    "a long number": b'["x", null, [' + b"9" * 10_000 + b"], {}]",
    "ten megabytes": json.dumps([PATH, None, ["x" * 10_000_000], {}]).encode(),
    "a zip bomb": zlib.compress(json.dumps([PATH, None, [" " * 50_000_000], {}]).encode(), 9),
    "broken zlib": b"\x78\x9cbroken",
    "a name of two lines": b'["a\\nERROR b", null, [], {}]',
    "a name of many characters": json.dumps(["x" * 200_000, None, [], {}]).encode(),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_payload_is_refused_recorded_and_costs_only_itself(database, redis, name, caplog):
    put_raw(redis, "crafted", data=CRAFTED[name])
    other = put(redis, "fine")
    work(redis)
    (row,) = rows("crafted")
    assert (row["outcome"], row["dead"], row["attempt"]) == ("refused", True, 1)
    assert len(row["error"]) < 600
    assert caplog.messages[0].isprintable()  # one line of the log, and the one of this run
    assert status(redis, "crafted") == "failed"
    assert outcomes(other) == ["ok"]


def test_a_job_by_a_part_of_its_name_is_refused_with_the_whole(database, redis):
    for name, part in (("short", "fine"), ("as logged", "work.fine")):
        put_raw(redis, name, data=json.dumps([part, None, [], {}]).encode())
        work(redis)
        assert f"no job {part!r} is registered in this version of the code: {PATH} is" in rows(name)[0]["error"]


def test_a_pickled_payload_is_refused_without_being_unpickled(database, redis, bait):
    for name, protocol in (("old", 0), ("new", pickle.HIGHEST_PROTOCOL)):
        data = pickle.dumps(("os.getcwd", None, (Bomb(bait),), {}), protocol)
        put_raw(redis, name, data=data)
        put_raw(redis, f"{name}-rq", data=zlib.compress(data), description="os.getcwd()", timeout="180")
    pickle.loads(data)
    assert bait.exists()  # the bait works
    bait.unlink()
    work(redis)
    assert {row["outcome"] for row in rows()} == {"refused"}
    assert len(rows()) == 4
    assert not bait.exists()


@pytest.mark.parametrize(
    "field", ["success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks"]
)
def test_a_payload_that_names_a_callback_or_a_webhook_is_refused(database, redis, field):
    run = put_raw(redis, "hooked", data=json.dumps([PATH, None, [], {}]), **{field: "os.abort"})
    work(redis)
    assert outcomes(run) == ["refused"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nd_due", "tomorrow"), ("nd_due", "9" * 400), ("nd_tries", "many"), ("nd_max", "\xff"), ("timeout", "5m"),
        ("enqueued_at", "yesterday"), ("result_ttl", "forever"), ("retries_left", "a few"), ("nd_entry", "\0\0"),
        ("timeout", "1e999"), ("created_at", b"\xff\xfe"),
    ],
)  # fmt: skip
def test_a_field_that_another_tool_filled_with_something_else_counts_as_missing(database, redis, field, value):
    run = put_raw(redis, "odd", data=json.dumps([PATH, None, [], {}]), **{field: value})
    work(redis)
    assert outcomes(run) == ["ok"]


def test_arguments_that_postgresql_cannot_hold_do_not_cost_the_history(database, redis):
    arguments = ["nul \0", "backslash-nul \\u0000", "half \ud83d", float("nan"), float("inf"), "😀", 10**400]
    run = put(redis, "fine", text=arguments)
    work(redis)
    (row,) = rows(run)
    kept = row["arguments"]["kwargs"]["text"]
    assert kept == ["nul ", "backslash-nul \\u0000", "half ?", "nan", "inf", "😀", 10**400]


def test_deep_arguments_are_refused_or_run_but_never_kill_the_work_horse(database, redis):
    for levels in (100, 500, 900, 950, 970, 980, 985, 990, 992, 994, 996, 998, 1000, 1100):
        data = json.dumps([PATH, None, [], {"x": "DEEP"}]).replace('"DEEP"', "[" * levels + "]" * levels)
        put_raw(redis, f"deep-{levels}", data=data)
    work(redis)
    assert len(rows()) == 14
    assert {row["outcome"] for row in rows()} == {"ok", "refused"}


@given(st.binary(max_size=300))
def test_no_payload_raises_anything_but_refused(data):
    for candidate in (data, zlib.compress(data), b"\x78" + data):
        try:
            call = unpacked(candidate)
        except Refused:
            continue
        assert isinstance(call.path, str)
        assert isinstance(call.args, list)
        assert isinstance(call.kwargs, dict)


def test_a_scheduled_job_that_this_version_does_not_know_waits_for_the_other_version(database, redis):
    put_raw(
        redis, "new-1", data=json.dumps(["jobs.new.sync_new", None, [], {}]), nd_entry="new", nd_due="1", nd_limits=""
    )
    for _ in range(4):
        work(redis)
        redis.zadd("rq:scheduled:default", {"new-1": 1}, xx=True)
    assert outcomes("new-1") == ["retried", "retried", "retried", "refused"]


# --- the work-horse itself

NO_WORK = ("hello", "client|setinfo", "ping", "config|resetstat")  # connections, and the measuring


def test_a_job_with_a_limit_that_somebody_else_enqueued_comes_under_its_limit(database, redis, tmp_path):
    data = json.dumps([f"{MODULE}.limited", None, [str(tmp_path / "log"), 0.01], {}])
    put_raw(redis, "adhoc", data=data)
    redis.zadd("nightdesk:running:api", {"somebody": 1})
    work(redis)
    assert words(tmp_path / "log") == []
    assert redis.lrange("nightdesk:waiting:api", 0, -1) == [b"adhoc"]
    redis.zrem("nightdesk:running:api", "somebody")
    work(redis)
    assert words(tmp_path / "log") == ["limited-begun", "limited-ended"]
    assert outcomes("adhoc") == ["ok"]


def test_a_work_horse_that_grew_too_large_is_replaced_after_the_run_that_made_it_so(database, redis, monkeypatch):
    for _ in range(3):
        put(redis, "fine")
    sizes = iter([100, 999_999, 999_999])
    monkeypatch.setattr(horse, "peak_mb", lambda: 999_999)
    monkeypatch.setattr(horse, "resident_mb", lambda: next(sizes))
    work(redis)
    assert [row["outcome"] for row in rows()] == ["ok", "ok"]
    assert len(waiting(redis)) == 1


def test_a_work_horse_is_replaced_after_so_many_jobs_with_the_last_one_recorded(database, redis, monkeypatch):
    for _ in range(5):
        put(redis, "fine")
    monkeypatch.setattr(horse, "JOBS_PER_HORSE", 2)
    work(redis)
    assert [row["outcome"] for row in rows()] == ["ok", "ok"]
    assert not redis.exists("rq:worker:w:executions")
    work(redis)
    work(redis)
    assert len(rows()) == 5


def test_a_work_horse_that_is_too_large_from_the_start_still_runs_one_job(database, redis, monkeypatch):
    put(redis, "fine")
    monkeypatch.setattr(horse, "peak_mb", lambda: 999_999)
    monkeypatch.setattr(horse, "resident_mb", lambda: 999_999)
    work(redis)
    assert [row["outcome"] for row in rows()] == ["ok"]


def test_a_scheduled_run_costs_one_round_trip_with_thirty_commands_in_it(database, redis, monkeypatch):
    """Whoever makes it dearer does so with open eyes: these two figures are not to grow."""
    monkeypatch.setattr(horse, "FLUSH_EVERY", 3600.0)

    def commands(runs):
        for number in range(runs):
            entry = f"fine-{number}"
            run = put(redis, "fine", run_id=f"{entry}-{runs}", entry=entry, limits=[[f"entry:{entry}", 1]])
            redis.hset(steps.ENTRY + entry, "queued", run)
        beat(redis)
        redis.config_resetstat()
        horse.Horse("w", QUEUES, Board(), burst=True, max_jobs=None).work()
        called = {name.removeprefix("cmdstat_"): of["calls"] for name, of in redis.info("commandstats").items()}
        return called["evalsha"], sum(calls for name, calls in called.items() if name not in NO_WORK)

    commands(1)  # which the server compiles the script for
    few, many = commands(2), commands(12)
    assert [(more - less) / 10 for less, more in zip(few, many, strict=True)] == [1, 31]
    assert outcomes("fine-11-12") == ["ok"]


def test_a_run_that_arrives_together_with_the_signal_is_handed_back(database, redis, monkeypatch):
    run = put(redis, "fine")
    step = steps.step

    def and_the_signal(redis, name, *arguments):
        reply = step(redis, name, *arguments)
        if name == "take":
            os.kill(os.getpid(), signal.SIGTERM)
        return reply

    monkeypatch.setattr(steps, "step", and_the_signal)
    work(redis, burst=False)
    assert outcomes(run) == ["handed_back"]
    assert waiting(redis) == [run]
    assert redis.hget(f"rq:job:{run}", "nd_tries") is None


def test_a_full_redis_is_emptied_of_the_history_that_fills_it(database, redis):
    """Nothing else would ever make room: every step needs some."""
    run = put(redis, "fine")
    row = {"entry": "e", "job": "j", "queue": "q", "args": {"args": ["x" * 2000]}, "due": 1.79e12, "attempt": 1}
    row |= {"enqueued": "", "started": 1.79e12, "ended": 1.79e12, "outcome": "ok"}
    with redis.pipeline(transaction=False) as pipe:
        for number in range(3000):
            pipe.xadd(steps.RUNS, {"r": json.dumps(row | {"run": f"r{number}"})})
        pipe.execute()
    beat(redis)
    try:
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] - 1_000_000)
        horse.Horse("w", ["default"], Board(), burst=True, max_jobs=None).work()
    finally:
        redis.config_set("maxmemory", 0)
    assert outcomes(run) == ["ok"]
    assert len(rows()) == 3001
