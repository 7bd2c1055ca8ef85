"""`nightdesk sessions`: when markets are open, and an operator's word where the calendar library is wrong or late."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import click

import db
from cli.arguments import DAY, Parsed, for_audit, who_option
from cli.output import json_option, show
from domain.sessions import WEEKS, Session, Week
from models import runs
from models import sessions as store

COLUMNS = {
    "market": "market", "date": "date", "hours": "hours there", "opens_at": "opens", "closes_at": "closes",
    "special": "special", "source": "says", "note": "why",
}  # fmt: skip


def _hours(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)", text)
    parts = [int(part) for part in found.groups()] if found else [24, 60, 0, 0]
    if not (parts[0] < 24 and parts[1] < 60 and parts[2] <= 24 and parts[3] < 60 and parts[:2] < parts[2:]):
        raise ValueError("hours on the market's clock such as 9:30-13:00")
    return parts[0] + parts[1] / 60, parts[2] + parts[3] / 60


HOURS = Parsed("hours", _hours)
MARKET = click.Choice(list(WEEKS), case_sensitive=False)
why_option = click.option("--why", callback=for_audit, help="What is written beside it.")


@click.group()
def sessions() -> None:
    """Show when markets are open; correct a day that was decided late."""


@sessions.command("list")
@click.argument("market", type=MARKET, required=False)
@click.option("--from", "first", type=DAY, help="First day; today by default.")
@click.option("--days", default=7, show_default=True, type=click.IntRange(1, 3660), help="How far to go.")
@json_option
def list_(market: str | None, first: date | None, days: int, as_json: bool) -> None:
    """Show the sessions of the coming days, half-days and breaks included; no line means closed."""
    first = first or datetime.now(UTC).date()
    with db.database.connection_context():
        rows = store.between(first, first + timedelta(days=days - 1), market)
        missing = store.missing(datetime.now(UTC).date())
    show("Sessions", COLUMNS, rows if as_json else [_row(row) for row in rows], as_json=as_json)
    for text in missing if not as_json else []:
        click.echo(text)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    zone = WEEKS[row["market"]].zone
    edges = ("opens_at", "break_from", "break_to", "closes_at")
    clock = [row[name].astimezone(zone).strftime("%H:%M") for name in edges if row[name]]
    spans = ", ".join(f"{start}-{end}" for start, end in zip(clock[::2], clock[1::2], strict=True))
    special = "closed" if row["opens_at"] is None else "half-day" if row["half_day"] else None
    return {**row, "hours": spans or None, "special": special, "dim": row["opens_at"] is None}


@sessions.command("set")
@click.argument("market", type=MARKET)
@click.argument("day", type=DAY)
@click.argument("hours", type=HOURS)
@click.option("--break", "rest", type=HOURS, help="A break within the hours, such as 12:00-13:00.")
@why_option
@who_option
def set_(
    market: str, day: date, hours: tuple[float, float], rest: tuple[float, float] | None, why: str | None, who: str
) -> None:
    """Say when a market is open on a day: `nightdesk sessions set XNYS 2026-12-24 9:30-13:00 --why "early close"`."""
    if rest and not hours[0] < rest[0] < rest[1] < hours[1]:
        raise click.UsageError("the break is not within the hours")
    usual = WEEKS[market]
    said = Week(usual.zone, *hours, rest).hours(market, day)
    _correct(market, day, replace(said, half_day=hours[1] < usual.closes), why, who)
    click.echo(f"{market} is open on {day} as you say; schedulers follow within two minutes")


@sessions.command()
@click.argument("market", type=MARKET)
@click.argument("day", type=DAY)
@why_option
@who_option
def close(market: str, day: date, why: str | None, who: str) -> None:
    """Say that a market stays closed on a day, whatever the library says."""
    _correct(market, day, None, why, who)
    click.echo(f"{market} stays closed on {day}; schedulers follow within two minutes")


def _correct(market: str, day: date, hours: Session | None, why: str | None, who: str) -> None:
    with db.database.connection_context(), db.transaction():
        try:
            old, new = store.correct(market, day, hours, why)
        except LookupError as unknown:
            raise click.ClickException(str(unknown)) from None
        runs.audit(who, "sessions set" if hours else "sessions close", f"{market} {day}", old, new)


@sessions.command()
@click.argument("market", type=MARKET)
@click.argument("day", type=DAY)
@who_option
def reset(market: str, day: date, who: str) -> None:
    """Take your word on a day back: the library is asked again at once."""
    from cli.migrate import look_up_sessions

    with db.database.connection_context():
        with db.transaction():
            old = store.give_back(market, day)
            runs.audit(who, "sessions reset", f"{market} {day}", old, None) if old else None
        if old is None:
            raise click.ClickException(f"no operator has said anything of {market} on {day}")
        run = look_up_sessions(who)
    click.echo(f"{market} on {day} is the library's word again: {run} is queued")
