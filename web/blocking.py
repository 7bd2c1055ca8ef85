"""The database from async code: a few threads, each with a connection of its own that is known to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import db

THREADS = 4  # as many connections, at most
T = TypeVar("T")

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="database")


async def run(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """`function(*args)` on a thread with an open connection; peewee.OperationalError while PostgreSQL is away."""
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(connected, function, *args, **kwargs))


def connected(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """`function(*args)` with an open connection of this thread; once more when the server was restarted."""
    from peewee import InterfaceError, OperationalError

    try:
        db.database.connect(reuse_if_open=True)
        return function(*args, **kwargs)
    except (OperationalError, InterfaceError):
        if db.database.is_closed() or not db.database.is_connection_usable():
            db.drop_unusable()
            db.ping()  # a server that was restarted: once more on a new connection
            return function(*args, **kwargs)
        raise
