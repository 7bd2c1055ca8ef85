"""How a run ended, in words that an operator can act on."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from random import uniform
from typing import Any

from config import ROOT, redact
from domain.failures import Unavailable

FIRST_WAIT, LONGEST_WAIT = 2.0, 900.0  # seconds between tries


class Refused(Exception):
    """A payload that no worker of ours runs: not ours by name, not JSON, too large, or with hooks by name."""


@dataclass(frozen=True)
class Outcome:
    """The end of an attempt; `dead` when nothing will try the run again by itself."""

    name: str  # ok, failed, retried, yielded, handed_back, refused
    counts: dict[str, Any] | None = None
    error: str | None = None
    fingerprint: str | None = None
    trace: str = ""
    delay: float = 0.0  # seconds until the next try

    @property
    def dead(self) -> bool:
        """A dead letter: kept with its arguments until an operator retries or discards it."""
        return self.name in ("failed", "refused")


def of_exception(failure: BaseException, tried: int, tries: int) -> Outcome:
    """Retry by class of error: `Unavailable`, a lost connection and a time-out are tried again, bugs are not.

    `tried` counts the tries so far, this one included. The wait doubles with each try, with jitter,
    and is never shorter than what the service asked for.
    """
    trace = redact("".join(traceback.format_exception(failure)))[-8000:].replace("\0", "")
    error = redact(f"{type(failure).__name__}: {failure}")[:1000].replace("\0", "")
    details = {"error": error, "fingerprint": fingerprint(failure), "trace": trace}
    if isinstance(failure, Refused):
        return Outcome("refused", **details)  # type: ignore[arg-type]
    if tried < tries and is_passing(failure):
        backoff = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tried - 1)) * uniform(0.75, 1.25)  # noqa: S311 - jitter
        asked = getattr(failure, "retry_after", None) or 0.0
        return Outcome("retried", delay=max(backoff, asked), **details)  # type: ignore[arg-type]
    return Outcome("failed", **details)  # type: ignore[arg-type]


def is_passing(failure: BaseException) -> bool:
    """Whether a later try may succeed without anybody's doing."""
    from peewee import InterfaceError, OperationalError
    from redis.exceptions import ConnectionError as RedisGone
    from redis.exceptions import TimeoutError as RedisSlow
    from rq.timeouts import JobTimeoutException

    return isinstance(
        failure, Unavailable | OperationalError | InterfaceError | RedisGone | RedisSlow | JobTimeoutException
    )


def fingerprint(failure: BaseException) -> str:
    """Eight hex digits, the same for one error at one place: type, our innermost frame, words without numbers."""
    frames = [f for f in traceback.extract_tb(failure.__traceback__) if Path(f.filename).is_relative_to(ROOT)]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
    words = re.sub(r"\d+", "#", str(failure))[:200]
    return sha1(f"{type(failure).__name__}|{where}|{words}".encode(), usedforsecurity=False).hexdigest()[:8]
