"""Notifications by push, SMS and whatever else Apprise knows: an extra, `pip install -r requirements-apprise.txt`.

One target per URL, because Apprise says of a URL only whether all went well. Users may name the services of
APPRISE_SERVICES and no others: many of Apprise's take a host, a file or a program of the user's choice.
"""

from __future__ import annotations

import logging
from typing import Any

import config
from domain.deliveries import Limit
from domain.failures import Rejected, Unavailable
from domain.notifications import Message
from notify import limits, wording
from notify.channels import Gone, Plain

LONGEST = 1000  # characters; a service with a lower limit cuts for itself
SECONDS = 5.0  # for a connection, and for an answer


class Apprise(Plain):
    """Any other service."""

    def limit_of(self, target: str) -> Limit | None:
        """One a second: Apprise's own pauses, which would hold up the worker, are switched off."""
        return Limit(1, 1)

    def send(self, target: str, message: Message, secret: str = "") -> None:
        """Hand a message to Apprise. Raises Gone for a URL that it cannot read, Unavailable for any failure."""
        try:
            import apprise
        except ImportError:
            self.broken = Rejected("apprise is not installed: pip install -r requirements-apprise.txt")
            raise self.broken from None
        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it logs parts of URLs
        service = _service(apprise, target)
        text = wording.text(message, footer=False, most=LONGEST)
        with limits.slowed("apprise", target, self.limit_of(target)):
            taken = service.notify(
                body=text.partition("\n")[2].strip() or message.title,
                title=message.title,
                body_format=apprise.NotifyFormat.TEXT,  # each service escapes what means something to it
            )
        if not taken:
            raise Unavailable(f"apprise: {_scheme(target)} did not take it, and does not say why")


def _service(apprise: Any, target: str) -> Any:
    """Apprise's object for a URL, with its pauses and repeats switched off."""
    scheme = _scheme(target)
    if scheme not in config.settings.apprise_services:
        raise Gone(f"apprise: {scheme!r} is not among {', '.join(config.settings.apprise_services)}")
    service = apprise.Apprise.instantiate(target, asset=apprise.AppriseAsset(async_mode=False))
    if service is None:
        raise Gone(f"apprise: the {scheme} URL is unreadable")
    if len(service) > 1:
        raise Gone(f"apprise: the {scheme} URL has {len(service)} targets: one for each URL, so that each is known")
    service.request_rate_per_sec = 0
    service.socket_connect_timeout = service.socket_read_timeout = SECONDS
    return service


def _scheme(target: str) -> str:
    """The service that a URL names: the rest of it holds keys."""
    return target.partition(":")[0].lower()[:20]
