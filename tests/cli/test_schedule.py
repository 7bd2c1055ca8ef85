"""What an operator does to the schedule from a shell, against real servers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis.exceptions import TimeoutError as RedisSilent
from rq.suspension import suspend

import db
from cli.main import nightdesk as command
from cli.migrate import reconcile
from engine import entries, steps
from scheduler import SCHEDULE
from tests.waiting import until
from web.app import away_servers

pytestmark = pytest.mark.usefixtures("database", "redis")


@pytest.fixture
def call() -> Callable[..., Result]:
    """Run a command in this process, with a schedule declared; the commands open and close the connection."""
    reconcile()
    db.database.close()

    def run(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(command, list(words), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


def fields(entry: str) -> dict[str, str]:
    return entries.load(db.redis(), [entry])[0].fields


def audit() -> list[tuple[Any, ...]]:
    return db.rows("select who, action, target, new from audit order by id")


def test_schedule_lists_every_entry_with_its_next_runs(call: Callable[..., Result]) -> None:
    rows = {row["entry"]: row for row in json.loads(call("schedule", "--json", "--next", "4").output)}
    assert len(rows["sync_prices"]["next"]) == 4
    assert rows["sync_prices"]["holds"] == "code"


def test_a_pause_is_a_row_with_its_audit_and_reaches_redis(call: Callable[..., Result]) -> None:
    call("pause", "sync_prices", "--who", "ann")
    assert fields("sync_prices")["paused"] == "1"
    assert db.rows("select paused from entry where name = 'sync_prices'") == [(True,)]
    assert audit() == [("ann", "pause", "sync_prices", {"cadence": None, "paused": True})]
    call("resume", "sync_prices", "--who", "bob")
    assert fields("sync_prices")["paused"] == "0"


def test_a_pause_in_the_midst_of_a_release_holds(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = (entry for entry in SCHEDULE if entry.id == "sync_prices")
    declare = steps.declare

    def pause() -> None:
        with db.database.connection_context():
            entries.override(db.redis(), entry, "ann", "pause", paused=True)

    operator = threading.Thread(target=pause)

    def meanwhile(*arguments: Any, **options: Any) -> list[str]:
        monkeypatch.setattr(steps, "declare", declare)
        operator.start()
        until(lambda: not operator.is_alive() or db.rows("select 1 from pg_locks where not granted"))
        return declare(*arguments, **options)

    monkeypatch.setattr(steps, "declare", meanwhile)
    reconcile()
    operator.join()
    assert fields("sync_prices")["paused"] == "1"
    assert db.rows("select paused from entry where name = 'sync_prices'") == [(True,)]


def test_a_pause_survives_a_lost_redis(call: Callable[..., Result]) -> None:
    call("pause", "sync_prices")
    db.redis().flushall()
    reconcile()
    assert fields("sync_prices")["paused"] == "1"


def test_an_operators_cadence_holds_over_code_until_it_is_reset(call: Callable[..., Result]) -> None:
    call("cadence", "sync_prices", "every 7s")
    assert (fields("sync_prices")["cadence"], fields("sync_prices")["source"]) == ("every 7s", "operator")
    reconcile()  # a deploy changes nothing about it
    assert fields("sync_prices")["cadence"] == "every 7s"
    call("cadence", "sync_prices", "--reset")
    assert (fields("sync_prices")["cadence"], fields("sync_prices")["source"]) == ("every 5s", "code")


def test_a_new_cadence_counts_from_now_on(call: Callable[..., Result]) -> None:
    call("cadence", "prune_prices", "every 1h")
    ahead = entries.load(db.redis(), ["prune_prices"])[0].due_at - datetime.now(UTC)
    assert timedelta() < ahead <= timedelta(hours=1)


def test_nonsense_is_refused_with_what_would_be_right(call: Callable[..., Result]) -> None:
    assert "every 30s" in call("cadence", "sync_prices", "often", code=1).output
    assert "whole number of milliseconds" in call("cadence", "sync_prices", "every 0.3333s", code=1).output
    assert "whole number of milliseconds" in call("cadence", "sync_prices", "every 5s +0.0003s", code=1).output
    assert "Europe/London" in call("schedule", "--tz", "London", code=2).output
    assert "2026-11-23" in call("simulate", "--from", "tomorrow", code=2).output
    assert "is no zone" in call("cadence", "sync_prices", "cron 0 1 * * * Mars/Olympus", code=1).output
    assert "sync_prices" in call("pause", "sync_price", code=1).output
    assert "no job 'os.system'" in call("run", "os.system", code=1).output
    assert "or `before_open XNYS 30m`" in call("cadence", "sync_prices", "often", code=1).output


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        (("scan_chain",), "scan_chain takes chain besides its due time: missing a required argument: 'chain'"),
        (("sync_prices", "5"), "sync_prices takes nothing besides its due time: multiple values"),
        (("sync_prices", "due_at=5"), "sync_prices takes nothing besides its due time: "),
        (("scan_chain-bsc", "a", "b"), "scan_chain takes chain besides its due time: "),
        (("scan_chain", "chian=bsc"), "scan_chain takes chain besides its due time: "),
    ],
)
def test_a_job_is_not_queued_with_arguments_that_it_does_not_take(call: Callable[..., Result], words, takes) -> None:
    assert takes in call("run", *words, code=1).output
    assert (db.redis().llen("rq:queue:default"), audit()) == (0, [])


@pytest.mark.parametrize("text", ["cron 0 0 30 2 *", "cron 0 0 31 4 *", "every 3000000d", "every 99999999999d"])
def test_a_cadence_that_never_comes_is_refused_and_changes_nothing(call: Callable[..., Result], text: str) -> None:
    before = fields("prune_prices")
    said = call("cadence", "prune_prices", text, code=1).output
    assert "never comes" in said or "is too long: 366d at most" in said
    assert fields("prune_prices") == before
    assert db.rows("select 1 from entry where cadence is not null") == []
    assert audit() == []


@pytest.mark.parametrize("text", ["cron 0 0 30 2 *", "until_off 10s"])  # never comes, cannot be read
def test_a_stored_cadence_that_is_none_stops_no_release_and_stays_as_it_is_until_reset(
    call: Callable[..., Result], text: str
) -> None:
    before = fields("sync_prices")
    db.rows("insert into entry (name, cadence, version) values ('sync_prices', %s, 1790000000000)", text)
    db.redis().delete("nightdesk:entry:prune_prices")
    call("migrate")
    assert fields("sync_prices") == before
    assert fields("prune_prices")["source"] == "code"
    assert "sync_prices stays as it is" in call("pause", "sync_prices", code=1).output
    call("cadence", "sync_prices", "--reset")
    assert fields("sync_prices")["source"] == "code"


def test_run_now_queues_one_run_with_its_limits_and_an_audit_row(call: Callable[..., Result]) -> None:
    call("run", "sync_prices", "--who", "ann")
    (run_id,) = db.redis().lrange("rq:queue:default", 0, -1)
    job = db.redis().hgetall(b"rq:job:" + run_id)
    assert json.loads(job[b"data"]) == ["jobs.prices.sync_prices", None, [], {}]
    assert job[b"nd_limits"] == b'[["entry:sync_prices", 1]]'
    assert [row[:3] for row in audit()] == [("ann", "run", "sync_prices")]


def test_simulate_counts_the_runs_of_a_week(call: Callable[..., Result]) -> None:
    rows = {r["entry"]: r for r in json.loads(call("simulate", "--days", "7", "--from", "2026-10-22", "--json").output)}
    assert rows["sync_prices"]["runs"] == 7 * 86400 // 5
    assert rows["prune_prices"]["runs"] == 7


def test_simulate_goes_by_what_operators_have_set(call: Callable[..., Result]) -> None:
    call("cadence", "sync_prices", "every 30s")
    call("pause", "build_candles")
    rows = {r["entry"]: r for r in json.loads(call("simulate", "--days", "1", "--json").output)}
    assert (rows["sync_prices"]["runs"], rows["sync_prices"]["holds"]) == (86400 // 30, "operator")
    assert (rows["build_candles"]["runs"], rows["build_candles"]["holds"]) == (0, "code, paused")


def test_status_says_in_red_that_the_schedule_has_stopped(call: Callable[..., Result]) -> None:
    db.redis().zadd("rq:scheduler:scheduled_jobs", {"sync_prices": 1})
    assert "THE SCHEDULE HAS STOPPED" in call("status").output
    assert json.loads(call("status", "--json").output)["schedule_behind_s"] > 15


def test_status_names_what_keeps_the_workers_from_their_work(call: Callable[..., Result]) -> None:
    suspend(db.redis())
    assert "the work is suspended: no run is taken before `rq resume`" in call("status").output


def test_doctor_names_what_is_wrong_and_its_remedy(call: Callable[..., Result]) -> None:
    db.redis().config_set("maxmemory-policy", "allkeys-lru")
    db.redis().hset("rq:scheduler_instance:stock", "birth", "1")
    suspend(db.redis())
    with db.database.connection_context():
        db.rows("drop index event_position")
    try:
        found = {f["check"]: f for f in json.loads(call("doctor", "--json", code=1).output)}
    finally:
        db.redis().config_set("maxmemory-policy", "noeviction")
        with db.database.connection_context():
            db.rows("create index event_position on event (xid, id)")
    assert "noeviction" in found["eviction"]["says"]
    assert "python scheduler.py" in found["scheduler"]["says"]
    assert found["stock rqscheduler"]["bad"]
    assert "rq resume" in found["work"]["says"]
    assert found["indexes"]["says"] == "missing or invalid: event_position"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """REDIS_URL leads to a server that takes connections and never answers; `silent()` says how many it was given."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(db, "settings", replace(db.settings, redis_url=url))
        monkeypatch.setattr(db, "HASTE", 0.05)

        def given() -> int:
            count = 0
            with suppress(BlockingIOError):
                while server.accept():
                    count += 1
            return count

        yield given


