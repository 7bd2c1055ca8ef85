"""`nightdesk orders`: orders that cannot expire, and why; ending one by hand when its engine cannot say."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import click

import db
from cli.arguments import ID, NUMBER, for_audit, who_option
from cli.output import json_option, show
from models import orders as store
from models import runs

COLUMNS = {
    "id": "id", "user": "user", "order": "order", "filled": "filled", "held": "holds", "expires_at": "due",
    "age": "expiring for", "trouble": "why",
}  # fmt: skip


@click.group()
def orders() -> None:
    """Show the orders that are expiring, with what keeps them; end one by hand."""


@orders.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the orders that the matching engine has not let go of, the oldest first, and why."""
    with db.database.connection_context():
        rows = store.expiring()
    show("Orders that are expiring", COLUMNS, rows if as_json else [_row(row) for row in rows], as_json=as_json)


@orders.command()
@click.argument("order_id", metavar="ID", type=ID)
@click.option("--filled", type=NUMBER, required=True, help="How much of it was filled at the last, as you found out.")
@click.option(
    "--why", required=True, callback=for_audit, help="How you know that the engine will never fill it, for the audit."
)
@who_option
def expire(order_id: int, filled: Decimal, why: str, who: str) -> None:
    """End an order that is expiring in the engine's place: what it still holds is available again.

    Only if nothing can fill it any more: look in the engine's own records first.
    """
    with db.database.connection_context(), db.transaction():
        found = store.expiring([order_id])
        if not found:
            raise click.ClickException(f"order {order_id} is not expiring: see `nightdesk orders list`")
        if not store.finish({order_id: filled}):
            raise click.ClickException(f"we know of {found[0]['filled']:f} filled: post the other fills first")
        runs.audit(who, "orders expire", str(order_id), None, {"filled": str(filled), "why": why})
    click.echo(f"order {order_id} has expired")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: f"{row[name]:f}" for name in ("filled", "held")}
    order = f"{row['side']} {row['quantity']:f} {row['pair']} at {row['price']:f}"
    return {**row, **numbers, "order": order, "bad": row["trouble"] is not None}
