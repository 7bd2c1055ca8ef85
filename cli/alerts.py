"""`nightdesk alerts`: alerts of users, added, listed, paused, explained and removed from a shell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import click

import config
import db
from cli.arguments import DURATION, EMAIL, ID, nobody, number, one_user_or_new
from cli.output import json_option, show, when
from domain.alerts import DIRECTIONS, PERCENT, Rule, describe, fires_again
from domain.figures import figure, times
from domain.measures import BARS, MEASURES, TYPES, change_in, of_name
from domain.spans import span
from models import alerts as store
from models import derived, prices

COLUMNS = {
    "id": "id", "user": "user", "rule": "alert", "value": "now", "status": "status", "trigger_count": "fired",
    "touches": "touched", "last_triggered_at": "last fired",
}  # fmt: skip
TYPE_COLUMNS = {
    "type": "type", "subject": "of", "measure": "measure", "unit": "unit", "conditions": "conditions",
    "source": "values from", "alive": "alive",
}  # fmt: skip
WORDS = {"up": "percent_up", "down": "percent_down"} | {
    word: word for word in ("above", "below", "equals", "crosses", "happens", "within")
}
GRAMMAR = "SUBJECT [MEASURE] above|below|equals|crosses|up|down|within|happens [LEVEL]"


@click.group()
def alerts() -> None:
    """Add alerts, list them, let them rest, and ask why one has fired."""


@alerts.command(context_settings={"ignore_unknown_options": True})  # so that a level of -5 is refused as a level
@click.argument("words", nargs=-1, required=True, metavar=GRAMMAR)
@click.option("--direction", type=click.Choice(DIRECTIONS), help="Of crosses: which way; either, by default.")
@click.option("--since", "base", help="Of up and down: creation (the default), close, or a number of hours: 24h.")
@click.option("--every", "cooldown", type=DURATION, help="Again and again, with so much time between: 1h.")
@click.option("--bar", type=click.Choice(tuple(BARS)), help="The bar of an indicator, or of the next two.")
@click.option("--per-bar", "frequency", flag_value="bar", help="At most once in every bar.")
@click.option("--at-close", "frequency", flag_value="close", help="By the last value of each bar.")
@click.option("--expires", type=DURATION, help="After so much time it ends: 7d.")
@click.option("--type", "type_", type=click.Choice(tuple(TYPES)), help="Found by the measure, by default.")
@click.option("--user", help="Who is told, by mail address or the app's id; OPERATOR_EMAIL, by default.")
@json_option
def add(
    words: tuple[str, ...],
    direction: str | None,
    base: str | None,
    cooldown: timedelta | None,
    bar: str | None,
    frequency: str | None,
    expires: timedelta | None,
    type_: str | None,
    user: str | None,
    as_json: bool,
) -> None:
    """Tell a user when something reaches a level, crosses it, moves by so much, happens, or is near.

    \b
    nightdesk alerts add BTCUSD above 70000 --every 1h
    nightdesk alerts add XAUUSD crosses 4000 --direction up --per-bar --bar 1h
    nightdesk alerts add BTCUSD down 5% --since 24h
    nightdesk alerts add EURUSD equals 1.1 --expires 7d
    nightdesk alerts add AAPL rsi above 70 --bar 1d
    nightdesk alerts add AAPL report_date within 1d

    `nightdesk alerts types` lists the measures and what may be asked of each.
    """
    now, who = datetime.now(UTC), user or config.settings.operator_email
    try:
        asked = read(words)
        how = frequency or ("every" if cooldown else "once")
        way = direction or ("either" if asked.condition == "crosses" else None)
        from_ = base or ("creation" if asked.condition in PERCENT else None)
        rule = Rule(asked.condition, asked.level, way, from_, how, bar, cooldown)
        with db.database.connection_context():
            with db.transaction():
                made = store.create_alert(
                    one_user_or_new(who), asked.subject, rule, now, type_=type_ or asked.type, measure_=asked.measure,
                    expires_at=now + expires if expires else None,
                )  # fmt: skip
            (row,) = listed(now, alert_id=made.id)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from wrong
    except LookupError as unknown:
        raise click.ClickException(f"{unknown.args[0]}{_remedy(type_ or asked.type, asked.subject)}") from unknown
    if as_json:
        show("", {}, [{**row, "fired": made.fired}], as_json=True)
        return
    what = "fired at once" if made.fired else "waits"
    click.echo(f"alert {made.id} {what} ({describe(row)}); it is {valued(row)} now; {who} is told")


def _remedy(type_: str, subject: str) -> str:
    """What an operator can do where a subject is not followed."""
    with db.database.connection_context():
        is_followed = TYPES[type_].by_reading or prices.quotes(datetime.now(UTC), [subject])
    return "" if is_followed else f": add it with `nightdesk prices add {subject}`"


class Asked(NamedTuple):
    """What the words of `add` say."""

    subject: str
    type: str
    measure: str
    condition: str
    level: Decimal


def read(words: tuple[str, ...]) -> Asked:
    """`BTCUSD above 70000`, `AAPL rsi above 70`, `M123 starts_at within 30m`, `AAPL mention`."""
    subject, *rest = words
    measure = "price" if not rest or rest[0] in WORDS else rest.pop(0)
    type_, measured = of_name(measure)
    condition = WORDS.get(rest[0]) if rest else measured.conditions[0]
    if condition is None or len(rest) > 2 or (len(rest) < 2) != (condition == "happens"):
        raise ValueError(f"{' '.join(words)!r} is not {GRAMMAR}: BTCUSD above 70000, say, or AAPL rsi above 70")
    level = rest[1] if len(rest) == 2 else "0"
    if condition == "within":
        amount = Decimal(str(config.seconds(level)))
    else:
        amount = decimal(level.removesuffix("%") if condition in PERCENT else level)
    return Asked(subject.upper() if type_.known != "reading" else subject, type_.name, measured.name, condition, amount)


def decimal(text: str) -> Decimal:
    """A level. Raises ValueError that says what is wrong with it."""
    try:
        return number(text)
    except ValueError as wrong:
        raise ValueError(f"{text!r} is not {wrong}") from None


@alerts.command("list")
@click.option("--user", type=EMAIL, help="Only this user's.")
@json_option
def list_(user: str | None, as_json: bool) -> None:
    """Show the alerts, newest first, with the value that each watches and how old it is."""
    with db.database.connection_context():
        if user and not store.users_named(user):
            raise nobody(user)
        rows = listed(datetime.now(UTC), email=user)
    shown = rows if as_json else [{**row, "rule": describe(row), "value": valued(row), **_look(row)} for row in rows]
    show("Alerts", COLUMNS, shown, as_json=as_json)


def listed(now: datetime, **which: Any) -> list[dict[str, Any]]:
    """Alerts, each with the `bars` that are there and needed where its measure has no value yet for want of them."""
    short = derived.waiting()
    return [{**row, "bars": short.get((row["subject"], row["stream"]))} for row in store.alerts(now, **which)]


@alerts.command()
@json_option
def types(as_json: bool) -> None:
    """Show what an alert can be about, what may be asked of it, and where its values come from."""
    rows = [
        {
            "type": kind.name, "subject": kind.subject, "measure": measured.name, "unit": measured.unit,
            "conditions": measured.conditions, "source": kind.source, "alive": "yes" if kind.alive else "declared",
            "dim": not kind.alive,
        }
        for kind in TYPES.values()
        for measured in kind.measures
    ]  # fmt: skip
    show("Types of alerts", TYPE_COLUMNS, rows, as_json=as_json)


@alerts.command()
@click.argument("alert_id", metavar="ID", type=ID)
def rm(alert_id: int) -> None:
    """Remove an alert; what it told before stays."""
    with db.database.connection_context():
        removed = store.remove_alert(alert_id)
    _say(alert_id, "is removed" if removed else None, "no alert {}")


@alerts.command()
@click.argument("alert_id", metavar="ID", type=ID)
def pause(alert_id: int) -> None:
    """Let an alert rest: it waits for nothing until it is resumed."""
    with db.database.connection_context():
        paused = store.pause_alert(alert_id, "by an operator")
    _say(alert_id, "is paused" if paused else None, "no active alert {}")


@alerts.command()
@click.argument("alert_id", metavar="ID", type=ID)
def resume(alert_id: int) -> None:
    """Take up a paused alert as if it were made now: a level that holds already fires at once."""
    with db.database.connection_context():
        taken_up = store.resume_alert(alert_id, datetime.now(UTC))
    done = None if not taken_up else "is refused now" if taken_up.refused else "is active again"
    _say(alert_id, done, "no paused alert {}")


def _say(alert_id: int, done: str | None, otherwise: str) -> None:
    if done is None:
        raise click.ClickException(f"{otherwise.format(alert_id)}: see `nightdesk alerts list`")
    click.echo(f"alert {alert_id} {done}")


@alerts.command()
@click.argument("trigger_id", metavar="TRIGGER", type=ID)
@json_option
def explain(trigger_id: int, as_json: bool) -> None:
    """Show why an alert fired: its inputs, how old they were, its rule; and decide again from them.

    `nightdesk notifications why USER` shows the number of each firing, its trigger.

    The exit status is 1 if the same inputs do not fire it now.
    """
    with db.database.connection_context():
        row = store.trigger(trigger_id)
    if row is None:
        raise click.ClickException(f"no trigger {trigger_id}: see `nightdesk notifications why USER`")
    try:
        change = change_in(row["stream"], row["about"])
        value = change.percent if change else row["value"]
        again = fires_again(row["rule"], row["waited"], value, row["happened_at"])
        verdict = "the same: it fires" if again else "DIFFERENT: it does not fire"
    except ValueError as other_version:
        again, verdict = False, str(other_version)
    if as_json:
        show("", {}, [{**row, "again": again}], as_json=True)
    else:
        for name, words in explained(row, verdict).items():
            click.echo(f"{name:>13}  {words}")
    if not again:
        raise SystemExit(1)


def explained(row: dict[str, Any], verdict: str) -> dict[str, str]:
    """A trigger in words."""
    return {
        "alert": f"{row['alert_id']}, firing number {row['number']}",
        "rule": " ".join(f"{name}={value}" for name, value in row["rule"].items() if value is not None),
        **(_near(row) if row["rule"]["side"] == "date" else _reached(row)),
        "fired": f"{when(row['fired_at'])}, {span(row['fired_at'] - row['happened_at'])} after it happened",
        "touched": f"{times(row['touches'])} since it had fired before",
        "decided again": verdict,
    }


def _reached(row: dict[str, Any]) -> dict[str, str]:
    waited = row["waited"]
    since = f", by values later than {waited['since']}" if waited.get("since") else ", by the value when it was made"
    arrow = {"up": "at or above", "down": "at or below"}.get(waited["direction"], "within")
    change = change_in(row["stream"], row["about"])
    band = f" (and by at most {2 * Decimal(waited['band'])} more)" if Decimal(waited["band"]) else ""
    return {
        "waited for": f"{row['subject']} {row['stream']} {arrow} {waited['level']}{band}{since}",
        "value": f"{row['value']:f}" + (f", before it {row['previous']:f}" if row["previous"] is not None else ""),
        **({"worked out of": f"{change.value:f}, from {change.base:f} of {when(change.base_at)}"} if change else {}),
        "happened": f"{when(row['happened_at'])}, says {row['source']}",
        "received": f"{when(row['received_at'])}, {span(row['received_at'] - row['happened_at'])} later",
    }


def _near(row: dict[str, Any]) -> dict[str, str]:
    lead, date = timedelta(seconds=float(row["waited"]["level"])), datetime.fromtimestamp(float(row["value"]), UTC)
    return {
        "waited for": f"{row['subject']} {row['stream']} within {span(lead)}",
        "value": f"{when(date)}, says {row['source']}",
        "received": when(row["received_at"]),
        "happened": f"{when(row['happened_at'])}, {span(date - row['happened_at'])} before",
    }


def valued(row: dict[str, Any]) -> str:
    """`97012.5 (3.1 s old)`; in capitals what is wrong with it."""
    if row["value"] is None:
        missing = f"MISSING: {row['bars']}" if row["bars"] else "MISSING"
        return missing if row["state"] != "unfollowed" else "NOT FOLLOWED"
    is_date = row["measure"] in MEASURES and MEASURES[row["measure"]].kind == "date"
    if is_date and not row["value"].is_finite():
        return "off"
    shown = (
        when(datetime.fromtimestamp(float(row["value"]), UTC))
        if is_date
        else figure(row["value"], row["stream"] or row["measure"])
    )
    wrong = f", {row['state'].upper()}" if row["state"] != "fresh" else ""
    return f"{shown} ({span(row['age'])} old{wrong})"


def _look(row: dict[str, Any]) -> dict[str, Any]:
    active = row["status"] == "active"
    why = f": {row['reason']}" if row["reason"] else ""
    status = f"waits for {row['waits_for']}" if active else f"{row['status']}{why}"
    return {"status": status, "bad": active and row["state"] != "fresh", "dim": not active}
