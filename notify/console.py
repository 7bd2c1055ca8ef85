"""Notifications as lines of the log: for whoever runs the desk, and before there is a mail server."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from domain.notifications import Message

log = logging.getLogger("nightdesk.console")


class Console:
    """The log, at level INFO."""

    broken: Exception | None = None

    def send(self, target: str, message: Message) -> None:
        """Write one line; a line break in the subject or the target makes no second one."""
        log.info("to %s: %s", " ".join(target.split()), " ".join(message.subject.split()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
