"""Notifications: what a message says, when a delivery is tried again, how long a channel rests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from domain.failures import Rejected

MAX_TRIES = 6
FIRST_WAIT = timedelta(seconds=15)
LONGEST_WAIT = timedelta(hours=6)  # also of what a server asks for
FIRST_REST = timedelta(seconds=5)
LONGEST_REST = timedelta(minutes=5)


@dataclass(frozen=True)
class Message:
    """One message to one user; `key` stays the same when it is sent again, so that a repeat can be known."""

    key: str
    subject: str
    text: str
    created_at: datetime


def message(key: str, kind: str, title: str, data: Mapping[str, Any], created_at: datetime, zone: str) -> Message:
    """The message of a notification, with times in the user's zone. Raises KeyError or ValueError on odd data."""
    here = known_zone(zone)
    if kind == "alert" and "details" not in data:
        details = of_alert(data, here)
    else:
        details = [(str(label), said(value, here)) for label, value in data.get("details", ())]
    lines = [f"{title}.", "", *(f"{label}: {value}" for label, value in details)]
    return Message(key, title, "\n".join(lines).rstrip() + "\n", created_at)


def of_alert(data: Mapping[str, Any], here: tzinfo) -> list[tuple[str, str]]:
    """The details of an alert that fired."""
    happened_at = datetime.fromisoformat(data["happened_at"])
    delay = (datetime.fromisoformat(data["received_at"]) - happened_at).total_seconds()
    rule = data["rule"]
    before = f", before it {data['previous']}" if data["previous"] else ""
    way = f", {rule['direction']}" if rule.get("direction") else ""
    about = data["subject"] if data["stream"] == "price" else f"{data['subject']} {data['stream']}"
    touched = [("Touched", f"{data['touches']} times since the last message")] if data["touches"] else []
    return [
        ("Price" if data["stream"] == "price" else "Value", f"{data['value']} from {data['source']}{before}"),
        ("Time", f"{local(happened_at, here)}, known here {delay:.0f} s later"),
        *touched,
        (f"Alert {data['alert_id']}", f"{about} {rule['condition']} {rule['level']}{way}"),
    ]


def said(value: Any, here: tzinfo) -> str:
    """A detail as text: `{"at": instant}` in the user's zone, anything else as it is."""
    return local(datetime.fromisoformat(value["at"]), here) if isinstance(value, dict) else str(value)


def local(instant: datetime, here: tzinfo) -> str:
    """`23 Nov 2026 12:00:05 UTC`."""
    return f"{instant.astimezone(here):%d %b %Y %H:%M:%S %Z}"


def known_zone(name: str) -> tzinfo:
    """A user's zone; UTC where it is not an IANA name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC


def wait(tries: int, retry_after: float | None, dice: float) -> timedelta | None:
    """How long until a delivery that failed `tries` times is tried again; None: it is given up.

    15 s, 1, 4, 16 and 64 minutes, a fifth more or less by `dice` (0 to 1), and at least `retry_after` seconds.
    """
    if tries >= MAX_TRIES:
        return None
    backoff = FIRST_WAIT * 4 ** (tries - 1) * (0.8 + 0.4 * dice)
    return min(max(backoff, timedelta(seconds=retry_after or 0)), LONGEST_WAIT)


def rest(failures: int, failure: Exception) -> timedelta:
    """How long a channel rests on which nothing can be sent, `failures` being how often that was so in a row before.

    An outage: 5 s, 10, 20 … five minutes. A refusal (a wrong password, say): five minutes at once.
    """
    if isinstance(failure, Rejected):
        return LONGEST_REST
    asked = timedelta(seconds=getattr(failure, "retry_after", None) or 0)
    return min(max(FIRST_REST * 2 ** min(failures, 10), asked), LONGEST_REST)
