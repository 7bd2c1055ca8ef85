"""`nightdesk tickers`: the last 24 hours of every pair."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

import db
from cli.output import json_option, show
from domain.figures import figure
from models import pairs
from models import tickers as store

COLUMNS = {
    "symbol": "symbol", "last": "last", "change": "change", "percent": "%", "open": "open", "high": "high",
    "low": "low", "volume": "volume", "quote_volume": "quote volume", "trades": "trades", "age": "last trade",
}  # fmt: skip
NUMBERS = ("last", "change", "percent", "open", "high", "low", "volume", "quote_volume")


@click.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@json_option
def tickers(symbols: tuple[str, ...], as_json: bool) -> None:
    """Show the last 24 hours of every pair that is traded, or of some."""
    now = datetime.now(UTC)
    with db.database.connection_context():
        wanted = [symbol.upper() for symbol in symbols]
        if unknown := pairs.unknown(wanted):
            raise click.ClickException(f"no pair {', '.join(unknown)} is traded: see `nightdesk tickers`")
        rows = store.tickers(wanted or None)
    show("The last 24 hours", COLUMNS, rows if as_json else [_row(row, now) for row in rows], as_json=as_json)


def _row(row: dict[str, Any], now: datetime) -> dict[str, Any]:
    numbers = {name: None if row[name] is None else figure(row[name]) for name in NUMBERS}
    age = None if row["last_at"] is None else now - row["last_at"]
    return {**row, **numbers, "age": age, "dim": not row["trades"]}
