"""`nightdesk deposits`: what was paid to users' addresses, what is wrong with it, and what can be done about it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click

import db
from cli.arguments import ID, LIMIT, NUMBER, nobody, who_option, why_option
from cli.output import json_option, show
from domain.deposits import STATES
from domain.spans import span
from models import chains, crediting, incidents, proofs, rescans, runs
from models import deposits as store
from models.alerts import users_named

FAR = 10_000  # blocks: to read so many again takes minutes, and credits nothing new meanwhile
COLUMNS = {
    "id": "id", "user": "user", "chain": "chain", "sum": "amount", "state": "state", "blocks": "confirmations",
    "age": "for", "where": "transaction", "reason": "reason",
}  # fmt: skip
CHAIN_COLUMNS = {
    "chain": "chain", "addresses": "addresses", "head": "head", "cursor": "read to", "silent": "answered",
    "error": "error", "paused": "paused",
}  # fmt: skip
STATE_COLUMNS = {
    "chain": "chain", "asset": "asset", "state": "state", "count": "deposits", "amount": "amount", "oldest": "oldest"
}  # fmt: skip
PROOF_COLUMNS = {
    "asset": "asset", "chain": "where", "expected": "ledger", "found": "found", "drift": "drift", "proved_at": "proved"
}  # fmt: skip
INCIDENT_COLUMNS = {
    "chain": "chain", "kind": "kind", "subject": "what", "detail": "detail", "count": "times", "last_at": "last"
}  # fmt: skip


@click.group()
def deposits() -> None:
    """Show deposits, chains and proofs of balance; retry, release, read again, book, resume."""


@deposits.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--chain", help="Only those on this chain.")
@click.option("--user", help="Only this user's: the app's id, or the address.")
@click.option("--limit", type=LIMIT, default=50, show_default=True, help="The newest so many.")
@json_option
def list_(state: str | None, chain: str | None, user: str | None, limit: int, as_json: bool) -> None:
    """Show deposits, newest first."""
    with db.database.connection_context():
        if chain:
            _known(chain)
        if user and not users_named(user):
            raise nobody(user)
        rows = store.deposits(limit, state=state, chain=chain, user=user)
    show("Deposits", COLUMNS, rows if as_json else [_row(row) for row in rows], as_json=as_json)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    output = "" if row["output"] < 0 else f":{row['output']}"
    return {
        **row,
        "sum": f"{row['amount']:f} {row['asset']}",
        "blocks": f"{row['confirmations']} of {row['required']}" if row["required"] else None,
        "where": f"{row['tx'][:10]}…{row['tx'][-6:]}{output}",
        "bad": row["state"] in ("orphaned", "held"),
        "dim": row["state"] == "failed",
    }


@deposits.command("show")
@click.argument("deposit_id", metavar="ID", type=ID)
@json_option
def show_(deposit_id: int, as_json: bool) -> None:
    """Show all there is of a deposit."""
    with db.database.connection_context():
        row = store.deposit(deposit_id)
    if row is None:
        raise _unknown(deposit_id)
    facts = [{"name": name, "value": value} for name, value in row.items()]
    show(f"Deposit {deposit_id}", {"name": "", "value": ""}, [row] if as_json else facts, as_json=as_json)


def _unknown(deposit_id: int) -> click.ClickException:
    return click.ClickException(f"no deposit {deposit_id}: see `nightdesk deposits list`")


@deposits.command()
@click.argument("deposit_id", metavar="ID", type=ID)
@why_option
@who_option
def retry(deposit_id: int, why: str, who: str) -> None:
    """Look at a deposit that failed once more: its block is read again, and today's minimum counts."""
    with db.database.connection_context(), db.transaction():
        found = store.retry(deposit_id)
        if found is None:
            raise click.ClickException(
                f"deposit {deposit_id} has not failed: see `nightdesk deposits show {deposit_id}`"
            )
        if found["dust"]:
            raise click.ClickException(f"deposit {deposit_id} is less than the minimum of its asset: lower that first")
        chains.rewind(found["chain"], None, found["number"])
        runs.audit(who, "deposits retry", str(deposit_id), None, {"why": why})
    click.echo(f"deposit {deposit_id} is pending again; {found['chain']} is read again from {found['number']}")


@deposits.command()
@click.argument("deposit_id", metavar="ID", type=ID)
@why_option
@who_option
def release(deposit_id: int, why: str, who: str) -> None:
    """Let a deposit pass that is held, or will be."""
    with db.database.connection_context(), db.transaction():
        if not store.clear(deposit_id):
            raise click.ClickException(f"deposit {deposit_id} was cleared before, or there is none")
        runs.audit(who, "deposits release", str(deposit_id), None, {"why": why})
    click.echo(f"deposit {deposit_id} is cleared: the next credit takes it, if it is confirmed")


