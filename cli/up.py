"""`nightdesk up`: everything on this machine, from the servers to the workers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import click

import config
from cli import processes, servers
from cli.supervisor import Program, Supervisor, meaning, procfile
from config import ROOT, STATE, dotenv
from demo.journal import Journal, world_of
from demo.recorded import recordings

JOURNAL = STATE / "world.jsonl"  # by it a demo world goes on where the one before it ended
DEMO_SECONDS = 20  # for the demo world to answer
FASTEST = 100_000  # times as fast as ours, for the demo world's clock
DEMO_STOCKS = ("AAPL", "MSFT", "NVDA", "VOD.L", "0700.HK", "7203.T", "PTT.BK")  # somewhere a market is open


def _recorded(_: click.Context, __: click.Parameter, folder: str | None) -> str | None:
    if folder and not recordings(Path(folder)):
        raise click.BadParameter(f"{folder} has no recorded prices")
    return folder


def _speed(_: click.Context, __: click.Parameter, speed: float | None) -> float | None:
    if speed is not None and not 0 < speed <= FASTEST:
        raise click.BadParameter(f"{speed:g} is not above 0 and at most {FASTEST:,}")
    return speed


@click.command()
@click.option("--demo/--no-demo", default=True, help="A world of local servers in place of the outside APIs.")
@click.option(
    "--replay",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    callback=_recorded,
    help="Recorded data.",
)
@click.option("--seed", type=int, help="The simulated world to run in.")
@click.option("--speed", type=float, callback=_speed, help="How fast the demo world's clock runs.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many `worker` processes.")
def up(demo: bool, replay: str | None, seed: int | None, speed: float | None, workers: int) -> None:
    """Start everything here: servers, database, demo world, scheduler, workers; until Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = {"--replay": replay, "--seed": seed, "--speed": speed}
    world = [part for option, value in options.items() if value is not None for part in (option, str(value))]
    if world and not demo:
        raise click.UsageError(f"{world[0]} is for the demo world, and --no-demo goes without it")
    with _alone():
        if demo:
            _same_world(world_of(replay, seed))
        for name in processes.stop_leftovers(STATE):
            click.echo(f"stopped {name}, left behind by an earlier run")
        with _servers() as (urls, running):
            sys.exit(asyncio.run(Desk(urls, running, workers).run(world if demo else None)))


def _same_world(wanted: str) -> None:
    """Refuse to go on with the data of another world, whose prices and chains are others."""
    try:
        Journal(JOURNAL, wanted)
    except ValueError as other:
        anew = f"`rm -rf {STATE}` begins anew, and another clone has data of its own"
        raise click.ClickException(f"{other}: {anew}") from None


