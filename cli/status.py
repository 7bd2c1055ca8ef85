"""`nightdesk status`: is everything well, in one screen."""

from __future__ import annotations

import time
from typing import Any

import click

import db
from cli.output import json_option, plain, table
from web.status import snapshot
from web.verdict import verdict


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C.")
@json_option
def status(watch: bool, as_json: bool) -> None:
    """Show whether the schedule moves, what ran last, prices with their age, queues, workers, dead letters."""
    import json

    if as_json:
        click.echo(json.dumps(read(), default=plain, indent=2))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(width=None if Console().is_terminal else 160)
    if not watch:
        console.print(page(read()))
        return
    with Live(page(read()), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(1)
            live.update(page(read()), refresh=True)


def read() -> dict[str, Any]:
    """The snapshot, on a connection of its own."""
    with db.database.connection_context():
        return snapshot()


def page(data: dict[str, Any]) -> Any:
    """The snapshot as rich text for people; what is wrong is red."""
    from rich.console import Group
    from rich.text import Text

    found = verdict(data)
    line = found.says.upper() if found.level == "stopped" else found.says
    silent = sum(1 for w in data["workers"] if w["bad"])
    alive = len(data["workers"]) - silent
    people = f"{len(data['schedulers'])} scheduler(s), {alive} worker(s)" + (f", {silent} silent" if silent else "")
    quotes = [{**q, "age": q.get("age"), "bad": q["state"] != "fresh" and not q["awaited"]} for q in data["quotes"]]
    parts: list[Any] = [
        Text(line, style=f"bold {LAMPS[found.level]}"),
        *(Text(f"  {problem.what}: {problem.why}", style=LAMPS[found.level]) for problem in found.problems),
        Text(people, style="red" if not alive or silent else ""),
        table("Entries", ENTRY_COLUMNS, data["entries"]),
        table("Prices", QUOTE_COLUMNS, quotes),
        table("Queues", QUEUE_COLUMNS, data["queues"]),
    ]
    chains = data["deposits"]["chains"]
    if chains:
        rows = [{**chain, "bad": bool(chain["paused"] or chain["error"])} for chain in chains]
        parts.append(table("Deposits (`nightdesk deposits report`)", CHAIN_COLUMNS, rows))
    if data["dead"]:
        parts.append(table("Dead letters (`nightdesk dead retry FINGERPRINT`)", DEAD_COLUMNS, data["dead"]))
    return Group(*parts)


LAMPS = {"well": "green", "look": "yellow", "stopped": "red"}
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
CHAIN_COLUMNS = {
    "chain": "chain", "on_their_way": "on their way", "held": "held", "cursor": "read to", "answered_at": "answered",
    "error": "error", "paused": "paused",
}  # fmt: skip
DEAD_COLUMNS = {
    "fingerprint": "fingerprint", "letters": "letters", "entries": "entries", "last_at": "last", "error": "error"
}  # fmt: skip
