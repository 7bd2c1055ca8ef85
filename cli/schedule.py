"""`nightdesk schedule`, `cadence`, `pause`, `resume`, `run`, `simulate`: what runs when, and who says so."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click

import config
import db
from cli.arguments import INSTANT, Parsed, who_option
from cli.output import json_option, show, when
from config import settings
from domain.cadence import cadence
from domain.spans import span
from engine import entries
from models import sessions

MOMENT = timedelta(milliseconds=1)  # the least between two instants of a cadence


@click.command()
@click.option(
    "--next", "count", type=click.IntRange(1, 100), default=3, show_default=True, help="How many next runs to show."
)
@click.option(
    "--tz",
    "zone",
    type=Parsed("zone", config.zone),
    default=None,
    help="Show times in this zone instead of NIGHTDESK_TZ.",
)
@json_option
def schedule(count: int, zone: ZoneInfo | None, as_json: bool) -> None:
    """Show every entry: cadence, which override holds, next runs (‡ marks a day on which the clock changes)."""
    zone = zone or settings.timezone
    _remember_sessions()
    rows = [_row(state, count, zone) for state in entries.load(db.redis())]
    show(f"Schedule, times in {zone.key}", COLUMNS, rows, as_json=as_json)


COLUMNS = {
    "entry": "entry", "cadence": "cadence", "holds": "holds", "next": "next runs", "queue": "queue",
    "misfire": "misfire", "overlap": "overlap", "summary": "what it does",
}  # fmt: skip


def _row(state: entries.State, count: int, zone: ZoneInfo) -> dict[str, Any]:
    f, due = state.fields, state.due_at
    runs = [due]
    while state.cadence and len(runs) < count:
        runs.append(state.cadence.after(runs[-1]))
    paused = f["paused"] == "1"
    return {
        "entry": state.id,
        "cadence": f["cadence"],
        "holds": f["source"] + (" (paused)" if paused else ""),
        "declared": f["declared"],
        "paused": paused,
        "next": "paused" if paused else [_local(run, zone) for run in runs],
        "queue": f["queue"],
        "misfire": f["misfire"],
        "overlap": f["overlap"],
        "summary": f["summary"],
        "dim": paused,
    }


def _local(instant: datetime, zone: ZoneInfo) -> str:
    local = instant.astimezone(zone)
    text = local.strftime("%H:%M:%S" if local.date() == datetime.now(zone).date() else "%a %d %b %H:%M:%S")
    return text + (" ‡" if clock_changes(instant, zone) else "")


def clock_changes(instant: datetime, zone: ZoneInfo) -> bool:
    """Whether the zone's clock is put forward or back on that local day."""
    day = instant.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    return day.replace(tzinfo=zone).utcoffset() != (day + timedelta(days=1)).replace(tzinfo=zone).utcoffset()


def _remember_sessions() -> None:
    with db.database.connection_context():
        sessions.remember()


def _find(name: str) -> entries.Entry:
    from scheduler import SCHEDULE

    for entry in SCHEDULE:
        if entry.id == name:
            return entry
    raise click.ClickException(f"no schedule entry {name!r}: one of {', '.join(sorted(e.id for e in SCHEDULE))}")


def _override(name: str, who: str, action: str, **change: Any) -> entries.Entry:
    found = _find(name)
    try:
        entries.override(db.redis(), found, who, action, **change)
    except ValueError as wrong:
        raise click.ClickException(f"{name} stays as it is: {wrong}") from None
    return found


@click.command()
@click.argument("entry")
@who_option
def pause(entry: str, who: str) -> None:
    """Pause an entry: its due times pass, recorded as skipped, until `resume`. Survives restarts and deploys."""
    _override(entry, who, "pause", paused=True)
    click.echo(f"{entry} is paused")


@click.command()
@click.argument("entry")
@who_option
def resume(entry: str, who: str) -> None:
    """Resume a paused entry at its next due time."""
    _override(entry, who, "resume", paused=False)
    click.echo(f"{entry} goes on")


@click.command("cadence")
@click.argument("entry")
@click.argument("text", required=False)
@click.option("--reset", is_flag=True, help="Go back to what environment and code say.")
@who_option
def cadence_(entry: str, text: str | None, reset: bool, who: str) -> None:
    """Change an entry's cadence at run time: `nightdesk cadence sync_prices "every 10s"`, or `--reset`.

    A cadence is `every 30s`, `cron 0 1 * * * Europe/London`, `while_open XNYS 15s`, `after_close XNYS 90m` or
    `before_open XNYS 30m`; markets are those of `nightdesk sessions`.
    """
    if bool(text) == reset:
        raise click.UsageError("give a cadence such as `every 10s` or `cron 0 1 * * * Europe/London`, or --reset")
    try:
        wanted = str(cadence(text)) if text else None
    except ValueError as wrong:
        raise click.ClickException(str(wrong)) from None
    found = _override(entry, who, "cadence", cadence=wanted)
    click.echo(f"{entry}: {wanted or found.declared()[0]}")


