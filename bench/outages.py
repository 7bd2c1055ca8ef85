"""What can happen to a deployment: each outage does its damage and its repair, and says what else was wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import db
from bench import scratch
from bench.deployment import ENTRIES, Deployment, schedule
from domain.cadence import cron
from engine import entries, history, steps
from queues import DEFAULT

Outage = Callable[[Deployment], list[str]]
OUTAGES: dict[str, Outage] = {}


def outage(function: Outage) -> Outage:
    """Register an outage: it does the damage and its repair, and returns what else was wrong."""
    OUTAGES[function.__name__] = function
    return function


# --- Redis


@outage
def redis_emptied(at: Deployment) -> list[str]:
    """FLUSHALL: nothing is known any more."""
    db.redis().flushall()
    return []


@outage
def redis_restarted(at: Deployment) -> list[str]:
    """kill -9 and start, with its append-only file."""
    at.valkey.process.kill()
    at.valkey.stop()
    at.valkey.start()
    return []


@outage
def redis_emptied_and_restarted(at: Deployment) -> list[str]:
    """kill -9 and start with nothing."""
    db.redis().flushall()
    at.valkey.process.kill()
    at.valkey.stop()
    at.valkey.start()
    return []


@outage
def redis_stopped_5_s(at: Deployment) -> list[str]:
    """Nobody listens for five seconds."""
    return _away(at.valkey, 5 * at.scale)


@outage
def redis_stopped_30_s(at: Deployment) -> list[str]:
    """Nobody listens for half a minute."""
    return _away(at.valkey, 30 * at.scale)


def _away(server: Any, seconds: float) -> list[str]:
    server.stop()
    time.sleep(seconds)
    server.start()
    return []


@outage
def redis_frozen_15_s(at: Deployment) -> list[str]:
    """SIGSTOP: it accepts connections and says nothing."""
    return _frozen([at.valkey.process.pid], 15 * at.scale)


def _frozen(pids: list[int], seconds: float) -> list[str]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return []


@outage
def redis_memory_full(at: Deployment) -> list[str]:
    """maxmemory is reached under noeviction: OOM."""
    redis = db.redis()
    redis.config_set("maxmemory", "1mb")
    time.sleep(10 * at.scale)
    redis.config_set("maxmemory", "0")
    return []


@outage
def redis_disk_full(at: Deployment) -> list[str]:
    """It cannot save, and takes no writes: MISCONF."""
    redis = db.redis()
    trap = at.valkey.folder / "valkey" / "dump.rdb"
    trap.mkdir()
    try:
        redis.config_set("save", "3600 1")
        redis.bgsave()
        said = scratch.wait_for(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", 5)
        time.sleep(10 * at.scale)
    finally:
        trap.rmdir()
        redis.bgsave()
        scratch.wait_for(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "ok", 5)
        redis.config_set("save", "")
        trap.unlink(missing_ok=True)
    return [] if said else ["Redis saved all the same"]


# --- PostgreSQL


@outage
def postgresql_restarted(at: Deployment) -> list[str]:
    """Stopped and started at once; whoever was connected is sent away."""
    db.database.close()
    return _away(at.postgres, 0)


@outage
def postgresql_stopped_20_s(at: Deployment) -> list[str]:
    """Nobody listens for twenty seconds."""
    db.database.close()
    return _away(at.postgres, 20 * at.scale)


@outage
def postgresql_frozen_15_s(at: Deployment) -> list[str]:
    """SIGSTOP of the server and all its backends: whoever asked waits for an answer."""
    db.database.close()
    return _frozen(scratch.tree(at.postgres.process.pid), 15 * at.scale)


@outage
def postgresql_killed(at: Deployment) -> list[str]:
    """A backend crashes and takes all connections with it: the server recovers from its log."""
    (pid,) = db.rows("select pg_backend_pid()")[0]
    os.kill(pid, signal.SIGKILL)
    db.drop_unusable()
    return []


@outage
def postgresql_disk_full(at: Deployment) -> list[str]:
    """Every insert says that there is no space left, that of the history too."""
    return _refusing(at, "53100", "could not extend file: No space left on device")


@outage
def postgresql_read_only(at: Deployment) -> list[str]:
    """Every insert says that the server is a standby."""
    return _refusing(at, "25006", "cannot execute INSERT in a read-only transaction")


def _refusing(at: Deployment, code: str, words: str) -> list[str]:
    before = db.rows("select count(*) from run where dead")
    db.rows(
        f"""create or replace function refuse() returns trigger language plpgsql as
            $$ begin raise exception '{words}' using errcode = '{code}'; end $$"""
    )
    for table in ("chaos", "run"):
        db.rows(
            f"create or replace trigger refuse before insert on {table} for each statement execute function refuse()"
        )
    time.sleep(10 * at.scale)
    for table in ("chaos", "run"):
        db.rows(f"drop trigger refuse on {table}")
    time.sleep(15)  # the runs that met it wait about ten seconds for their next try
    return [] if db.rows("select count(*) from run where dead") == before else ["it left dead letters"]


# --- processes, deploys, zones


@outage
def worker_frozen_20_s(at: Deployment) -> list[str]:
    """SIGSTOP of a worker and its horse in the middle of a run: somebody else runs it, and the sleeper is fenced."""
    folder = str(at.desk.folder)
    redis = db.redis()
    steps.enqueue(
        redis, "bench.deployment.long_work", DEFAULT, run_id=f"long-{time.monotonic_ns()}", due=steps.now(redis),
        entry="long", timeout=60, tries=5, kwargs={"folder": folder, "seconds": 4.0},
    )  # fmt: skip
    log = Path(folder) / "long"
    scratch.wait_for(lambda: log.exists() and "begun" in log.read_text(), 20)
    horse = int(log.read_text().split()[1])
    parent = int(Path(f"/proc/{horse}/stat").read_text().rpartition(") ")[2].split()[1])
    for pid in (parent, horse):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(20)
    for pid in (parent, horse):
        os.kill(pid, signal.SIGCONT)
    time.sleep(4)
    while history.write(redis):
        pass
    outcomes = [o for (o,) in db.rows("select outcome from run where entry = 'long' order by attempt")]
    ended = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("ended")]
    fenced = any("was taken for dead: starting over" in at.log(f"worker-{n}") for n in (1, 2, 3))
    print(
        f"   the run's attempts: {', '.join(outcomes)}; ended in {len(ended)} process(es); the sleeper knows: {fenced}"
    )
    log.unlink()
    return [] if outcomes == ["lost", "ok"] and fenced else ["the sleeper was not fenced"]


@outage
def deploy(at: Deployment) -> list[str]:
    """Old and new schedulers side by side, the release step in between, then the old ones go."""
    redis = db.redis()
    at.stop("scheduler-2")
    at.start("scheduler-2", "new")
    time.sleep(4)
    both = {state.id for state in entries.load(redis)}
    rows = {row["name"]: row for row in db.maps("select * from entry")}
    now = steps.instant(steps.now(redis))
    touched = steps.declare(
        redis, [entries.declaration(entry, rows.get(entry.id, {}), now) for entry in schedule("new")], reconcile=True
    )
    time.sleep(12)  # the old scheduler looks again meanwhile
    after = {state.id: str(state.cadence) for state in entries.load(redis)}
    at.stop("scheduler-1")
    at.start("scheduler-1", "new")
    time.sleep(3)
    print(f"   both versions: {len(both)} entries; released: {', '.join(sorted(touched))}")
    wrong = []
    if f"work-e{ENTRIES - 1}" in after:
        wrong.append("the old version brought a removed entry back")
    if f"work-e{ENTRIES}" not in after or after.get("work-e0") != "every 2s":
        wrong.append("the new version's entries are not what is kept")
    steps.declare(
        redis, [entries.declaration(entry, rows.get(entry.id, {}), now) for entry in schedule()], reconcile=True
    )
    for name in ("scheduler-1", "scheduler-2"):
        at.stop(name)
        at.start(name)
    time.sleep(2)
    return wrong


@outage
def zone_changed(at: Deployment) -> list[str]:
    """A scheduler and a worker start again on a machine in another zone: not one due time moves."""
    redis = db.redis()
    now = steps.instant(steps.now(redis))
    expected = cron("30 1 * * *", "Europe/London").after(now)
    for zone in ("Pacific/Auckland", "America/New_York"):
        at.stop("scheduler-1")
        at.start("scheduler-1", TZ=zone)
        at.stop("worker-1")
        at.start("worker-1", TZ=zone)
        code = (
            "from domain.cadence import cron; from datetime import datetime;"
            f"print(cron('30 1 * * *', 'Europe/London').after(datetime.fromisoformat('{now.isoformat()}')).isoformat())"
        )
        there = subprocess.run(
            [sys.executable, "-c", code], env={**at.desk.environment, "TZ": zone}, capture_output=True, text=True,
            cwd=Path(__file__).parent.parent,
        ).stdout.strip()  # fmt: skip
        print(f"   TZ={zone}: 30 1 * * * in London is next due at {there}")
        if there != expected.isoformat():
            return [f"TZ={zone} moved a due time to {there}"]
        time.sleep(3)
    for name in ("scheduler-1", "worker-1"):
        at.stop(name)
        at.start(name)
    return []
