"""`nightdesk stocks`: which stocks users want, what they cost, what was doubted, and which days are missing."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import click

import config
import db
from cli.arguments import ID, NUMBER, one_user_or_new, who_option
from cli.output import json_option, show, when
from domain.prices import SYMBOL
from domain.stocks import Bar
from domain.symbols import guess
from models import bars, gaps, names, portfolios, prices, quarantine, runs, stock_quotes
from models import stocks as store

LIST = {
    "symbol": "symbol", "market": "market", "wanted": "wanted", "last": "last", "percent": "%", "volume": "volume",
    "age": "age", "state": "state", "source": "source", "last_bar_on": "last bar", "error": "what is wrong",
}  # fmt: skip
QUARANTINE = {
    "id": "id", "symbol": "symbol", "kind": "kind", "source": "source", "happened_at": "of", "reason": "why",
    "neighbours": "neighbours", "times": "times", "last_received_at": "last said", "accepted_by": "accepted by",
}  # fmt: skip
GAPS = {
    "symbol": "symbol", "date": "day", "problem": "problem", "was": "was", "became": "became", "found_at": "found",
    "healed_at": "healed", "tries": "tries", "error": "why not",
}  # fmt: skip
user_option = click.option("--user", help="Whose, by mail address or the app's id; OPERATOR_EMAIL, by default.")


@click.group()
def stocks() -> None:
    """Show stocks with their age; watch and hold them; judge what was doubted."""


@stocks.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show every stock that is followed, most wanted first, and those that no source knows."""
    now = datetime.now(UTC)
    with db.database.connection_context():
        rows = store.stocks(now)
    show("Stocks", LIST, rows if as_json else [_stock(row, now) for row in rows], as_json=as_json)


def _stock(row: dict[str, Any], now: datetime) -> dict[str, Any]:
    unknown = row["state"] == "unknown"
    wait = f", asked again {when(row['ask_at'])}" if unknown and row["ask_at"] > now else ""
    renamed = f"{row['renamed_by']}: it is {row['renamed_to']} now: `stocks rename {row['symbol']} {row['renamed_to']}`"
    return {
        **row,
        "wanted": f"{row['want']}{' (held)' if row['held'] else ''}",
        "percent": None if row["percent"] is None else f"{row['percent']:+.2f}",
        "state": f"unknown, {row['refused']} times{wait}" if unknown else row["price_state"],
        "error": renamed if row["renamed_to"] else row["error"],
        "bad": unknown or row["renamed_to"] or row["price_state"] == "stale",
        "dim": row["state"] == "new",
    }


@stocks.command()
@click.argument("symbols", nargs=-1, required=True)
@user_option
@click.option("--first", is_flag=True, help="Only while nobody watches anything.")
def watch(symbols: tuple[str, ...], user: str | None, first: bool) -> None:
    """Put symbols on a user's watchlist, as the served app does: `nightdesk stocks watch AAPL PTT.BK`."""
    wanted = [_symbol(symbol) for symbol in symbols]
    with db.database.connection_context(), db.transaction():
        if first and portfolios.is_watched():
            return
        _can_be_followed(wanted)
        portfolios.watch(one_user_or_new(user or config.settings.operator_email), wanted)
    click.echo(f"{', '.join(wanted)}: watched; prices come while the market is open, or with `nightdesk run`")


@stocks.command()
@click.argument("symbol")
@click.argument("quantity", type=NUMBER)
@user_option
def hold(symbol: str, quantity: Decimal, user: str | None) -> None:
    """Put a symbol into a user's portfolio, as the served app does; a quantity of 0 takes it out."""
    if not (quantity.is_finite() and 0 <= quantity < 10**15):
        raise click.UsageError(f"a quantity of {quantity} is not 0 or above")
    with db.database.connection_context(), db.transaction():
        if quantity:
            _can_be_followed([_symbol(symbol)])
        portfolios.hold(one_user_or_new(user or config.settings.operator_email), _symbol(symbol), quantity)
    click.echo(f"{symbol.upper()}: {quantity} held")


