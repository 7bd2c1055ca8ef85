"""`nightdesk operators` and `nightdesk tokens`: who gets in."""

from __future__ import annotations

import secrets
import sys
from typing import NoReturn

import click

import db
from cli.arguments import who_option
from cli.output import json_option, show
from domain.failures import Rejected
from models import runs


@click.group()
def operators() -> None:
    """Add, list or shut out the people who may look (viewer) or act (operator) on the operator's page."""


@operators.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator"]), default="operator", show_default=True)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of making one.")
@click.option("--first", is_flag=True, help="Only where there is nobody yet.")
@who_option
def add_operator(name: str, role: str, password_stdin: bool, first: bool, who: str) -> None:
    """Let somebody in, or give them a new password and role; a known NAME is logged out everywhere."""
    from models import operators

    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else secrets.token_urlsafe(12)
    with db.database.connection_context(), db.transaction():
        db.rows("lock table operator in exclusive mode")  # of two that are the first, one is
        if first and operators.everybody():
            return
        try:
            operators.save(name, password, role)
        except Rejected as wrong:
            raise click.ClickException(str(wrong)) from None
        runs.audit(who, "operator", name, None, {"role": role})
    click.echo(f"{name} may log in as {role}" + ("" if password_stdin else f"; password, shown this once: {password}"))


@operators.command("list")
@json_option
def list_operators(as_json: bool) -> None:
    """Show who may log in, and as what."""
    from models import operators

    columns = {"name": "name", "role": "role", "created_at": "since", "disabled_at": "shut out since"}
    with db.database.connection_context():
        show("Operators", columns, operators.everybody(), as_json=as_json)


@operators.command("rm")
@click.argument("name")
@who_option
def remove_operator(name: str, who: str) -> None:
    """Shut somebody out at once; the name stays for the audit, and `add` lets it in again."""
    from models import operators

    with db.database.connection_context(), db.transaction():
        if not operators.disable(name):
            _nobody(name, "operators")
        runs.audit(who, "operator", name, None, {"disabled": True})
    click.echo(f"{name} is shut out")


@click.group()
def tokens() -> None:
    """Add, list or revoke the tokens of programs: `metrics` for a scraper, `read` for the served app."""


@tokens.command("add")
@click.argument("name")
@click.option("--scope", type=click.Choice(["metrics", "read"]), required=True, help="What it opens.")
@click.option("--days", type=click.IntRange(1, 3660), help="How long it lives; for ever by default.")
@who_option
def add_token(name: str, scope: str, days: int | None, who: str) -> None:
    """Make a token; the program sends `Authorization: Bearer TOKEN`. A known NAME gets a new one, the old one ends."""
    from models import operators

    with db.database.connection_context(), db.transaction():
        try:
            token = operators.new_token(name, scope, days)
        except Rejected as wrong:
            raise click.ClickException(str(wrong)) from None
        runs.audit(who, "token", name, None, {"scope": scope, "days": days})
    click.echo(f"token {name}, shown this once: {token}")


@tokens.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """Show the tokens' names, what they open and until when."""
    from models import operators

    columns = {
        "name": "name", "scope": "scope", "created_at": "since", "expires_at": "until", "revoked_at": "revoked"
    }  # fmt: skip
    with db.database.connection_context():
        show("Tokens", columns, operators.tokens(), as_json=as_json)


@tokens.command("rm")
@click.argument("name")
@who_option
def revoke_token(name: str, who: str) -> None:
    """Close a token at once."""
    from models import operators

    with db.database.connection_context(), db.transaction():
        if not operators.revoke_token(name):
            _nobody(name, "tokens")
        runs.audit(who, "token", name, None, {"revoked": True})
    click.echo(f"token {name} is revoked")


def _nobody(name: str, group: str) -> NoReturn:
    raise click.ClickException(f"no {name!r}: see `nightdesk {group} list`")
