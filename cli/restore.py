"""`nightdesk restore`: after a backup was read into another cluster, the desk goes on where it was."""

from __future__ import annotations

import click
from peewee import OperationalError

import db
from cli.arguments import who_option
from cli.output import json_option, show
from engine.outcome import sqlstate
from models import clusters, runs

COLUMNS = {"what": "what", "rows": "rows", "was": "was", "now": "is now"}


@click.command()
@who_option
@json_option
def restore(who: str, as_json: bool) -> None:
    """Go on where the desk was when its backup was made, in a database that was restored from it.

    Trades, ticks, readings, events and the positions of what reads them bear transaction numbers, and those of the
    cluster that the backup is of mean nothing in another one. Until this command was run whatever reads by position
    refuses: candles, tickers, alerts and messages about orders stand still, and nothing is lost meanwhile.

    Read the backup in (pg_restore, psql), call this once, and the next runs go on: what had been dealt with stays so,
    everything else is dealt with once, and so is what has been written here since. It is one transaction, and whoever
    writes trades or prices waits for it: minutes, where millions of rows came. Where this cluster has counted further
    than the other had, it only notes whose the positions are now. Called again it changes nothing.
    """
    try:
        with db.database.connection_context(), db.transaction():
            done = clusters.settle()
            if done:
                runs.audit(who, "restore", "positions", None, done)
    except OperationalError as failure:
        if sqlstate(failure) != "55P03":  # a lock is not available
            raise
        message = (
            f"a transaction that writes trades, prices or events is open for {clusters.PATIENCE}: nothing was done"
        )
        raise click.ClickException(message) from failure
    if not done and not as_json:
        click.echo("every position is of this cluster: nothing to do")
        return
    show("Rewritten", COLUMNS, done, as_json=as_json)
