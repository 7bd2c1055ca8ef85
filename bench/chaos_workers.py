"""Are runs lost, or run twice at once, when whoever has them in hand is killed -9?

python -m bench.chaos_workers [--count 1000] [--kills 50] [--workers 32] [--seed 1] [--peer]

Three dozen workers nap. Again and again most of them are killed in one blow, in four ways by turns: between the pop and
the start (the work-horse stops itself when it has its answer, and is killed there), the horse alone, the parent alone,
both together. What was in hand must be run again within 15 s, never beside itself, and end well, or as a dead letter
where its tries are bounded; the slots of its limits must be free. Each job writes what it does into a file of its own
accord, every 50 ms: that file is the witness, PostgreSQL and Redis are only compared with it.
`--peer`: meanwhile a stock rq worker is killed with its horse, and how long its job (with a retry) takes to come back.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import cycle
from pathlib import Path

import db
import engine.worker
from bench import scratch
from engine import steps
from engine.horse import Horse
from engine.worker import Worker
from queues import DEFAULT, QUEUES, job

__all__ = ["Worker"]

KINDS = ("between pop and start", "horse alone", "parent alone", "both")
TICK = 0.05  # seconds between two signs of life of a job
SOON = 15.0  # seconds
BOUNDED = 3  # tries of every fifth run; the others may be killed as often as it happens
PATIENCE = 90.0  # seconds for everything to end after the last kill


def log_of(folder: str) -> Path:
    """Where jobs write what they do."""
    return Path(folder) / "witness"


def pause_of(folder: str) -> Path:
    """While this file exists, a work-horse that was handed a run stops itself."""
    return Path(folder) / "pause"


def witness(folder: str, word: str, run_id: str) -> None:
    """One line in one write: others append too."""
    file = os.open(log_of(folder), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{word} {run_id} {os.getpid()} {time.monotonic():.6f}\n".encode())
    os.close(file)


@job(DEFAULT, timeout=60, tries=1000)
def nap(*, due_at: datetime, folder: str, run_id: str, seconds: float) -> None:
    """Sleep, and show signs of life."""
    witness(folder, "begun", run_id)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(TICK)
        witness(folder, "lives", run_id)
    witness(folder, "ended", run_id)


class PausingHorse(Horse):
    """Stops itself between pop and start while somebody waits for that."""

    def _run(self, run):
        folder = os.environ.get("CHAOS_FOLDER", "")
        if folder and pause_of(folder).exists():
            witness(folder, "popped", run.id)
            os.kill(os.getpid(), signal.SIGSTOP)
        return super()._run(run)


engine.worker.Horse = PausingHorse


class Fleet:
    """The workers, and what becomes of them."""

    def __init__(self, desk: scratch.Desk, size: int, dice: random.Random) -> None:
        self.desk, self.size, self.dice = desk, size, dice
        self.folder = str(desk.folder)
        self.alive: list[subprocess.Popen[bytes]] = []
        self.killed: dict[int, float] = {}  # process -> when it was killed, monotonic
        self.orphaned: list[tuple[str, float, str]] = []  # run, when, kind
        self.events: Counter[str] = Counter()
        self.number = 0
        self.read = 0  # of the witness, characters
        self.busy: dict[int, str] = {}
        log_of(self.folder).touch()

    def fill(self) -> None:
        """Replace whoever is missing, a few at a time: two cores cannot start three dozen at once."""
        while len(self.alive) < self.size:
            if len(self.alive) % 4 == 3:
                time.sleep(0.3)
            command = ("rq", "worker", "-w", "bench.chaos_workers.Worker", *QUEUES)
            self.alive.append(self.desk.start(*command, log="workers.log", CHAOS_FOLDER=self.folder))

    def enqueue(self, count: int) -> None:
        """So many more runs: every fifth with bounded tries, every third under a limit."""
        redis = db.redis()
        for _ in range(count):
            self.number += 1
            run_id = f"n{self.number}"
            limits = f'[["chaos-{self.number % 7}", 4]]' if self.number % 3 == 0 else ""
            steps.enqueue(
                redis, "bench.chaos_workers.nap", DEFAULT, run_id=run_id, due=steps.now(redis), entry="nap", timeout=60,
                tries=BOUNDED if self.number % 5 == 0 else 1000, limits=limits,
                kwargs={"folder": self.folder, "run_id": run_id, "seconds": self.dice.uniform(0.3, 0.8)},
            )  # fmt: skip

    def in_hand(self) -> dict[int, str]:
        """Horse -> run that the witness knows to be in its hand; what it read before, it remembers."""
        with log_of(self.folder).open() as log:
            log.seek(self.read)
            news = log.read()
        news = news[: news.rfind("\n") + 1]
        self.read += len(news)
        for word, run_id, pid, _ in (line.split() for line in news.splitlines()):
            if word == "ended":
                self.busy.pop(int(pid), None)
            else:
                self.busy[int(pid)] = run_id
        return self.busy

    def at_work(self) -> int:
        """Living work-horses with a run in hand; there is always more to do than they are."""
        self.enqueue(max(0, self.size * 3 - int(db.redis().llen("rq:queue:default"))))
        busy = self.in_hand()
        return sum(horse in busy for worker in self.alive for horse in children(worker.pid))

    def strike(self, kind: str, count: int) -> int:
        """Kill so many workers that have a run in hand, in one blow; returns how many runs lost their process."""
        pairs = [(worker, horse) for worker in self.alive for horse in children(worker.pid)]
        if kind == KINDS[0]:
            pause_of(self.folder).touch()
            scratch.wait_for(lambda: sum(stopped(horse) for _, horse in pairs) >= count, 10)
            pairs = [pair for pair in pairs if stopped(pair[1])]
        busy = self.in_hand()
        pairs = [pair for pair in pairs if pair[1] in busy]
        self.dice.shuffle(pairs)
        for number, (worker, horse) in enumerate(pairs[:count]):
            way = KINDS[1 + number % 3] if kind == KINDS[0] else kind
            self.killed[horse] = time.monotonic()
            if way != "parent alone":
                os.kill(horse, signal.SIGKILL)
            if way != "horse alone":
                os.kill(worker.pid, signal.SIGKILL)
                self.alive.remove(worker)
        pause_of(self.folder).unlink(missing_ok=True)
        for worker, horse in pairs[:count]:
            if worker not in self.alive:
                self.desk.stop(worker)
            scratch.wait_for(lambda worker=worker, horse=horse: horse not in children(worker.pid), 5)
        for horse in [horse for worker in self.alive for horse in children(worker.pid) if stopped(horse)]:
            os.kill(horse, signal.SIGCONT)
        busy = self.in_hand()  # some had just ended
        lost = [(busy[horse], self.killed[horse], kind) for _, horse in pairs[:count] if horse in busy]
        self.orphaned += lost
        self.events[kind] += bool(lost)
        return len(lost)


def lines(folder: str) -> Iterator[tuple[str, str, int, float]]:
    """What the witness saw."""
    if log_of(folder).exists():
        for line in log_of(folder).read_text().splitlines():
            word, run_id, pid, at = line.split()
            yield word, run_id, int(pid), float(at)


def children(pid: int) -> list[int]:
    """The processes that one has forked."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")
    except OSError:
        return False


