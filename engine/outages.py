"""A server that cannot be worked with: one line when that begins and one when it is over, whoever notices."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from config import redact

REDIS_AWAY = "Redis is away"
POSTGRESQL_AWAY = "PostgreSQL is away"
SERVER_FULL = "a server takes no writes"
CALM = 15.0  # seconds without a failure after which SERVER_FULL is over: single writes may well succeed

T = TypeVar("T")
log = logging.getLogger("nightdesk.outage")
_began: dict[str, float] = {}
_latest: dict[str, float] = {}


def began(outage: str, failure: object) -> None:
    """It happened: told once, until it is over."""
    _latest[outage] = time.monotonic()
    if outage not in _began:
        _began[outage] = time.monotonic()
        log.warning("%s, waiting: %s", outage, redact(" ".join(str(failure).split()))[:300])


def ended(outage: str, calm: float = 0.0) -> None:
    """The server has answered; the outage is over if there was none for `calm` seconds."""
    if outage in _began and time.monotonic() - _latest[outage] >= calm:
        log.warning("%s no longer, after %.1f s", outage, time.monotonic() - _began.pop(outage))


def ongoing(outage: str) -> bool:
    """Whether it has begun and is not over."""
    return outage in _began


def patiently(
    call: Callable[[], T],
    outage: str,
    away: tuple[type[Exception], ...],
    give_up: Callable[[], bool] = lambda: False,
    meanwhile: Callable[[Exception], None] = lambda _: None,
) -> T | None:
    """`call()`, again and again while a server is away; None: gave up. `meanwhile` runs between two tries."""
    wait = 0.1
    while True:
        try:
            answer = call()
        except away as failure:
            began(outage, failure)
            if give_up():
                return None
            meanwhile(failure)
            time.sleep(wait)
            wait = min(wait * 2, 2.0)
        else:
            ended(outage)
            return answer


os.register_at_fork(after_in_child=_began.clear)
