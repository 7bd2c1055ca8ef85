"""The one place of both connections: PostgreSQL through Peewee, and Redis.

`db.database` and `db.redis()` are made lazily, one per process: nothing opens PostgreSQL before a
fork, and a forked child starts with neither (`forget`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from peewee import Model, PostgresqlDatabase
from playhouse.db_url import parse

from config import WrongSetting, settings

if TYPE_CHECKING:
    from redis import Redis

HASTE = 3.0  # seconds in which Redis answers a person, or is away
_in_haste = threading.Event()
_local = threading.local()  # .after_commit: what waits for the outermost commit


class Database(PostgresqlDatabase):
    """Peewee's PostgreSQL with our session settings, read from DATABASE_URL at the first use."""

    def connect(self, reuse_if_open: bool = False) -> Any:
        if self.deferred:
            self.init(**_parameters())
        return super().connect(reuse_if_open=reuse_if_open)


def _parameters() -> dict[str, Any]:
    if not settings.database_url:
        raise WrongSetting(
            "DATABASE_URL is not set: give postgresql://user:password@host/name, or start `./nightdesk up`, "
            "which brings its own server"
        )
    parameters = parse(settings.database_url)
    parameters.setdefault("connect_timeout", 5)
    parameters.setdefault("application_name", "nightdesk")
    # A forgotten transaction holds a snapshot, the database's worst enemy; JIT never pays on short statements.
    parameters["options"] = (
        "-c timezone=UTC -c jit=off -c statement_timeout=60s -c lock_timeout=10s"
        " -c idle_in_transaction_session_timeout=60s"
    )
    # A peer that vanished without a word is noticed within about 20 s.
    parameters.update(keepalives_idle=10, keepalives_interval=3, keepalives_count=3, tcp_user_timeout=20000)
    return parameters


database = Database(None)


class BaseModel(Model):
    """A table that migrations own; the model only maps it."""

    app_may: ClassVar[str] = ""  # what the served app may do, as SQL privileges: the contract is made from it
    app_calls: ClassVar[dict[str, str]] = {}  # functions that it may call, and what for

    app_views: ClassVar[tuple[str, ...]] = ()  # views over it that the app may read

    class Meta:
        database = database
        legacy_table_names = False


@contextmanager
def transaction() -> Iterator[None]:
    """One transaction, or a savepoint inside one. `after_commit` functions run once the outermost is committed."""
    outermost = not database.in_transaction()
    if outermost:
        _local.after_commit = []
    with database.atomic():
        yield
    if outermost:
        for call in _local.after_commit:
            call()


def after_commit(call: Callable[[], None]) -> None:
    """Run `call` after the transaction that is open, at once when none is; the same function runs once."""
    if not database.in_transaction():
        call()
    elif call not in _local.after_commit:
        _local.after_commit.append(call)


def rows(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement; none for a statement without RETURNING."""
    cursor = database.execute_sql(sql, parameters)
    return cursor.fetchall() if cursor.description else []


def maps(sql: str, *parameters: Any) -> list[dict[str, Any]]:
    """The rows of one statement as dictionaries by column name."""
    cursor = database.execute_sql(sql, parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def ping() -> bool:
    """True once PostgreSQL has answered on this process's connection, which is opened again if it was lost."""
    drop_unusable()
    try:
        database.connect(reuse_if_open=True)
        database.execute_sql("select 1")
    except Exception:
        database.close()
        raise
    return True


def drop_unusable() -> None:
    """Close a connection that is broken or that a killed transaction left open."""
    if not database.is_closed() and (database.in_transaction() or not database.is_connection_usable()):
        database.connection().close()
        _forget_connection()


def array(values: Iterable[Any]) -> str:
    """A whole column as one PostgreSQL array literal (`%s::numeric[]`): nothing is adapted element by element."""

    def element(value: Any) -> str:
        return "NULL" if value is None else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "{" + ",".join(map(element, values)) + "}"


@contextmanager
def in_haste() -> Iterator[None]:
    """For whoever answers a person: a Redis that is silent is said to be away within HASTE, and not asked again."""
    _in_haste.set()
    redis.cache_clear()
    try:
        yield
    finally:
        _in_haste.clear()
        redis.cache_clear()


@cache
def redis() -> Redis:
    """The client of this process. Retries are explicit: `from_url` alone has none."""
    from redis import Redis
    from redis.backoff import ExponentialWithJitterBackoff
    from redis.exceptions import ConnectionError as RedisGone
    from redis.exceptions import TimeoutError as RedisSilent
    from redis.retry import Retry

    if not settings.redis_url:
        raise WrongSetting(
            "REDIS_URL is not set: give redis://host:6379, or start `./nightdesk up`, which brings its own server"
        )
    return Redis.from_url(
        settings.redis_url,
        retry=Retry(
            ExponentialWithJitterBackoff(base=0.05, cap=0.5),
            3,
            (RedisGone,) if _in_haste.is_set() else (RedisGone, RedisSilent),
        ),
        socket_timeout=HASTE if _in_haste.is_set() else 10,
        socket_connect_timeout=3,
        health_check_interval=30,
    )


def forget() -> None:
    """Drop what a fork inherited, without a word on the wire: the parent goes on using it."""
    redis.cache_clear()
    _forget_connection()


def _forget_connection() -> None:
    state: Any = database
    state._state.reset()


os.register_at_fork(after_in_child=forget)