@click.command()
@click.argument("job")
@click.argument("arguments", nargs=-1)
@click.option("--wait", is_flag=True, help="Wait for the end and show it; exit 1 unless it is ok.")
@who_option
def run(job: str, arguments: tuple[str, ...], wait: bool, who: str) -> None:
    """Run an entry or any job now, on a worker: `nightdesk run sync_prices`, `nightdesk run JOB 5 key=value`."""
    import queues
    from scheduler import SCHEDULE

    entry = next((e for e in SCHEDULE if e.id == job), None)
    try:
        spec = entry.spec if entry else queues.find_job(job)
    except LookupError as wrong:
        raise click.ClickException(str(wrong)) from None
    args, kwargs = _arguments(arguments)
    with db.database.connection_context():
        try:
            run_id = entries.run_now(db.redis(), entry or spec, who, args, kwargs)
        except ValueError as wrong:
            raise click.ClickException(str(wrong)) from None
    click.echo(f"{run_id} is queued on {spec.queue}")
    if wait:
        _wait(run_id)


def _arguments(words: tuple[str, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`5 name=EURUSD` as arguments; each value as JSON where it is JSON, else as text."""
    import json

    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    named = [w.partition("=") for w in words if "=" in w]
    return tuple(value(w) for w in words if "=" not in w), {name: value(text) for name, _, text in named}


def _wait(run_id: str) -> None:
    last: dict[str, Any] = {}
    with db.database.connection_context():
        while True:
            found = db.maps("select * from run where run_id = %s order by attempt desc limit 1", run_id)
            if found and found[0] != last:
                last = found[0]
                took = last["ended_at"] - (last["started_at"] or last["ended_at"])
                click.echo(
                    f"{when(last['ended_at'])} attempt {last['attempt']}: {last['outcome']} in {span(took)} "
                    f"{last['counts'] or ''} {last['error'] or ''}".rstrip()
                )
            if last and last["outcome"] in ("ok", "failed", "refused"):
                raise SystemExit(0 if last["outcome"] == "ok" else 1)
            time.sleep(0.2)


@click.command()
@click.option("--days", default=7, show_default=True, type=click.IntRange(1, 366), help="How far to go.")
@click.option("--from", "start", type=INSTANT, default=None, help="First day, as 2026-10-24; today by default.")
@json_option
def simulate(days: int, start: datetime | None, as_json: bool) -> None:
    """Play the whole schedule, as operators have it, on a virtual clock.

    Shown are the runs of each entry, the busiest second, and the days on which a clock changes.
    """
    from scheduler import SCHEDULE

    _remember_sessions()
    with db.database.connection_context():
        overrides = {row["name"]: row for row in db.maps("select * from entry")}
    first = (start or datetime.now(UTC)).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    plays = [_Play(entry, overrides.get(entry.id, {}), first) for entry in SCHEDULE]
    most, busiest = 0, 0
    for day in _shown(range(1, days + 1)):
        load = Counter(second for play in plays for second in play.until(first + timedelta(days=day)))
        for second, count in load.most_common(1):
            if count > most:
                most, busiest = count, second
    columns = {k: k for k in ("entry", "cadence", "holds", "queue", "runs", "first", "last")}
    rows = [play.row for play in plays]
    show(f"{days} days from {first.date()}", {**columns, "changes": "on a day of clock change"}, rows, as_json=as_json)
    if most and not as_json:
        total = sum(row["runs"] for row in rows)
        click.echo(f"{total} runs; the busiest second is {when(datetime.fromtimestamp(busiest, UTC))} with {most}")


def _shown(days: range) -> Iterable[int]:
    """`days`, with a bar where somebody looks on."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(days, "Days", console=console, transient=True, disable=not console.is_terminal)


class _Play:
    """An entry's runs on the virtual clock, counted as they come: a year of them would fill a small machine."""

    def __init__(self, entry: entries.Entry, override: dict[str, Any], first: datetime) -> None:
        try:
            holds = entry.fields(override)
            paused = holds["paused"] == "1"
            self.cadence = cadence(holds["cadence"])
            self.next = datetime.max.replace(tzinfo=UTC) if paused else self.cadence.after(first - MOMENT)
        except ValueError as problem:
            raise click.ClickException(f"{entry.id}: {problem}") from None
        self.row: dict[str, Any] = {
            "entry": entry.id,
            "cadence": holds["cadence"],
            "holds": f"{holds['source']}, paused" if paused else holds["source"],
            "queue": holds["queue"],
            "runs": 0,
            "first": None,
            "last": None,
            "changes": [],
        }
        self.zone = getattr(self.cadence, "zone", None)

    def until(self, end: datetime) -> Iterator[int]:
        """The seconds (Unix) of the due times before `end` that are not counted yet."""
        while self.next < end:
            due, self.row["runs"] = self.next, self.row["runs"] + 1
            self.row.update(first=self.row["first"] or due, last=due)
            if self.zone and clock_changes(due, self.zone):
                self.row["changes"].append(when(due))
            yield int(due.timestamp())
            self.next = self.cadence.after(due)
