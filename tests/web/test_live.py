"""/events over real connections: who is let in, what they hear, and how either side goes away."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import jwt
import pytest
import requests
import uvicorn
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import config
import db
import events as bus
from models import operators
from tests.ports import held_port
from tests.waiting import stopwatch, until
from tests.web.conftest import PASSWORD, SECRET
from web import access, listeners, live
from web.app import app

Start = Callable[..., "subprocess.Popen[str]"]


class Desk:
    """The web process in a thread of the test's own process, so that its patience can be shortened."""

    def __init__(self) -> None:
        options = {"ws": "websockets-sansio", "ws_per_message_deflate": False, "ws_max_size": 4096}
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", **options))  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        until(app.state.hub.started.is_set)
        until(lambda: app.state.hub.redis_away is False)  # what is said before is not heard

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()

    def hear(self, query: str = "", **headers: str) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/events{query}", additional_headers=headers, proxy=None)

    @contextmanager
    def stream(self, query: str = "", **headers: str) -> Iterator[Iterator[str]]:
        """Lines of server-sent events."""
        address = f"http://127.0.0.1:{self.port}/events{query}"
        with requests.get(address, headers=headers, stream=True, timeout=60) as answer:
            assert answer.status_code == 200, answer.text
            yield (line.decode() for line in answer.iter_lines(chunk_size=1))


