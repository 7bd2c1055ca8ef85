"""The load, the same for everybody: which entries fall due, and one line in a file for each run.

A peer's process finds its orders in the environment: BENCH_MARKS, the file; BENCH_ENTRIES, `seconds*number,…`.
"""

from __future__ import annotations

import os
import time
from functools import cache


def periods() -> dict[str, int]:
    """The entries by name, with their periods in seconds."""
    groups = [part.split("*") for part in os.environ["BENCH_ENTRIES"].split(",")]
    return {f"e{int(seconds)}-{i:03d}": int(seconds) for seconds, number in groups for i in range(int(number))}


def mark(entry: str, slot: float | str, enqueued: float | str, started: float | str) -> None:
    """Append a line: name, then three instants in seconds, `-` where one is not known here."""
    os.write(_file(os.getpid()), f"{entry} {slot} {enqueued} {started}\n".encode())


def count() -> None:
    """Append a byte."""
    os.write(_file(os.getpid()), b".")


def spin(ms: float) -> None:
    """Keep a core busy for some milliseconds."""
    until = time.perf_counter() + ms / 1000
    while time.perf_counter() < until:
        pass


@cache
def _file(pid: int) -> int:
    return os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
