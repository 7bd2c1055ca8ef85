"""`nightdesk budget`: what outside services grant us, what is spent, and when it runs out."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click

import db
from cli.output import json_option, show, when
from clients import http
from clients.gate import State
from domain.budget import Use
from domain.spans import span

COLUMNS = {
    "name": "provider", "on": "on", "spent": "spent", "runs_out": "runs out", "breaker": "breaker",
    "answered": "last answer", "error": "last error",
}  # fmt: skip


@click.command()
@json_option
def budget(as_json: bool) -> None:
    """Show each outside service: on or off and why, credits spent, when they run out, its breaker, its last error."""
    now = datetime.now(UTC)
    with db.database.connection_context():
        states = http.status(now)
    rows = [asdict(state) for state in states] if as_json else [_row(state, now) for state in states]
    show("Outside services", COLUMNS, rows, as_json=as_json)


def _row(state: State, now: datetime) -> dict[str, Any]:
    soonest = min((use.runs_out_at for use in state.windows if use.runs_out_at), default=None)
    wait = f" for {span(state.open_until - now)}" if state.open_until and state.open_until > now else ""
    return {
        "name": state.name + (" (unofficial)" if state.unofficial else ""),
        "on": f"no: {state.off}" if state.off else "yes",
        "spent": "\n".join(map(_spent, state.windows)) or "no stated limit",
        "runs_out": "now" if soonest == now else when(soonest) if soonest else "not foreseen",
        "breaker": state.breaker + wait,
        "answered": _ago(state.ok_at, now) if state.ok_at else None,
        "error": f"{_ago(state.error_at, now)}: {state.error}" if state.error and state.error_at else None,
        "bad": state.breaker != "closed" or soonest == now,
        "dim": state.off,
    }


def _ago(at: datetime, now: datetime) -> str:
    """How long ago; the clock of whoever noted it may be ahead of ours."""
    return f"{span(max(now - at, timedelta()))} ago"


def _spent(use: Use) -> str:
    return f"{use.used:,} of {use.limit:,} a {use.window}"