@deposits.command()
@click.argument("chain")
@click.argument("number", type=click.IntRange(1, ID.max))
@click.option("--far", is_flag=True, help=f"Also where it is more than {FAR:,} blocks.")
@why_option
@who_option
def rescan(chain: str, number: int, far: bool, why: str, who: str) -> None:
    """Read a chain again from block NUMBER on: after an asset was added, say. What is known stays as it is.

    If NUMBER was too low, say a higher one: the chain goes on from there, where it had been read so far before. Only
    the newest blocks are read again whatever you say, as others may have taken their place meanwhile.
    """
    with db.database.connection_context(), db.transaction():
        known = _known(chain)
        if known["cursor"] is None:
            raise click.ClickException(f"{chain} has not been read yet: it stands still until it has an address")
        blocks = known["cursor"] - number + 1
        if blocks > FAR and not far:
            raise click.ClickException(
                f"{blocks:,} blocks would be read again, up to {known['cursor']}: say --far if you mean it"
            )
        before = rescans.read_to(chain)
        if not chains.rewind(chain, None, number):
            _skip(known, number)
        old = {"cursor": known["cursor"], "read_to": before}
        runs.audit(who, "deposits rescan", chain, old, {"from": number, "why": why})
    again = f"is read again from {number}: {blocks:,} blocks" if blocks > 0 else f"goes on from {number}"
    click.echo(f"{chain} {again}")


def _skip(known: dict[str, Any], number: int) -> None:
    """Go on from a later block, if the chain had been read so far, and deeper than a reorg goes."""
    chain, before = known["name"], rescans.was_read_to(known["name"])
    highest = before - known["kept"] + 1
    if number > highest:
        further = f"; it can go on from {highest} at the highest" if highest > known["cursor"] else ""
        raise click.ClickException(f"{chain} has not been read up to {number}, but to {known['cursor']}{further}")
    rescans.skip(chain, number)


@deposits.command()
@click.argument("name", metavar="ASSET|CHAIN")
@why_option
@who_option
def resume(name: str, why: str, who: str) -> None:
    """Credit in an ASSET again after a drift, or read a CHAIN again that was paused."""
    with db.database.connection_context(), db.transaction():
        was = chains.resume(name) if name.islower() else crediting.resume(name)
        if was is None:
            raise click.ClickException(f"{name} is not paused: see `nightdesk deposits report`")
        runs.audit(who, "deposits resume", name, was, {"why": why})
    click.echo(f"{name} goes on; it was paused because {was['reason']}")


@deposits.command(context_settings={"ignore_unknown_options": True})  # so that -0.01 is an amount
@click.argument("chain")
@click.argument("asset")
@click.argument("drift", type=NUMBER)
@why_option
@who_option
def book(chain: str, asset: str, drift: Decimal, why: str, who: str) -> None:
    """Book the DRIFT that the latest proof of ASSET on CHAIN found: more is our `house`'s, less (-0.01) its loss."""
    asset = asset.upper()
    with db.database.connection_context(), db.transaction():
        audit = runs.audit(who, "deposits book", f"{chain} {asset}", None, {"drift": f"{drift:f}", "why": why})
        made = proofs.book(chain, asset, drift, audit)
        if made is None:
            raise click.ClickException(
                f"the latest proof of {asset} on {chain} has no drift of {drift:f}: see `nightdesk deposits report`"
            )
    click.echo(f"{drift:+f} {asset} are booked by transfer {made}; if {asset} is paused: `nightdesk deposits resume`")


@deposits.command()
@json_option
def report(as_json: bool) -> None:
    """Show how far each chain is read, what is on its way, the proofs of balance, and what is odd."""
    with db.database.connection_context():
        found, odd = store.report(datetime.now(UTC)), incidents.newest(30)
    if as_json:
        show("", {}, [{**found, "incidents": odd}], as_json=True)
        return
    sections = (
        ("Chains", CHAIN_COLUMNS, [_chain(row) for row in found["chains"]]),
        ("On their way, and the last day", STATE_COLUMNS, found["deposits"]),
        ("Proof of balance", PROOF_COLUMNS, [_proof(row) for row in found["proofs"]]),
        ("Paused", {"asset": "asset", "reason": "reason", "paused_at": "since"}, found["pauses"]),
        ("Odd", INCIDENT_COLUMNS, odd),
    )
    for title, columns, rows in sections:
        if rows:
            show(title, columns, rows)


def _chain(row: dict[str, Any]) -> dict[str, Any]:
    silent = f"{span(row['silent'])} ago" if row["silent"] is not None else None
    return {**row, "silent": silent, "bad": bool(row["error"] or row["paused"]), "dim": not row["addresses"]}


def _proof(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "chain": row["chain"] or "users' wallets", "bad": row["drift"] != 0}


def _known(chain: str) -> dict[str, Any]:
    try:
        return chains.known(chain)
    except LookupError as unknown:
        raise click.ClickException(str(unknown)) from unknown
