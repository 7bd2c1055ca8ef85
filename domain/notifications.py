"""Notifications: what a message says, on whatever channel, and that nothing in it can do harm there."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

from domain.alerts import describe, kept
from domain.figures import figure, times
from domain.measures import Change, change_in
from domain.spans import whole

LONGEST_TEXT = 500  # characters of one title, label or value
MOST_LINES = 20  # of a part of a message
PLURALS = {
    "alert": "alerts", "deal": "deals", "deposit": "deposits", "match": "matches", "news": "news", "order": "orders",
}  # fmt: skip
FIRST_STRONG, END = "\u2068", "\u2069"  # isolate what stands between them from the direction of its neighbours
# Control characters end headers and lines; the others turn the direction of what follows, or are not seen at all.
UNWANTED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


@dataclass(frozen=True)
class Line:
    """A label and its value; with a `series` of numbers, oldest first, that a picture can show."""

    label: str
    value: str
    series: tuple[float, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of a longer message."""

    title: str
    lines: tuple[Line, ...]
    more: int = 0  # lines that were left out


@dataclass(frozen=True)
class Message:
    """One message to one user; `key` stays the same when it is sent again, so that a repeat can be known.

    Every text in it is one line without control characters; each channel still escapes what means something there.
    """

    key: str
    title: str
    created_at: datetime
    lines: tuple[Line, ...] = ()
    sections: tuple[Section, ...] = ()
    kind: str = "system"
    severity: str = "info"
    facts: Mapping[str, Any] = field(default_factory=dict)  # for programs
    unsubscribe: str = ""  # a link that needs no login

    def all_lines(self) -> list[Line]:
        """Its own lines and those of its sections."""
        return [*self.lines, *(line for section in self.sections for line in section.lines)]


def message(news: Mapping[str, Any], unsubscribe: str = "") -> Message:
    """The message of a notification, with times in the user's zone. Raises KeyError, TypeError or ValueError.

    `news` has key, kind, severity, subject, title, data, created_at and zone; `data` may have `details` and `sections`.
    """
    here, data = known_zone(news["zone"]), news["data"]
    own = of_alert(data) if news["kind"] == "alert" and "details" not in data else data.get("details", ())
    return Message(
        key=str(news["key"]),
        title=inert(news["title"]),
        created_at=news["created_at"],
        lines=tuple(line(each, here) for each in own),
        sections=tuple(section(each, here) for each in data.get("sections", ())),
        kind=news["kind"],
        severity=news["severity"],
        facts={name: data[name] for name in data.keys() - {"details", "sections"}},
        unsubscribe=unsubscribe,
    )


def together(leader: Mapping[str, Any], others: Sequence[Mapping[str, Any]], unsubscribe: str = "") -> Message:
    """One message for many notifications of a kind, the newest first; its key is the leader's."""
    here = known_zone(leader["zone"])
    every = sorted([leader, *others], key=lambda news: news["created_at"], reverse=True)
    about = list(dict.fromkeys(inert(news["subject"]) for news in every if news["subject"]))
    names = f": {', '.join(about[:3])}{' …' if len(about) > 3 else ''}" if about else ""
    lines = tuple(Line(local(news["created_at"], here), inert(news["title"])) for news in every[:MOST_LINES])
    return Message(
        key=str(leader["key"]),
        title=f"{len(every)} {PLURALS.get(leader['kind'], 'messages')}{names}",
        created_at=leader["created_at"],
        sections=(Section("", lines, len(every) - len(lines)),),
        kind=leader["kind"],
        severity=leader["severity"],
        facts={"notifications": [{"title": news["title"], "subject": news["subject"]} for news in every]},
        unsubscribe=unsubscribe,
    )


def of_alert(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The details of an alert that fired."""
    rule = kept(data["rule"])
    told = of_date(data) if rule["condition"] == "within" else of_value(data, rule["condition"] == "happens")
    return [*told, (f"Alert {data['alert_id']}", describe({**rule, "subject": data["subject"]}))]


def of_date(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """A date that is near: a day is the same in every zone, the start of a match is not."""
    date = datetime.fromtimestamp(float(data["value"]), UTC)
    return [
        ("Date", f"{date:%d %b %Y}" if data["stream"].endswith("_date") else {"at": date.isoformat()}),
        ("From", data["source"]),
        ("Known here", {"at": data["received_at"]}),
    ]


def of_value(data: Mapping[str, Any], is_event: bool) -> list[tuple[str, Any]]:
    """A value that was reached, or what happened: the title tells what."""
    delay = datetime.fromisoformat(data["received_at"]) - datetime.fromisoformat(data["happened_at"])
    now, before = (each and figure(Decimal(each), data["stream"]) for each in (data["value"], data["previous"]))
    value = f"{now} from {data['source']}" + (f", before it {before}" if before else "")
    change = change_in(data["stream"], data.get("about"))
    touched = [("Touched", f"{times(data['touches'])} since the last message")] if data["touches"] else []
    return [
        ("From", data["source"]) if is_event else ("Price" if data["stream"] == "price" else "Value", value),
        *(of_change(change, data["stream"]) if change else ()),
        ("Time", {"at": data["happened_at"]}),
        ("Known here", f"{whole(delay)} later"),
        *touched,
    ]


def of_change(change: Change, stream: str) -> list[tuple[str, Any]]:
    """What a change was worked out of."""
    name = "Price" if stream.startswith("price/") else "Now"
    return [
        (name, f"{figure(change.value)}, from {figure(change.base)}"),
        ("Counted from", {"at": change.base_at.isoformat()}),
    ]


def section(part: Mapping[str, Any], here: tzinfo) -> Section:
    """A part of a digest: `{"title": …, "lines": [[label, value, series?], …], "more": lines left out already}`."""
    told, more = part["lines"][:MOST_LINES], part.get("more", 0) + len(part["lines"][MOST_LINES:])
    return Section(inert(part["title"]), tuple(line(each, here) for each in told), more)


def line(parts: Sequence[Any], here: tzinfo) -> Line:
    """`[label, value]` or `[label, value, series]`; `{"at": instant}` in place of a text is told in the user's zone."""
    label, value, *series = parts
    return Line(said(label, here), said(value, here), numbers(series[0]) if series else ())


def said(value: Any, here: tzinfo) -> str:
    """A label or value as text."""
    return local(datetime.fromisoformat(value["at"]), here) if isinstance(value, Mapping) else inert(value)


def numbers(series: Iterable[Any]) -> tuple[float, ...]:
    """A series as floats. Raises ValueError for one that no picture can show."""
    found = tuple(float(value) for value in series)
    if not all(map(isfinite, found)):
        raise ValueError("a series holds a number that is none")
    return found


def inert(text: object) -> str:
    """Any text as one line that breaks out of nothing: no control characters, its direction kept to itself.

    >>> inert("up\\r\\nBcc: eve@example.com")
    'up Bcc: eve@example.com'
    """
    clean = " ".join(UNWANTED.sub(" ", str(text)).split())
    clean = clean if len(clean) <= LONGEST_TEXT else clean[: LONGEST_TEXT - 1] + "…"
    leftwards = any(unicodedata.bidirectional(character) in ("R", "AL") for character in clean)
    return f"{FIRST_STRONG}{clean}{END}" if leftwards else clean


def local(instant: datetime, here: tzinfo) -> str:
    """`23 Nov 2026 12:00:05 UTC`."""
    return f"{instant.astimezone(here):%d %b %Y %H:%M:%S %Z}"


def known_zone(name: str) -> tzinfo:
    """A user's zone; UTC where it is not an IANA name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC
