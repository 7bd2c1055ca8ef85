"""The only door out. Whatever goes wrong outside leaves it as Unavailable or Rejected, without a secret in it.

`get` and `post` ask a provider: within its budget, its breaker and its own pace, with bounded retries
(of GET alone) and conditional requests. `send` reaches a URL that a user supplied: never a private address.
None follows a redirect: a moved page must fail loudly and not parse as an empty one.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import quote, urlencode, urlsplit

import config
from clients import gate, providers, remembered
from clients.addresses import Private
from clients.providers import Provider
from clients.redaction import excerpt, redact
from clients.transfer import Answer, Limits, transfer
from domain.failures import Rejected, Unavailable

__all__ = ["Answer", "Busy", "Limits", "Private", "Provider", "Refused", "get", "post", "retry_after", "send", "status"]

LONGEST_RETRY_AFTER = 900.0  # seconds: whoever says more is asked again after a quarter of an hour
LONGEST_MAX_AGE = 300.0  # seconds of a Cache-Control that is heeded
WAITING = {408, 418, 425, 429}  # besides 5xx: a later call may succeed
DEFAULT_LIMITS = Limits()
_STATUSES = {int(status) for status in HTTPStatus}


class Refused(Rejected):
    """An answer outside 2xx that another try does not change. `body` is not redacted: not for messages."""

    def __init__(self, message: str, status: int, body: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class Busy(Unavailable):
    """An answer that means: later. `body` is not redacted: not for messages."""

    def __init__(
        self, message: str, retry_after: float | None, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        super().__init__(message, retry_after)
        self.status = status
        self.headers = headers
        self.body = body


def get(
    provider: Provider,
    path: str,
    params: Mapping[str, str] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    cost: int = 1,
    urgent: bool = False,
    min_age: float | None = None,
) -> Answer:
    """The answer to GET `path`: the one that is remembered where it is younger than `min_age` seconds.

    Raises Unavailable (time-out, 408, 418, 429, 5xx, spent budget, open breaker) and Rejected (as Refused
    any other answer outside 2xx, redirects among them; a body above `max_bytes`; a provider that is off).
    """
    url = _url(provider, path, params)
    min_age = provider.min_age if min_age is None else min_age
    key = remembered.key(provider.name, url)
    memory = remembered.find(key)
    if memory and memory.young(min_age, datetime.now(UTC)):
        return _accepted(_asked(provider.name, "GET", url), _answer(memory))
    conditions = memory.conditions if memory else {}
    sent = {**(headers or {}), **conditions}
    answer = _patiently(provider, lambda: _ask(provider, "GET", url, sent, None, cost, urgent))
    if answer.status == 304 and memory and conditions:
        answer = replace(_answer(memory), received_at=answer.received_at)
    remembered.keep(key, _memory(provider, answer), min_age)
    return _accepted(_asked(provider.name, "GET", url), answer)


def throttled(provider: Provider, words: str, wait: float) -> Unavailable:
    """Tell the breaker of a refusal that came as a good answer; the exception to raise for it."""
    said = redact(f"{provider.name}: {words}")
    gate.failed(provider, said, wait)
    return Unavailable(said, wait)


def post(
    provider: Provider,
    path: str,
    content: bytes,
    params: Mapping[str, str] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    cost: int = 1,
    urgent: bool = False,
) -> Answer:
    """The answer to POST `path`: one try, as a second could do the thing twice. Raises as `get` does."""
    url = _url(provider, path, params)
    answer = _ask(provider, "POST", url, headers or {}, content, cost, urgent)
    return _accepted(_asked(provider.name, "POST", url), answer)


def send(
    method: str,
    url: str,
    content: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Answer:
    """The answer of a URL that a user supplied. Raises as `get` does, and Private (a Rejected) for private addresses.

    One try, no budget and no breaker: each user's target has its own retries. Messages name the host
    alone, because the path of a webhook is its password.
    """
    asked = f"{method} {_host(url)}"
    answer = _exchange(asked, method, url, headers or {}, content, limits, public=True)
    if 200 <= answer.status < 300:
        return answer
    # What the target says may hold what was sent to it: the status alone is told.
    raise Refused(_refusal(asked, answer, quoted=False), answer.status, answer.body)


def status(now: datetime | None = None) -> list[gate.State]:
    """Every provider: on or off and why, what is spent, when it runs out, its breaker and its last error."""
    return gate.states(providers.load(), now or datetime.now(UTC))


def _url(provider: Provider, path: str, params: Mapping[str, str] | None) -> str:
    if provider.off:
        raise Rejected(f"{provider.name} is off: {provider.off}")
    query = f"?{urlencode(params, quote_via=quote)}" if params else ""
    return f"{provider.base_url}{path}{query}"


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        readable = parts.port != 0 and parts.hostname and parts.scheme in ("http", "https")
    except ValueError:
        readable = False
    if not readable or any(c.isspace() or not c.isprintable() for c in url) or "\\" in url:
        raise Rejected("a URL must be http:// or https:// with a host")
    if "@" in parts.netloc:
        raise Rejected("a URL must not hold a user name or a password")
    return f"{parts.scheme}://{parts.netloc}"


def _patiently(provider: Provider, ask: Callable[[], Answer]) -> Answer:
    """Ask again after Unavailable, a few times and while the waits stay short."""
    left = provider.patience
    for further in range(provider.tries - 1, -1, -1):
        try:
            return ask()
        except Unavailable as failure:
            doubled = 0.2 * 2 ** (provider.tries - further)
            wait = doubled * random.uniform(0.5, 1) if failure.retry_after is None else failure.retry_after  # noqa: S311
            left -= wait
            if not further or left < 0:
                raise
        time.sleep(wait)
    raise AssertionError("tries is at least 1")


def _ask(
    provider: Provider,
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes | None,
    cost: int,
    urgent: bool,
) -> Answer:
    """One exchange with a provider, paid from its budget and told to its breaker."""
    gate.enter(provider, cost, urgent)
    limits = Limits(provider.connect_timeout, provider.read_timeout, provider.deadline, provider.max_bytes)
    asked = _asked(provider.name, method, url)
    try:
        answer = _exchange(
            asked, method, url, {**provider.headers, **headers}, content, limits, penalty=provider.penalty
        )
    except Unavailable as failure:
        gate.failed(provider, str(failure), failure.retry_after)
        raise
    except Rejected as failure:
        gate.succeeded(provider, {}, str(failure))
        raise
    counters = {name: answer.headers[name.lower()][:40] for name in provider.counters if name.lower() in answer.headers}
    refused = "" if answer.status < 300 or answer.status == 304 else _refusal(asked, answer)
    gate.succeeded(provider, counters, refused)
    return answer


def _exchange(
    asked: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes | None,
    limits: Limits,
    *,
    public: bool = False,
    penalty: float | None = None,
) -> Answer:
    """One request and its answer, of any status but those that mean: later."""
    outcome = transfer(method, url, {**_identity(), **headers}, content, limits, public)
    if not isinstance(outcome, Answer):
        outcome.args = (redact(f"{asked}: {outcome}"),)
        raise outcome
    if outcome.status in WAITING or outcome.status >= 500:
        wait = retry_after(outcome.headers.get("retry-after", ""), outcome.received_at)
        if wait is None and outcome.status in (418, 429):
            wait = penalty
        said = _refusal(asked, outcome, quoted=not public)
        raise Busy(said, wait, outcome.status, outcome.headers, outcome.body)
    return outcome


def _accepted(asked: str, answer: Answer) -> Answer:
    if 200 <= answer.status < 300:
        return answer
    raise Refused(_refusal(asked, answer), answer.status, answer.body)


def _refusal(asked: str, answer: Answer, *, quoted: bool = True) -> str:
    if not quoted:
        return f"{asked}: {answer.status}"
    phrase = HTTPStatus(answer.status).phrase if answer.status in _STATUSES else ""
    if 300 <= answer.status < 400:
        location = answer.headers.get("location", "")[:200]
        phrase = f"moved{f' to {location}' if location else ''}; redirects are not followed"
    said = excerpt(answer.body)
    return redact(f"{asked}: {answer.status} {phrase}".rstrip() + (f": {said}" if said else ""))


def _asked(name: str, method: str, url: str) -> str:
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return redact(f"{name}: {method} {parts.path}{query}")


def _answer(memory: remembered.Memory) -> Answer:
    return Answer(memory.status, memory.body, memory.headers, memory.received_at)


def _memory(provider: Provider, answer: Answer) -> remembered.Memory:
    found = re.search(r"max-age=(\d{1,9})", answer.headers.get("cache-control", ""))
    max_age = min(float(found[1]), LONGEST_MAX_AGE) if found and provider.heeds_cache_control else 0.0
    return remembered.Memory(answer.status, answer.body, answer.headers, answer.received_at, max_age)


def retry_after(text: str, now: datetime) -> float | None:
    """Seconds of a Retry-After header: seconds, a fraction or an HTTP date; at most 15 minutes, None if unreadable.

    >>> retry_after("Sun, 22 Nov 2026 12:00:30 GMT", datetime(2026, 11, 22, 12, tzinfo=UTC))
    30.0
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text).astimezone(UTC) - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _identity() -> dict[str, str]:
    contact = config.settings.contact
    agent = f"nightdesk/{config.settings.code_version}{f' ({contact})' if contact else ''}"
    return {"User-Agent": agent, "Accept-Encoding": "gzip, deflate"}