def _symbol(text: str) -> str:
    symbol = text.upper()
    if not SYMBOL.fullmatch(symbol):
        raise click.UsageError(f"{symbol!r} is not a symbol: letters, digits and . _ : -, at most 24")
    return symbol


def _can_be_followed(symbols: Collection[str]) -> None:
    followed = {quote["symbol"] for quote in prices.quotes(datetime.now(UTC), symbols)}
    for symbol in symbols:
        if symbol not in followed and guess(symbol) != "stock":
            why = "is not followed, and no stock has such a symbol"
            raise click.ClickException(f"{symbol} {why}: add it with `nightdesk prices add {symbol}`")


@stocks.command()
@click.argument("old")
@click.argument("new")
@who_option
@json_option
def rename(old: str, new: str, who: str, as_json: bool) -> None:
    """Move a stock that has another name now: `nightdesk stocks rename FB META`.

    Who watches and holds it, the alerts on it, its prices, candles, bars, splits and dividends go to the new name in
    one transaction, also where that is followed already. `nightdesk stocks list` says which stocks have one.
    """
    before, now_called = _symbol(old), _symbol(new)
    with db.database.connection_context(), db.transaction():
        try:
            moved = names.rename(before, now_called)
        except (LookupError, ValueError) as wrong:
            raise click.ClickException(str(wrong.args[0])) from None
        runs.audit(who, "stocks rename", before, None, {"to": now_called, **moved})
    rows = [{"what": table, "rows": count} for table, count in moved.items() if count]
    show(f"{before} is {now_called} now", {"what": "moved", "rows": "rows"}, rows, as_json=as_json)


@stocks.command("quarantine")
@click.argument("symbol", required=False)
@click.option("--all", "everything", is_flag=True, help="Those that were accepted, too.")
@json_option
def quarantine_(symbol: str | None, everything: bool, as_json: bool) -> None:
    """Show prices that were doubted, why, and among which neighbours."""
    with db.database.connection_context():
        rows = quarantine.rows(symbol and symbol.upper(), everything)
    show("Quarantine", QUARANTINE, rows, as_json=as_json)


@stocks.command()
@click.argument("row_id", metavar="ID", type=ID)
@who_option
def accept(row_id: int, who: str) -> None:
    """Believe a price that was doubted: it becomes data, and what came before it is no measure any more."""
    now = datetime.now(UTC)
    with db.database.connection_context(), prices.one_writer():
        row = quarantine.accept(row_id, who, now)
        if row is None:
            raise click.ClickException(f"nothing with the id {row_id} waits: see `nightdesk stocks quarantine`")
        try:
            thing = quarantine.thing(row)
        except ValueError as wrong:
            raise click.ClickException(f"{row['symbol']}: {wrong}") from None
        if isinstance(thing, Bar):
            bars.keep_bars([thing], now)
            gaps.heal(thing.symbol, {thing.date: thing}, now, None)
        else:
            stock_quotes.record([thing], {}, now)
        runs.audit(who, "stocks accept", row["symbol"], None, {"id": row_id, "value": row["value"]})
    click.echo(f"{row['symbol']}: {row['reason']}: believed all the same")


@stocks.command("gaps")
@click.option(
    "--days", default=30, show_default=True, type=click.IntRange(1, 3660), help="How far back what is healed is shown."
)
@json_option
def gaps_(days: int, as_json: bool) -> None:
    """Show the daily bars that were missing or wrong, and what became of them."""
    with db.database.connection_context():
        rows = gaps.listed(datetime.now(UTC) - timedelta(days=days))
    shown = [{**row, "bad": row["healed_at"] is None, "dim": row["healed_at"] is not None} for row in rows]
    show("Daily bars", GAPS, rows if as_json else shown, as_json=as_json)
