"""Celery with a Redis broker: `celery -A bench.peers.celery_app worker -P prefork -c 1`, and beat.

BENCH_CELERY=safe stores results and acknowledges late, which is the guarantee that Nightdesk gives.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from celery import Celery, current_task, signals

from bench.peers import marks, stock

SAFE = os.environ.get("BENCH_CELERY") == "safe"

app = Celery("peer", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"] if SAFE else None)
app.conf.update(
    task_acks_late=SAFE,
    task_reject_on_worker_lost=SAFE,
    task_ignore_result=not SAFE,
    broker_connection_retry_on_startup=True,
)
if "BENCH_ENTRIES" in os.environ:
    app.conf.beat_schedule = {
        name: {"task": "tick", "schedule": float(seconds), "args": (name,)} for name, seconds in marks.periods().items()
    }


@signals.before_task_publish.connect
def stamp(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Say when it was sent: Celery itself does not."""
    if headers is not None:
        headers["sent_at"] = time.time()


@app.task(name="tick")
def tick(name: str) -> None:
    """Write down when it was sent and when it started."""
    started = time.time()
    marks.mark(name, "-", current_task.request.get("sent_at"), started)


@app.task(name="work")
def work(ms: float = 0) -> None:
    """Count itself, after some milliseconds of work."""
    if ms:
        marks.spin(ms)
    marks.count()


@app.task(name="hold")
def hold(seconds: float) -> None:
    """Import what Nightdesk's jobs import when they work, and stay."""
    stock.hold(seconds)


if __name__ == "__main__":  # TASK ARGUMENT NUMBER: fill the queue
    task, argument, number = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(number):
            app.send_task(task, (argument,), producer=producer)
