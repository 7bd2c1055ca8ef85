"""Jobs for benchmarks and campaigns: `rq worker -w bench.jobs.Worker critical default low` registers them too."""

from __future__ import annotations

import os
import time
from datetime import datetime

from engine.worker import Worker
from queues import DEFAULT, LOW, batches, job

__all__ = ["Worker", "busy", "die", "long", "nap", "noop"]


@job(DEFAULT, timeout=30, tries=1000)
def noop(due_at: datetime) -> None:
    """Do nothing."""


@job(DEFAULT, timeout=30)
def busy(due_at: datetime, ms: int = 1) -> None:
    """Keep a core busy for some milliseconds."""
    until = time.perf_counter() + ms / 1000
    while time.perf_counter() < until:
        pass


@job(DEFAULT, timeout=30, tries=1000)
def nap(due_at: datetime, seconds: float = 0.01) -> None:
    """Sleep."""
    time.sleep(seconds)


@job(DEFAULT, timeout=30, tries=2)
def die(due_at: datetime) -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), 9)


@job(LOW, timeout=300)
def long(due_at: datetime, rounds: int = 100, seconds: float = 0.05) -> dict[str, int]:
    """A long job that yields between batches."""
    done = 0
    for _ in batches(range(rounds)):
        time.sleep(seconds)
        done += 1
    return {"rounds": done}
