"""What settings become, against the servers that they are meant for."""

from __future__ import annotations

import os
import pwd
import select
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisGone
from redis.retry import Retry

import config
from cli import up
from config import ROOT

CERTIFICATE = Path(__file__).parent / "self_signed.pem"  # with its key; for 100 years, for nobody


@pytest.fixture
def tls(valkey):
    """The tests' Valkey behind TLS with a certificate that nobody vouches for; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        with suppress(OSError):  # it is closed
            while client := listener.accept()[0]:
                threading.Thread(target=pass_on, args=(client,), daemon=True).start()

    def pass_on(client):
        with (
            suppress(OSError),  # it would not have us
            context.wrap_socket(client, server_side=True) as asked,
            socket.create_connection(("127.0.0.1", valkey.port)) as server,
        ):
            while ready := [asked] if asked.pending() else select.select([asked, server], [], [])[0]:
                for source in ready:
                    words = source.recv(65536)
                    if not words:
                        return
                    (server if source is asked else asked).sendall(words)

    threading.Thread(target=accept, daemon=True).start()
    yield f"rediss://:{valkey.password}@localhost:{listener.getsockname()[1]}/0"
    listener.close()


def ping(url):
    with Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5) as redis:
        return redis.ping()


def test_a_redis_that_nobody_vouches_for_is_not_talked_to(tls):
    with pytest.raises(RedisGone, match="CERTIFICATE_VERIFY_FAILED"):
        ping(config.load({"REDIS_URL": tls}).redis_url)


def test_a_redis_that_nobody_vouches_for_is_talked_to_where_the_operator_says_so(tls):
    assert ping(config.load({"REDIS_URL": tls, "REDIS_TLS_VERIFY": "off"}).redis_url)


def test_the_procfiles_worker_finds_such_a_redis_too(tls, start):
    (line,) = (line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("worker:"))
    command = [*line.partition(": ")[2].split(), "--burst"]
    process = start(*command, REDIS_URL=tls, RQ_REDIS_URL="", REDIS_TLS_VERIFY="off")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert "stopped" in said


def test_what_verifying_means_is_said_to_tls_alone():
    assert config.load({"REDIS_URL": "redis://host", "REDIS_TLS_VERIFY": "off"}).redis_url == "redis://host"
    asked = config.load({"REDIS_URL": "rediss://host/0?protocol=3", "REDIS_TLS_VERIFY": "off"}).redis_url
    assert asked == "rediss://host/0?protocol=3&ssl_cert_reqs=none"


def test_up_on_the_real_services_takes_no_address_of_this_machine_for_the_place_of_delivery(monkeypatch, tmp_path):
    monkeypatch.setattr(up, "STATE", tmp_path)
    for name in ("PUBLIC_URL", "PORT", "RENDER_EXTERNAL_URL"):
        monkeypatch.delenv(name, raising=False)
    servers = {"DATABASE_URL": "postgresql://host/db", "REDIS_URL": "redis://host"}
    assert config.load(up.Desk(servers, [], 1)._environment()).public_url == ""
    monkeypatch.setenv("RENDER_EXTERNAL_URL", "https://desk.example.com")
    assert config.load(up.Desk(servers, [], 1)._environment()).public_url == "https://desk.example.com"


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "²", "99999", "999999999"])
def test_a_number_that_would_break_later_stops_the_start_with_its_name(value):
    days = [f.metadata["variable"] for f in config.variables() if f.name.endswith("_days")]
    for variable in ("PORT", *days):
        with pytest.raises(config.WrongSetting, match=f"^{variable}: '{value}' is not a whole number from 1 to "):
            config.load({variable: value})


@pytest.mark.parametrize(
    ("variable", "text", "right"),
    [
        (
            "CONTACT",
            "Łukasz <l@example.com>",
            "'Łukasz <l@example.com>' is not in ASCII: it is sent in headers of HTTP",
        ),
        ("LINE_TOKEN", "“abc”", "its value is not in ASCII"),
        ("WEB_HOST", "nohost..", "'nohost..' is not an address such as 0.0.0.0, 127.0.0.1 or ::"),
        ("QUOTE_TTL", "0.0001", "'0.0001' is not a duration of at least a millisecond"),
    ],
)
def test_what_would_fail_far_from_the_start_stops_the_start_with_its_name(variable, text, right):
    with pytest.raises(config.WrongSetting, match=f"^{variable}: {right}"):
        config.load({variable: text})


def test_a_file_of_settings_is_read_as_shells_and_editors_write_it(tmp_path):
    lines = """\ufeffONE=1 # a comment
        export TWO = "2 # no comment"  # a comment
        THREE='it"s'
        FOUR=a#b c
        FIVE= # nothing
        # SIX=6
        no setting"""
    (tmp_path / ".env").write_text(lines.replace("\n", "\r\n"), encoding="utf-8")
    found = {"ONE": "1", "TWO": "2 # no comment", "THREE": 'it"s', "FOUR": "a#b c", "FIVE": ""}
    assert config.dotenv(tmp_path / ".env") == found


def test_a_file_of_settings_in_another_encoding_is_named(tmp_path):
    (tmp_path / ".env").write_bytes(b"CONTACT=J\xfcrgen")
    with pytest.raises(config.WrongSetting, match=r"\.env is not in UTF-8: save it again with that encoding$"):
        config.dotenv(tmp_path / ".env")


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """The state of another user's `up`, as a second user meets it."""
    state = tmp_path / "another's"
    state.mkdir(mode=0)
    monkeypatch.setattr(config, "STATE", state)
    monkeypatch.setattr(config, "ROOT", Path("/none"))
    if was_root := os.geteuid() == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    yield state
    if was_root:
        os.seteuid(0)


def test_a_second_user_is_told_which_file_is_closed_and_what_to_set(closed, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "")
    with pytest.raises(config.WrongSetting, match=r"local\.env cannot be read .* or set DATABASE_URL and REDIS_URL$"):
        config.environment()


def test_a_second_user_who_has_named_the_servers_needs_no_file_of_anothers(closed, monkeypatch):
    named = {"DATABASE_URL": "postgresql://host/db", "REDIS_URL": "redis://host"}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    assert named.items() <= config.environment().items()
