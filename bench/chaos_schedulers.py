"""Is a due time doubled, lost or late when schedulers and workers are killed -9 at random?

python -m bench.chaos_schedulers [--minutes 10] [--entries 30] [--schedulers 3] [--workers 3] [--seed 1]

Three schedulers and three workers keep entries that are due every second; every few seconds one of the six is killed
and started again. No (entry, due time) may be enqueued twice, none may be missing that is not recorded with its
reason, and as one scheduler always lives, none may be enqueued more than 300 ms late. Each job writes down, into a
file of its own accord, for what due time it ran and when: the tables are checked against that witness.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import db
from bench import scratch
from domain.cadence import every
from engine import history, steps
from engine.entries import Entry
from engine.worker import Worker
from queues import DEFAULT, QUEUES, job

__all__ = ["Worker"]

LATE = 300.0  # ms
SCHEDULER = "import bench.chaos_schedulers as c, scheduler; scheduler.Scheduler(c.schedule({})).run()"


@job(DEFAULT, timeout=30, tries=1000)
def mark(*, due_at: datetime, entry: str) -> None:
    """Write down for what due time it ran, and when."""
    line = f"{entry} {round(due_at.timestamp() * 1000)} {os.getpid()} {time.time() * 1000:.3f}\n"
    file = os.open(os.environ["CHAOS_WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)


def schedule(entries: int) -> list[Entry]:
    """So many entries, due every second."""
    return [Entry(every(1), mark, key=f"e{n}", kwargs={"entry": f"mark-e{n}"}, stagger=False) for n in range(entries)]


class Six:
    """The processes, and who was killed when."""

    def __init__(self, desk: scratch.Desk, schedulers: int, workers: int, entries: int) -> None:
        self.desk = desk
        self.entries = entries
        self.kills: Counter[str] = Counter()
        self.killed_pids: set[int] = set()
        self.alive = [(role, self.start(role)) for role in ["scheduler"] * schedulers + ["worker"] * workers]

    def start(self, role: str) -> subprocess.Popen[bytes]:
        witness = str(self.desk.folder / "witness")
        if role == "worker":
            command: Sequence[str] = ("rq", "worker", "-w", "bench.chaos_schedulers.Worker", *QUEUES)
        else:
            command = ("python", "-c", SCHEDULER.format(self.entries))
        return self.desk.start(*command, log=f"{role}.log", CHAOS_WITNESS=witness)

    def kill(self, dice: random.Random) -> None:
        """One of them, at random; a scheduler only if another one is at work."""
        number = dice.randrange(len(self.alive))
        role, process = self.alive[number]
        if role == "scheduler" and len(self.at_work()) < 2:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.killed_pids |= {process.pid, *map(int, children)}
        process.kill()
        self.desk.stop(process)
        self.kills[role] += 1
        self.alive[number] = role, self.start(role)

    def at_work(self) -> set[bytes]:
        """Schedulers that live and have looked since they began."""
        now = steps.now(db.redis())
        return set(db.redis().zrangebyscore(steps.SCHEDULERS, now - 10_500, "+inf"))


def campaign(six: Six, seconds: float, dice: random.Random) -> None:
    """Kill one of the six every few seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(dice.uniform(1.5, 4.5), max(0.0, until - time.monotonic())))
        six.kill(dice)


def stop(six: Six) -> None:
    """End what is left: schedulers first, then what they enqueued."""
    redis = db.redis()
    six.desk.stop(*(process for role, process in six.alive if role == "scheduler"))
    waiting = [f"rq:queue:{queue}" for queue in QUEUES]
    scratch.wait_for(lambda: not redis.exists(*waiting) and not redis.keys("nightdesk:running:*"), 30, 0.1)
    six.desk.stop(*(process for role, process in six.alive if role == "worker"))
    while history.write(redis):
        pass


