"""Keep programs running: a coloured name before each line, a restart with backoff, an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli import processes
from cli.servers import Server

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a program that ended is started again
STEADY = 60.0  # a program that ran so long starts again at the first pause
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
LONGEST_LINE = 1 << 20  # bytes
LOOK_SECONDS = 0.1  # how soon the end of a program is noticed


@dataclass
class Program:
    """A shell line of the Procfile under a name."""

    name: str
    line: str
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)


class Supervisor:
    """Runs programs in `cwd`, each in a session of its own; writes their ids into `notes` for the run after a crash."""

    def __init__(self, cwd: Path, notes: Path, environment: Mapping[str, str], grace: float = 30) -> None:
        self.cwd = cwd
        self.notes = notes
        self.environment = dict(environment)
        self.grace = grace
        self.stopping = asyncio.Event()
        self.programs: list[Program] = []
        self._keepers: list[asyncio.Task[None]] = []

    def add(self, programs: Sequence[Program]) -> None:
        """Start programs and keep them running."""
        self._keepers += [asyncio.create_task(self._keep(program)) for program in programs]

    async def run(self, program: Program) -> int:
        """Run a program to its end; returns its exit code, negative for a signal."""
        if program not in self.programs:
            self.programs.append(program)
        program.process = process = processes.spawn(
            ["/bin/sh", "-c", f"exec env {program.line}"],
            cwd=self.cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        processes.remember(self.notes, program.name, process.pid)
        relay = asyncio.create_task(self._relay(program, process))
        while (code := process.poll()) is None:  # noqa: ASYNC110 - asyncio's own waits for the pipe as well
            await asyncio.sleep(LOOK_SECONDS)
        processes.signal_group(process.pid, signal.SIGKILL)  # what it left behind must not work beside its successor
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(relay, 1)
        processes.forget(self.notes, program.name)
        program.process = None
        return code

    async def watch(self, server: Server) -> None:
        """Start a server again when it has died."""
        while not await self.paused(1):
            if not server.alive():
                self.say(server.name, "has died: starting it again")
                try:
                    server.start()
                except RuntimeError as error:
                    self.say(server.name, str(error))

    async def paused(self, seconds: float) -> bool:
        """Wait; True as soon as the end has come."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return self.stopping.is_set()

    def end(self) -> None:
        """Ask everything to end, once; asked again, kill it."""
        if self.stopping.is_set():
            self.kill()
        else:
            self.stopping.set()
            self.terminate(self.programs)

    async def ended(self) -> None:
        """End everything that has not been asked to, and wait; after the grace it is killed."""
        if not self.stopping.is_set():
            self.end()
        if self._keepers:
            _, late = await asyncio.wait(self._keepers, timeout=self.grace)
            if late:
                self.kill()
                await asyncio.wait(late)

    def kill(self) -> None:
        """End by force what still runs."""
        for program in self.programs:
            if program.process:
                self.say(program.name, "killed")
                processes.signal_group(program.process.pid, signal.SIGKILL)

    def terminate(self, programs: Sequence[Program]) -> None:
        """Ask programs to end: the leader alone, which knows what to do with its children."""
        for program in programs:
            if program.process:
                processes.signal_group(program.process.pid, signal.SIGTERM, whole=False)

    def say(self, name: str, text: str) -> None:
        """One line on the terminal; no reader is a reason to end."""
        label = f"{name:<15} |"
        if sys.stdout.isatty():
            names = [program.name for program in self.programs]
            colour = COLOURS[names.index(name) % len(COLOURS)] if name in names else 90
            label = f"\x1b[{colour}m{label}\x1b[0m"
        try:
            print(f"{label} {text}", flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.end()

    async def _keep(self, program: Program) -> None:
        pause = FIRST_PAUSE
        while not self.stopping.is_set():
            started = time.monotonic()
            code = await self.run(program)
            if time.monotonic() - started > STEADY:
                pause = FIRST_PAUSE
            if self.stopping.is_set():
                break
            self.say(program.name, f"ended with {meaning(code)}: again in {pause:g} s")
            await self.paused(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _relay(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        lines = asyncio.StreamReader(limit=LONGEST_LINE)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), process.stdout
        )
        try:
            while line := await self._line(lines):
                self.say(program.name, line.decode(errors="replace").rstrip())
        finally:
            pipe.close()

    async def _line(self, lines: asyncio.StreamReader) -> bytes:
        """The next line, of one that is too long its end; empty when there are no more."""
        while True:
            try:
                return await lines.readline()
            except ValueError:
                continue


def procfile(path: Path) -> dict[str, str]:
    """The shell lines of a Procfile by name."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
    return {name.strip(): command.strip() for name, command in pairs}


def meaning(code: int) -> str:
    """An exit code in words."""
    return signal.Signals(-code).name if code < 0 else f"code {code}"
