"""How late is a periodic job? 25 one-second and 25 five-second entries that fall due together, one worker process.

python -m bench.lateness [--seconds 60] [--only ours,beat]

*Enqueued* is when the run was visible in Redis: for ours the clock after the reply of the step that enqueued
the whole batch (an upper bound), for the peers the instant that they note before they write (a lower bound).
*Started* is the clock at the first line of the job's function. Both are against the slot: the wall clock's grid
for ours, rq-scheduler and six-field cron. All run on a Valkey without persistence, where the peers' figures and the
targets were found; how late ours is where Valkey appends all to a file first, as `nightdesk up` has it do, is the last
row. Celery beat and `rq cron` with intervals have no such grid. For them all
entries of a period fall due when the first of them was enqueued (its most punctual one of the first five), which is
what falling due together means; shown beside that, and not compared, is each entry by its own clock, which forgives
all that one entry waits for the others every time. A run belongs to the latest slot that had come when it was
enqueued. Stock rq's worker is its SimpleWorker, the faster one. *Recorded* are missing slots of ours that stand in
the history with their reason.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import db
from bench import scratch
from bench.peers import marks
from domain import cadence
from engine import steps

TOGETHER = "1*25,5*25"
HUNDRED = "1*100"
SETTLE = 5.0  # seconds that a system runs before it is watched, and that it gets for what is still under way

OURS = "nightdesk"
BEAT = "celery beat, prefork -c1"
BEAT_THERE = 123.0  # ms, its started p99 on the machine where the targets below were set
ENQUEUED, STARTED = 5.0, 40.0  # ms p99, our targets


@dataclass
class System:
    """How to start a system, and whether its slots lie on the wall clock's grid."""

    name: str
    key: str
    worker: list[str]
    scheduler: list[str]
    grid: bool = True
    environment: dict[str, str] = field(default_factory=dict)


SIMPLE = ["rq", "worker", "-w", "rq.SimpleWorker", "default"]
CELERY = ["celery", "-A", "bench.peers.celery_app"]
SYSTEMS = [
    System(
        OURS, "ours", ["rq", "worker", "-w", "bench.peers.ours.Worker", "critical", "default", "low"],
        ["python", "-m", "bench.peers.our_scheduler"],
    ),
    System("rqscheduler -i 1", "rqscheduler1", SIMPLE, ["rqscheduler", "-i", "1"]),
    System("rqscheduler -i 0.1", "rqscheduler01", SIMPLE, ["rqscheduler", "-i", "0.1"]),
    System(
        "rq cron, six fields", "cron", SIMPLE, ["rq", "cron", "bench.peers.cron_table"], True,
        {"BENCH_CRON": "cron"},
    ),
    System(
        "rq cron, intervals", "interval", SIMPLE, ["rq", "cron", "bench.peers.cron_table"], False,
        {"BENCH_CRON": "interval"},
    ),
    System(BEAT, "beat", [*CELERY, "worker", "-P", "prefork", "-c", "1"], [*CELERY, "beat"], False),
]  # fmt: skip


@dataclass
class Lateness:
    """What came of one system: milliseconds after the slot, and slots that ran twice or not at all."""

    name: str
    enqueued: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    expected: int = 0
    doubled: int = 0
    missing: int = 0
    recorded: int = 0  # of the missing: skipped, with the reason in the history, as only ours does
    cpu: float | None = None  # seconds a minute, of the scheduler

    def row(self) -> list[str]:
        """A line of the table."""
        figures = [
            f"{scratch.percentile(v, 0.5):.1f} / {scratch.percentile(v, 0.99):.1f} / {max(v, default=math.nan):.1f}"
            for v in (self.enqueued, self.started)
        ]
        missing = f"{self.missing} of {self.expected}"
        return [
            self.name,
            *figures,
            str(self.doubled),
            missing,
            str(self.recorded),
            "" if self.cpu is None else f"{self.cpu:.2f}",
        ]


