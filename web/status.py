"""Is everything well: one snapshot for the page, the API, the metrics and `nightdesk status`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import db
from clients import http
from domain.cadence import Every
from engine import entries, history, state
from models import deliveries, deposits, prices, runs
from scheduler import SCHEDULE

FRESHNESS = {entry.id: entry.freshness for entry in SCHEDULE if entry.freshness}


def snapshot() -> dict[str, Any]:
    """All there is to say, as plain data; the connection to PostgreSQL is open."""
    redis, now = db.redis(), datetime.now(UTC)
    ran = {row["entry"]: row for row in runs.latest()}
    running = state.running(redis)
    behind = state.behind(redis)
    awaited = set(prices.awaited(now))
    return {
        "at": now,
        "schedule_behind_s": behind,
        "schedule_moves": behind is not None and behind <= history.STOPPED_AFTER,
        "schedulers": [vars(m) for m in state.schedulers(redis)],
        "workers": [{**vars(m), "bad": not m.is_alive} for m in state.workers(redis)],
        "obstacles": [vars(obstacle) for obstacle in state.obstacles(redis)],
        "entries": [_entry(e, ran.get(e.id, {}), e.id in running, now) for e in entries.load(redis)],
        "quotes": [{**quote, "awaited": quote["symbol"] in awaited} for quote in prices.quotes(now)],
        "queues": [vars(depth) for depth in state.depths(redis)],
        "providers": [_provider(p, now) for p in http.status(now)],
        "delivery": deliveries.standing(),
        "deposits": deposits.standing(),
        "dead": runs.dead_groups(),
        "skips": runs.skips(now - timedelta(days=1))[:20],
    }


def _entry(entry: entries.State, last: dict[str, Any], running: bool, now: datetime) -> dict[str, Any]:
    started, ended, paused = last.get("started_at"), last.get("ended_at"), entry.fields["paused"] == "1"
    data = [age for measure in [FRESHNESS.get(entry.id)] if measure for age in measure(now)]
    worst = max(data, key=lambda d: d["age"] / d["allowed"], default=None)
    data_is_old = bool(ended and worst and worst["age"] > worst["allowed"])  # on a new desk nothing has run yet
    return {
        "entry": entry.id,
        "summary": entry.fields["summary"],
        "queue": entry.fields["queue"],
        "cadence": entry.fields["cadence"],
        "interval_seconds": entry.cadence.period.total_seconds() if isinstance(entry.cadence, Every) else None,
        "holds": entry.fields["source"],
        "paused": paused,
        "running": running,
        "state": "paused" if paused else last.get("outcome") or "not run yet",
        "next_due_at": entry.due_at,
        "next_in": entry.due_at - now,
        "last_due_at": last.get("due_at"),
        "last_started_at": started,
        "last_ended_at": ended,
        "last_good_at": last.get("last_good_at"),
        "last_good_ago": now - last["last_good_at"] if last.get("last_good_at") else None,
        "late": started - last["due_at"] if started else None,
        "took": ended - started if started and ended else None,
        "counts": last.get("counts"),
        "error": last.get("error"),
        "data": worst,  # the oldest of its data against its allowed age: green work on frozen data is red
        "data_is_old": data_is_old,
        "bad": data_is_old or last.get("outcome") in ("failed", "refused", "lost"),
        "dim": paused,
    }


def _provider(provider: Any, now: datetime) -> dict[str, Any]:
    return {
        "name": provider.name,
        "doc": provider.doc,
        "unofficial": provider.unofficial,
        "off": provider.off,
        "breaker": provider.breaker,
        "open_until": provider.open_until,
        "answered_ago": now - provider.ok_at if provider.ok_at else None,
        "error": provider.error,
        "error_ago": now - provider.error_at if provider.error_at else None,
        "windows": [
            {"window": w.window, "used": w.used, "limit": w.limit, "runs_out_at": w.runs_out_at}
            for w in provider.windows
        ],
        "bad": provider.breaker != "closed",
        "dim": bool(provider.off),
    }