class Desk:
    """One run of everything, once the servers answer."""

    def __init__(self, urls: Mapping[str, str], running: list[servers.Server], workers: int) -> None:
        self.found = dict(urls)  # what local.env holds: weaker than what the operator has set
        self.running = running
        self.workers = workers
        self.lines = procfile(ROOT / "Procfile")
        if "web" in self.lines:
            self.found["PORT"] = str(_free_port())
        self.addresses = STATE / "demo.env"  # written by the demo world when it answers
        grace = config.load(self._environment()).shutdown_grace + 3  # Raises WrongSetting
        self.desk = Supervisor(ROOT, STATE, self._environment(), grace)
        self.world = Supervisor(ROOT, STATE, self._environment(), 5)

    async def run(self, world: list[str] | None) -> int:
        """Bring everything up, wait for a signal, take everything down; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end)
        _write_private(STATE / "local.env", self.found)
        watches = [loop.create_task(self.desk.watch(server)) for server in self.running]
        try:
            if not await self._begin(world):
                return 1
            await (self._follow_world() if world is not None else self.desk.stopping.wait())
            return 0
        finally:
            await self.desk.ended()
            await self.world.ended()
            await asyncio.gather(*watches)
            (STATE / "local.env").unlink(missing_ok=True)

    def _end(self) -> None:
        if not self.desk.stopping.is_set():
            self.desk.say("up", "stopping; Ctrl-C again kills")
        self.desk.end()

    async def _begin(self, world: list[str] | None) -> bool:
        release = self.lines.pop("release", None)
        if release and (code := await self.desk.run(Program("release", release))):
            self.desk.say("release", f"failed with {meaning(code)}: nothing was started")
            return False
        if world is not None and not await self._start_world(world):
            return False
        self.desk.environment = self._environment()
        if world is not None:  # messages go to the demo world's own mailboxes and chats
            await self.desk.run(Program("delivery", "./nightdesk notifications mode live --first --who up"))
            await self.desk.run(Program("app", "python -m demo.app"))
        if "web" in self.lines:
            await self.desk.run(Program("operator", "./nightdesk operators add operator --first --who up"))
        if self.world.programs:
            await self.desk.run(Program("stocks", f"./nightdesk stocks watch {' '.join(DEMO_STOCKS)} --first"))
        self.desk.add([Program(name, line) for name, line in self._programs()])
        self._say_what_next()
        return True

    async def _start_world(self, options: list[str]) -> bool:
        """Start the demo world and wait until it has written its addresses; the page is then for this machine alone."""
        self.found["WEB_HOST"] = "127.0.0.1"
        if "web" in self.lines:
            self.found["PUBLIC_URL"] = f"http://127.0.0.1:{config.given().get('PORT', self.found['PORT'])}"
        self.addresses.unlink(missing_ok=True)
        command = ["python", "-m", "demo", "--traders", "--env-file", str(self.addresses)]
        command += ["--journal", str(JOURNAL), *options]
        self.world.add([Program("demo", shlex.join(command))])
        for _ in range(DEMO_SECONDS * 20):
            if self._found_world():
                return True
            if await self.desk.paused(0.05):
                return False
        self.desk.say("demo", f"did not answer within {DEMO_SECONDS} s; --no-demo goes on without it")
        return False

    async def _follow_world(self) -> None:
        """A demo world that died comes back elsewhere: the programs start again and find it."""
        while not await self.desk.paused(1):
            if self._found_world():
                self.desk.say("demo", "has moved: starting the programs again")
                self.desk.environment = self._environment()
                self.desk.terminate(self.desk.programs)

    def _found_world(self) -> bool:
        """Whether the demo world has written addresses that we do not know yet; local.env then has them."""
        news = dotenv(self.addresses)
        if not news or news.items() <= self.found.items():
            return False
        self.found |= news
        _write_private(STATE / "local.env", self.found)
        return True

    def _programs(self) -> Iterator[tuple[str, str]]:
        for name, line in self.lines.items():
            if name == "worker" and self.workers > 1:
                yield from ((f"worker.{number}", line) for number in range(1, self.workers + 1))
            else:
                yield name, line

    def _environment(self) -> dict[str, str]:
        merged = {**self.found, **config.given()}
        return {
            **merged,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "TZ": "UTC",
            "PYTHONUNBUFFERED": "1",
        }

    def _say_what_next(self) -> None:
        for line in (
            *([f"the operator's page: http://127.0.0.1:{self._environment()['PORT']}"] if "web" in self.lines else []),
            "at work; Ctrl-C ends everything. In another shell:",
            "  ./nightdesk status                        what runs, how late, how old the prices are",
            "  ./nightdesk alerts add BTCUSD above 1     an alert that fires at once, and its mail",
            *(["  ls .nightdesk/mail                        the mails that it sent"] if self.world.programs else []),
            "  (set -a; . .nightdesk/local.env; rq info) with the addresses, for psql and others too",
        ):
            self.desk.say("up", line)


def _free_port(preferred: int = 8000) -> int:
    """A port for `web` where none is set: the usual one, or another that is free."""
    for port in (preferred, 0):
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", port))  # noqa: S104 - as `web` binds it
            return int(probe.getsockname()[1])
    return preferred


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse to run twice in one project; the lock goes with the process, however it ends."""
    try:
        STATE.mkdir(mode=0o700, exist_ok=True)
        lock = (STATE / "up.lock").open("a")
    except PermissionError:
        raise click.ClickException(f"{STATE} cannot be written by this user: use a clone of your own") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException("`nightdesk up` runs here already: stop it first (Ctrl-C)") from None
        yield


@contextmanager
def _servers() -> Iterator[tuple[dict[str, str], list[servers.Server]]]:
    """The addresses of PostgreSQL and Redis: those that are set, else of servers of our own."""
    urls: dict[str, str] = {}
    running: list[servers.Server] = []
    makers: dict[str, Callable[[Path], servers.Server]] = {
        "DATABASE_URL": servers.postgres,
        "REDIS_URL": servers.valkey,
    }
    with ExitStack() as stack:
        for variable, make in makers.items():
            urls[variable] = config.given().get(variable, "")
            if urls[variable]:
                place = urlsplit(urls[variable])
                click.echo(f"{variable} is set: using the server at {place.netloc.rpartition('@')[2] or place.path}")
            else:
                running.append(make(STATE))
                for home in running[-1].left():
                    click.echo(f"{home} is of an earlier {STATE}: remove it if you have deleted that")
                urls[variable] = stack.enter_context(running[-1])
        try:
            yield urls, running
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # impatience must not leave the servers behind


def _write_private(path: Path, variables: Mapping[str, str]) -> None:
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