@pytest.fixture
def desk(database: Any, redis: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    secret = config.settings.app_secret
    object.__setattr__(config.settings, "app_secret", SECRET)
    db.rows("insert into app_user (external_id) values ('ann'), ('bob')")
    desk = Desk()
    yield desk
    desk.stop()
    object.__setattr__(config.settings, "app_secret", secret)


def cookie(role: str = "viewer") -> dict[str, str]:
    """An operator's browser."""
    operators.save("oscar", PASSWORD, role)
    return {"Cookie": f"nightdesk={operators.open_session('oscar', PASSWORD)}"}


def token(sub: str = "ann", seconds: float = 60, **claims: Any) -> str:
    """As the served app signs them."""
    return jwt.encode({"sub": sub, "exp": int(time.time() + seconds), **claims}, SECRET, "HS256")


def user(name: str) -> int:
    return int(db.rows("select id from app_user where external_id = %s", name)[0][0])


def fact(topic: str = "run.failed", user_id: int | None = None, **payload: Any) -> None:
    with db.transaction():
        bus.publish(topic, payload, user_id)


def goodbye(line: ClientConnection) -> int:
    """The code with which a line is closed, after whatever else is said on it."""
    with pytest.raises(ConnectionClosed) as closed:
        exhaust(line)
    return closed.value.rcvd.code if closed.value.rcvd else 1006


def exhaust(line: ClientConnection) -> None:
    while True:
        line.recv(60)


def told(line: ClientConnection, timeout: float = 60) -> dict[str, Any]:
    return dict(json.loads(line.recv(timeout)))


def facts(line: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next facts; greetings are left out."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        message = told(line)
        if message["topic"] not in ("hello", "here"):
            found.append(message)
    return found


# coming and resuming


def test_a_line_begins_with_a_token_and_resumes_behind_any(desk: Desk) -> None:
    with desk.hear(**cookie()) as line:
        hello = told(line)
        assert hello["topic"] == "hello"
        fact(n=1)
        first = facts(line, 1)[0]
        fact(n=2)
        assert facts(line, 1)[0]["payload"] == {"n": 2}
    fact(n=3)
    for after, rest in ((hello["id"], [1, 2, 3]), (first["id"], [2, 3])):
        with desk.hear(f"?after={after}", **cookie()) as line:
            assert [message["payload"]["n"] for message in facts(line, len(rest))] == rest


def test_who_has_only_listened_holds_a_token_that_stays_fresh(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "KEEP_ALIVE", 0.3)
    with desk.hear(f"?token={token()}") as line:
        hello = told(line)
        for _ in range(3):
            fact("secret", user("bob"))
        here = told(line)
        while here["topic"] == "here" and here["id"] == hello["id"]:
            here = told(line)
    assert here["topic"] == "here"
    assert live.parse_token(here["id"]) > live.parse_token(hello["id"])


def test_a_token_from_before_the_kept_days_is_a_gap_and_goes_on_from_now(desk: Desk) -> None:
    fact(n=1)
    with desk.hear(f"?after={2**50}-1", **cookie()) as line:
        gap = told(line)
        fact(n=2)
        (news,) = facts(line, 1)
    assert gap["topic"] == "gap"
    assert news["payload"] == {"n": 2}
    with desk.hear(f"?after={gap['id']}", **cookie()) as line:
        assert facts(line, 1)[0] == news


@pytest.mark.parametrize("after", ["x", "1", "-1-1", "1-1-1", "9" * 40, "1-" + "9" * 30, "%00", "1-1%0a", "٣-٣"])
def test_nonsense_for_a_token_is_told_so(desk: Desk, after: str) -> None:
    with desk.hear(f"?after={after}", **cookie()) as line, pytest.raises(ConnectionClosed, match="4711-42") as closed:
        line.recv(60)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1007
    answer = requests.get(f"http://127.0.0.1:{desk.port}/events?after={after}", headers=cookie(), timeout=60)
    assert answer.status_code == 400


def test_state_comes_without_a_token_and_to_the_apps_users_too(desk: Desk) -> None:
    with desk.hear(f"?token={token()}") as line:
        told(line)
        bus.broadcast("quote", {"symbol": "BTCUSD", "price": "1.5"})
        quote = told(line)
    assert quote == {"topic": "quote", "payload": {"symbol": "BTCUSD", "price": "1.5"}}


# who is let in


def part(value: Any) -> str:
    return urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=").decode()


def signed_raw(header: bytes, payload: bytes) -> str:
    """Any header and payload with the app's own signature."""
    message = f"{part(header)}.{part(payload)}".encode()
    return f"{message.decode()}.{part(hmac.digest(SECRET.encode(), message, 'sha256'))}"


HEADER = b'{"alg":"HS256","typ":"JWT"}'
SOON = int(time.time()) + 3000
FORGED = {
    "expired": token(seconds=-60),
    "of somebody else's secret": jwt.encode({"sub": "ann", "exp": SOON}, "x" * 40, "HS256"),
    "without a signature": f"{part({'alg': 'none'})}.{part({'sub': 'ann', 'exp': SOON})}.",
    "none in capitals": f"{part({'alg': 'NONE'})}.{part({'sub': 'ann', 'exp': SOON})}.",
    "another algorithm": jwt.encode({"sub": "ann", "exp": SOON}, SECRET * 2, "HS512"),
    "without an end": jwt.encode({"sub": "ann"}, SECRET, "HS256"),
    "without a subject": jwt.encode({"exp": SOON}, SECRET, "HS256"),
    "of nobody": token("nobody", 3000),
    "a subject with NUL": token("ann\x00", 3000),
    "a subject that is no text": signed_raw(HEADER, b'{"sub": 7, "exp": %d}' % SOON),
    "an endless end": signed_raw(HEADER, b'{"sub": "ann", "exp": 1e999}'),
    "a list for an end": signed_raw(HEADER, b'{"sub": "ann", "exp": []}'),
    "null for an end": signed_raw(HEADER, b'{"sub": "ann", "exp": null}'),
    "NaN for an end": signed_raw(HEADER, b'{"sub": "ann", "exp": NaN}'),
    "an endless beginning": signed_raw(HEADER, b'{"sub": "ann", "exp": %d, "nbf": 1e999}' % SOON),
    "a deep header": f"{part(b'[' * 3000)}.{part({})}.x",
    "a deep payload": signed_raw(HEADER, b"[" * 3000),
    "a payload that is a list": signed_raw(HEADER, b"[]"),
    "a critical header": signed_raw(b'{"alg":"HS256","crit":["b64"],"b64":false}', b'{"sub":"ann","exp":%d}' % SOON),
    "huge": "a" * 6_000,
    "a program's": "nd_" + "x" * 40,
    "not ASCII": "é.é.é",
    "dots": "...",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_a_forged_token_opens_nothing(desk: Desk, forged: str) -> None:
    with pytest.raises(InvalidStatus) as refused, desk.hear(f"?token={forged}"):
        pass
    assert refused.value.response.status_code in (403, 414, 431)
    answer = requests.get(f"http://127.0.0.1:{desk.port}/events?token={forged}", timeout=60)
    assert answer.status_code in (401, 414, 431)
    assert not app.state.hub.clients


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: f"{part(HEADER)}.{part(raw)}.x"))
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_text_at_all_is_a_token(text: str) -> None:
    secret = config.settings.app_secret
    object.__setattr__(config.settings, "app_secret", SECRET)
    assert asyncio.run(access.app_user(text)) is None
    object.__setattr__(config.settings, "app_secret", secret)


def test_without_a_secret_no_user_of_the_app_is_let_in(desk: Desk) -> None:
    object.__setattr__(config.settings, "app_secret", "")
    message = f"{part(HEADER)}.{part({'sub': 'ann', 'exp': SOON})}"
    for one in (token(), f"{message}.{part(hmac.digest(b'', message.encode(), 'sha256'))}"):
        with pytest.raises(InvalidStatus, match="403"), desk.hear(f"?token={one}"):
            pass


def test_programs_with_other_scopes_hear_nothing(desk: Desk) -> None:
    for scope in ("metrics", "read"):
        with pytest.raises(InvalidStatus, match="403"), desk.hear(f"?token={operators.new_token(scope, scope, None)}"):
            pass


def test_users_hear_what_is_theirs_and_public_and_operators_everything(desk: Desk) -> None:
    asked = (f"?token={token('ann')}", {}), (f"?token={token('bob')}", {}), ("", cookie())
    with ExitStack() as lines:
        ann, bob, oscar = (lines.enter_context(desk.hear(query, **headers)) for query, headers in asked)
        for line in (ann, bob, oscar):
            told(line)
        fact("alert", user("ann"), of="ann")
        fact("alert", user("bob"), of="bob")
        fact("run.failed", of="nobody")
        fact("prices.stale", of="all")
        assert [message["payload"]["of"] for message in facts(oscar, 4)] == ["ann", "bob", "nobody", "all"]
        assert [message["payload"]["of"] for message in facts(ann, 2)] == ["ann", "all"]
        assert [message["payload"]["of"] for message in facts(bob, 2)] == ["bob", "all"]
    with desk.hear(f"?token={token('bob')}&after=1-1") as bob:  # nor by asking for the past
        assert [message["payload"]["of"] for message in facts(bob, 2)] == ["bob", "all"]


ORIGINS = [
    ("https://evil.example", 403),
    ("null", 403),
    ("http://127.0.0.1:1", 403),
    ("http://localhost.evil.example", 403),
]


@pytest.mark.parametrize(("origin", "status"), ORIGINS)
def test_a_page_of_another_site_cannot_use_an_operators_cookie(desk: Desk, origin: str, status: int) -> None:
    headers = cookie()
    with pytest.raises(InvalidStatus, match=str(status)), desk.hear(Origin=origin, **headers):
        pass
    with desk.hear(Origin=f"http://127.0.0.1:{desk.port}", **headers) as line:
        assert told(line)["topic"] == "hello"


def test_a_page_of_the_app_may_listen_with_its_users_token_even_in_an_operators_browser(desk: Desk) -> None:
    headers = {"Origin": "https://app.example", **cookie()}
    with desk.hear(f"?token={token()}", **headers) as line:
        told(line)
        fact("run.failed", of="operators")
        fact("alert", user("ann"), of="ann")
        assert facts(line, 1)[0]["payload"] == {"of": "ann"}
    address = f"http://127.0.0.1:{desk.port}/events"
    with requests.get(f"{address}?token={token()}", headers=headers, stream=True, timeout=60) as answer:
        assert answer.headers["access-control-allow-origin"] == "*"
    with requests.get(address, headers=cookie(), stream=True, timeout=60) as answer:
        assert "access-control-allow-origin" not in answer.headers


# who is no longer welcome


def test_looks_at_sessions_are_frequent_enough() -> None:
    assert live.STILL_WELCOME + listeners.KEEP_ALIVE <= 30


def keep_talking(ended: threading.Event) -> None:
    with db.database.connection_context():
        while not ended.wait(0.05):
            fact()


@pytest.mark.parametrize(
    "end",
    [
        lambda: operators.disable("oscar"),
        lambda: db.rows("delete from session"),
        lambda: db.rows("update session set expires_at = now()"),
        lambda: operators.save("oscar", "another password", "viewer"),
    ],
    ids=["disabled", "logged out", "expired", "new password"],
)
@pytest.mark.parametrize("busy", [False, True])
def test_who_is_shut_out_while_connected_hears_no_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, end: Callable[[], Any], busy: bool
) -> None:
    monkeypatch.setattr(live, "STILL_WELCOME", 0.2)
    monkeypatch.setattr(listeners, "KEEP_ALIVE", 0.2)
    headers = cookie()
    with desk.hear(**headers) as line, desk.stream(**headers) as lines:
        told(line)
        end()
        ended = threading.Event()
        crowd = threading.Thread(target=keep_talking, args=[ended])
        if busy:
            crowd.start()
        assert goodbye(line) == 1008
        assert list(lines)[-1:] == [""]  # it ends
        ended.set()
    until(lambda: not app.state.hub.clients)


