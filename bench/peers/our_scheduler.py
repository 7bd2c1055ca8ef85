"""Nightdesk's scheduler under the benchmarks' load, with a note of when each run was enqueued."""

from __future__ import annotations

import json
import time
from typing import Any

from bench.peers import marks, ours
from engine import steps
from scheduler import Scheduler


def watch_enqueueing() -> None:
    """Mark each batch with the clock after the step's reply arrived: no run of it became visible later than that."""
    step = steps.fire

    def fire(redis: Any, batch: str) -> dict[str, Any]:
        answer = step(redis, batch)
        seen = time.time()
        enqueued = zip(json.loads(batch), answer["results"], strict=True)
        for order in (order for order, result in enqueued if result == "run"):
            marks.mark(order["id"].partition("-")[2], order["run"] / 1000, seen, "-")
        return answer

    steps.fire = fire


if __name__ == "__main__":
    watch_enqueueing()
    Scheduler(ours.schedule()).run()