def measure(desk: scratch.Desk, system: System, entries: str, seconds: int) -> list[Lateness]:
    """Run one system alone and judge every slot of the time watched; twice where its slots are open to question."""
    file = desk.folder / f"{system.key}.marks"
    file.unlink(missing_ok=True)
    desk.empty()
    environment = {**system.environment, "BENCH_MARKS": str(file), "BENCH_ENTRIES": entries}
    os.environ["BENCH_ENTRIES"] = entries
    periods = marks.periods()
    worker = desk.start(*system.worker, log=f"{system.key}.worker.log", **environment)
    time.sleep(SETTLE)
    scheduler = _start_scheduler(desk, system, environment)
    if not scratch.wait_for(lambda: file.is_file() and file.stat().st_size > 0, 90):
        raise RuntimeError(f"{system.name} ran nothing: {_end_of_logs(desk, system)}")
    time.sleep(SETTLE)
    first = math.ceil(time.time() / 5) * 5  # when all fall due together
    time.sleep(max(0.0, first - 0.5 - time.time()))
    began, cpu = time.monotonic(), scratch.cpu_seconds(scheduler.pid)
    time.sleep(seconds)
    cpu = (scratch.cpu_seconds(scheduler.pid) - cpu) / (time.monotonic() - began) * 60
    time.sleep(SETTLE)
    desk.stop(scheduler)
    desk.stop(worker)
    runs, window = read(file), (float(first), float(first + seconds))
    if system.grid:
        result = judge(system.name, runs, periods, dict.fromkeys(periods, 0.0), *window)
        result.recorded = _recorded(*window)
        return [replace(result, cpu=cpu)]
    own = own_phases(runs, periods, first)
    alone = judge(f"({system.name}, each by its own clock)", runs, periods, own, *window)
    return [replace(judge(system.name, runs, periods, together(own, periods), *window), cpu=cpu), alone]


def _recorded(first: float, end: float) -> int:
    with db.database.connection_context():
        (count,) = db.rows(RECORDED, steps.instant(first * 1000), steps.instant(end * 1000))[0]
    return int(count)


# Consecutive skips of an entry are one row with a count: those that reach into the window.
RECORDED = "select coalesce(sum(count), 0)::int from skip where last_due_at >= %s and first_due_at < %s"


