"""`nightdesk alerts`: price alerts of users, added, listed and removed from a shell."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click

import config
import db
from cli.arguments import EMAIL, NUMBER
from cli.output import json_option, show
from domain.alerts import DIRECTIONS, KINDS, Rule
from domain.spans import span
from models import alerts as store

COLUMNS = {
    "id": "id", "user": "user", "rule": "alert", "price": "price", "status": "status", "trigger_count": "fired",
    "last_triggered_at": "last fired", "created_at": "made",
}  # fmt: skip


@click.group()
def alerts() -> None:
    """Add, list and remove price alerts."""


@alerts.command(context_settings={"ignore_unknown_options": True})  # so that a level of -5 is refused as a level
@click.argument("symbol")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("level", type=NUMBER)
@click.option("--direction", type=click.Choice(DIRECTIONS), help="Of crosses: which way; either, by default.")
@click.option("--user", type=EMAIL, help="Who is told; OPERATOR_EMAIL, by default.")
@json_option
def add(symbol: str, kind: str, level: Decimal, direction: str | None, user: str | None, as_json: bool) -> None:
    """Tell a user once when the price is above or below a level, or crosses it."""
    now, email = datetime.now(UTC), user or config.settings.operator_email
    try:
        rule = Rule(kind, level, direction or ("either" if kind == "crosses" else None))
        with db.database.connection_context():
            with db.transaction():
                made = store.create_alert(store.user_with(email), symbol.upper(), rule, now)
            (row,) = store.alerts(now, alert_id=made.id)
    except ValueError as wrong:
        raise click.UsageError(
            f"{user!r} is not {wrong}" if user and "address" in str(wrong) else str(wrong)
        ) from wrong
    except LookupError as unknown:
        raise click.ClickException(str(unknown)) from unknown
    if as_json:
        show("", {}, [{**row, "fired": made.fired}], as_json=True)
        return
    what = "fired at once" if made.fired else "waits"
    click.echo(f"alert {made.id}: {describe(row)} {what}; the price is {priced(row)}; {email} is told")


@alerts.command("list")
@click.option("--user", type=EMAIL, help="Only this user's.")
@json_option
def list_(user: str | None, as_json: bool) -> None:
    """Show the alerts, newest first, with the price of each and how old it is."""
    with db.database.connection_context():
        rows = store.alerts(datetime.now(UTC), email=user)
    shown = rows if as_json else [{**row, "rule": describe(row), "price": priced(row), **_look(row)} for row in rows]
    show("Alerts", COLUMNS, shown, as_json=as_json)


@alerts.command()
@click.argument("alert_id", metavar="ID", type=int)
def rm(alert_id: int) -> None:
    """Remove an alert; what it told before stays."""
    with db.database.connection_context():
        removed = store.remove_alert(alert_id)
    if not removed:
        raise click.ClickException(f"no alert {alert_id}: see `nightdesk alerts list`")
    click.echo(f"alert {alert_id} is removed")


def describe(row: dict[str, Any]) -> str:
    """`BTCUSD above 97000`, `XAUUSD crosses 4000 (up)`."""
    way = f" ({row['direction']})" if row["direction"] else ""
    return f"{row['symbol']} {row['kind']} {row['level']:f}{way}"


def priced(row: dict[str, Any]) -> str:
    """`97012.5 (3.1 s old)`; in capitals what is wrong with it."""
    if row["price"] is None:
        return "MISSING" if row["state"] != "unfollowed" else "NOT FOLLOWED"
    wrong = f", {row['state'].upper()}" if row["state"] != "fresh" else ""
    return f"{row['price']:f} ({span(row['age'])} old{wrong})"


def _look(row: dict[str, Any]) -> dict[str, Any]:
    active = row["status"] == "active"
    status = f"waits for {row['waits_for']}" if active else row["status"]
    return {"status": status, "bad": active and row["state"] != "fresh", "dim": not active}
