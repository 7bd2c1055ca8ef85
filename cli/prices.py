"""`nightdesk prices`: which instruments are followed, and what they cost now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import click

import db
from cli.arguments import DURATION, NUMBER, who_option
from cli.output import json_option, show
from domain.figures import figure
from domain.prices import HIGHEST, KINDS, SYMBOL
from domain.spans import span
from domain.symbols import guess
from models import prices as store
from models import runs, stocks

COLUMNS = {
    "symbol": "symbol", "kind": "kind", "price": "price", "previous": "before", "age": "age", "state": "state",
    "source": "source", "happened_at": "happened", "received_at": "received", "error": "last error",
}  # fmt: skip


@click.group()
def prices() -> None:
    """Show prices with their age; follow instruments, or follow them no longer."""


@prices.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show every instrument with its newest price, how old that is, and what went wrong last."""
    now = datetime.now(UTC)
    with db.database.connection_context():
        rows = store.quotes(now)
    show("Prices", COLUMNS, rows if as_json else [_row(row, now) for row in rows], as_json=as_json)


def _row(row: dict[str, Any], now: datetime) -> dict[str, Any]:
    numbers = {name: figure(row[name]) if row[name] is not None else None for name in ("price", "previous")}
    state = f"{row['state']} ({row['reason']})" if row["reason"] else row["state"]
    error = f"for {span(now - row['failing_since'])}: {row['error']}" if row["error"] else None
    return {**row, **numbers, "state": state, "error": error, "bad": row["state"] != "fresh"}


@prices.command()
@click.argument("symbol")
@click.option(
    "--kind", type=click.Choice(KINDS), help="Which sources are asked; as before, or guessed from the symbol."
)
@click.option(
    "--max-age", type=DURATION, help="When its price is stale, such as 5m; what its source allows, by default."
)
@click.option("--tick-size", type=NUMBER, help="The smallest step of its price.")
@who_option
def add(symbol: str, kind: str | None, max_age: timedelta | None, tick_size: Decimal | None, who: str) -> None:
    """Follow an instrument, or change how it is followed."""
    symbol = symbol.upper()
    if not SYMBOL.fullmatch(symbol):
        raise click.UsageError(f"{symbol!r} is not a symbol: letters, digits and . _ : -, at most 24")
    if tick_size is not None and not (tick_size.is_finite() and 0 < tick_size < HIGHEST):
        raise click.UsageError(f"a tick size of {tick_size} is not above 0 and below {HIGHEST}")
    with db.database.connection_context(), db.transaction():
        known = store.kind_of(symbol)
        if kind and known == "pair":
            raise click.UsageError(f"{symbol} is traded here: its price is that of its trades, whatever a {kind} has")
        chosen = kind or known or guess(symbol)
        settled = {"kind": chosen, "max_age": max_age and str(max_age), "tick_size": tick_size and str(tick_size)}
        new = store.add(symbol, chosen, max_age, tick_size)
        if chosen == "stock":
            stocks.follow([symbol])
        runs.audit(who, "prices add", symbol, None, settled)
    click.echo(f"{symbol} ({chosen}) is {'followed from now on' if new else 'changed'}")


@prices.command()
@click.argument("symbol")
@who_option
def rm(symbol: str, who: str) -> None:
    """Follow an instrument no longer; its history stays, and alerts on it are silent."""
    symbol = symbol.upper()
    with db.database.connection_context(), db.transaction():
        removed = store.retire(symbol)
        runs.audit(who, "prices rm", symbol, None, None) if removed else None
    if not removed:
        raise click.ClickException(f"{symbol} is not followed: see `nightdesk prices list`")
    click.echo(f"{symbol} is followed no longer")