def _start_scheduler(desk: scratch.Desk, system: System, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = list(system.scheduler)
    if command[0] == "rqscheduler":
        first = math.ceil((time.time() + 3) / 5) * 5
        table = desk.start("python", "-m", "bench.peers.stock", str(first), **environment)
        if table.wait(30):
            raise RuntimeError("rq-scheduler took no entries")
    if command[-1] == "beat":
        command += ["-s", str(desk.folder / "beat")]
    return desk.start(*command, log=f"{system.key}.scheduler.log", **environment)


def _end_of_logs(desk: scratch.Desk, system: System) -> str:
    return "\n".join(log.read_text()[-1500:] for log in desk.folder.glob(f"{system.key}.*.log"))


@dataclass
class Seen:
    """One run: its slot where its system says so, when it was enqueued and when it started."""

    slot: float | None
    enqueued: float | None
    started: float | None

    @property
    def at(self) -> float:
        """When it is first known of."""
        return self.enqueued or self.started or 0.0


def read(file: Path) -> dict[str, list[Seen]]:
    """Runs by entry. Ours are marked twice, by the scheduler and by the job; the slot joins the two."""
    runs: dict[str, list[Seen]] = defaultdict(list)
    enqueued: dict[tuple[str, float], float] = {}
    for line in file.read_text().splitlines():
        name, *texts = line.split()
        slot, sent, started = (None if text in ("-", "None") else float(text) for text in texts)
        if started is None and slot is not None and sent is not None:
            enqueued[name, slot] = sent
        else:
            runs[name].append(Seen(slot, sent, started))
    for name, seen in runs.items():
        for run in seen:
            if run.slot is not None:
                run.enqueued = enqueued.pop((name, run.slot), None)
    for (name, slot), sent in enqueued.items():  # enqueued and never started
        runs[name].append(Seen(slot, sent, None))
    return runs


def own_phases(runs: dict[str, list[Seen]], periods: dict[str, int], first: float) -> dict[str, float]:
    """Where each entry's grid begins: its most punctual one of the first five runs counts as on time."""
    phases = {}
    for name, period in periods.items():
        early = sorted(t for run in runs.get(name, []) if (t := run.at) >= first - period / 2)[:5]
        phases[name] = min((t - i * period for i, t in enumerate(early)), default=first)
    return phases


def together(phases: dict[str, float], periods: dict[str, int]) -> dict[str, float]:
    """One grid for all entries of a period: that of the earliest."""
    found = {}
    for period in set(periods.values()):
        names = [name for name in periods if periods[name] == period]
        one = phases[names[0]]
        apart = [(phases[name] - one + period / 2) % period - period / 2 for name in names]
        found |= dict.fromkeys(names, one + min(apart))
    return found


def judge(
    title: str, runs: dict[str, list[Seen]], periods: dict[str, int], phases: dict[str, float], first: float, end: float
) -> Lateness:
    """Put each run to its slot; count the slots from `first` to before `end`."""
    result = Lateness(title)
    for name, period in periods.items():
        phase = phases[name] % period
        tolerance = 0.25 if phases[name] else 0.0  # against its own grid a run may be early
        expected = [phase + k * period for k in range(int(first // period) - 1, int(end // period) + 1)]
        slots = {round(slot * 1000): slot for slot in expected if first <= slot + 1e-6 < end}
        taken: Counter[int] = Counter()
        for run in runs.get(name, []):
            slot = phase + math.floor((run.at - phase) / period + tolerance) * period if run.slot is None else run.slot
            if (key := round(slot * 1000)) not in slots:
                continue
            if run.started is not None:
                taken[key] += 1
                result.started.append((run.started - slot) * 1000)
            if run.enqueued is not None:
                result.enqueued.append((run.enqueued - slot) * 1000)
        result.expected += len(slots)
        result.missing += len(slots.keys() - taken.keys())
        result.doubled += sum(1 for number in taken.values() if number > 1)
    return result


def drift(slots: int = 3600, seed: int = 1) -> tuple[float, int]:
    """On a virtual clock: milliseconds off the grid after so many slots, and slots lost or doubled on the way.

    The scheduler looks late by up to 300 ms as a rule, and sleeps over a few slots now and then.
    """
    dice = random.Random(seed)
    wrong, worst = 0, 0.0
    for when in (cadence.every(1), cadence.every(5), cadence.every(60, stagger=7.125), cadence.cron("*/5 * * * *")):
        begun = datetime(2026, 3, 1, 12, 0, 0, 1234, UTC)
        due = first = when.after(begun)
        following = when.after(due)
        period, passed = following - due, 0
        while passed < slots:
            late = dice.uniform(0, 0.3) if dice.random() < 0.99 else dice.uniform(0, 4 * period.total_seconds())
            decided = cadence.plan(when, due, due + timedelta(seconds=late))
            missed = decided.missed.count if decided.missed else 0
            passed += missed + 1
            wrong += decided.run != due + missed * period or decided.next != decided.run + period
            due = decided.next
        worst = max(worst, abs((due - first - passed * period).total_seconds() * 1000))
    return worst, wrong


def main() -> int:
    """Measure, print, judge."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=60, help="how long each system is watched")
    options.add_argument("--only", default="", help=f"some of {','.join(s.key for s in SYSTEMS)}")
    chosen = options.parse_args()
    systems = [s for s in SYSTEMS if not chosen.only or s.key in chosen.only.split(",")]
    worst, wrong = drift()
    print(f"virtual clock, 3,600 slots of four cadences: {worst:g} ms off the grid, {wrong} slots lost or doubled")
    results: list[Lateness] = []
    with scratch.started() as desk:
        desk.log_queue(False)
        for system in systems:
            print(f"{system.name} …", file=sys.stderr, flush=True)
            results += measure(desk, system, TOGETHER, chosen.seconds)
        (hundred,) = measure(desk, SYSTEMS[0], HUNDRED, min(20, chosen.seconds))
        hundred.name += ", 100 due at once"
        desk.log_queue(True)
        (logged,) = measure(desk, SYSTEMS[0], TOGETHER, chosen.seconds)
        logged.name += ", queue logged to disk"
    heads = ["ms after the slot: p50 / p99 / max", "enqueued", "started", "doubled", "missing", "recorded", "CPU s/min"]
    scratch.table(heads, [result.row() for result in [*results, hundred, logged]])
    return _verdict(results, hundred, worst == 0 and wrong == 0 and not logged.doubled and not logged.missing)


def _verdict(results: list[Lateness], hundred: Lateness, exact: bool) -> int:
    ours = next((result for result in results if result.name == OURS), hundred)
    peers = [result for result in results if result.name != OURS and result.cpu is not None]

    def p99(values: list[float]) -> float:
        return scratch.percentile(values, 0.99)

    best = min(peers, key=lambda peer: p99(peer.started), default=None)
    ahead = all(
        p99(ours.started) < p99(peer.started) and p99(ours.enqueued) < p99(peer.enqueued or [math.inf])
        for peer in peers
    )
    ok = (
        exact and ahead and not ours.doubled and not ours.missing and not hundred.missing and not hundred.doubled
        and p99(ours.enqueued) <= ENQUEUED and p99(hundred.enqueued) <= ENQUEUED and p99(ours.started) <= STARTED
    )  # fmt: skip
    if beat := next((p99(peer.started) for peer in peers if peer.name == BEAT), None):
        print(f"this machine: Celery beat starts {beat / BEAT_THERE:.2f} times as late as where the targets were set")
    print(
        f"enqueued p99 {p99(ours.enqueued):.1f} ms, a hundred at once {p99(hundred.enqueued):.1f} ms; "
        f"started p99 {p99(ours.started):.1f} ms; ahead of {len(peers)} peers in both: {ahead}"
    )
    return scratch.verdict(
        "lateness", p99(ours.started), "ms started p99",
        target=f"enqueued p99 <= {ENQUEUED:.0f} (100 at once too), started p99 <= {STARTED:.0f}, ahead of all, "
        "no drift, no slot lost",
        ok=ok, peer=best.name if best else "", peer_value=p99(best.started) if best else None,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
