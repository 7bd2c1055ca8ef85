"""Users' URLs never reach private addresses, whatever they are written or resolved as."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest

from clients import addresses, http
from clients.addresses import Private, public
from domain.failures import Rejected, Unavailable

PRIVATE = [
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "fec0::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "2002:a00:1::", "2001:0:a00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_public(address):
    assert not public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_public(address):
    assert public(address)


def test_private_targets_open_loopback_and_nothing_else():
    assert [address for address in PRIVATE if public(address, loopback=True)] == [
        "127.0.0.1",
        "127.8.9.10",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0", "[::1]",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.0.0.1.", "LOCALHOST", "①②⑦.⓪.⓪.①"],
)  # fmt: skip
def test_no_spelling_of_loopback_is_reached(demo, settings, host):
    settings(private_targets=False)
    port = demo.server_address[1]
    with pytest.raises((Rejected, Unavailable)):
        http.send("GET", f"http://{host}:{port}/gold-api/symbols")
    assert not demo.requests


def test_metadata_and_local_networks_stay_closed_when_loopback_is_open(demo):
    for host in ("169.254.169.254", "10.0.0.1", "192.168.0.1"):
        with pytest.raises(Private, match="not a public one"):
            http.send("GET", f"http://{host}/latest/meta-data")


def test_a_name_with_one_private_address_among_public_ones_is_refused(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Private):
        addresses.connect("two.example", 80, 1)


def test_a_name_that_turns_private_at_the_second_look_up_is_not_followed(demo, settings, monkeypatch):
    """DNS rebinding: the first answer is public, each later one is loopback, where something listens."""
    settings(private_targets=False)
    port = demo.server_address[1]
    looked_up = []
    connected = []

    def look_up(host, port, *args, **kwargs):
        looked_up.append(host)
        ip = "8.8.8.8" if len(looked_up) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    def connect(self, address):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(Unavailable):
        http.send("GET", f"http://rebind.example:{port}/gold-api/symbols")
    assert looked_up == ["rebind.example"]
    assert connected == [("8.8.8.8", port)]
    with pytest.raises(Private):
        http.send("GET", f"http://rebind.example:{port}/gold-api/symbols")
    assert connected == [("8.8.8.8", port)]


def test_all_addresses_of_a_host_share_the_time_for_a_connection(monkeypatch):
    """A host may name as many as it likes, and none of them answers."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"8.8.8.{n}", 80)) for n in range(8)]
    clock = [100.0]
    waits = []

    def connect(self, address):
        waits.append(self.gettimeout())
        clock[0] += waits[-1]
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(addresses, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with pytest.raises(TimeoutError):
        addresses.connect("many.example", 80, 4)
    assert waits == pytest.approx([0.5] * 8)


def test_a_name_server_that_does_not_answer_is_waited_for_as_long_as_a_connection(monkeypatch, demo):
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait())
    with pytest.raises(Unavailable, match=r"no connection within 0\.01 s"):
        http.send("GET", "http://slow.example/", limits=http.Limits(connect=0.01))
    never.set()


def test_a_302_to_a_private_address_is_not_followed(demo):
    demo.faults.add("gold-api", "redirect", location="http://169.254.169.254/latest/meta-data")
    with pytest.raises(http.Refused, match="302"):
        http.send("GET", f"{demo.url}/gold-api/symbols")


def test_the_hosts_name_is_what_the_peer_sees(monkeypatch, demo):
    listener = socket.create_server(("127.0.0.1", 0))
    seen = []

    def serve():
        connection, _ = listener.accept()
        with connection:
            seen.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert http.send("POST", f"http://hooks.example:{port}/x", b"{}").status == 204
    thread.join()
    listener.close()
    assert f"Host: hooks.example:{port}".encode() in seen[0]


def test_over_tls_the_peer_sees_the_hosts_name_too(monkeypatch, demo):
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = []
    context.sni_callback = lambda _, name, __: names.append(name)

    def serve():
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # it has no certificate: the name is all that is wanted
            context.wrap_socket(connection, server_side=True)

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Unavailable, match=r"TLS failed|lost"):
        http.send("POST", f"https://hooks.example:{port}/x", b"{}")
    thread.join()
    listener.close()
    assert names == ["hooks.example"]


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f.1", "169.254.169.254", "10.0.0.1:80", "[::1]:80", "[fd12::1]"]
)
def test_an_address_in_figures_that_is_not_public_is_refused_before_anybody_connects(host):
    with pytest.raises(Private):
        addresses.check(f"https://ann:x@{host}/hook")


@pytest.mark.parametrize(
    "url", ["https://localhost/", "https://8.8.8.8/", "https://[::1", "whatever", "https:///x", ""]
)
def test_names_and_what_is_no_url_are_not_looked_up(url):
    addresses.check(url)


def test_loopback_in_figures_passes_where_private_targets_may_be_reached():
    addresses.check("http://127.0.0.1:8080/", loopback=True)
