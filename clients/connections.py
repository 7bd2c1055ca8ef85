"""HTTP connections with what urllib3 lacks: a deadline for the headers, and peers that must be public."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Timer
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

import config
from clients import addresses

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

SLACK = 0.25  # seconds after the read time-out, which tells more when nothing comes at all


class WatchedHTTP(HTTPConnection):
    """To a provider that the operator chose."""

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _cut_after(self.timeout, self.sock):
            return super().getresponse()


class WatchedHTTPS(HTTPSConnection):
    """To a provider that the operator chose, over TLS."""

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _cut_after(self.timeout, self.sock):
            return super().getresponse()


@contextmanager
def _cut_after(seconds: Any, sock: socket.socket) -> Iterator[None]:
    """A peer that drips its headers byte by byte never times out by itself: cut it off, as a time-out."""
    is_cut = Event()

    def cut() -> None:
        is_cut.set()
        with suppress(OSError):  # it closed meanwhile
            sock.shutdown(socket.SHUT_RDWR)

    timer = Timer(seconds + SLACK, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if is_cut.is_set():  # what is cut short parses as fewer headers and no body
        raise TimeoutError


class PublicHTTP(WatchedHTTP):
    """To wherever a user said: public addresses alone, checked at the moment of the connection."""

    def _new_conn(self) -> socket.socket:
        return _connected(self)


class PublicHTTPS(WatchedHTTPS):
    """The same over TLS, which goes on to see the host's name."""

    def _new_conn(self) -> socket.socket:
        return _connected(self)


def _connected(connection: HTTPConnection) -> socket.socket:
    host, port, timeout = connection._dns_host, connection.port or 80, connection.timeout or 0
    try:
        return addresses.connect(host, port, timeout, loopback=config.settings.private_targets)
    except (socket.gaierror, UnicodeError):
        raise NameResolutionError(host, connection, socket.gaierror()) from None
    except TimeoutError:
        raise ConnectTimeoutError(connection, "timed out") from None
    except OSError as wrong:
        raise NewConnectionError(connection, str(wrong)) from None


def pools(public: bool) -> PoolManager:
    """A pool manager; `public` checks addresses. No retries and no redirects: those are decided above."""
    http, https = (PublicHTTP, PublicHTTPS) if public else (WatchedHTTP, WatchedHTTPS)
    manager = PoolManager(num_pools=32, maxsize=4, retries=False, ca_certs=_authorities())
    manager.pool_classes_by_scheme = {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": http}),
        "https": type("PoolTLS", (HTTPSConnectionPool,), {"ConnectionCls": https}),
    }
    return manager


def _authorities() -> str | None:
    try:
        import certifi
    except ImportError:
        return None  # the system's
    return certifi.where()
