"""`nightdesk notifications`: who is reached where, what became of a message, and the switch that lets any out."""

from __future__ import annotations

import re
from datetime import time
from typing import Any

import click

import config
import db
from cli.arguments import CLOCK, KIND, LIMIT, one_user, who_option
from cli.output import json_option, show, when
from clients import addresses
from models import deliveries as store
from models import digests, targets, timeline
from models.alerts import user_with, users_named

CHANNELS = click.Choice([name for name in config.CHANNELS if name != "console"])


@click.group()
def notifications() -> None:
    """See what became of a message, say where users are reached, switch delivery on and off."""


@notifications.command()
@click.argument("which", metavar="ID|USER")
@click.option("--limit", type=LIMIT, default=20, show_default=True, help="How many of a user's notifications.")
@json_option
def why(which: str, limit: int, as_json: bool) -> None:
    """Tell what became of notification ID on each channel, or list those of USER (the app's id, or a mail address)."""
    with db.database.connection_context():
        story = timeline.of_notification(int(which)) if which.isdecimal() and len(which) < 19 else None
        users = [] if story else users_named(which)
        rows = timeline.newest(users, limit)
        mode = targets.switch()
    if not story and not users:
        raise click.ClickException(f"{which!r} is no notification and no user")
    if as_json:
        show("", {}, [story] if story else rows, as_json=True)
        return
    if story:
        columns = {"at": "when", "channel": "channel", "what": "what happened"}
        title = f"{story['id']}, to {story['user']}: {story['title']}"
        show(title, columns, [step._asdict() for step in story["steps"]])
        if story["trigger_id"]:
            click.echo(f"why the alert fired: `nightdesk alerts explain {story['trigger_id']}`")
    else:
        columns = {
            "id": "id", "created_at": "told", "kind": "kind", "title": "title", "deliveries": "deliveries",
            "trigger_id": "trigger",
        }  # fmt: skip
        show(f"Notifications to {which}", columns, rows)
    if mode["mode"] != "live" or mode["place"] != config.settings.public_url:
        click.echo(said(mode))


@notifications.command()
@click.argument("to", metavar="live|dry-run|off", type=click.Choice(["live", "dry-run", "off"]), required=False)
@click.option("--first", is_flag=True, help="Only where nobody was ever told anything, or for this machine alone.")
@who_option
def mode(to: str | None, first: bool, who: str) -> None:
    """Show whether messages leave this desk, or let them (live), write them without sending (dry-run), or stop (off).

    `live` holds for this desk's PUBLIC_URL alone: a copy of the database that runs at another place stays dry.
    """
    place = config.settings.public_url
    with db.database.connection_context():
        if to == "live" and not place:
            raise click.ClickException("PUBLIC_URL is not set: delivery is live for one place, and that is its name")
        if to and (not first or targets.is_new() or _is_live_here(targets.switch())):
            targets.turn_switch(to, place, who)
        click.echo(said(targets.switch()))


def said(switch: dict[str, Any]) -> str:
    """What the switch means here, in words."""
    here, since = (
        config.settings.public_url,
        f" ({switch['who']}, {when(switch['changed_at'])})" if switch["who"] else "",
    )
    if switch["mode"] == "off":
        return f"delivery is off: nothing is sent, what is told waits a day{since}"
    if switch["mode"] == "live" and switch["place"] == here:
        return f"delivery is live for {here}{since}"
    if switch["mode"] == "live":
        return (
            f"dry run: delivery is live for {switch['place']}, and this is {here or 'a desk without PUBLIC_URL'}{since}"
        )
    return f"dry run: messages are written and not sent; `nightdesk notifications mode live` sends them{since}"


def _is_live_here(switch: dict[str, Any]) -> bool:
    """Live for this machine alone, at another port perhaps."""
    return switch["mode"] == "live" and switch["place"].startswith(("http://127.0.0.1", "http://localhost"))


@notifications.command()
@json_option
def channels(as_json: bool) -> None:
    """Show each channel: what waits, what ended in the last day, and whether it rests and why."""
    columns = {
        "channel": "channel", "waits": "waits", "held": "held", "sent": "sent", "dead": "given up",
        "skipped": "skipped", "dry": "dry", "off_until": "rests until", "reason": "reason",
    }  # fmt: skip
    with db.database.connection_context():
        rows = store.summary(config.settings.channels)
    show("Channels, last 24 hours", columns, [{**row, "bad": bool(row["off_until"])} for row in rows], as_json=as_json)


