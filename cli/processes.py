"""Child processes that die with their parent, and those that an earlier run left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.parents import die_with


def spawn(command: Sequence[str | Path], *, at_parent_death: int = signal.SIGTERM, **options: Any) -> subprocess.Popen:
    """Start a child in a session of its own, so that Ctrl-C in the terminal reaches only us."""
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=options.pop("stdin", subprocess.DEVNULL),
        start_new_session=True,
        preexec_fn=partial(die_with, os.getpid(), at_parent_death),  # noqa: PLW1509 - it calls nothing but prctl
        **options,
    )


def identity(pid: int) -> str:
    """Boot and start time of a process, which tell it from a later one with the same id; empty if it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        threads, started = fields[16], fields[18]  # a main thread that has ended is a zombie while others still write
        return "" if state == "Z" and int(threads) <= 1 else f"{boot} {started}"
    except OSError:
        if Path("/proc/self").exists():  # then this one is gone
            return ""
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return listed.stdout.strip()


def remember(folder: Path, name: str, pid: int) -> None:
    """Write down a child, for the run after a crash of this one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pid").write_text(f"{pid} {identity(pid)}")


def forget(folder: Path, name: str) -> None:
    """The child is gone."""
    (folder / f"{name}.pid").unlink(missing_ok=True)


def stop_leftovers(folder: Path, patience: float = 10) -> list[str]:
    """Stop what an earlier run wrote down and left running; returns their names."""
    alive: dict[str, tuple[int, str]] = {}
    for note in sorted(folder.glob("*.pid")):
        pid, _, known = note.read_text().partition(" ")
        if pid.isdigit() and known and identity(int(pid)) == known:
            alive[note.stem] = int(pid), known
        note.unlink()
    for number, _ in alive.values():
        signal_group(number, signal.SIGINT if _is_postgres(number) else signal.SIGTERM, whole=False)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(identity(number) == known for number, known in alive.values()):
        time.sleep(0.05)
    for number, known in alive.values():
        if identity(number) == known:
            signal_group(number, signal.SIGKILL)
    return list(alive)


def signal_group(pid: int, signal_number: int, *, whole: bool = True) -> None:
    """Signal a child, or its whole group; nothing happens if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if whole else os.kill)(pid, signal_number)


def _is_postgres(pid: int) -> bool:
    """PostgreSQL waits for its clients at SIGTERM, and sends them away at SIGINT."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("postgres")
    except OSError:
        return False
