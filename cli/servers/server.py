"""What the servers have in common: a port, a log, a start that waits for an answer, a stop in good order."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli import processes
from config import WrongSetting

START_SECONDS = 60  # recovery after a crash included
STOP_SECONDS = 20


class Server:
    """A child server. Its URL is known, and its port taken, before it starts."""

    name: str
    at_parent_death = signal.SIGTERM
    stops_at = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.process: subprocess.Popen[bytes] | None = None
        self._held: socket.socket | None = None
        self.port = 0
        self._hold()

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """What the server writes about itself."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError with the end of its log."""
        command, options = self._prepare()
        if self._held:
            self._held.close()
            self._held = None
        with self.log.open("ab") as log:
            self.process = processes.spawn(
                command, at_parent_death=self.at_parent_death, stdout=log, stderr=log, **options
            )
        processes.remember(self.folder, self.name, self.process.pid)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                end = "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-8:])
                raise RuntimeError(f"{self.name} did not start; the end of {self.log}:\n{end}")
            time.sleep(0.02)

    def _hold(self) -> None:
        """Take the port, bound and silent: it is ours until we start, and again when we have stopped."""
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # our own old connections are in nobody's way
        self._held.bind(("127.0.0.1", self.port))
        self.port = self._held.getsockname()[1]

    def stop(self) -> None:
        """Stop in good order, by force after a while."""
        if self.process:
            for signal_number in (self.stops_at, signal.SIGQUIT, signal.SIGKILL):
                processes.signal_group(self.process.pid, signal_number, whole=signal_number == signal.SIGKILL)
                try:
                    self.process.wait(STOP_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
            processes.forget(self.folder, self.name)
            self.process = None
            with suppress(OSError):  # somebody else was faster: the next start says so
                self._hold()

    def left(self) -> list[Path]:
        """Data of earlier servers of this place, outside its folder, that this one does not use."""
        return []

    def remove(self) -> None:
        """Delete the data and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def alive(self) -> bool:
        """Whether the process that we started still runs."""
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> str:
        self.start()
        return self.url

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _prepare(self) -> tuple[list[str | Path], dict[str, Any]]:
        """The command, and options for Popen."""
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


def package(name: str, variable: str) -> Path:
    """The folder of an installed package, without importing it: their own starters do more than we want."""
    spec = importlib.util.find_spec(name)
    if not spec or not spec.submodule_search_locations:
        raise WrongSetting(f"{variable} is not set, and the package {name} that brings a server is not installed")
    return Path(spec.submodule_search_locations[0])


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
