"""A PostgreSQL and a Valkey of our own, from the packages that carry their binaries.

`with postgres(folder) as url:` and `with valkey(folder) as url:` start a server on a free port of
127.0.0.1 behind a random password, and stop it. The data stays in `folder`; as root, where PostgreSQL
refuses to run, its binaries and data live in a folder of their own under /var/tmp that belongs to an
unprivileged user, and no folder above is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.servers.postgres import Postgres
from cli.servers.server import Server
from cli.servers.valkey import Valkey

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Postgres", "Server", "Valkey", "postgres", "valkey"]


def postgres(folder: Path, *, fsync: bool = True, programs: Path | None = None) -> Postgres:
    """A PostgreSQL with its data in `folder`, to be used in a `with` statement, which gives its URL."""
    return Postgres(folder, fsync=fsync, programs=programs)


def valkey(folder: Path) -> Valkey:
    """A Valkey with its data in `folder`, to be used in a `with` statement, which gives its URL."""
    return Valkey(folder)
