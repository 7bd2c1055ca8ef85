"""Nightdesk under the benchmarks' load: `rq worker -w bench.peers.ours.Worker critical default low`."""

from __future__ import annotations

import os
import time
from datetime import datetime

from bench.peers import marks
from domain.cadence import every
from engine.entries import Entry
from engine.worker import Worker as Worker  # noqa: PLC0414 - rq asks this module for it
from queues import DEFAULT, job


@job(DEFAULT, timeout=30)
def tick(due_at: datetime, name: str) -> None:
    """Write down when it started."""
    started = time.time()
    marks.mark(name, due_at.timestamp(), "-", started)


@job(DEFAULT, timeout=30)
def work(due_at: datetime, ms: int = 0) -> None:
    """Count itself, after some milliseconds of work."""
    if ms:
        marks.spin(ms)
    marks.count()


@job(DEFAULT, timeout=30, tries=2)
def die(due_at: datetime) -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), 9)


def schedule() -> list[Entry]:
    """The entries, all due together."""
    return [
        Entry(every(seconds), tick, key=name, kwargs={"name": name}, stagger=False)
        for name, seconds in marks.periods().items()
    ]
