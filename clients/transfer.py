"""One request and its answer within limits of time and size; what goes wrong comes back as a value.

Values, because an exception that is raised while another is handled keeps it as its context, and the
library's exceptions carry whole URLs with the keys in them.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from clients.addresses import Private
from domain.failures import Rejected, Unavailable

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

CHUNK = 65_536


@dataclass(frozen=True)
class Answer:
    """What a service said. `received_at` is when it last said so: an answer served again keeps its time."""

    status: int
    body: bytes
    headers: Mapping[str, str]  # names in lower case; an answer served again has its validators alone
    received_at: datetime


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes that one answer may take; `deadline` is for all of its body together."""

    connect: float = 3
    read: float = 10
    deadline: float = 20
    max_bytes: int = 2_000_000  # after decompression


def transfer(
    method: str, url: str, headers: Mapping[str, str], content: bytes | None, limits: Limits, public: bool
) -> Answer | Unavailable | Rejected:
    """The answer, of any status, or what went wrong in words that hold nothing of the request."""
    from urllib3 import Timeout
    from urllib3.exceptions import HTTPError

    timeout = Timeout(connect=limits.connect, read=limits.read)
    try:
        response = _pools(public).request(
            method, url, body=content, headers=headers, redirect=False, preload_content=False, timeout=timeout
        )
        try:
            body = _body(response, limits)
        except BaseException:
            response.close()
            raise
        if not isinstance(body, bytes):
            response.close()
            return body
        response.release_conn()
    except Private as private:
        return Private(str(private))
    except (HTTPError, OSError, ValueError) as wrong:
        return _problem(wrong, limits)
    found = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, body, found, datetime.now(UTC))


def _body(response: BaseHTTPResponse, limits: Limits) -> bytes | Unavailable | Rejected:
    """The body as it comes, one read at a time, so that neither a drip nor a flood outlasts its limit."""
    ends_at = time.monotonic() + limits.deadline
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(CHUNK, decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if size > limits.max_bytes:
            return Rejected(f"an answer of more than {limits.max_bytes} bytes")
        if time.monotonic() > ends_at:
            return Unavailable(f"the answer was not complete within {limits.deadline:g} s")
    return b"".join(chunks)


def _problem(wrong: Exception, limits: Limits) -> Unavailable | Rejected:
    from urllib3 import exceptions

    rejected = {
        exceptions.DecodeError: "an answer whose compression is unreadable",
        exceptions.LocationValueError: "a URL that can't be asked",
        ValueError: "a URL or a header that can't be sent",
    }
    unavailable = {
        exceptions.NameResolutionError: "the host's name is not found",  # a NewConnectionError
        exceptions.NewConnectionError: "no connection: refused or unreachable",  # a ConnectTimeoutError
        exceptions.ConnectTimeoutError: f"no connection within {limits.connect:g} s",
        exceptions.ReadTimeoutError: f"no answer within {limits.read:g} s",
        exceptions.SSLError: f"TLS failed: {_tls_reason(wrong)}",
        exceptions.IncompleteRead: "the answer was cut short",
        exceptions.InvalidChunkLength: "the answer was cut short",
        Exception: f"the connection was lost ({type(wrong).__name__})",
    }
    for kind, words in rejected.items():
        if isinstance(wrong, kind) and not isinstance(wrong, exceptions.NameResolutionError):
            return Rejected(words)
    return Unavailable(next(words for kind, words in unavailable.items() if isinstance(wrong, kind)))


def _tls_reason(wrong: Exception) -> str:
    found = re.search(r"CERTIFICATE_VERIFY_FAILED\] ([\w :',.*-]+)", str(wrong))
    return found[1].strip() if found else "no handshake"


@cache
def _pools(public: bool) -> PoolManager:
    """The connections of this process, kept alive between calls."""
    from clients import connections

    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # it logs whole URLs
    return connections.pools(public)


os.register_at_fork(after_in_child=_pools.cache_clear)  # a connection has one owner