def test_a_redis_that_is_silent_is_asked_once_and_what_needs_it_is_not_looked_at(
    call: Callable[..., Result], silent: Callable[[], int]
) -> None:
    found = {f["check"]: f for f in json.loads(call("doctor", "--json", code=1).output)}
    assert found["redis server"]["bad"]
    assert found["schedule"]["says"] == found["providers"]["says"] == "not looked at: Redis is away"
    assert found["migrations"]["result"] == "ok"
    with pytest.raises(RedisSilent):
        call("status")
    assert silent() == 2
    with db.in_haste():
        assert asyncio.run(away_servers()) == ["Redis"]
    assert silent() == 1


def dead_letter(run_id: str, fingerprint: str) -> None:
    db.rows(
        """insert into run (entry, due_at, attempt, run_id, job, queue, arguments, ended_at, outcome, error,
                            fingerprint, dead)
           values ('sync_prices', '2026-11-01', 1, %s, 'jobs.prices.sync_prices', 'default',
                   '{"args": [], "kwargs": {}}', now(), 'failed', 'boom', %s, true)""",
        run_id,
        fingerprint,
    )


def test_dead_letters_are_grouped_and_only_the_chosen_group_is_retried(call: Callable[..., Result]) -> None:
    for i in range(6):
        dead_letter(f"r{i}", "aaaa" if i < 4 else "bbbb")
    db.database.close()
    groups = {g["fingerprint"]: g["letters"] for g in json.loads(call("dead", "list", "--json").output)}
    assert groups == {"aaaa": 4, "bbbb": 2}
    call("dead", "retry", "aaaa", "--who", "ann")
    assert sorted(db.redis().lrange("rq:queue:default", 0, -1)) == [b"r0", b"r1", b"r2", b"r3"]
    assert db.redis().hget("rq:job:r0", "nd_attempt") == b"1"
    assert [g["fingerprint"] for g in json.loads(call("dead", "list", "--json").output)] == ["bbbb"]
    call("dead", "retry", "aaaa", code=1)
    call("dead", "discard", "r4")
    assert json.loads(call("dead", "list", "--json").output)[0]["letters"] == 1