@notifications.command()
@click.argument("channel", type=CHANNELS)
def wake(channel: str) -> None:
    """Let a channel that rests try again now: its quota is paid for, its token is right."""
    with db.database.connection_context():
        click.echo(f"{channel} tries again" if store.wake(channel) else f"{channel} does not rest")


@notifications.command("targets")
@click.argument("user")
@json_option
def targets_(user: str, as_json: bool) -> None:
    """Show where USER is reached, and what is off and why."""
    columns = {
        "channel": "channel",
        "address": "address",
        "verified_at": "verified",
        "off_at": "off",
        "off_reason": "why",
    }
    with db.database.connection_context():
        rows = targets.of_user(_one(user))
    shown = [
        {**row, "address": timeline.masked(row["channel"], row["address"]), "bad": bool(row["off_at"])} for row in rows
    ]
    show(f"Addresses of {user}", columns, shown, as_json=as_json)


@notifications.command()
@click.argument("user")
@click.argument("channel", type=CHANNELS)
@click.argument("address")
@click.option("--remove", is_flag=True, help="Reach the user there no more.")
def target(user: str, channel: str, address: str, remove: bool) -> None:
    """Reach USER at ADDRESS too: the id of a chat or LINE user, or a URL. You vouch that it is theirs."""
    with db.database.connection_context():
        if remove:
            if not targets.remove(_one(user), channel, address):
                raise click.ClickException(f"{user} has no such address on {channel}")
        else:
            try:
                _check(channel, address)
                targets.add(_one(user), channel, address, verified=True)
            except (ValueError, addresses.Private) as wrong:
                raise click.UsageError(str(wrong)) from wrong
    shown = timeline.masked(channel, address)
    click.echo(f"{user} is {'no longer ' if remove else ''}reached by {channel} at {shown}")


_URL = r"https?://[^/].*"
SHAPES = {
    "email": (config.ADDRESS, "ann@example.com"),
    "webhook": (_URL, "https://example.com/hook"),
    "discord": (_URL, "https://discord.com/api/webhooks/7/token"),
}


def _check(channel: str, address: str) -> None:
    """Raises ValueError, or Private, for what could not be reached anyway."""
    if channel in SHAPES and not re.fullmatch(SHAPES[channel][0], address):
        raise ValueError(f"an address of {channel} is such as {SHAPES[channel][1]}")
    if channel == "webhook":
        addresses.check(address, loopback=config.settings.private_targets)


@notifications.command()
@click.argument("user")
@click.argument("kind", type=KIND)
@click.argument("channel", type=CHANNELS)
@click.argument("wanted", type=click.Choice(["on", "off"]))
def want(user: str, kind: str, channel: str, wanted: str) -> None:
    """Say whether USER wants a KIND of notification (alert, order …; `*`: every other) on CHANNEL."""
    with db.database.connection_context():
        targets.want(_one(user), kind, channel, wanted == "on")
    click.echo(f"{user} {'wants' if wanted == 'on' else 'does not want'} {kind} by {channel}")


@notifications.command()
@click.argument("user")
@click.argument("start", metavar="FROM", type=CLOCK)
@click.argument("end", metavar="UNTIL", type=CLOCK)
@click.option(
    "--breaks-through", type=click.Choice(["warning", "critical", "nothing"]), default="critical", show_default=True
)
def quiet(user: str, start: time, end: time, breaks_through: str) -> None:
    """Hold USER's messages between two clock times of their zone, such as 23:00 07:00."""
    if start == end:
        raise click.UsageError("quiet hours that begin and end at the same time never end")
    with db.database.connection_context():
        targets.be_quiet(_one(user), start, end, None if breaks_through == "nothing" else breaks_through)
    click.echo(f"{user} has quiet hours from {start:%H:%M} until {end:%H:%M}")


@notifications.command()
@click.argument("user")
@click.argument("kind", type=click.Choice(["daily", "weekly"]))
@click.option("--at", type=CLOCK, help="In the user's zone; 12:00 UTC, on Sundays 14:00 UTC, by default.")
@click.option("--remove", is_flag=True, help="No more of them.")
def digest(user: str, kind: str, at: time | None, remove: bool) -> None:
    """Sum up the day or the week for USER; a day with nothing to say sends nothing."""
    with db.database.connection_context():
        digests.unwant(_one(user), kind) if remove else digests.want(_one(user), kind, at)
    click.echo(f"{user} gets {'no ' if remove else ''}{kind} digests")


def _one(user: str) -> int:
    """The user who is meant; somebody with a mail address that nobody knows yet is added."""
    found = one_user(user)
    if found is None and "@" not in user:
        raise click.ClickException(f"{user!r} is no user: say the app's id or a mail address")
    return user_with(user) if found is None else found
