"""The channels on which notifications are delivered, besides the app itself."""

from __future__ import annotations

import importlib
from types import TracebackType
from typing import Protocol, Self

from domain.notifications import Message

CHANNELS = {"email": "notify.email:Email", "console": "notify.console:Console"}


class Channel(Protocol):
    """A way to users, open for the messages of one run."""

    broken: Exception | None  # why no message at all can be sent at present: that is nothing against the message

    def send(self, target: str, message: Message) -> str | None:
        """Hand a message over; returns what the other side calls it. Raises Unavailable or Rejected."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def channel(name: str) -> Channel:
    """A channel by its name, not opened yet."""
    module, made = CHANNELS[name].split(":")
    return getattr(importlib.import_module(module), made)()


def send(name: str, target: str, message: Message) -> str | None:
    """Send one message on a channel of its own. Raises Unavailable or Rejected."""
    with channel(name) as opened:
        return opened.send(target, message)
