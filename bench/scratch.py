"""Servers and processes for benchmarks and campaigns: started fresh, gone afterwards, after Ctrl-C too.

    with scratch.started() as desk:
        worker = desk.start("rq", "worker", "-w", "bench.jobs.Worker", "critical", "default", "low")
        ...
        desk.stop(worker)
        desk.empty()

Inside the block this process's own settings point at the scratch servers, so `db.redis()`, models and the
engine can be used directly. Nothing outside the temporary folder is read: no `.env`, no local servers.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import config
import db
from cli import processes, servers

TICKS = os.sysconf("SC_CLK_TCK")


class Desk:
    """A migrated PostgreSQL, a Valkey, and the processes that use them."""

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        self.folder = folder
        self.postgres = servers.postgres(folder / "postgres", fsync=fsync)
        self.valkey = servers.valkey(folder / "valkey")
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What processes need to work here; settings of whoever runs the benchmark are shut out."""
        foreign = {**config.dotenv(config.ROOT / ".env"), **config.dotenv(config.STATE / "local.env")}
        foreign |= {name: "" for name in os.environ if name.endswith("_INTERVAL")}
        return {
            **os.environ,
            **dict.fromkeys(foreign, ""),
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "RQ_REDIS_URL": self.valkey.url,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "SMTP_URL": "",
            "TZ": "UTC",
        }

    def start(
        self, *command: str | Path, log: str = "", cwd: Path = config.ROOT, **environment: str
    ) -> subprocess.Popen[bytes]:
        """A child in a group of its own; "python" is ours. What it prints goes to the folder's `log`.

        It is killed when the thread that started it ends: start processes from the main thread.
        """
        program = [sys.executable if command[0] == "python" else command[0], *command[1:]]
        with (self.folder / (log or f"{Path(command[0]).name}-{len(self.processes)}.log")).open("ab") as output:
            child = processes.spawn(
                program,
                at_parent_death=signal.SIGKILL,
                cwd=cwd,
                env={**self.environment, "PYTHONPATH": str(cwd), **environment},
                stdout=output,
                stderr=output,
            )
        self.processes.append(child)
        return child

    def stop(self, *children: subprocess.Popen[bytes], patience: float = 15.0) -> None:
        """SIGTERM, then SIGKILL for the whole group of whoever is left."""
        for child in children:
            processes.signal_group(child.pid, signal.SIGTERM, whole=False)
        deadline = time.monotonic() + patience
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            processes.signal_group(child.pid, signal.SIGKILL)
            child.wait()
            if child in self.processes:
                self.processes.remove(child)

    def empty(self) -> None:
        """Forget every job and all history; settle what the servers still have to write."""
        db.redis().flushall()
        with db.database.connection_context():
            db.rows("truncate run, skip, entry, event")
            db.rows("checkpoint")

    def log_queue(self, on: bool) -> None:
        """Whether Valkey appends what it does to a file, as `nightdesk up` has it do."""
        redis = db.redis()
        redis.config_set("appendonly", "yes" if on else "no")
        wait_for(lambda: not redis.info("persistence")["aof_rewrite_in_progress"], 30)

    def end(self) -> None:
        """Stop everything and delete it."""
        self.stop(*self.processes)
        if not db.database.is_closed():
            db.database.close()
        for server in (self.valkey, self.postgres):
            server.stop()
            server.remove()


@contextmanager
def started(*, fsync: bool = True) -> Iterator[Desk]:
    """Both servers in a temporary folder, the schema as the migrations make it; all of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="nightdesk-bench-"))
    desk = Desk(folder, fsync=fsync)
    before = dict(os.environ)
    signal.signal(signal.SIGTERM, _interrupt)  # a polite kill cleans up as Ctrl-C does
    try:
        os.environ.update(desk.environment)
        _read_settings()
        desk.postgres.start()
        desk.valkey.start()
        _migrate()
        yield desk
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave servers behind
        desk.end()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)
        _read_settings()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _read_settings() -> None:
    """Read the environment again, in place: whoever imported `settings` before sees the new ones."""
    for name, value in vars(config.load(os.environ)).items():
        object.__setattr__(config.settings, name, value)
    db.redis.cache_clear()
    db.database.deferred = True


def _migrate() -> None:
    from playhouse.migrations import Runner

    with db.database.connection_context():
        Runner(db.database, str(config.ROOT / "migrations")).up()


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := _stat(int(folder.name))):
            parents.setdefault(int(stat[1]), []).append(int(folder.name))
    found = [pid]
    for known in found:  # grows while we look
        found += parents.get(known, [])
    return found


def cpu_seconds(*pids: int) -> float:
    """CPU time of these processes and their descendants so far, those that ended and were waited for included."""
    stats = [_stat(number) for pid in pids for number in tree(pid)]
    return sum(int(ticks) for stat in stats for ticks in stat[11:15]) / TICKS


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def pss_mb(pid: int) -> float:
    """Memory of one process in MB, what it shares with others counted in proportion; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0, every: float = 0.01) -> bool:
    """Look again and again; whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of all do not exceed; nan for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def table(heads: list[str], lines: list[list[str]]) -> None:
    """Print columns, the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    for line in [heads, ["-" * width for width in widths], *lines]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), flush=True)


def verdict(
    bench: str, value: float, unit: str, *, target: str, ok: bool, peer: str = "", peer_value: float | None = None
) -> int:
    """Print the one JSON line that every benchmark ends with; returns the exit status.

    `ratio` is ours to the peer's.
    """
    ratio = round(value / peer_value, 4) if peer_value else None
    shown = None if peer_value is None else round(peer_value, 3)
    line = {"bench": bench, "value": round(value, 3), "unit": unit, "peer": peer, "peer_value": shown, "ratio": ratio}
    print(json.dumps({**line, "target": target, "ok": ok}), flush=True)
    return 0 if ok else 1
