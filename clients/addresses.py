"""Where a URL that a user supplied may lead: to public addresses, never into our own network."""

from __future__ import annotations

import ipaddress
import socket
import time
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from domain.failures import Rejected

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address

_SITE = ipaddress.ip_network("fec0::/10")  # RFC 3879: what was private before fc00::/7


class Private(Rejected):
    """The URL leads to an address that is not public."""


def public(address: str, *, loopback: bool = False) -> bool:
    """Whether an IP address is one of the public internet; `loopback` lets 127/8 and ::1 pass as well.

    >>> public("::ffff:10.0.0.1")
    False
    """
    ip: IP = ipaddress.ip_address(address.partition("%")[0])
    for inner in _inside(ip):
        if inner.is_loopback and loopback:
            continue
        if not inner.is_global or inner.is_multicast or inner.is_reserved or inner in _SITE:
            return False
    return True


def _inside(ip: IP) -> list[IP]:
    """The address, or the IPv4 addresses that it carries: mapped, 6to4, Teredo, NAT64."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.ipv4_mapped:
        return [ip.ipv4_mapped]
    if ip in _NAT64:
        return [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    if ip.sixtofour:
        return [ip, ip.sixtofour]
    return [ip, *(ip.teredo or ())]


def check(url: str, *, loopback: bool = False) -> None:
    """Raise Private for a URL whose host is an address in figures, in any form, that is not public.

    A name is looked up when it is connected to, and not here: it may lead elsewhere by then.
    """
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return
    _check(found, loopback)


def _check(found: list[tuple[Any, ...]], loopback: bool) -> None:
    if not all(public(str(address[0]), loopback=loopback) for *_, address in found):
        raise Private("its address is not a public one")


def connect(host: str, port: int, timeout: float, *, loopback: bool = False) -> socket.socket:
    """A socket to `host`, connected to an address that was checked: a second look-up can't change it.

    Octal, decimal and short forms of an address (`0x7f.1`) are checked as what they resolve to. The look-up and all
    the addresses share `timeout` seconds, and what is left of them is the socket's. Raises Private when any address
    of the host is not public, OSError when none can be reached.
    """
    ends_at = time.monotonic() + timeout
    found = _looked_up(host, port, timeout)
    _check(found, loopback)
    problem = OSError("no address")
    for tried, (family, kind, protocol, _, address) in enumerate(found):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left(ends_at) / (len(found) - tried))
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_left(ends_at))
            return connection
        except OSError as wrong:
            connection.close()
            problem = wrong
    raise problem


def _looked_up(host: str, port: int, seconds: float) -> list[tuple[Any, ...]]:
    """The host's addresses. A name server may take as long as it likes, and the system waits for it far longer."""
    answer: Future[list[tuple[Any, ...]]] = Future()

    def look_up() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as wrong:
            answer.set_exception(wrong)

    Thread(target=look_up, daemon=True).start()
    return answer.result(seconds)


def _left(ends_at: float) -> float:
    """Seconds until then. Raises TimeoutError when there are none."""
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
