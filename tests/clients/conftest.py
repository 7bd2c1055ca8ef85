"""The demo world's stand-ins in place of the real services, and a server that misbehaves to the letter."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import pytest

import config
from clients import transfer
from clients.providers import Provider
from demo.server import running


@pytest.fixture(scope="session")
def world():
    with running(seed=11) as demo:
        yield demo


@pytest.fixture
def demo(world, monkeypatch, redis):
    """The demo's servers without a fault, an empty Redis, and settings that lead there."""
    world.faults.clear()
    world.mail.messages.clear()
    world.requests.clear()
    world.asked.clear()
    world.apis["binance"].limit = 6000
    urls = {name.lower(): value for name, value in world.environment.items() if name.endswith("_URL")}
    del urls["demo_url"], urls["smtp_url"]
    monkeypatch.setattr(config, "settings", replace(config.settings, private_targets=True, yahoo=True, **urls))
    yield world
    world.faults.clear()


@pytest.fixture
def settings(monkeypatch):
    """`settings(binance_url="…")` changes settings for the test, as a process that starts with them has them."""

    def change(**values):
        transfer._pools.cache_clear()  # a kept connection was allowed by the settings that it was made under
        monkeypatch.setattr(config, "settings", replace(config.settings, **values))

    return change


@pytest.fixture
def provider():
    """`provider(tries=1)`: one at the Binance setting's address."""

    def make(**values):
        return Provider(
            **{
                "name": "example",
                "url": "binance_url",
                "doc": "an example",
                "tries": 1,
                **values,
            }
        )

    return make


@pytest.fixture
def raw(settings):
    """`raw(b"HTTP/1.1 …", pause=0.1)`: a server that sends these bytes to whoever comes; its requests are a list."""
    listeners = []

    def serve(content, pause=0.0, setting="binance_url"):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        requests = []

        def talk(connection):
            with connection:
                requests.append(connection.recv(65536))
                try:
                    for part in [content] if not pause else [bytes([byte]) for byte in content]:
                        connection.sendall(part)
                        time.sleep(pause)
                except OSError:
                    pass

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        settings(**{setting: f"http://127.0.0.1:{listener.getsockname()[1]}"})
        return requests

    yield serve
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
