"""`nightdesk ledger`: whether everything adds up, what a user has and why, and corrections with their reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import click
from peewee import IntegrityError

import db
from cli.arguments import AMOUNT, ID, LIMIT, nobody, one_user, who_option, why_option
from cli.output import json_option, show
from models import crediting, runs
from models import ledger as store

ACCOUNT_COLUMNS = {
    "id": "account", "name": "of", "asset": "asset", "available": "available", "locked": "locked", "owed": "owed",
    "frozen_reason": "frozen",
}  # fmt: skip
TRANSFER_COLUMNS = {
    "id": "transfer", "created_at": "at", "change": "change", "asset": "asset", "why": "why", "other": "other side",
    "reversed_by": "reversed by",
}  # fmt: skip


@click.group()
def ledger() -> None:
    """Check that all money adds up, show a user's, correct by reversal."""


@ledger.command()
@json_option
def check(as_json: bool) -> None:
    """Add everything up: sums are zero, balances are their transfers, what is locked is held. Exit 1 if not."""
    with db.database.connection_context(), db.transaction():
        db.rows("set local statement_timeout = 0")  # it reads every transfer there is
        found = store.problems()
        ((transfers, holds),) = db.rows("select (select count(*) from transfer), (select count(*) from hold)")
    if as_json or found:
        columns = {"problem": "problem", "what": "what", "expected": "expected", "found": "found"}
        show("What does not add up", columns, [_plain(row) for row in found], as_json=as_json)
    if found:
        raise click.exceptions.Exit(1)
    if not as_json:
        click.echo(f"{transfers} transfers and {holds} holds add up")


@ledger.command()
@click.argument("user", required=False)
@click.option("--limit", type=LIMIT, default=20, show_default=True, help="How many transfers.")
@json_option
def of(user: str | None, limit: int, as_json: bool) -> None:
    """Show what a user has and why: accounts and newest transfers; without USER our own accounts."""
    with db.database.connection_context():
        user_id = _user(user) if user else None
        accounts = store.accounts(user_id)
        transfers = store.transfers(user_id, limit) if user_id else []
    if as_json:
        show("", {}, [{"accounts": accounts, "transfers": transfers}], as_json=True)
        return
    show("Accounts", ACCOUNT_COLUMNS, [{**_plain(row), "name": row["name"] or user} for row in accounts])
    if user_id:
        show("Transfers", TRANSFER_COLUMNS, [_shown(row) for row in transfers])


@ledger.command()
@click.argument("transfer", type=ID)
@why_option
@who_option
def reverse(transfer: int, why: str, who: str) -> None:
    """Take a transfer back, once; what its user has spent of it is owed, and later credits repay it.

    A deposit whose credit it was is held until it is released.
    """
    with _told(), db.database.connection_context(), db.transaction():
        if not db.rows("select 1 from transfer where id = %s", transfer):
            raise click.ClickException(f"no transfer {transfer}: see `nightdesk ledger of USER`")
        if deposit := store.deposit_taken_back_by(transfer):
            raise click.ClickException(
                f"transfer {transfer} took back the credit of deposit {deposit}: `nightdesk deposits release {deposit}`"
            )
        made, kept = crediting.take_back_by_hand(transfer, why)
        if not made and not kept:
            raise click.ClickException(f"transfer {transfer} is reversed already")
        runs.audit(who, "ledger reverse", str(transfer), None, {"why": why})
    if made:
        click.echo(f"transfer {transfer} is taken back by transfer {made}")
    else:
        click.echo(f"its chain has taken transfer {transfer} back; mined again, deposit {kept} is held")


@ledger.command(context_settings={"ignore_unknown_options": True})  # so that -5 is refused as an amount
@click.argument("user")
@click.argument("asset")
@click.argument("amount", type=AMOUNT)
@why_option
@who_option
def credit(user: str, asset: str, amount: Decimal, why: str, who: str) -> None:
    """Give a user money out of our account `house`: a bonus, or what another system says that they have."""
    asset = asset.upper()
    with _told(), db.database.connection_context(), db.transaction():
        user_id = _user(user)
        if not db.rows("select 1 from asset where code = %s", asset):
            raise click.ClickException(f"no asset {asset}")
        audit = runs.audit(who, "ledger credit", user, None, {"asset": asset, "amount": str(amount), "why": why})
        made = store.credit(user_id, asset, amount, audit)
    click.echo(f"{amount:f} {asset} are {user}'s by transfer {made}")


@ledger.command()
@click.argument("account", type=ID)
@why_option
@who_option
def freeze(account: int, why: str, who: str) -> None:
    """Let the user of an account (its id: `nightdesk ledger of USER`) withdraw nothing, of any asset."""
    with db.database.connection_context(), db.transaction():
        frozen = store.freeze([account], why)
        runs.audit(who, "ledger freeze", str(account), None, {"why": why}) if frozen else None
    if not frozen:
        raise click.ClickException(f"account {account} is no user's, or it is frozen already")
    click.echo(f"account {account} is frozen")


@ledger.command()
@click.argument("account", type=ID)
@why_option
@who_option
def unfreeze(account: int, why: str, who: str) -> None:
    """Let the user of an account withdraw again, if no other account of theirs is frozen."""
    with db.database.connection_context(), db.transaction():
        frozen = store.unfreeze(account)
        runs.audit(who, "ledger unfreeze", str(account), None, {"why": why}) if frozen else None
    if not frozen:
        raise click.ClickException(f"account {account} is not frozen")
    click.echo(f"account {account} is not frozen any more")


def _user(name: str) -> int:
    found = one_user(name)
    if found is None:
        raise nobody(name)
    return found


@contextmanager
def _told() -> Iterator[None]:
    """What the ledger refuses is one line, with its reason."""
    try:
        yield
    except IntegrityError as refused:
        raise click.ClickException(str(refused).splitlines()[0]) from refused


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers without exponents."""
    numbers = {key: f"{value:f}" if isinstance(value, Decimal) else value for key, value in row.items()}
    return {**numbers, "bad": bool(row.get("owed") or row.get("frozen_at"))}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **_plain(row),
        "change": f"{row['change']:+f}",
        "why": f"{row['cause']} {row['cause_id']}",
        "dim": row["reversed_by"] is not None,
    }
