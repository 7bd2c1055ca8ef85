"""Waiting for what happens elsewhere, and measuring how long it took, on a machine that may stand still meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

TICK = 0.01


def until(condition: Callable[[], Any], seconds: float = 60, every: float = 0.02) -> Any:
    """What the condition gives as soon as that is true; fails the test if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(every)
    return found


async def async_until(condition: Callable[[], Any], seconds: float = 60, every: float = 0.02) -> Any:
    """`until`, beside what else the loop does."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(every)
    return found


class Stopwatch(Thread):
    """Counts the seconds in which this machine went on: one that stands still is not what a promise is about."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds = 0.0
        self.longest = 0.0  # seconds between two ticks: so long it stood still
        self.over = Event()

    def run(self) -> None:
        last = time.monotonic()
        while True:
            over = self.over.wait(TICK)
            now = time.monotonic()
            self.seconds += min(now - last, 5 * TICK)
            self.longest = max(self.longest, now - last)
            last = now
            if over:
                return


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """`with stopwatch() as took: …`, then `took.seconds`."""
    watch = Stopwatch()
    watch.start()
    try:
        yield watch
    finally:
        watch.over.set()
        watch.join()