def judge(six: Six) -> tuple[dict[str, int], list[float], list[float]]:
    """What went wrong, by name (0 = it did not); lateness of every enqueueing and of every first start, in ms."""
    runs = db.maps(
        """select entry, (extract(epoch from due_at) * 1000)::bigint as due, run_id, attempt, outcome,
                  extract(epoch from enqueued_at)::float * 1000 as enqueued from run"""
    )
    skips = db.maps(
        """select entry, reason, (extract(epoch from first_due_at) * 1000)::bigint as first,
                  (extract(epoch from last_due_at) * 1000)::bigint as last, count from skip"""
    )
    seen: dict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)
    for line in (six.desk.folder / "witness").read_text().splitlines():
        entry, due, pid, at = line.split()
        seen[entry, int(due)].append((float(at), int(pid)))
    enqueued = {(run["entry"], run["due"]): run["enqueued"] for run in runs}
    enqueue = [at - due for (_, due), at in enqueued.items()]
    ok = Counter((run["entry"], run["due"]) for run in runs if run["outcome"] == "ok")
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for run in runs:
        ids[run["entry"], run["due"]].add(run["run_id"])
    skipped = {(s["entry"], due) for s in skips for due in range(s["first"], s["last"] + 1, 1000)}
    first, last = min(due for _, due in enqueued), max(due for _, due in enqueued)
    entries = {f"mark-e{n}" for n in range(six.entries)}
    expected = {(entry, due) for entry in entries for due in range(first, last + 1, 1000)}
    again = {slot: [pid for _, pid in sorted(marks)] for slot, marks in seen.items() if len(marks) > 1}
    faults = {
        "due times enqueued twice": sum(len(names) > 1 for names in ids.values()) + sum(n > 1 for n in ok.values()),
        "begun again though nobody was killed": sum(
            any(pid not in six.killed_pids for pid in pids[:-1]) for pids in again.values()
        ),
        "missing and not recorded": len(expected - set(enqueued) - skipped),
        "recorded as skipped and enqueued": len(skipped & set(enqueued)),
        "counts that differ from first and last": sum(
            s["count"] != (s["last"] - s["first"]) // 1000 + 1 for s in skips
        ),
        "off the grid": len(set(enqueued) - expected),
        "ok, and the witness saw nothing": len(set(ok) - set(seen)),
        "the witness saw it, and it is not recorded": len(set(seen) - set(ok)),
        f"enqueued more than {LATE:.0f} ms late": sum(late > LATE for late in enqueue),
        "missed because no scheduler came in time": sum(s["count"] for s in skips if s["reason"] == "misfire"),
    }
    start = [min(marks)[0] - due for (_, due), marks in seen.items()]
    reasons: Counter[str] = Counter()
    for s in skips:
        reasons[s["reason"]] += s["count"]
    print(
        f"{len(expected)} due times: {len(enqueued)} enqueued, {len(skipped & expected)} skipped with their reason "
        f"({', '.join(f'{reason} {count}' for reason, count in reasons.items()) or 'none'}); "
        f"{sum(map(len, seen.values()))} starts seen, {len(again)} due times begun again after a kill"
    )
    return faults, enqueue, start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--entries", type=int, default=30)
    parser.add_argument("--schedulers", type=int, default=3)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    with scratch.started(fsync=False) as desk, db.database.connection_context():
        six = Six(desk, wanted.schedulers, wanted.workers, wanted.entries)
        scratch.wait_for(lambda: len(six.at_work()) == wanted.schedulers)
        scratch.wait_for(lambda: db.redis().zcard(steps.WORKERS) == wanted.workers)
        print(f"began {datetime.now(UTC):%H:%M:%S}", flush=True)
        campaign(six, wanted.minutes * 60, random.Random(wanted.seed))
        stop(six)
        faults, enqueue, start = judge(six)
        if any(faults.values()):
            print(
                (desk.folder / "scheduler.log").read_text()[-10_000:], (desk.folder / "worker.log").read_text()[-5_000:]
            )
    print(f"killed: {six.kills['scheduler']} schedulers, {six.kills['worker']} workers")
    shares = (0.5, 0.9, 0.99, 0.999, 1.0)
    rows = [[name, *(f"{scratch.percentile(late, s):.1f}" for s in shares)] for name, late in
            (("enqueued", enqueue), ("started", start))]  # fmt: skip
    scratch.table(["late by ms", "p50", "p90", "p99", "p99.9", "max"], rows)
    for fault, times in faults.items():
        print(f"{fault}: {times}")
    return scratch.verdict(
        "chaos_schedulers", max(enqueue), "ms late at enqueueing, the longest",
        target=f"<= {LATE:.0f} ms, none twice, none missing", ok=not any(faults.values()),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
