"""`nightdesk candles`: what was traded at which prices, shown, verified and filled in from a shell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

import db
from cli.arguments import INSTANT, LIMIT
from cli.output import json_option, show
from domain.candles import INTERVALS, LENGTHS, start
from domain.figures import figure
from models import buckets, building
from models import candles as store

COLUMNS = {
    "starts_at": "begins", "open": "open", "high": "high", "low": "low", "close": "close", "volume": "volume",
    "trades": "trades", "state": "",
}  # fmt: skip
WRONG = {"symbol": "symbol", "interval": "interval", "starts_at": "begins", "was": "was"}
DAY = timedelta(days=1)


@click.group()
def candles() -> None:
    """Show candles; verify them against their trades, and fill in what is missing."""


@candles.command("show")
@click.argument("symbol")
@click.argument("interval", type=click.Choice(INTERVALS))
@click.option("--to", "until", type=INSTANT, help="Up to this instant; now, by default.")
@click.option("--count", type=LIMIT, default=20, show_default=True, help="How many.")
@click.option("--as-of", type=INSTANT, help="As they were known at this instant.")
@json_option
def show_(
    symbol: str, interval: str, until: datetime | None, count: int, as_of: datetime | None, as_json: bool
) -> None:
    """Show the last candles of a symbol; INTERVAL is 1m, 5m, 15m, 30m, 1h, 4h, 1d, 1w or 1M."""
    end = until or as_of or datetime.now(UTC)
    with db.database.connection_context():
        rows = store.line(symbol.upper(), interval, end - LENGTHS[interval] * count, end, as_of)[-count:]
    if not rows:
        raise click.ClickException(f"there are no {interval} candles of {symbol.upper()} before {end:%Y-%m-%d %H:%M}")
    show(f"{symbol.upper()} {interval}", COLUMNS, rows if as_json else [_row(row) for row in rows], as_json=as_json)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: figure(row[name]) for name in ("open", "high", "low", "close", "volume")}
    state = "outage" if row["outage"] else "no trades" if row["synthetic"] else "" if row["closed"] else "open"
    return {**row, **numbers, "state": state, "dim": row["synthetic"], "bad": row["outage"]}


def span_options(command: Any) -> Any:
    """--from and --to."""
    command = click.option("--to", "until", type=INSTANT, help="Up to this day; today, by default.")(command)
    return click.option("--from", "since", type=INSTANT, required=True, help="From this day on.")(command)


@candles.command()
@click.argument("symbol")
@span_options
@json_option
def verify(symbol: str, since: datetime, until: datetime | None, as_json: bool) -> None:
    """Make all candles of a symbol anew from its trades or ticks; list and mend what was wrong."""
    with db.database.connection_context():
        feed, days = _given(symbol.upper(), since, until)
        wrong = [candle for day in days for candle in buckets.mend(feed, day, day + DAY, [symbol.upper()])]
    show(f"{len(wrong)} candles were wrong, and are mended", WRONG, wrong, as_json=as_json)


@candles.command()
@click.argument("symbol")
@span_options
def backfill(symbol: str, since: datetime, until: datetime | None) -> None:
    """Make the candles of the days that lack some. It can be stopped, and goes on where it was when called again."""
    from rich.progress import track

    made = 0
    with db.database.connection_context():
        feed, days = _given(symbol.upper(), since, until)
        for day in track(days, description=symbol.upper()):
            if not buckets.agrees(feed, symbol.upper(), day, day + DAY):
                made += len(buckets.mend(feed, day, day + DAY, [symbol.upper()]))
    click.echo(f"{symbol.upper()}: {made} candles made in {len(days)} days")


def _given(symbol: str, since: datetime, until: datetime | None) -> tuple[str, list[datetime]]:
    """The feed of a symbol, with all that is new in its candles, and the days of a time of which it has something."""
    now = datetime.now(UTC)
    end = min(until or now, now)
    if since >= end:
        raise click.UsageError(f"--from is not before {'--to' if until == end else 'now'}")
    feed = store.feed_of(symbol)
    if feed is None:
        raise click.ClickException(f"{symbol} is neither a pair nor followed: see `nightdesk prices list`")
    list(building.build(feed, now))
    first = store.first_at(feed, symbol)
    if first is None or first >= end:
        raise click.ClickException(f"there is no {feed} of {symbol} before {end:%Y-%m-%d %H:%M}")
    day, days = start("1d", max(first, since)), []
    while day < end:
        days.append(day)
        day += DAY
    return feed, days
