"""`nightdesk status`: is everything well, in one screen."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import click

import db
from cli.output import json_option, plain, span, table
from engine import entries, state
from models import prices, runs


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@json_option
def status(watch: bool, as_json: bool) -> None:
    """Show whether the schedule moves, what ran last, prices with their age, queues, workers, dead letters."""
    import json

    if as_json:
        click.echo(json.dumps(snapshot(), default=plain, indent=2))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(width=None if Console().is_terminal else 160)
    if not watch:
        console.print(page(snapshot()))
        return
    with Live(page(snapshot()), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(1)
            live.update(page(snapshot()), refresh=True)


def snapshot() -> dict[str, Any]:
    """All that the page shows, as plain data."""
    redis, now = db.redis(), datetime.now(UTC)
    due = {s.id: s for s in entries.load(redis)}
    with db.database.connection_context():
        ran = {row["entry"]: row for row in runs.latest()}
        quotes = prices.quotes(now)
        groups = runs.dead_groups()
    return {
        "at": now,
        "schedule_behind_s": state.behind(redis),
        "schedulers": [vars(m) for m in state.schedulers(redis)],
        "workers": [vars(m) for m in state.workers(redis)],
        "entries": [_entry(due[name], ran.get(name, {}), now) for name in sorted(due)],
        "quotes": quotes,
        "queues": [vars(depth) for depth in state.depths(redis)],
        "dead": groups,
    }


def _entry(entry: entries.State, last: dict[str, Any], now: datetime) -> dict[str, Any]:
    started, ended = last.get("started_at"), last.get("ended_at")
    return {
        "entry": entry.id,
        "state": "paused" if entry.fields["paused"] == "1" else last.get("outcome") or "not run yet",
        "next_due_at": entry.due_at,
        "next_in": entry.due_at - now,
        "last_good_at": last.get("last_good_at"),
        "last_good_ago": now - last["last_good_at"] if last.get("last_good_at") else None,
        "late": started - last["due_at"] if started else None,
        "took": ended - started if started and ended else None,
        "counts": last.get("counts"),
        "error": last.get("error"),
        "bad": last.get("outcome") in ("failed", "refused", "lost"),
        "dim": entry.fields["paused"] == "1",
    }


def page(data: dict[str, Any]) -> Any:
    """The snapshot as rich text for people; what is wrong is red."""
    from rich.console import Group
    from rich.text import Text

    stopped = data["schedule_behind_s"] is None or data["schedule_behind_s"] > 15
    if data["schedule_behind_s"] is None:
        line = "no schedule is declared: start a scheduler (`./nightdesk up`, or `python scheduler.py`)"
    elif stopped:
        line = (
            f"THE SCHEDULE HAS STOPPED {span(timedelta(seconds=data['schedule_behind_s']))} ago: no scheduler moves it"
        )
    else:
        line = "the schedule moves"
    silent = sum(1 for w in data["workers"] if w["silent"] > state.WORKER_MS / 1000)
    alive = len(data["workers"]) - silent
    people = f"{len(data['schedulers'])} scheduler(s), {alive} worker(s)" + (f", {silent} silent" if silent else "")
    quotes = [{**q, "age": q.get("age"), "bad": q["state"] != "fresh"} for q in data["quotes"]]
    parts: list[Any] = [
        Text(line, style="bold red" if stopped else "bold green"),
        Text(people, style="red" if not alive or silent else ""),
        table("Entries", ENTRY_COLUMNS, data["entries"]),
        table("Prices", QUOTE_COLUMNS, quotes),
        table("Queues", QUEUE_COLUMNS, data["queues"]),
    ]
    if data["dead"]:
        parts.append(table("Dead letters (`nightdesk dead retry FINGERPRINT`)", DEAD_COLUMNS, data["dead"]))
    return Group(*parts)


ENTRY_COLUMNS = {
    "entry": "entry", "state": "last run", "last_good_ago": "last good", "next_in": "next in", "late": "late",
    "took": "took", "counts": "counts", "error": "error",
}  # fmt: skip
QUOTE_COLUMNS = {
    "symbol": "symbol", "price": "price", "previous": "previous", "state": "state", "age": "age", "source": "source",
    "happened_at": "happened", "error": "error",
}  # fmt: skip
QUEUE_COLUMNS = {
    "queue": "queue",
    "waiting": "waiting",
    "running": "running",
    "later": "later",
    "failed": "failed, 1 day",
}
DEAD_COLUMNS = {
    "fingerprint": "fingerprint", "letters": "letters", "entries": "entries", "last_at": "last", "error": "error"
}  # fmt: skip
