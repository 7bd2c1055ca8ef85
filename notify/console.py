"""Notifications as lines of the log: for whoever runs the desk, and before there is a mail server."""

from __future__ import annotations

import logging

from domain.notifications import Message, inert
from notify.channels import Plain

log = logging.getLogger("nightdesk.console")


class Console(Plain):
    """The log, at level INFO."""

    def send(self, target: str, message: Message, secret: str = "") -> None:
        """Write one line; a line break in the target makes no second one."""
        log.info("to %s: %s", inert(target), message.title)
