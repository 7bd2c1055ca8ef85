"""A small deployment for the campaigns: two schedulers and three workers that keep twenty entries due every second."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import datetime

from peewee import InterfaceError, OperationalError
from redis.exceptions import RedisError

import db
from bench import scratch
from domain.cadence import every
from engine.entries import Entry
from engine.worker import Worker
from queues import DEFAULT, QUEUES, job

__all__ = ["Worker"]

ENTRIES = 20
SCHEDULER = "import bench.deployment as d, scheduler; scheduler.Scheduler(d.schedule('{}')).run()"


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
    numbers = list(range(ENTRIES))
    if version == "new":
        numbers = [*numbers[:-1], ENTRIES]
    return [
        Entry(every(2 if version == "new" and n == 0 else 1), work, key=f"e{n}", kwargs={"entry": f"work-e{n}"})
        for n in numbers
    ]


class Deployment:
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
            command = ("rq", "worker", "-w", "bench.deployment.Worker", *QUEUES)
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
