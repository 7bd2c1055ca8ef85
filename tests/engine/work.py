"""Jobs for the engine's tests: `rq worker -w tests.engine.work.Worker` registers them too."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from itertools import repeat
from pathlib import Path

import queues
from domain.failures import Rejected, Unavailable
from engine.worker import Worker
from queues import CRITICAL, DEFAULT, LOW, batches, job

__all__ = ["Worker"]


def mark(path, text):
    """Append one line in one write: other processes append too."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{text} {os.getpid()} {time.time()}\n".encode())
    os.close(file)


@job(DEFAULT, timeout=30)
def fine(*, due_at, **rest):
    """Return a count."""
    return {"done": 1}


@job(DEFAULT, timeout=30)
def note(path, text="note", *, due_at):
    """Write down that it ran, and for when."""
    mark(path, f"{text} {due_at.isoformat()}")


@job(CRITICAL, timeout=30)
def urgent(path, *, due_at):
    """Write down that it ran."""
    mark(path, "urgent")


@job(DEFAULT, timeout=30, tries=5)
def nap(path, seconds=0.5, text="nap", *, due_at):
    """Write down when it began and when it ended."""
    mark(path, f"{text}-begun")
    time.sleep(seconds)
    mark(path, f"{text}-ended")


@job(DEFAULT, timeout=600, tries=5)
def stay(path, text="stay", *, due_at):
    """Write down when it began, and end once somebody lets it go."""
    mark(path, f"{text}-begun")
    while not Path(f"{path}.go").exists():
        time.sleep(0.02)
    mark(path, f"{text}-ended")


def let_go(path):
    """Let those end that stay, and those that would."""
    Path(f"{path}.go").touch()


@job(DEFAULT, timeout=600)
def last(path, *, due_at):
    """Go on until the worker is told to stop, and then to the end."""
    mark(path, "last-begun")
    while not queues.should_yield():
        time.sleep(0.02)
    mark(path, "last-ended")


@job(LOW, timeout=600)
def batched(path, times=0, *, due_at):
    """Something long that yields between batches; it comes to its end when it has begun so many times."""
    mark(path, "batched-begun")
    for _ in batches(repeat(0)):
        time.sleep(0.02)
        if words(path).count("batched-begun") == times:
            break
    mark(path, "batched-ended")


@job(DEFAULT, timeout=30)
def bug(number=1, *, due_at):
    """Fail as code with a bug does."""
    raise KeyError(f"no such thing: {number}")


@job(DEFAULT, timeout=30)
def rejected(*, due_at):
    """Fail in a way that a person must look at."""
    raise Rejected("provider says: no")


@job(DEFAULT, timeout=30, tries=3)
def unavailable(retry_after=None, *, due_at):
    """Fail in a way that passes."""
    raise Unavailable("come back later", retry_after)


@job(DEFAULT, timeout=30, tries=3)
def die(path, *, due_at):
    """Kill the process that runs it."""
    mark(path, "died")
    os.kill(os.getpid(), signal.SIGKILL)


@job(DEFAULT, timeout=1, tries=2)
def slow(path=None, *, due_at):
    """Take longer than it may."""
    if path:
        mark(path, "slow")
    time.sleep(20)


@job(DEFAULT)
def rude(*, due_at):
    """Leave a signal to itself that others need."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


@job(DEFAULT, timeout=1, tries=1)
def deaf(path, *, due_at):
    """Hang in C, where no signal of Python's is heard."""
    mark(path, "deaf")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM})
    ctypes.CDLL(None).sleep(60)


held = []


@job(DEFAULT, timeout=30)
def leak(path, mb=60, *, due_at):
    """Never give memory back."""
    held.append(bytearray(mb * 1_000_000))
    mark(path, "leak")


@job(DEFAULT, timeout=30, limit=("api", 1))
def limited(path, seconds=0.3, *, due_at):
    """One of the jobs that share a slot."""
    mark(path, "limited-begun")
    time.sleep(seconds)
    mark(path, "limited-ended")


@job(DEFAULT, timeout=30, limit=("api", 1))
def also_limited(path, seconds=0.3, *, due_at):
    """Another one of them."""
    limited(path, seconds, due_at=due_at)


@job(DEFAULT, timeout=30)
def wrong_answer(kind="list", *, due_at):
    """Return what is no count."""
    return {"list": [1, 2], "text": "done", "key": {(1, 2): 3}}[kind]


@job(DEFAULT, timeout=30)
def strange_error(kind="surrogate", *, due_at):
    """Fail with an error that is hard to write down."""
    if kind == "surrogate":
        raise ValueError("half a character: \ud83d and a NUL: \0")

    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("I cannot say")

    raise MuteError


@job(DEFAULT, timeout=30)
def full_disk(*, due_at):
    """Meet a PostgreSQL whose disk is full."""
    import db

    db.rows("do $$ begin raise exception 'No space left on device' using errcode = '53100'; end $$")


def lines(path):
    """What jobs wrote down: `[text, …, pid, time]`."""
    file = Path(path)
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def words(path):
    """The first word of each line."""
    return [line[0] for line in lines(path)]
