"""What browsers with the operator's page open cost the web process: python -m bench.events --viewers 20

The whole desk runs as the Procfile has it, over the demo world. Each viewer holds the event stream open and fetches the
part of the page that changes as the page's script does: every five seconds on the clock's grid, and within a second of
every fact. Counted is the CPU time of the web process, with the viewers and without; PostgreSQL and Valkey are shown
apart. The worst case is a fact a second, so that every viewer fetches once a second.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from contextlib import suppress

import config
import db
import events as bus
from bench import scratch
from cli.migrate import reconcile
from cli.supervisor import procfile
from models import operators

EVERY, SOON = 5.0, 1.0  # seconds, as in web/static/nightdesk.js
LIMIT = 2.0  # percent of a core
PASSWORD = "a password for this run"


class Viewer:
    """A browser with the page open."""

    def __init__(self, port: int, session: str) -> None:
        self.port, self.headers = port, f"Host: 127.0.0.1:{port}\r\nCookie: nightdesk={session}\r\n"
        self.due = asyncio.Event()
        self.fetched = self.heard = 0

    async def look(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._refresh())

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /events HTTP/1.1\r\n{self.headers}\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"data: ") and b'"payload"' in line:
                self.heard += 1
                if b'"topic": "quote"' not in line:
                    self.due.set()

    async def _refresh(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while True:
            writer.write(f"GET /fragment HTTP/1.1\r\n{self.headers}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(head.decode())
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            self.fetched += 1
            fetched_at = time.time()
            self.due.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(EVERY - fetched_at % EVERY, SOON)):
                    await self.due.wait()
            await asyncio.sleep(max(0.0, fetched_at + SOON - time.time()))


def run(desk: scratch.Desk, count: int, seconds: float) -> int:
    """Without viewers, with them as things are, and with a fact a second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    addresses = desk.folder / "demo.env"
    desk.start("python", "-m", "demo", "--env-file", addresses, "--mail", desk.folder / "mail", log="demo.log")
    if not scratch.wait_for(lambda: addresses.is_file() and addresses.read_text().endswith("\n")):
        raise RuntimeError("the demo world does not answer")
    world = config.dotenv(addresses)
    reconcile()
    lines = procfile(config.ROOT / "Procfile")
    for name in ("scheduler", "worker"):
        desk.start("sh", "-c", f"exec env {lines[name]}", log=f"{name}.log", **world)
    web = desk.start("sh", "-c", f"exec {lines['web']}", log="web.log", **world, PORT=str(port), WEB_HOST="127.0.0.1")
    operators.save("oscar", PASSWORD, "operator")
    sessions = [operators.open_session("oscar", PASSWORD) or "" for _ in range(count)]
    time.sleep(5)
    processes = {"web": web, "PostgreSQL": desk.postgres.process, "Valkey": desk.valkey.process}
    cases = (("nobody looks", 0, False), (f"{count} viewers", count, False), ("a fact a second", count, True))
    found, shown = {}, []
    for title, viewers, busy in cases:
        before = {name: scratch.cpu_seconds(process.pid) for name, process in processes.items() if process}
        fetched, heard = asyncio.run(watch([Viewer(port, session) for session in sessions[:viewers]], seconds, busy))
        after = {name: scratch.cpu_seconds(process.pid) for name, process in processes.items() if process}
        found[title] = {name: (after[name] - before[name]) / seconds * 100 for name in before}
        cells = [f"{found[title][name]:.2f}" for name in processes]
        shown.append([title, *cells, f"{fetched / seconds:.1f}", f"{heard / seconds:.1f}"])
    scratch.table(["percent of a core", *processes, "fetches/s", "messages/s"], shown)
    print(f"web process: {scratch.pss_mb(web.pid):.1f} MB PSS", flush=True)
    cost = found[f"{count} viewers"]["web"] - found["nobody looks"]["web"]
    return scratch.verdict("viewers", cost, "% CPU", target=f"< {LIMIT:.0f} % for {count} viewers", ok=cost < LIMIT)


async def watch(viewers: list[Viewer], seconds: float, busy: bool) -> tuple[int, int]:
    """Fetches and messages of all viewers together."""
    tasks = [asyncio.create_task(viewer.look()) for viewer in viewers]
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await asyncio.sleep(1.0)
        if busy:
            await asyncio.to_thread(_fact)
        for task in tasks:
            if task.done():
                task.result()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sum(viewer.fetched for viewer in viewers), sum(viewer.heard for viewer in viewers)


def _fact() -> None:
    with db.database.connection_context(), db.transaction():
        bus.publish("run.failed", {"words": json.dumps([random.random()] * 3)})
