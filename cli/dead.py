"""`nightdesk dead`: runs that nothing will try again by itself, grouped by their error."""

from __future__ import annotations

import click

import db
from cli.arguments import who_option
from cli.output import json_option, show
from engine import letters
from models import runs


@click.group()
def dead() -> None:
    """List dead letters by error, retry or discard a group or single runs."""


@dead.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the open dead letters, one line per error."""
    columns = {
        "fingerprint": "fingerprint", "letters": "letters", "entries": "entries", "first_at": "first",
        "last_at": "last", "error": "error",
    }  # fmt: skip
    with db.database.connection_context():
        show("Dead letters", columns, runs.dead_groups(), as_json=as_json)


@dead.command()
@click.argument("which", nargs=-1, required=True)
@who_option
def retry(which: tuple[str, ...], who: str) -> None:
    """Enqueue them again with their arguments and due time. WHICH: a fingerprint, or run ids."""
    with db.database.connection_context():
        count = letters.retry(db.redis(), which, who)
    click.echo(f"{_found(count, which)} run(s) are queued again")


@dead.command()
@click.argument("which", nargs=-1, required=True)
@who_option
def discard(which: tuple[str, ...], who: str) -> None:
    """Close them without another try. WHICH: a fingerprint, or run ids."""
    with db.database.connection_context():
        count = letters.discard(which, who)
    click.echo(f"{_found(count, which)} run(s) are closed")


def _found(count: int, which: tuple[str, ...]) -> int:
    if not count:
        raise click.ClickException(f"no open dead letter is called {', '.join(which)}: see `nightdesk dead list`")
    return count
