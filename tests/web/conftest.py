"""The web process as the Procfile starts it, and those who visit it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ports import held_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent
SECRET = "a secret that the served app knows as well"
PASSWORD = "correct horse battery"


class Visitor(requests.Session):
    """A browser or program at the site; `csrf` is what our page gave it."""

    def __init__(self, url: str, csrf: str = "", **headers: str) -> None:
        super().__init__()
        self.trust_env = False
        self.url = url
        self.csrf = csrf
        self.headers.update(headers)

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("allow_redirects", False)
        kwargs.setdefault("timeout", 20)
        return super().request(method, f"{self.url}{url}", *args, **kwargs)

    def press(self, path: str, **headers: str) -> requests.Response:
        """Press a button of the page, as its script does."""
        return self.post(path, headers={"x-csrf": self.csrf, "accept": "application/json", **headers})


class Site:
    """The address of the web process, and ways to come in."""

    def __init__(self, url: str) -> None:
        self.url = url

    def stranger(self, **headers: str) -> Visitor:
        """Somebody without anything."""
        return Visitor(self.url, **headers)

    def log_in(self, name: str = "ann", role: str = "operator") -> Visitor:
        """A new operator or viewer, logged in."""
        self.let_in(name, role)
        visitor = Visitor(self.url)
        answer = visitor.post("/login", data={"name": name, "password": PASSWORD})
        assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', visitor.get("/").text)
        assert found
        visitor.csrf = found[1]
        return visitor

    def let_in(self, name: str, role: str) -> None:
        """Somebody who may log in with PASSWORD."""
        from models import operators

        operators.save(name, PASSWORD, role)


@pytest.fixture(scope="session")
def _process(postgres: Any, valkey: Any) -> Iterator[str]:
    with held_port() as port:
        yield from _served(port)


def _served(port: int) -> Iterator[str]:
    from cli.supervisor import procfile

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "PORT": str(port), "WEB_HOST": "127.0.0.1", "APP_SECRET": SECRET}
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {procfile(ROOT / 'Procfile')['web']}"],
        cwd=ROOT,
        env={**os.environ, **settings},
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(url, process))
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the web process ended at its start"
    try:
        return requests.get(f"{url}/healthz", timeout=20).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def site(_process: str, database: Any, redis: Any) -> Site:
    """The web process over an empty database and Redis; its page may show the test before for half a second."""
    return Site(_process)
