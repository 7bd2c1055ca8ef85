"""Workers that nap and are killed in four ways; a file that the naps write is the witness of what was run when."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
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
BOUNDED = 3  # tries of every fifth run; the others may be killed as often as it happens
AT_ONCE = 4  # runs of a limit, which every third is under


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


def lines(folder: str) -> Iterator[tuple[str, str, int, float]]:
    """What the witness saw: word, run, process, when."""
    if log_of(folder).exists():
        for line in log_of(folder).read_text().splitlines():
            word, run_id, pid, at = line.split()
            yield word, run_id, int(pid), float(at)


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


def is_bounded(run_id: str) -> bool:
    """Whether a run may only be tried so often."""
    return int(run_id[1:]) % 5 == 0


def limit_of(run_id: str) -> str:
    """The limit that a run is under; empty for two thirds of them."""
    number = int(run_id[1:])
    return "" if number % 3 else f"chaos-{number % 7}"


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
            command = ("rq", "worker", "-w", "bench.fleet.Worker", *QUEUES)
            self.alive.append(self.desk.start(*command, log="workers.log", CHAOS_FOLDER=self.folder))

    def enqueue(self, count: int) -> None:
        """So many more runs: every fifth with bounded tries, every third under a limit."""
        redis = db.redis()
        for _ in range(count):
            self.number += 1
            run_id = f"n{self.number}"
            limit = limit_of(run_id)
            steps.enqueue(
                redis, "bench.fleet.nap", DEFAULT, run_id=run_id, due=steps.now(redis), entry="nap", timeout=60,
                tries=BOUNDED if is_bounded(run_id) else 1000, limits=json.dumps([[limit, AT_ONCE]]) if limit else "",
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
