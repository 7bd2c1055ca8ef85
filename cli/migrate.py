"""`nightdesk migrate`: the release step of a deploy."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from playhouse.migrations import Runner

import db
from config import ROOT
from models import clusters, sessions

LOCK = 6_207_150_001  # one release at a time


@click.command()
def migrate() -> None:
    """Bring database and schedule to this version of the code; running processes go on meanwhile."""
    with db.database.connection_context():
        db.rows("set statement_timeout = 0")
        db.rows("set lock_timeout = 0")
        db.rows("select pg_advisory_lock(%s)", LOCK)  # given back with the connection
        db.rows("set lock_timeout = '10s'")
        applied = Runner(db.database, str(ROOT / "migrations")).up()
        click.echo(f"applied {', '.join(applied)}" if applied else "the database is up to date")
        grant()
        touched = reconcile()
        click.echo(f"schedule: {', '.join(touched)}" if touched else "the schedule is up to date")
        if sessions.missing(datetime.now(UTC).date()):
            click.echo(f"sessions: {look_up_sessions('release')} is queued")
        for text in clusters.notice():
            click.echo(text)


def grant() -> None:
    """Let the served app's role do what the contract says and no more; without the right to make roles, say so."""
    from cli.docs import models

    ((may_make_roles,),) = db.rows("select rolsuper or rolcreaterole from pg_roles where rolname = current_user")
    if not db.rows("select 1 from pg_roles where rolname = 'nightdesk_app'"):
        if not may_make_roles:
            click.echo("role nightdesk_app: this user may not make roles; the app can use this one")
            return
        db.rows("create role nightdesk_app nologin")
    with db.transaction():
        db.rows("revoke all on all tables in schema public from nightdesk_app")
        db.rows("revoke all on all functions in schema public from nightdesk_app")
        for model in models():
            if model.app_may:
                db.rows(f"grant {model.app_may} on {model._meta.table_name} to nightdesk_app")
            for view in model.app_views:
                db.rows(f"grant select on {view} to nightdesk_app")
            for function in model.app_calls:
                db.rows(f"grant execute on function {function} to nightdesk_app")


def reconcile() -> list[str]:
    """Make the entries in Redis those of SCHEDULE; schedulers alone only ever add what is missing."""
    from engine import entries, steps
    from scheduler import SCHEDULE

    sessions.remember()
    with db.transaction():
        db.rows("lock table entry in share mode")  # an operator's override comes before this or after it
        overrides = {row["name"]: row for row in db.maps("select * from entry")}
        declared, refused = entries.declarations(SCHEDULE, overrides, datetime.now(UTC))
        for entry, problem in refused.items():
            click.echo(f"{entry} stays as it is: {problem}", err=True)
        return steps.declare(db.redis(), declared, reconcile=True)


def look_up_sessions(who: str) -> str:
    """The look at the calendars does not wait for the night; returns the run's id."""
    from engine import entries
    from scheduler import SCHEDULE

    (entry,) = (entry for entry in SCHEDULE if entry.id == "sync_sessions")
    return entries.run_now(db.redis(), entry, who)
