"""The demo's servers, and the plainest of clients."""

from __future__ import annotations

import contextlib
import http.client
import json
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from demo.server import running


@pytest.fixture(scope="session")
def world():
    with running(seed=5) as demo:
        yield demo


@pytest.fixture
def demo(world):
    """The demo's servers without a fault or a message."""
    world.faults.clear()
    world.mail.messages.clear()
    world.requests.clear()
    yield world
    world.faults.clear()


@pytest.fixture
def ask(demo):
    """`ask("/yahoo/…", headers={}, body=None, method="GET")`: status, headers and body, JSON where it is."""

    def request(path, *, method="GET", headers=None, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(demo.url).port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        with contextlib.suppress(ValueError):
            content = json.loads(content)
        return SimpleNamespace(status=answer.status, headers=answer.headers, body=content)

    return request
