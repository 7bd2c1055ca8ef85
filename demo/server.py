"""The stand-ins behind one HTTP server on loopback, each under its prefix, and the mail server beside it.

    with running(seed=7) as demo:
        demo.environment                      # BINANCE_URL and so on
        demo.faults.add("binance", 429, for_s=10, retry_after="3")
        demo.mail.messages

The same over HTTP: GET, POST and DELETE /control/faults (`{"api": "binance", "fault": "slow", "for_s": 10,
"share": 0.5, "symbol": "BTCUSDT"}`), GET and DELETE /control/mail, GET /control/requests, and what the messengers took:
GET /control/messages. GET /control/chains shows them, POST makes one reorganize or pay:
`{"chain": "ethereum", "reorg": 3, "drop": true}`, `{"chain": "bitcoin", "user": 1, "units": "50000"}`.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from demo.api import Api, Request, Response, stand_ins
from demo.faults import Fault, Faults
from demo.inbox import Inbox
from demo.journal import Journal
from demo.mail import Mail
from demo.world import Clock, World
from demo.worlds.chains import Chains

FLOOD = 100_000_000
PLEASE_WAIT = {418, 429, 503}  # statuses that come with Retry-After


class Demo(ThreadingHTTPServer):
    """The world, its stand-ins, their faults and their mail."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, world: World, seed: int, mail_folder: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.world = world
        self.apis = stand_ins(world)
        self.faults = Faults({*self.apis, "mail"}, seed)
        self.mail = Mail(self.faults, mail_folder)
        self.requests: Counter[str] = Counter()
        self.asked: list[str] = []  # the last thousand URLs, decoded

    @property
    def url(self) -> str:
        """Of the server; the control endpoints are below it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead Nightdesk here."""
        urls = {
            variable: f"{self.url}/{api.name}{path}"
            for api in self.apis.values()
            for variable, path in api.settings.items()
        }
        keys = {variable: key for api in self.apis.values() for variable, key in api.keys.items()}
        return urls | keys | {"SMTP_URL": self.mail.url, "PRIVATE_TARGETS": "on", "DEMO_URL": self.url}

    @property
    def inboxes(self) -> dict[str, Inbox]:
        """What each messenger took."""
        return {name: api.inbox for name, api in self.apis.items() if hasattr(api, "inbox")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are no news here."""

    def note(self, api: str, asked: str) -> None:
        """Count a request."""
        self.requests[api] += 1
        self.asked = [*self.asked[-999:], asked]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Demo
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60
    server_version, sys_version = "demo", ""

    def do_GET(self) -> None:
        """Answer for the stand-in whose prefix the path has."""
        asked = unquote(self.path)
        parts = urlsplit(self.path)
        prefix, _, path = parts.path.removeprefix("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if prefix == "control":
            self._send(self._control(path, dict(parse_qsl(parts.query)), body))
            return
        api = self.server.apis.get(prefix)
        if api is None:
            self._send(Response({"stand_ins": sorted(self.server.apis), "faults": self.server.faults.list()}, 404))
            return
        self.server.note(prefix, asked)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, "/" + unquote(path), query, headers, body, time.time())
        fault = self.server.faults.find(prefix, asked, request.now)
        if fault is None:
            self._send(api.answer(request))
        else:
            self._fail(fault, api, request)

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def _fail(self, fault: Fault, api: Api, request: Request) -> None:
        if fault.fault.isdigit():
            self._send(_refusal(fault, api))
        elif fault.fault == "reset":
            self._reset()
        elif fault.fault in CANNED:
            self._send(CANNED[fault.fault])
        elif fault.fault == "redirect":
            self._send(Response(b"", 302, {"Location": fault.location}))
        elif fault.fault == "bomb":
            self._send(Response(_bomb(), headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}))
        elif fault.fault == "flood":
            self._flood()
        else:
            self._send(api.answer(_delayed(fault, request)), fault)

    def _send(self, response: Response, fault: Fault | None = None) -> None:
        content, kind = response.content()
        self.send_response(response.status)
        for name, value in {"Content-Type": kind, **response.headers}.items():
            self.send_header(name, value)
        if response.status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD" or response.status == 304:
            return
        if fault and fault.fault == "truncated":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif fault and fault.fault == "drip":
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(fault.seconds or 0.2)
        else:
            self.wfile.write(content)

    def _flood(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(FLOOD))
        self.end_headers()
        for _ in range(FLOOD // 100_000):
            self.wfile.write(b" " * 100_000)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with suppress(OSError):
            self.rfile.close()
            self.wfile.close()
            self.connection.close()

    def _control(self, path: str, query: dict[str, str], body: bytes) -> Response:
        demo = self.server
        match self.command, path:
            case "GET", "faults":
                return Response(demo.faults.list())
            case "POST", "faults":
                try:
                    demo.faults.add(**json.loads(body))
                except (ValueError, TypeError) as wrong:
                    return Response({"error": str(wrong)}, 422)
                return Response(demo.faults.list(), 201)
            case "DELETE", "faults":
                demo.faults.clear(query.get("api"))
                return Response([])
            case "GET", "mail":
                return Response([message.summary() for message in demo.mail.messages])
            case "DELETE", "mail":
                demo.mail.messages.clear()
                return Response([])
            case "GET", "messages":
                return Response({name: inbox.list() for name, inbox in demo.inboxes.items()})
            case _, "chains":
                return _chains(demo.world.part(Chains), body)
            case "GET", "requests":
                return Response({"counts": dict(demo.requests), "last": demo.asked[-100:]})
        return Response({"error": "control: faults, mail, messages, chains or requests"}, 404)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the standard library
        """Say nothing: the worker that asks says what it got."""


def _chains(chains: Chains, body: bytes) -> Response:
    """What the chains are, after they have done what is asked for, if anything is."""
    now = time.time()
    try:
        chains.act(now=now, **json.loads(body)) if body else None
    except (ValueError, TypeError) as wrong:
        return Response({"error": str(wrong)}, 422)
    return Response(chains.shown(now))


CANNED = {
    "garbage": Response(b'\x00\xff{"symbol": "BTC\xfe', headers={"Content-Type": "application/json"}),
    "html": Response(b"<!doctype html><title>Checking your browser</title>", headers={"Content-Type": "text/html"}),
    "empty": Response(b""),
}


def _refusal(fault: Fault, api: Api) -> Response:
    said = api.error(int(fault.fault))
    wait = {"Retry-After": fault.retry_after} if fault.retry_after and int(fault.fault) in PLEASE_WAIT else {}
    return Response(said.body, said.status, {**said.headers, **wait})


def _delayed(fault: Fault, request: Request) -> Request:
    if fault.fault == "slow":
        time.sleep(30 if fault.seconds is None else fault.seconds)
    if fault.fault != "frozen":
        return request
    return Request(request.method, request.path, request.query, request.headers, request.body, fault.since)


@cache
def _bomb() -> bytes:
    return gzip.compress(b" " * FLOOD, 9)


@contextmanager
def running(
    *,
    seed: int = 1,
    replay: Path | None = None,
    speed: float = 1,
    start: float | None = None,
    mail_folder: Path | None = None,
    journal: Journal | None = None,
) -> Iterator[Demo]:
    """The demo's servers on free ports, until the end of the block.

    `start` is the simulated world's time now (epoch seconds); a replay begins with its first rows. With a journal the
    chains go on where it ends.
    """
    now = time.time()
    clock = Clock(now, 0 if replay else now if start is None else start, speed)
    demo = Demo(World(clock, seed, replay), seed, mail_folder)
    if journal:
        demo.world.part(Chains).keep(journal, now)
    threading.Thread(target=demo.serve_forever, args=[0.05], name="demo", daemon=True).start()
    demo.mail.start()
    try:
        yield demo
    finally:
        demo.mail.stop()
        demo.shutdown()
        demo.server_close()
