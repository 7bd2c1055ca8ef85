"""The channels on which notifications are delivered, besides the app itself."""

from __future__ import annotations

import importlib
import json
from math import isnan
from types import TracebackType
from typing import Any, Protocol, Self

from domain.deliveries import LONGEST_WAIT, Limit
from domain.failures import Rejected, Unavailable
from domain.notifications import Message

CHANNELS = {
    "email": "notify.email:Email",
    "telegram": "notify.telegram:Telegram",
    "line": "notify.line:Line",
    "discord": "notify.discord:Discord",
    "webhook": "notify.webhook:Webhook",
    "apprise": "notify.apprise:Apprise",
    "console": "notify.console:Console",
}
ANYWHERE = ("webhook", "apprise")  # their addresses lead wherever a user said


class Gone(Rejected):
    """This address takes nothing any more, whatever is sent there: it is turned off and its user is told."""


class Moved(Rejected):
    """This address is another one by now: the message, and all later ones, go there."""

    def __init__(self, message: str, address: str) -> None:
        super().__init__(message)
        self.address = address


class Crowded(Unavailable):
    """Too many messages, says the other side: nothing against this one. `everybody`: to whomever they went."""

    def __init__(self, message: str, retry_after: float, *, everybody: bool = False) -> None:
        super().__init__(message, retry_after)
        self.everybody = everybody


class Channel(Protocol):
    """A way to users, open for the messages of one run."""

    limit: Limit | None  # of all messages together
    broken: Exception | None  # why no message at all can be sent at present: that is nothing against the message

    def limit_of(self, target: str) -> Limit | None:
        """How many may go to one address."""

    def send(self, target: str, message: Message, secret: str = "") -> str | None:
        """Hand a message over; returns what the other side calls it. Raises Unavailable or Rejected, or those above."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Plain:
    """A channel that holds nothing open."""

    limit: Limit | None = None

    def __init__(self) -> None:
        self.broken: Exception | None = None

    def limit_of(self, target: str) -> Limit | None:
        """Any number."""
        return None

    def unconfirmed(self, words: str) -> Unavailable:
        """An answer of success that does not tell of a message: something else stands where the service should."""
        self.broken = Unavailable(words)
        return self.broken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


JSON = {"Content-Type": "application/json"}


def said(body: bytes, part: str = "") -> dict[str, Any]:
    """An answer's JSON object, or the one under a name in it; empty for anything else."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    if part and isinstance(found, dict):
        found = found.get(part)
    return found if isinstance(found, dict) else {}


def seconds(value: object) -> float:
    """A wait that an answer names; none where it is unreadable."""
    try:
        wait = float(str(value))
    except ValueError:
        return 0.0
    return 0.0 if isnan(wait) else min(max(wait, 0.0), LONGEST_WAIT.total_seconds())


def channel(name: str) -> Channel:
    """A channel by its name, not opened yet."""
    module, made = CHANNELS[name].split(":")
    return getattr(importlib.import_module(module), made)()


def send(name: str, target: str, message: Message) -> str | None:
    """Send one message on a channel of its own. Raises Unavailable or Rejected."""
    with channel(name) as opened:
        return opened.send(target, message)
