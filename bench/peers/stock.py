"""Jobs for stock rq, and rq-scheduler's entries.

`python -m bench.peers.stock FIRST` declares them, first due at the Unix time FIRST.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from datetime import UTC, datetime

from bench.peers import marks

WORKING = ("clients.connections", "urllib3", "certifi", "ssl", "psycopg2", "smtplib", "email.policy")  # as jobs run


def tick(name: str) -> None:
    """Write down when it was enqueued and when it started."""
    started = time.time()
    from rq import get_current_job

    job = get_current_job()
    enqueued = job.enqueued_at.timestamp() if job and job.enqueued_at else "-"
    marks.mark(name, "-", enqueued, started)


def work(ms: int = 0) -> None:
    """Count itself, after some milliseconds of work."""
    if ms:
        marks.spin(ms)
    marks.count()


def hold(seconds: float) -> None:
    """Import what Nightdesk's jobs import when they work, and stay."""
    import queues

    queues.load_jobs()
    for module in WORKING:
        importlib.import_module(module)
    time.sleep(seconds)


def declare(first: float) -> None:
    """All entries into rq-scheduler, due together."""
    from redis import Redis
    from rq_scheduler import Scheduler

    scheduler = Scheduler(connection=Redis.from_url(os.environ["REDIS_URL"]))
    due = datetime.fromtimestamp(first, UTC).replace(tzinfo=None)
    for name, seconds in marks.periods().items():
        scheduler.schedule(due, "bench.peers.stock.tick", args=[name], interval=seconds, id=name)


if __name__ == "__main__":
    declare(float(sys.argv[1]))
