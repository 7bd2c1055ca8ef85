"""One PostgreSQL and one Valkey for the session, started when a test first asks for them.

Their addresses are chosen and put into the environment before anything imports `config`. `PG=15` runs
the tests against the PostgreSQL in /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from click.testing import Result
    from peewee import PostgresqlDatabase
    from redis import Redis

    from cli import servers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

hypothesis.settings.register_profile(
    "nightdesk",
    derandomize=True,  # the same values for the same code
    deadline=None,  # a law is about values, not about how busy we are
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("nightdesk")

_FOLDER = pytest.StashKey[Path]()
_POSTGRES = pytest.StashKey["servers.Postgres"]()
_VALKEY = pytest.StashKey["servers.Valkey"]()


# What a host, a terminal or a proxy says beside our own settings.
SURROUNDINGS = ("RENDER_EXTERNAL_URL", "RENDER_GIT_COMMIT", "HEROKU_SLUG_COMMIT", "FORCE_COLOR", "TTY_COMPATIBLE")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the servers' addresses and shut out the settings of whoever runs the tests."""
    ours = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    for name in [*ours, *SURROUNDINGS, *(name for name in os.environ if name.endswith("_INTERVAL"))]:
        os.environ.pop(name, None)
    os.environ.update(COLUMNS="80", no_proxy="*", NO_PROXY="*")
    for file in (ROOT / ".env", ROOT / ".nightdesk/local.env"):
        for line in file.read_text().splitlines() if file.is_file() else []:
            os.environ[line.removeprefix("export ").partition("=")[0].strip()] = ""
    os.environ.update(DATABASE_URL="", REDIS_URL="", PRIVATE_TARGETS="on", TZ="UTC", NIGHTDESK_TZ="", SMTP_URL="")
    os.environ["WORKER_MEMORY_MB"] = "100000"  # work-horses run in the tests' own process, which grows with the tests

    from cli import servers

    folder = config.stash[_FOLDER] = Path(tempfile.mkdtemp(prefix="nightdesk-tests-"))
    config.stash[_POSTGRES] = servers.postgres(folder / "postgres", fsync=False, programs=_programs())
    config.stash[_VALKEY] = servers.valkey(folder / "valkey")
    os.environ["DATABASE_URL"] = config.stash[_POSTGRES].url
    os.environ["REDIS_URL"] = os.environ["RQ_REDIS_URL"] = config.stash[_VALKEY].url
    # `config` was imported with `servers`: read again what it takes from the environment.
    import config as settings_module

    settings_module.settings = settings_module.load(settings_module.environment())


def _programs() -> Path | None:
    version = os.environ.get("PG")
    if not version:
        return None
    programs = Path(f"/usr/lib/postgresql/{version}/bin")
    if not (programs / "initdb").exists():
        pytest.exit(f"PG={version}: no PostgreSQL in {programs}", returncode=2)
    return programs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m database` selects what talks to PostgreSQL."""
    for item in items:
        if "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker("database")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started and leave nothing behind, after Ctrl-C too."""
    for key in (_VALKEY, _POSTGRES):
        if server := config.stash.get(key, None):
            server.stop()
            server.remove()
    if folder := config.stash.get(_FOLDER, None):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> servers.Postgres:
    """The session's PostgreSQL with every migration applied."""
    from playhouse.migrations import Runner

    import db

    server = request.config.stash[_POSTGRES]
    server.start()
    with db.database.connection_context():
        # Its transactions would hold back what is read by position, and its statistics change plans, now and then.
        db.rows("alter system set autovacuum = off")
        db.rows("select pg_reload_conf()")
        Runner(db.database, str(ROOT / "migrations")).up()
        db.rows(KEEP_SEEDS)
    return server


@pytest.fixture(scope="session")
def valkey(request: pytest.FixtureRequest) -> servers.Valkey:
    """The session's Valkey."""
    server = request.config.stash[_VALKEY]
    server.start()
    return server


@pytest.fixture
def database(postgres: servers.Postgres) -> Iterator[PostgresqlDatabase]:
    """The database as the migrations leave it: every test begins with their rows and no others."""
    import db

    if not postgres.alive():
        postgres.start()
    db.database.connect(reuse_if_open=True)
    if db.database.in_transaction():
        db.database.rollback()
    db.rows("select seed.restore()")
    yield db.database
    if not db.database.is_closed():
        db.database.rollback()
        db.database.close()


@pytest.fixture
def redis(valkey: servers.Valkey) -> Redis:
    """An empty Redis."""
    import db

    if not valkey.alive():
        valkey.start()
    client = db.redis()
    client.flushall()
    return client


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("python", "scheduler.py", NAME="value")`: a process in the tests' environment, killed with its group."""
    started = []

    def process(*command: str | Path, **environment: str) -> subprocess.Popen[str]:
        program = [sys.executable if command[0] == "python" else command[0], *command[1:]]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        child = subprocess.Popen(
            [str(part) for part in program],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(child)
        return child

    yield process
    for child in started:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.fixture
def nightdesk() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`nightdesk("status", "--json")`: the operator's command, run to its end in the tests' environment."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def call(database: object) -> Callable[..., Result]:
    """`call("ledger", "check", code=1)`: the command opens and closes the connection itself."""
    from click.testing import CliRunner

    import db
    from cli.main import nightdesk as command

    def run(*words: str, code: int = 0) -> Result:
        db.database.close()
        result = CliRunner().invoke(command, list(words), catch_exceptions=False)
        assert result.exit_code == code, result.output
        db.database.connect(reuse_if_open=True)
        return result

    return run


# Rows that migrations insert are copied aside once; restore() empties what has rows and puts them back.
# DELETE, because TRUNCATE of a hundred small tables takes longer than most tests; triggers and foreign
# keys sleep meanwhile (session_replication_role).
KEEP_SEEDS = """
create schema seed;
do $$
declare t regclass;
begin
  for t in select c.oid::regclass from pg_class c
           where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
             and c.relname <> 'schema_migration'
  loop
    execute format('create table seed.%%I as table %%s', (select relname from pg_class where oid = t), t);
    execute format('do $x$ begin if not exists (select from seed.%%1$I) then drop table seed.%%1$I; end if; end $x$',
                   (select relname from pg_class where oid = t));
  end loop;
end $$;

create function seed.restore() returns void language plpgsql set session_replication_role = replica as $$
declare t record; filled boolean; columns text;
begin
  for t in select c.oid::regclass as name, pg_relation_size(c.oid) as size from pg_class c
           where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname <> 'schema_migration'
             and pg_relation_size(c.oid) > 0
  loop
    if t.size > 1000000 then
      execute format('truncate %%s cascade', t.name);
    else
      execute format('delete from %%s', t.name);
    end if;
  end loop;
  for t in select c.relname as name from pg_class c where c.relnamespace = 'seed'::regnamespace and c.relkind = 'r'
  loop
    select string_agg(format('%%I', attname), ', ' order by attnum) into columns from pg_attribute
    where attrelid = format('public.%%I', t.name)::regclass and attnum > 0 and not attisdropped and attgenerated = '';
    execute format('insert into public.%%1$I (%%2$s) overriding system value select %%2$s from seed.%%1$I',
                   t.name, columns);
  end loop;
end $$;
"""