def test_an_apps_token_is_good_until_its_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STILL_WELCOME", 0.2)
    monkeypatch.setattr(listeners, "KEEP_ALIVE", 0.2)
    with until(lambda: let_in(desk, token(seconds=-3))) as line:  # clocks may differ by 5 s
        assert goodbye(line) == 1008


def let_in(desk: Desk, token: str) -> ClientConnection | None:
    """A line for a token; none if it came too late on a slow machine."""
    with suppress(InvalidStatus):
        return desk.hear(f"?token={token}")
    return None


# who does not read


def deaf(desk: Desk, headers: dict[str, str], upgrade: bool = True) -> socket.socket:
    """A client that asks and then reads nothing."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", desk.port))
    asks = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        + "A" * 22
        + "==\r\n"
    )
    line.sendall(
        f"GET /events HTTP/1.1\r\nHost: x\r\nCookie: {headers['Cookie']}\r\n{asks if upgrade else ''}\r\n".encode()
    )
    return line


def rest_of(line: socket.socket) -> bytes:
    """Until the last word: a close frame with 1013, or the last chunk."""
    line.settimeout(60)
    heard = b""
    while not (b"\x03\xf5" in heard[-60:] or heard.endswith(b"0\r\n\r\n")):
        heard += line.recv(65536)
    return heard


@pytest.mark.parametrize("upgrade", [True, False], ids=["WebSocket", "SSE"])
@pytest.mark.parametrize("limit", ["WAITING", "PATIENCE"])
def test_who_does_not_read_is_sent_away_without_holding_others_up_and_resumes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, upgrade: bool, limit: str
) -> None:
    monkeypatch.setattr(listeners, limit, {"WAITING": 20, "PATIENCE": 4.0}[limit])
    headers = cookie()
    slow = deaf(desk, headers, upgrade)
    until(lambda: app.state.hub.clients)
    with desk.hear(**headers) as other:
        told(other)
        count, longest = 150, 0.0
        for number in range(count):
            began = time.monotonic()
            fact(n=number, fill="x" * 40_000)
            assert facts(other, 1)[0]["payload"]["n"] == number
            longest = max(longest, time.monotonic() - began)
        assert longest < 5, "others waited for a client that is given 10 s"
    until(lambda: not app.state.hub.clients)
    heard = rest_of(slow)
    slow.close()
    monkeypatch.undo()
    tokens = re.findall(rb'"id": "(\d+-\d+)", "topic": "run.failed"', heard)
    assert 0 < len(tokens) < count
    with desk.hear(f"?after={tokens[-1].decode()}", **headers) as again:
        missed = facts(again, count - len(tokens))
    everything = [token for (token,) in db.rows("select xid::text || '-' || id from event order by xid, id")]
    assert [token.decode() for token in tokens] + [message["id"] for message in missed] == everything


def test_what_a_client_says_is_not_for_us(desk: Desk) -> None:
    with desk.hear(**cookie()) as line:
        told(line)
        for words in ("{}", b"\x00", "after=1-1", "x" * 4000):
            line.send(words)
        fact(n=1)
        assert facts(line, 1)[0]["payload"] == {"n": 1}
        line.send("x" * 10_000)  # more than anybody has to say
        assert goodbye(line) == 1009
    until(lambda: not app.state.hub.clients)


def test_who_is_gone_leaves_nothing_behind(desk: Desk) -> None:
    headers = cookie()
    loop = app.state.hub._tasks[0].get_loop()
    before = len(asyncio.all_tasks(loop))
    with ExitStack() as polite:
        lines = [polite.enter_context(desk.hear(**headers)) for _ in range(20)]
        sockets = [deaf(desk, headers, upgrade=number % 2 == 0) for number in range(20)]
        until(lambda: len(app.state.hub.clients) == 40)
        for line in lines[::2]:
            line.socket.shutdown(socket.SHUT_RDWR)
        for rude in sockets:
            rude.close()
    until(lambda: not app.state.hub.clients)
    until(lambda: len(asyncio.all_tasks(loop)) <= before)
    assert not app.state.hub._whose


# server-sent events


def test_server_sent_events_are_lines_with_tokens_and_resume_with_last_event_id(desk: Desk) -> None:
    with desk.stream(**cookie()) as lines:
        assert [next(lines) for _ in range(2)] == ["retry: 1000", ""]
        hello = [next(lines) for _ in range(3)]
        fact(words="one\ntwo\r\n\u2028 data: three")
        first = [next(lines) for _ in range(3)]
        bus.broadcast("quote", {"symbol": "BTCUSD"})
        quote = [next(lines) for _ in range(2)]
    token_of_hello = hello[0].removeprefix("id: ")
    assert json.loads(hello[1].removeprefix("data: ")) == {"topic": "hello", "id": token_of_hello}
    assert json.loads(first[1].removeprefix("data: "))["payload"] == {"words": "one\ntwo\r\n\u2028 data: three"}
    assert quote[0].startswith('data: {"topic": "quote"')
    fact(n=2)
    with desk.stream(**cookie(), **{"Last-Event-ID": token_of_hello}) as lines:
        ids = [line for line in (next(lines) for _ in range(11)) if line.startswith("id: ")]
    assert ids[0] == hello[0]
    assert ids[1] == first[0]


def test_a_silent_stream_is_kept_open_with_a_token_that_stays_fresh(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "KEEP_ALIVE", 0.2)
    with desk.stream(**cookie()) as lines:
        heard = [line for line in (next(lines) for _ in range(12)) if '"here"' in line]
    assert len(heard) >= 2


def test_a_question_for_the_head_alone_ends(desk: Desk) -> None:
    answer = requests.head(f"http://127.0.0.1:{desk.port}/events", headers=cookie(), timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not app.state.hub.clients


# servers that go away


def test_while_postgresql_is_away_lines_stay_open_and_newcomers_are_told_to_come_again(
    desk: Desk, postgres: Any
) -> None:
    headers = cookie()
    with desk.hear(**headers) as line:
        told(line)
        db.database.close()
        postgres.stop()
        try:
            with desk.hear(**headers) as late:
                assert goodbye(late) == 1013
            bus.broadcast("quote", {"symbol": "BTCUSD"})
            assert told(line)["topic"] == "quote"
        finally:
            postgres.start()
        db.database.connect(reuse_if_open=True)
        fact(n=1)
        assert facts(line, 1)[0]["payload"] == {"n": 1}


@pytest.fixture
def port() -> Iterator[int]:
    with held_port() as port:
        yield port


other_port = port


def web(start: Start, port: int) -> subprocess.Popen[str]:
    """The web process as the Procfile starts it."""
    from cli.supervisor import procfile

    command = procfile(config.ROOT / "Procfile")["web"]
    process = start("/bin/sh", "-c", f"exec {command}", PORT=str(port), WEB_HOST="127.0.0.1", APP_SECRET=SECRET)
    until(lambda: answers(port))
    return process


def answers(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped_sends_everybody_elsewhere_and_ends_at_once(
    database: Any, redis: Any, start: Start, port: int, number: int
) -> None:
    headers = cookie()
    process = web(start, port)
    stuck = socket.create_connection(("127.0.0.1", port))
    stuck.sendall(f"GET /events HTTP/1.1\r\nHost: x\r\nCookie: {headers['Cookie']}\r\n\r\n".encode())
    with connect(f"ws://127.0.0.1:{port}/events", additional_headers=headers, proxy=None) as line:
        told(line)
        address = f"http://127.0.0.1:{port}/events"
        with requests.get(address, headers=headers, stream=True, timeout=60) as answer:
            lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
            next(lines)
            with stopwatch() as took:
                os.kill(process.pid, number)
                assert goodbye(line) == 1012
                list(lines)
                process.wait(60)
    assert took.seconds < 3
    said = process.stdout.read() if process.stdout else ""
    assert "Traceback" not in said
    assert "rror" not in said


def test_a_killed_process_costs_no_fact_and_doubles_none(
    database: Any, redis: Any, start: Start, port: int, other_port: int
) -> None:
    ports, headers = [port, other_port], cookie()
    processes = [web(start, port) for port in ports]
    heard: list[str] = []
    with connect(f"ws://127.0.0.1:{ports[0]}/events", additional_headers=headers, proxy=None) as line:
        last = told(line)["id"]
        for number in range(20):
            fact(n=number)
            if number == 10:
                processes[0].kill()
        with suppress(ConnectionClosed):
            while True:
                heard += [told(line)["id"]]
    assert len(heard) < 20
    last = heard[-1] if heard else last
    with connect(f"ws://127.0.0.1:{ports[1]}/events?after={last}", additional_headers=headers, proxy=None) as line:
        heard += [message["id"] for message in facts(line, 20 - len(heard))]
    assert heard == [token for (token,) in db.rows("select xid::text || '-' || id from event order by xid, id")]


def test_tokens_stay_out_of_the_servers_log(database: Any, redis: Any, start: Start, port: int) -> None:
    process = start("python", "-m", "uvicorn", "web.app:app", "--port", str(port), APP_SECRET=SECRET)
    until(lambda: answers(port))
    secret = token("nobody")
    requests.get(f"http://127.0.0.1:{port}/events?token={secret}", timeout=60)
    address = f"ws://127.0.0.1:{port}/events?after=1-1&token={secret}&x=y"
    with pytest.raises(InvalidStatus), connect(address, proxy=None):
        pass
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert "token=…" in said
    assert secret.split(".")[1] not in said
