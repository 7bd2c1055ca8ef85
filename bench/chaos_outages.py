"""What do an emptied, stopped, frozen or full Redis or PostgreSQL, a frozen worker, a deploy and a foreign zone cost?

python -m bench.chaos_outages [--only redis_emptied,…] [--scale 1] [--list]

Two schedulers and three workers keep twenty entries that are due every second; each run writes a row into a table.
Then one outage after the other. Whatever happens: each due time is run or recorded with the reason why not, nobody
has to be started again, and each process says once that it waits and once that it goes on. The rows that show it
are printed. `--scale 0.1` shortens the outages to a tenth.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from peewee import InterfaceError, OperationalError
from redis.exceptions import RedisError

import db
from bench import scratch
from domain.cadence import cron, every
from engine import entries, history, steps
from engine.entries import Entry
from engine.worker import Worker
from queues import DEFAULT, QUEUES, job

__all__ = ["Worker"]

ENTRIES = 20
SCHEDULER = "import bench.chaos_outages as c, scheduler; scheduler.Scheduler(c.schedule('{}')).run()"
AWAY = re.compile(r"WARNING (.+), waiting: ")
BACK = re.compile(r"WARNING (.+) no longer, after ")


@job(DEFAULT, timeout=30, tries=1000)
def work(*, due_at: datetime, entry: str) -> dict[str, int]:
    """Write a row of domain state, once for each due time."""
    db.rows(
        "insert into chaos (entry, due_at, pid) values (%s, %s, %s) on conflict do nothing", entry, due_at, os.getpid()
    )
    return {"rows": 1}


@job(DEFAULT, timeout=60, tries=1000)
def long_work(*, due_at: datetime, folder: str, seconds: float) -> None:
    """Something that takes its time, and writes down when it began and ended."""
    for word in ("begun", "ended"):
        file = os.open(f"{folder}/long", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, f"{word} {os.getpid()} {time.monotonic()}\n".encode())
        os.close(file)
        if word == "begun":
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0.02)


def schedule(version: str = "") -> list[Entry]:
    """Twenty entries; "new" drops the last, adds one and changes a cadence."""
    work = importlib.import_module("bench.chaos_outages").work  # under the name by which workers know it
    numbers = list(range(ENTRIES))
    if version == "new":
        numbers = [*numbers[:-1], ENTRIES]
    return [
        Entry(every(2 if version == "new" and n == 0 else 1), work, key=f"e{n}", kwargs={"entry": f"work-e{n}"})
        for n in numbers
    ]


@dataclass
class Found:
    """What an outage has cost."""

    name: str
    seconds: float  # it lasted
    recovered: float  # seconds after its end until a run ended well
    runs: int
    skips: dict[str, int]
    missing: int  # due times neither run nor recorded
    doubled: int  # due times with more than one run that ended well
    restarted: int  # processes that had to be started again
    lines: list[int]  # that a process said for this outage, the most and the fewest: it waits, it goes on
    wrong: list[str]

    @property
    def ok(self) -> bool:
        return not (self.missing or self.doubled or self.restarted or self.wrong)


class Desk:
    """The processes, their logs, and the tables."""

    def __init__(self, desk: scratch.Desk, scale: float) -> None:
        self.desk, self.scale = desk, scale
        self.valkey, self.postgres = desk.valkey, desk.postgres
        db.rows(
            "create table chaos (entry text, due_at timestamptz, pid int, at timestamptz default clock_timestamp())"
        )
        db.rows("alter table chaos add primary key (entry, due_at)")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("scheduler-1", "scheduler-2", "worker-1", "worker-2", "worker-3"):
            self.start(name)

    def start(self, name: str, version: str = "", **environment: str) -> None:
        if name.startswith("worker"):
            command = ("rq", "worker", "-w", "bench.chaos_outages.Worker", *QUEUES)
        else:
            command = ("python", "-c", SCHEDULER.format(version))
        self.processes[name] = self.desk.start(*command, log=f"{name}.log", **environment)

    def stop(self, name: str) -> None:
        self.desk.stop(self.processes.pop(name))

    def log(self, name: str) -> str:
        return (self.desk.folder / f"{name}.log").read_text()

    def good_since(self, at: float) -> int:
        """Runs that ended well since an instant (Unix s)."""
        try:
            return int(db.rows("select count(*) from chaos where at > to_timestamp(%s)", at)[0][0])
        except (OperationalError, InterfaceError):
            db.drop_unusable()
            return 0

    def quiet(self) -> None:
        """Until every server answers and runs end well again."""
        for _ in range(600):
            try:
                db.ping()
                db.redis().ping()
                if self.good_since(time.time() - 1.0) >= ENTRIES // 2:
                    return
            except (OperationalError, InterfaceError, RedisError):
                pass
            time.sleep(0.1)
        raise RuntimeError("it did not recover within a minute")


Outage = Callable[[Desk], list[str]]
OUTAGES: dict[str, Outage] = {}


def outage(function: Outage) -> Outage:
    """Register an outage: it does the damage and its repair, and returns what else was wrong."""
    OUTAGES[function.__name__] = function
    return function


# --- Redis


@outage
def redis_emptied(desk: Desk) -> list[str]:
    """FLUSHALL: nothing is known any more."""
    db.redis().flushall()
    return []


@outage
def redis_restarted(desk: Desk) -> list[str]:
    """kill -9 and start, with its append-only file."""
    desk.valkey.process.kill()
    desk.valkey.stop()
    desk.valkey.start()
    return []


@outage
def redis_emptied_and_restarted(desk: Desk) -> list[str]:
    """kill -9 and start with nothing."""
    db.redis().flushall()
    desk.valkey.process.kill()
    desk.valkey.stop()
    desk.valkey.start()
    return []


@outage
def redis_stopped_5_s(desk: Desk) -> list[str]:
    """Nobody listens for five seconds."""
    return _away(desk.valkey, 5 * desk.scale)


@outage
def redis_stopped_30_s(desk: Desk) -> list[str]:
    """Nobody listens for half a minute."""
    return _away(desk.valkey, 30 * desk.scale)


def _away(server: Any, seconds: float) -> list[str]:
    server.stop()
    time.sleep(seconds)
    server.start()
    return []


@outage
def redis_frozen_15_s(desk: Desk) -> list[str]:
    """SIGSTOP: it accepts connections and says nothing."""
    return _frozen([desk.valkey.process.pid], 15 * desk.scale)


def _frozen(pids: list[int], seconds: float) -> list[str]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return []


@outage
def redis_memory_full(desk: Desk) -> list[str]:
    """maxmemory is reached under noeviction: OOM."""
    redis = db.redis()
    redis.config_set("maxmemory", "1mb")
    time.sleep(10 * desk.scale)
    redis.config_set("maxmemory", "0")
    return []


@outage
def redis_disk_full(desk: Desk) -> list[str]:
    """It cannot save, and takes no writes: MISCONF."""
    redis = db.redis()
    trap = desk.valkey.folder / "valkey" / "dump.rdb"
    trap.mkdir()
    try:
        redis.config_set("save", "3600 1")
        redis.bgsave()
        said = scratch.wait_for(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", 5)
        time.sleep(10 * desk.scale)
    finally:
        trap.rmdir()
        redis.bgsave()
        scratch.wait_for(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "ok", 5)
        redis.config_set("save", "")
        trap.unlink(missing_ok=True)
    return [] if said else ["Redis saved all the same"]


# --- PostgreSQL


@outage
def postgresql_restarted(desk: Desk) -> list[str]:
    """Stopped and started at once; whoever was connected is sent away."""
    db.database.close()
    return _away(desk.postgres, 0)


@outage
def postgresql_stopped_20_s(desk: Desk) -> list[str]:
    """Nobody listens for twenty seconds."""
    db.database.close()
    return _away(desk.postgres, 20 * desk.scale)


@outage
def postgresql_frozen_15_s(desk: Desk) -> list[str]:
    """SIGSTOP of the server and all its backends: whoever asked waits for an answer."""
    db.database.close()
    return _frozen(scratch.tree(desk.postgres.process.pid), 15 * desk.scale)


@outage
def postgresql_killed(desk: Desk) -> list[str]:
    """A backend crashes and takes all connections with it: the server recovers from its log."""
    (pid,) = db.rows("select pg_backend_pid()")[0]
    os.kill(pid, signal.SIGKILL)
    db.drop_unusable()
    return []


@outage
def postgresql_disk_full(desk: Desk) -> list[str]:
    """Every insert says that there is no space left, that of the history too."""
    return _refusing(desk, "53100", "could not extend file: No space left on device")


@outage
def postgresql_read_only(desk: Desk) -> list[str]:
    """Every insert says that the server is a standby."""
    return _refusing(desk, "25006", "cannot execute INSERT in a read-only transaction")


def _refusing(desk: Desk, code: str, words: str) -> list[str]:
    before = db.rows("select count(*) from run where dead")
    db.rows(
        f"""create or replace function refuse() returns trigger language plpgsql as
            $$ begin raise exception '{words}' using errcode = '{code}'; end $$"""
    )
    for table in ("chaos", "run"):
        db.rows(
            f"create or replace trigger refuse before insert on {table} for each statement execute function refuse()"
        )
    time.sleep(10 * desk.scale)
    for table in ("chaos", "run"):
        db.rows(f"drop trigger refuse on {table}")
    time.sleep(15)  # the runs that met it wait about ten seconds for their next try
    return [] if db.rows("select count(*) from run where dead") == before else ["it left dead letters"]


# --- processes, deploys, zones


@outage
def worker_frozen_20_s(desk: Desk) -> list[str]:
    """SIGSTOP of a worker and its horse in the middle of a run: somebody else runs it, and the sleeper is fenced."""
    folder = str(desk.desk.folder)
    redis = db.redis()
    steps.enqueue(
        redis, "bench.chaos_outages.long_work", DEFAULT, run_id=f"long-{time.monotonic_ns()}", due=steps.now(redis),
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
    fenced = any("was taken for dead: starting over" in desk.log(f"worker-{n}") for n in (1, 2, 3))
    print(
        f"   the run's attempts: {', '.join(outcomes)}; ended in {len(ended)} process(es); the sleeper knows: {fenced}"
    )
    log.unlink()
    return [] if outcomes == ["lost", "ok"] and fenced else ["the sleeper was not fenced"]


@outage
def deploy(desk: Desk) -> list[str]:
    """Old and new schedulers side by side, the release step in between, then the old ones go."""
    redis = db.redis()
    desk.stop("scheduler-2")
    desk.start("scheduler-2", "new")
    time.sleep(4)
    both = {state.id for state in entries.load(redis)}
    rows = {row["name"]: row for row in db.maps("select * from entry")}
    now = steps.instant(steps.now(redis))
    touched = steps.declare(
        redis, [entries.declaration(entry, rows.get(entry.id, {}), now) for entry in schedule("new")], reconcile=True
    )
    time.sleep(12)  # the old scheduler looks again meanwhile
    after = {state.id: str(state.cadence) for state in entries.load(redis)}
    desk.stop("scheduler-1")
    desk.start("scheduler-1", "new")
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
        desk.stop(name)
        desk.start(name)
    time.sleep(2)
    return wrong


@outage
def zone_changed(desk: Desk) -> list[str]:
    """A scheduler and a worker start again on a machine in another zone: not one due time moves."""
    redis = db.redis()
    now = steps.instant(steps.now(redis))
    expected = cron("30 1 * * *", "Europe/London").after(now)
    for zone in ("Pacific/Auckland", "America/New_York"):
        desk.stop("scheduler-1")
        desk.start("scheduler-1", TZ=zone)
        desk.stop("worker-1")
        desk.start("worker-1", TZ=zone)
        code = (
            "from domain.cadence import cron; from datetime import datetime;"
            f"print(cron('30 1 * * *', 'Europe/London').after(datetime.fromisoformat('{now.isoformat()}')).isoformat())"
        )
        there = subprocess.run(
            [sys.executable, "-c", code], env={**desk.desk.environment, "TZ": zone}, capture_output=True, text=True,
            cwd=Path(__file__).parent.parent,
        ).stdout.strip()  # fmt: skip
        print(f"   TZ={zone}: 30 1 * * * in London is next due at {there}")
        if there != expected.isoformat():
            return [f"TZ={zone} moved a due time to {there}"]
        time.sleep(3)
    for name in ("scheduler-1", "worker-1"):
        desk.stop(name)
        desk.start(name)
    return []


# --- what it has cost


def examine(desk: Desk, name: str) -> Found:
    """One outage from calm to calm."""
    before = {n: len(desk.log(n)) for n in desk.processes}
    pids = {n: p.pid for n, p in desk.processes.items()}
    began = time.time()
    wrong = OUTAGES[name](desk)
    ended = time.time()
    if not scratch.wait_for(lambda: desk.good_since(ended) > 0, 60, 0.05):
        wrong.append("no run ended well within a minute")
    recovered = time.time() - ended
    desk.quiet()
    time.sleep(1.5)
    settle()
    runs, skips, missing, doubled = due_times(began - 5, time.time() - 4)
    meant = name in ("deploy", "zone_changed")  # these stop processes themselves
    restarted = 0 if meant else sum(p.poll() is not None or p.pid != pids[n] for n, p in desk.processes.items())
    lines = [said(desk.log(n)[before.get(n, 0) :]) for n in desk.processes]
    for process, text in ((n, desk.log(n)[before.get(n, 0) :]) for n in desk.processes):
        counts = Counter(AWAY.findall(text))
        allowed = 2 if process.startswith("worker") else 1  # a worker is two processes
        wrong += [f"{process} said {times} times: {what}" for what, times in counts.items() if times > allowed]
        if "Traceback" in text and not meant:
            wrong.append(f"{process} wrote a traceback")
    return Found(name, ended - began, recovered, runs, skips, missing, doubled, restarted, lines, wrong)


def said(text: str) -> int:
    """How many lines of a log tell of an outage."""
    return len(AWAY.findall(text)) + len(BACK.findall(text))


def settle() -> None:
    """All history that waits, into PostgreSQL."""
    for _ in range(50):
        try:
            while history.write(db.redis()):
                pass
        except (RedisError, OperationalError, InterfaceError):
            db.drop_unusable()
            time.sleep(0.2)
        else:
            return


def due_times(since: float, until: float) -> tuple[int, dict[str, int], int, int]:
    """Between two instants (Unix s): runs that ended, skips by reason, due times without either, and doubled ones."""
    runs = db.maps(
        """select entry, (extract(epoch from due_at) * 1000)::bigint as due,
                  count(*) filter (where outcome = 'ok')::int as good, count(distinct run_id)::int as ids
           from run where entry like 'work-e%%' group by 1, 2"""
    )
    recorded: dict[str, set[int]] = defaultdict(set)
    reasons: Counter[str] = Counter()
    for run in runs:
        recorded[run["entry"]].add(run["due"])
    skipped = db.maps(
        """select entry, reason, (extract(epoch from first_due_at) * 1000)::bigint as first,
                  (extract(epoch from last_due_at) * 1000)::bigint as last from skip where entry like 'work-e%%'"""
    )
    for skip in skipped:
        for due in range(skip["first"], skip["last"] + 1, 1000):
            recorded[skip["entry"]].add(due)
            reasons[skip["reason"]] += since * 1000 <= due <= until * 1000
    missing = 0
    for n in range(ENTRIES - 1):  # the last one comes and goes with a deploy, the first changes its cadence
        if n == 0:
            continue
        dues = recorded[f"work-e{n}"]
        first, last = max(min(dues), int(since) * 1000), int(until) * 1000
        missing += sum(due not in dues for due in range(first, last + 1, 1000))
    doubled = sum(run["good"] > 1 or run["ids"] > 1 for run in runs)
    good = sum(run["good"] for run in runs if since * 1000 <= run["due"] <= until * 1000)
    return good, {reason: count for reason, count in reasons.items() if count}, missing, doubled


def changes_of_clocks() -> list[str]:
    """The two days a year, for two zones, in rows: what is due when, in UTC and on the wall."""
    wrong = []
    days = {"Europe/London": ("2026-03-29", "2026-10-25"), "America/New_York": ("2026-03-08", "2026-11-01")}
    for zone, dates in days.items():
        for day in dates:
            start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
            end = (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
            for line in ("30 1 * * *", "30 2 * * *", "0 * * * *"):
                found, at = [], cron(line, zone).after(start - timedelta(milliseconds=1))
                while at < end:
                    found.append(at)
                    at = cron(line, zone).after(at)
                hours = (end - start) / timedelta(hours=1)
                shown = " ".join(f"{at:%H:%M}Z={at.astimezone(ZoneInfo(zone)):%H:%M%Z}" for at in found[:3])
                print(f"   {zone:17} {day} {line:11} {len(found):2} times in {hours:.0f} h: {shown}")
                if len(found) != (hours if line.startswith("0 *") else 1):
                    wrong.append(f"{line} in {zone} on {day}: {len(found)} times")
    return wrong


@contextmanager
def at_work(scale: float) -> Iterator[Desk]:
    """Servers, schedulers and workers that run as they should."""
    with scratch.started(fsync=False) as desk:
        db.database.connect()  # lost and found again: not in a context
        made = Desk(desk, scale)
        made.quiet()
        time.sleep(3)
        yield made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--list", action="store_true", help="list the outages")
    wanted = parser.parse_args()
    if wanted.list:
        for name, function in OUTAGES.items():
            print(f"{name:28} {(function.__doc__ or '').splitlines()[0]}")
        return 0
    found = []
    with at_work(wanted.scale) as desk:
        for name in wanted.only.split(",") if wanted.only else OUTAGES:
            print(f"{name}: {(OUTAGES[name].__doc__ or '').splitlines()[0]}", flush=True)
            found.append(examine(desk, name))
            if not found[-1].ok:
                for process in desk.processes:
                    print(f"--- {process}\n{desk.log(process)[-3000:]}")
            for wrong in found[-1].wrong:
                print(f"   WRONG: {wrong}", flush=True)
    print("the nights when clocks change:")
    wrong = [] if wanted.only else changes_of_clocks()
    rows = [
        [f.name, f"{f.seconds:.1f}", f"{f.recovered:.1f}", str(f.runs),
         " ".join(f"{reason}:{count}" for reason, count in f.skips.items()),
         str(f.missing), str(f.doubled), str(f.restarted), "/".join(map(str, f.lines)), "ok" if f.ok else "WRONG"]
        for f in found
    ]  # fmt: skip
    heads = ["outage", "lasted s", "well after s", "runs", "skipped", "missing", "doubled", "restarts", "lines", ""]
    scratch.table(heads, rows)
    longest = max(f.recovered for f in found)
    return scratch.verdict(
        "chaos_outages", longest, "s from the end of an outage to the next good run, the longest",
        target="every due time run or recorded, no restart, one line each", ok=all(f.ok for f in found) and not wrong,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
