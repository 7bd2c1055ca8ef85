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
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from domain.candles import LENGTHS
from models import candles, notifications, prices, tickers
from web import blocking, metrics, status
from web.access import APP, METRICS, READ, VIEWER, needs

SHARED_FOR = 0.5  # seconds that one snapshot serves everybody who asks: viewers cost by the clock, not by their number
CANDLES, MOST_CANDLES = 500, 5000  # in one answer


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
    """The newest price of each instrument with source, both times, age and state; `?symbol=` for some.

    With `as_of` (an ISO instant) the price of each of these symbols that was known then.
    """
    symbols = symbols_of(request)
    if (at := instant(request, "as_of")) is not None:
        known = [(symbol, await blocking.run(prices.as_of, symbol, at)) for symbol in symbols or ()]
        return tagged(request, {"as_of": at, "quotes": [{"symbol": name, **row} for name, row in known if row]})
    rows = await blocking.run(prices.quotes, datetime.now(UTC), symbols)
    # The age is told by the clock of whoever reads: were it in the body, no two answers would be the same.
    body = {"quotes": [{k: v for k, v in row.items() if k not in ("age", "error", "failing_since")} for row in rows]}
    return tagged(request, body)


@needs(READ)
async def candle_line(request: Request) -> Response:
    """Candles without gaps: `?symbol=&interval=`, the last 500, or those `from` … `to`, 5000 at most; as of `as_of`."""
    (symbol, *_), interval = symbols_of(request) or [""], request.query_params.get("interval", "1m")
    if interval not in LENGTHS:
        raise HTTPException(422, f"interval: {interval!r} is not one of {', '.join(LENGTHS)}")
    at = instant(request, "as_of")
    until = instant(request, "to") or at or datetime.now(UTC)
    since = instant(request, "from") or until - LENGTHS[interval] * CANDLES
    since = max(since, until - LENGTHS[interval] * MOST_CANDLES)
    rows = await blocking.run(candles.line, symbol, interval, since, until, at)
    return tagged(request, {"symbol": symbol, "interval": interval, "candles": rows})


@needs(READ)
async def ticker_list(request: Request) -> Response:
    """The last 24 hours of each pair, `until` when; `?symbol=` for some."""
    rows = await blocking.run(tickers.tickers, symbols_of(request))
    until = rows[0]["until"] if rows else None
    return tagged(request, {"until": until, "tickers": [{k: v for k, v in r.items() if k != "until"} for r in rows]})


def symbols_of(request: Request) -> list[str] | None:
    """The symbols that are asked for, None for all. Raises 422 for one that no database could have."""
    symbols = request.query_params.getlist("symbol")
    if any("\0" in symbol for symbol in symbols):
        raise HTTPException(422, "symbol: there is a NUL in it")
    return symbols or None


def instant(request: Request, name: str) -> datetime | None:
    """A parameter that is an instant in ISO 8601, UTC where no zone is given. Raises 422 for anything else.

    Years 1600 to 2999: five thousand buckets earlier or later are times too.
    """
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))  # a + that was not quoted
    except ValueError:
        at = None
    if at is None or not 1600 <= at.year <= 2999:
        raise HTTPException(422, f"{name}: {text!r} is not an instant of 1600 to 2999 such as 2026-11-23T14:30:00Z")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


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
    Route("/api/candles", candle_line),
    Route("/api/tickers", ticker_list),
    Route("/api/notifications", own_notifications),
]
