"""JSON for programs: metrics, job status, quotes, an app user's notifications; with tokens and ETags."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from peewee import InterfaceError, OperationalError
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models import notifications, prices
from web import blocking, metrics, status
from web.access import APP, METRICS, READ, VIEWER, needs

SHARED_FOR = 0.5  # seconds that one snapshot serves everybody who asks: viewers cost by the clock, not by their number


class Snapshots:
    """The latest snapshot of the process, made at most twice a second however many look."""

    def __init__(self) -> None:
        self.made_at = 0.0
        self.value: dict[str, Any] = {}
        self.failure: Exception | None = None
        self.making = asyncio.Lock()

    async def get(self) -> dict[str, Any]:
        """web.status.snapshot, up to SHARED_FOR old. Raises what a server that is away raises, to all who ask."""
        async with self.making:
            if time.monotonic() - self.made_at > SHARED_FOR:
                try:
                    self.value, self.failure = await blocking.run(status.snapshot), None
                except (OperationalError, InterfaceError, RedisError) as failure:
                    self.failure = failure  # so that they need not wait for it one after the other
                self.made_at = time.monotonic()
        if self.failure:
            raise self.failure
        return self.value


snapshots = Snapshots()


@needs(METRICS)
async def prometheus(_: Request) -> Response:
    """Counters, histograms and gauges in Prometheus's text format."""
    text = await blocking.run(metrics.render, await snapshots.get())
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@needs(VIEWER)
async def jobs_status(request: Request) -> Response:
    """Every job with its interval, last run and next due time, as the predecessors' endpoint had it."""
    names = ("running", "interval_seconds", "cadence", "paused", "state", "last_started_at", "last_ended_at",
             "last_good_at", "next_due_at", "late", "took", "counts", "error")  # fmt: skip
    jobs = [{"name": e["entry"], **{name: e[name] for name in names}} for e in (await snapshots.get())["entries"]]
    return tagged(request, {"jobs": jobs, "total_jobs": len(jobs)})


@needs(READ)
async def quotes(request: Request) -> Response:
    """The newest price of each instrument with source, both times, age and state; `?symbol=` for some."""
    symbols = request.query_params.getlist("symbol") or None
    rows = await blocking.run(prices.quotes, datetime.now(UTC), symbols)
    # The age is told by the clock of whoever reads: were it in the body, no two answers would be the same.
    body = {"quotes": [{k: v for k, v in row.items() if k not in ("age", "error", "failing_since")} for row in rows]}
    return tagged(request, body)


@needs(APP)
async def own_notifications(request: Request) -> Response:
    """The newest notifications of the app's user who asks; an operator sees everybody's."""
    rows = await blocking.run(notifications.of_user, request.state.visitor.user_id, 100)
    return tagged(request, {"notifications": rows})


def plain(value: Any) -> Any:
    """What JSON has no type for: instants as ISO 8601, spans as seconds, money as text."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def tagged(request: Request, body: Any) -> Response:
    """JSON with an ETag; 304 for who has it already."""
    text = json.dumps(body, default=plain).encode()
    tag = f'"{sha256(text).hexdigest()[:20]}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(text, headers=headers, media_type="application/json")


@needs(VIEWER)
async def whole_status(_: Request) -> Response:
    """The whole snapshot that the page shows."""
    return JSONResponse(json.loads(json.dumps(await snapshots.get(), default=plain)))


ROUTES = [
    Route("/metrics", prometheus),
    Route("/jobs/status", jobs_status),
    Route("/api/status", whole_status),
    Route("/api/quotes", quotes),
    Route("/api/notifications", own_notifications),
]
