"""How a run ended, in words that an operator can act on."""

from __future__ import annotations

import json
import re
import traceback
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from random import uniform
from typing import Any

from config import ROOT, redact
from domain.failures import Unavailable
from engine import steps

FIRST_WAIT, LONGEST_WAIT = 2.0, 900.0  # seconds between tries
FULL_WAIT, FULL_ATTEMPTS = 10.0, 500  # seconds between tries on a full server, and how many cost nothing
NO_ROOM = ("53100", "25006")  # PostgreSQL: disk full, read only


class Refused(Exception):
    """A payload that no worker of ours runs: not ours by name, not JSON, too large, or with hooks by name."""


class WrongCounts(TypeError):
    """A job returned something else than its counts."""


@dataclass(frozen=True)
class Outcome:
    """The end of an attempt; `dead` when nothing will try the run again by itself."""

    name: str  # ok, failed, retried, yielded, handed_back, refused
    counts: dict[str, Any] | None = None
    error: str | None = None
    fingerprint: str | None = None
    trace: str = ""
    delay: float = 0.0  # seconds until the next try
    counted: bool = True  # as one of the job's tries

    @property
    def dead(self) -> bool:
        """A dead letter: kept with its arguments until an operator retries or discards it."""
        return self.name in ("failed", "refused")


def of_exception(failure: BaseException, tried: int, tries: int, attempt: int = 1) -> Outcome:
    """Retry by class of error: `Unavailable`, a lost connection and a time-out are tried again, bugs are not.

    `tried` counts the tries so far, this one included. The wait doubles with each try, with jitter,
    and is never shorter than what the service asked for. A server that is full or takes no writes is
    nobody's failure: the run waits for it, for more than an hour if need be, and uses up no try.
    """
    words = _words(failure)
    trace = _writable(redact("".join(traceback.format_exception(failure)))[-8000:])
    error = _writable(redact(f"{type(failure).__name__}: {words}")[:1000])
    details: dict[str, Any] = {"error": error, "fingerprint": fingerprint(failure), "trace": trace}
    if isinstance(failure, Refused):
        return Outcome("refused", **details)
    if is_full(failure) and attempt < FULL_ATTEMPTS:
        return Outcome("retried", delay=FULL_WAIT * uniform(0.75, 1.25), counted=False, **details)  # noqa: S311
    if tried < tries and is_passing(failure):
        backoff = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tried - 1)) * uniform(0.75, 1.25)  # noqa: S311 - jitter
        asked = getattr(failure, "retry_after", None) or 0.0
        return Outcome("retried", delay=max(backoff, asked), **details)
    return Outcome("failed", **details)


def _writable(text: str) -> str:
    """`text` as a log, JSON and PostgreSQL take it: no NUL, no half characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _words(failure: BaseException) -> str:
    try:
        return str(failure)
    except Exception:  # noqa: BLE001 - an exception that cannot even say what it is must not end the process
        return "(its text cannot be shown)"


def is_full(failure: BaseException) -> bool:
    """Whether a server of ours has no room or takes no writes."""
    return steps.refuses_writes(failure) or sqlstate(failure) in NO_ROOM


def is_passing(failure: BaseException) -> bool:
    """Whether a later try may succeed without anybody's doing."""
    from peewee import InterfaceError, OperationalError
    from redis.exceptions import ConnectionError as RedisGone
    from redis.exceptions import TimeoutError as RedisSlow
    from rq.timeouts import JobTimeoutException

    passing = Unavailable | OperationalError | InterfaceError | RedisGone | RedisSlow | JobTimeoutException
    return isinstance(failure, passing) or is_full(failure)


def sqlstate(failure: BaseException | None) -> str:
    """PostgreSQL's five characters for what went wrong; empty where it said nothing."""
    for candidate in (failure, *getattr(failure, "args", ())[:1], getattr(failure, "__context__", None)):
        code = getattr(candidate, "pgcode", None)
        if code:
            return str(code)
    return ""


def fingerprint(failure: BaseException) -> str:
    """Eight hex digits, the same for one error at one place: type, our innermost frame, words without numbers."""
    frames = [f for f in traceback.extract_tb(failure.__traceback__) if Path(f.filename).is_relative_to(ROOT)]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else ""
    words = re.sub(r"\d+", "#", _words(failure))[:200]
    text = f"{type(failure).__name__}|{where}|{words}"
    return sha1(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:8]


def checked_counts(counts: Any) -> dict[str, Any] | None:
    """What a job returned, if it is counts that JSON can hold. Raises WrongCounts."""
    if counts is None:
        return None
    try:
        if isinstance(counts, dict):
            json.dumps(counts, default=str)
            return counts
    except (TypeError, ValueError, RecursionError):
        pass
    raise WrongCounts(f"the job has run, but returned {type(counts).__name__} where counts by name or None are due")
