"""How the end of a run is told: to Redis, to PostgreSQL, and to whoever reads the log. `took` is in seconds."""

from __future__ import annotations

import json
import logging

from config import settings
from engine import history, outages, steps
from engine.outcome import Outcome
from engine.payload import Call, Run

log = logging.getLogger("nightdesk.run")


def finish(run: Run, outcome: Outcome, took: float) -> str:
    """For Redis: what take.lua needs to end the run, as JSON; see there."""
    end = {
        "id": run.id,
        "execution": run.execution,
        "queue": run.queue,
        "outcome": outcome.name,
        "name": run.entry or "ad-hoc",
        "seconds": round(took, 6),
        "waited": max(0, run.started - run.enqueued_ms) / 1000,
        "late": max(0, run.started - run.due) / 1000 if run.scheduled and run.attempt == 1 else None,
        "limits": run.limits or "",
        "ttl": run.ttl,
        "result": steps.rq_json(outcome.counts) if outcome.counts is not None else None,
        "exc": steps.rq_text(outcome.trace or outcome.error or "") if outcome.dead else None,
        "tries": run.tried + outcome.counted,
        "delay": round(outcome.delay * 1000),
    }
    return json.dumps({name: value for name, value in end.items() if value is not None})  # null is true in Lua


def row(worker: str, run: Run, call: Call, outcome: Outcome, took: float) -> str:
    """For PostgreSQL: the line of history, as JSON; see models/runs.py."""
    told = {
        "entry": run.entry or call.path.rpartition(".")[2] or run.id,
        "run": run.id,
        "job": call.path,
        "queue": run.queue,
        "args": {"args": call.args, "kwargs": call.kwargs},
        "due": run.due,
        "attempt": run.attempt,
        "enqueued": run.enqueued,
        "started": run.started,
        "ended": run.started + took * 1000,
        "outcome": outcome.name,
        "counts": outcome.counts,
        "worker": worker,
        "error": outcome.error,
        "fingerprint": outcome.fingerprint,
        "version": settings.code_version,
        "dead": outcome.dead,
    }
    return history.line(told)


def say(run: Run, call: Call, outcome: Outcome, took: float) -> None:
    """For the log: one line, with the trace of what nothing will try again."""
    late = max(0, run.started - run.due)
    counts = "".join(f" {k}={v}" for k, v in (outcome.counts or {}).items())
    level = logging.ERROR if outcome.dead else logging.WARNING if outcome.error else logging.INFO
    if not outcome.counted:  # every run would say the same until somebody makes room
        outages.began(outages.SERVER_FULL, outcome.error)
        level = logging.DEBUG
    if log.isEnabledFor(level):
        error = f" error={json.dumps(outcome.error)} fingerprint={outcome.fingerprint}" if outcome.error else ""
        log.log(
            level,
            "job=%s run=%s attempt=%d outcome=%s ms=%.1f late_ms=%d%s%s",
            call.path.removeprefix("jobs."), run.id, run.attempt, outcome.name, took * 1000, late, counts, error,
        )  # fmt: skip
        if outcome.dead:
            log.error("%s", outcome.trace)