def campaign(fleet: Fleet, count: int, kills: int) -> None:
    """Strike until enough runs have lost their process often enough, then let the rest end."""
    kinds = cycle(KINDS)
    each = max(1, -(-count // kills))
    fleet.fill()
    while len(fleet.orphaned) < count or sum(fleet.events.values()) < kills:
        scratch.wait_for(lambda: fleet.at_work() > fleet.size * 0.9, 30, 0.1)
        kind = next(kinds)
        everybody = sum(fleet.events.values()) % 9 == 8
        done = fleet.strike(kind, fleet.size if everybody else each)
        fleet.fill()
        print(
            f"{sum(fleet.events.values()):4}. {kind:22} {done:3} runs orphaned, {len(fleet.orphaned)} in all",
            flush=True,
        )
        time.sleep(fleet.dice.uniform(0.5, 2.5))


def settled(fleet: Fleet) -> bool:
    """Whether every run has come to its end, and its history to PostgreSQL."""
    ended = db.rows("select count(distinct run_id) from run where outcome = 'ok' or dead")[0][0]
    return bool(ended == fleet.number)


def judge(fleet: Fleet) -> tuple[dict[str, int], list[tuple[str, float]]]:
    """What went wrong, by name (0 = it did not), and after how many seconds each orphaned run began again."""
    seen: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
    for word, run_id, pid, at in lines(fleet.folder):
        seen[run_id].append((word, pid, at))
    ends = dict(db.rows("select run_id, bool_or(outcome = 'ok') from run where outcome = 'ok' or dead group by 1"))
    died = dict(db.rows("select run_id, max(extract(epoch from ended_at))::float from run where dead group by 1"))
    wall = time.time() - time.monotonic()
    again: list[tuple[str, float]] = []
    never = 0
    for run_id, killed_at, kind in fleet.orphaned:
        begun = [at for word, _, at in seen[run_id] if word in ("begun", "popped") and at > killed_at]
        if run_id in died and died[run_id] - wall > killed_at:
            begun.append(died[run_id] - wall)
        if begun:
            again.append((kind, min(begun) - killed_at))
        else:
            never += 1
    redis = db.redis()
    faults = {
        "lost": fleet.number - len(ends),
        "dead though their tries are not bounded": sum(
            not good and int(run_id[1:]) % 5 != 0 for run_id, good in ends.items()
        ),
        "run twice at once": sum(overlaps(marks, fleet.killed) for marks in seen.values()),
        "recorded as ok twice": db.rows(
            "select count(*) from (select from run where outcome = 'ok' group by run_id having count(*) > 1) d"
        )[0][0],
        f"not begun again within {SOON:.0f} s": never + sum(seconds > SOON for _, seconds in again),
        "over a limit": over_limit(fleet, seen),
        "slots not freed": sum(redis.zcard(key) for key in redis.keys("nightdesk:running:*")),
        "parked for ever": sum(redis.llen(key) for key in redis.keys("nightdesk:waiting:*")),
        "still marked as running": sum(redis.zcard(key) for key in redis.keys("rq:wip:*")),
    }
    return faults, again


def intervals(marks: list[tuple[str, int, float]], killed: dict[int, float]) -> list[tuple[float, float, int]]:
    """When a run was in whose hand: from its begin to its end, to its process's kill, or to its last sign of life."""
    found: dict[int, tuple[float, float, int]] = {}
    done = []
    for word, pid, at in marks:
        if word in ("begun", "popped") and not (word == "begun" and pid in found):
            found[pid] = (at, at, pid)
        elif pid in found:
            found[pid] = (found[pid][0], at, pid)
        if word == "ended" and pid in found:
            done.append(found.pop(pid))
    for pid, (begin, last, _) in found.items():
        done.append((begin, max(last, killed.get(pid, last)), pid))
    return sorted(done)


def overlaps(marks: list[tuple[str, int, float]], killed: dict[int, float]) -> int:
    """How often a run began while it was in another hand."""
    spans = intervals(marks, killed)
    return sum(b[0] < a[1] and a[2] != b[2] for n, a in enumerate(spans) for b in spans[n + 1 :])


def over_limit(fleet: Fleet, seen: dict[str, list[tuple[str, int, float]]]) -> int:
    """How often more runs of a limit were under way than it allows."""
    edges: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for run_id, marks in seen.items():
        number = int(run_id[1:])
        if number % 3 == 0:
            for begin, end, _ in intervals(marks, fleet.killed):
                edges[number % 7] += [(begin, 1), (end, -1)]
    over = 0
    for marks_of_limit in edges.values():
        now = 0
        for _, step in sorted(marks_of_limit):
            now += step
            over += now > 4 and step > 0
    return over


class Peer:
    """A stock rq worker whose parent and horse are killed together, and another that should take over."""

    def __init__(self, desk: scratch.Desk) -> None:
        self.desk = desk
        self.url = desk.valkey.url.removesuffix("/0") + "/1"
        self.folder = str(desk.folder / "peer")
        Path(self.folder).mkdir()
        self.killed_at = 0.0

    def begin(self) -> None:
        from redis import Redis
        from rq import Queue, Retry

        Queue("stock", connection=Redis.from_url(self.url)).enqueue(
            "bench.chaos_workers.nap", kwargs={"due_at": None, "folder": self.folder, "run_id": "n1", "seconds": 30},
            retry=Retry(max=1),
        )  # fmt: skip
        command = ("rq", "worker", "-u", self.url, "--maintenance-interval", "2", "--worker-ttl", "20", "stock")
        first = self.desk.start(*command, log="peer.log")
        scratch.wait_for(lambda: any(word == "lives" for word, *_ in lines(self.folder)))
        for pid in [*children(first.pid), first.pid]:
            os.kill(pid, signal.SIGKILL)
        self.killed_at = time.monotonic()
        self.desk.stop(first)
        self.desk.start(*command, log="peer.log")

    def seconds(self) -> float | None:
        """How long it took to begin again; waits for it, for two minutes after the kill at the most."""

        def again() -> list[float]:
            return [at for word, _, _, at in lines(self.folder) if word == "begun" and at > self.killed_at]

        scratch.wait_for(lambda: bool(again()), max(0.0, self.killed_at + 120 - time.monotonic()), 0.5)
        return again()[0] - self.killed_at if again() else None


def report(fleet: Fleet, again: list[tuple[str, float]]) -> None:
    """Print how often whom it hit, and how soon it was made good."""
    rows = []
    for kind, seconds in again:
        if seconds > SOON:
            print(f"slow: {kind} {seconds:.1f} s")
    for kind in KINDS:
        spans = [seconds for k, seconds in again if k == kind]
        shares = [f"{scratch.percentile(spans, share):.2f}" for share in (0.5, 0.9, 0.99, 1.0)]
        rows.append([kind, str(fleet.events[kind]), str(len(spans)), *shares])
    scratch.table(["killed", "events", "runs orphaned", "again after s: p50", "p90", "p99", "max"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="runs that lose their process")
    parser.add_argument("--kills", type=int, default=50, help="kill events, at least")
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer", action="store_true", help="kill a stock rq worker, too")
    wanted = parser.parse_args()
    with scratch.started(fsync=False) as desk, db.database.connection_context():
        fleet = Fleet(desk, wanted.workers, random.Random(wanted.seed))
        peer = Peer(desk) if wanted.peer else None
        if peer:
            peer.begin()
        campaign(fleet, wanted.count, wanted.kills)
        scratch.wait_for(lambda: settled(fleet), PATIENCE, 0.5)
        faults, again = judge(fleet)
        peer_seconds = peer.seconds() if peer else None
        if any(faults.values()):
            print((desk.folder / "workers.log").read_text()[-20_000:])
        desk.stop(*fleet.alive)
    report(fleet, again)
    for fault, times in faults.items():
        print(f"{fault}: {times}")
    longest = max((seconds for _, seconds in again), default=0.0)
    return scratch.verdict(
        "chaos_workers", longest, "s until an orphaned run begins again, the longest",
        target=f"<= {SOON:.0f} s, none lost, none twice at once", ok=not any(faults.values()),
        peer="stock rq worker, looking every 2 s, both killed" if peer_seconds else "", peer_value=peer_seconds,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
