"""`nightdesk doctor`: what would keep this from working, each with its remedy."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import click
from peewee import InterfaceError, OperationalError
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import TimeoutError as RedisSilent

import db
from cli.output import json_option, show
from config import ROOT, settings
from engine import history, state, steps
from models import clusters, sessions, targets


@dataclass(frozen=True)
class Finding:
    """One check: what it found, and whether that is good, worth a look (None) or wrong (False)."""

    check: str
    ok: bool | None
    says: str


def wrong_unless(check: str, good: bool, says: str, otherwise: str) -> Finding:
    """A finding that stops the work if it is bad."""
    return Finding(check, good, says if good else otherwise)


def warn_unless(check: str, good: bool, says: str, otherwise: str) -> Finding:
    """A finding that an operator should know of if it is bad."""
    return Finding(check, True if good else None, says if good else otherwise)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check servers, schedule, clock, indexes, versions and keys; exit 1 if something is wrong."""
    findings = list(examine())
    marks = {True: "ok", None: "warning", False: "WRONG"}
    rows = [{"check": f.check, "result": marks[f.ok], "says": f.says, "bad": f.ok is False} for f in findings]
    show("Doctor", {"check": "check", "result": "result", "says": "what it found"}, rows, as_json=as_json)
    raise SystemExit(any(f.ok is False for f in findings))


def examine() -> Iterator[Finding]:
    """Every check in turn; one that cannot be made is itself a finding and does not hide the others.

    A server that is away is waited for once: what needs it too is then not looked at.
    """
    away: set[str] = set()
    for group, needed in GROUPS.items():
        name = group.__name__.replace("_", " ")
        if missed := away & needed:
            yield Finding(name, None, f"not looked at: {' and '.join(sorted(missed))} is away")
            continue
        try:
            yield from group()
        except Exception as failure:  # noqa: BLE001 - shown as a finding
            away |= {server for server, failures in AWAY.items() if isinstance(failure, failures)}
            yield Finding(name, False, " ".join(str(failure).split()))


def redis_server() -> Iterator[Finding]:
    """Reachable, never evicting, persistent, with a clock like ours."""
    redis = db.redis()
    redis.ping()  # connects, which is no part of the measurement
    before = time.time()
    offset = steps.now(redis) / 1000 - (before + time.time()) / 2
    words = f"Redis's clock, which counts, is {offset * 1000:+.0f} ms from this machine's"
    yield warn_unless("clock", abs(offset) < 1, words, words)
    info = redis.info()
    version = str(info.get("redis_version", "0"))
    words = f"version {version}; 7 is the oldest supported"
    yield wrong_unless("Redis", int(version.partition(".")[0]) >= 7, words, words)
    policy = info.get("maxmemory_policy", "unknown")
    yield wrong_unless(
        "eviction",
        policy == "noeviction",
        "maxmemory-policy is noeviction",
        f"maxmemory-policy is {policy}: set noeviction, or Redis throws runs away when it is full",
    )
    yield warn_unless(
        "persistence",
        info.get("aof_enabled") == 1,
        "the append-only file is on",
        "no append-only file: a restart of Redis forgets what waits in the queues (the schedule goes on)",
    )
    waiting = redis.xlen(steps.RUNS)
    words = f"{waiting} lines wait to be written to PostgreSQL"
    yield wrong_unless("run history", waiting < 10_000, words, words)


def schedule() -> Iterator[Finding]:
    """Somebody moves it, nobody else does, somebody works."""
    redis = db.redis()
    alive = state.schedulers(redis)
    remedy = "none is alive: start `python scheduler.py` (Procfile: scheduler)"
    yield wrong_unless("scheduler", bool(alive), f"{len(alive)} alive", remedy)
    behind = state.behind(redis)
    words = "no entry is declared: run `nightdesk migrate`" if behind is None else f"it stands still for {behind:.0f} s"
    yield wrong_unless("schedule", behind is not None and behind <= history.STOPPED_AFTER, "it moves", words)
    with db.database.connection_context():
        missing = sessions.missing(datetime.now(UTC).date())
    yield warn_unless("sessions", not missing, "every market's are known for a month and more", "; ".join(missing[:2]))
    stock = ", ".join(stock_schedulers())
    words = f"{stock} runs beside ours and would enqueue everything a second time: stop it"
    yield wrong_unless("stock rqscheduler", not stock, "none beside ours", words)
    workers = state.workers(redis)
    silent = [worker.name for worker in workers if not worker.is_alive]
    words = f"{len(workers) - len(silent)} alive" + (f", silent: {', '.join(silent)}" if silent else "")
    yield wrong_unless("workers", len(workers) > len(silent), words, f"{words}: start one, see Procfile")
    obstacles = "; ".join(f"{found.what}: {found.remedy}" for found in state.obstacles(redis))
    yield wrong_unless("work", not obstacles, "nothing keeps the workers from it", obstacles)


def stock_schedulers() -> list[str]:
    """Instances of rq-scheduler's own class: registered as ours are, but without our clock offset."""
    redis = db.redis()
    instances = [key.decode() for key in redis.scan_iter("rq:scheduler_instance:*")]
    stock = [key for key in instances if not redis.hexists(key, "offset") and not redis.hexists(key, "death")]
    if not stock and redis.exists("rq:scheduler_lock"):
        return ["a scheduler that holds rq:scheduler_lock"]
    return [key.rpartition(":")[2] for key in stock]


def postgresql() -> Iterator[Finding]:
    """New enough, migrated, with every index, with room for the next days; and a pg_dump that can read it."""
    from playhouse.migrations import Runner

    with db.database.connection_context():
        ((version,),) = db.rows("select current_setting('server_version_num')::int / 10000")
        words = f"version {version}; 15 is the oldest supported"
        yield wrong_unless("PostgreSQL", version >= 15, words, words)
        pending = [m.name for m in Runner(db.database, str(ROOT / "migrations")).status() if not m.applied]
        words = f"pending: {', '.join(pending)}: run `nightdesk migrate`"
        yield wrong_unless("migrations", not pending, "all applied", words)
        missing = missing_indexes()
        yield wrong_unless("indexes", not missing, "all there", f"missing or invalid: {', '.join(missing)}")
        elsewhere = clusters.foreign() if not pending else []
        words = f"of the cluster that the backup is of: {', '.join(elsewhere)}: run `nightdesk restore`"
        yield wrong_unless("positions", not elsewhere, "all of this cluster", words)
        strays = tables_with_strays()
        words = f"rows found no partition: {', '.join(strays)}; the nightly upkeep did not run"
        yield warn_unless("partitions", not strays, "every row has its day", words)
    program = shutil.which("pg_dump")
    ours = pg_dump_version(program) if program else 0
    words = f"version {ours} is older than the server's {version} and cannot dump it" if program else "not installed"
    yield warn_unless("pg_dump", ours >= version, f"version {ours}", f"{words}: backups need it")


def missing_indexes() -> list[str]:
    """Indexes that a migration makes and the database lacks, or has as invalid."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "migrations").glob("[0-9]*.py")))
    made = set(re.findall(r"create (?:unique )?index (?:if not exists )?(\w+)", text, re.IGNORECASE))
    dropped = set(re.findall(r"drop index (?:if exists )?(\w+)", text, re.IGNORECASE))
    valid = db.rows("select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid where indisvalid")
    return sorted(made - dropped - {name for (name,) in valid})


def tables_with_strays() -> list[str]:
    """Default partitions that hold rows."""
    tables = db.rows("select relname::text from pg_class where relname like '%%\\_rest' and relkind = 'r'")
    return [table for (table,) in tables if db.rows(f"select exists(select from {table})")[0][0]]


def pg_dump_version(program: str) -> int:
    """The major version of a pg_dump."""
    words = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)", words)
    return int(found[1]) if found else 0


def providers() -> Iterator[Finding]:
    """Which outside services are off, and why."""
    from clients import http

    for provider in http.status():
        words = f"on, breaker {provider.breaker}"
        yield warn_unless(f"provider {provider.name}", not provider.off, words, provider.off or "")


def safety() -> Iterator[Finding]:
    """Settings that belong to the demo alone, and a channel that leads nowhere."""
    words = "PRIVATE_TARGETS is on: users' URLs may reach this machine; that is for the demo alone"
    yield warn_unless("private targets", not settings.private_targets, "closed", words)
    yield warn_unless("mail", bool(settings.smtp_url), "SMTP_URL is set", "SMTP_URL is not set: no mail goes out")


def delivery() -> Iterator[Finding]:
    """Whether messages leave this desk."""
    with db.database.connection_context():
        switch = targets.switch()
    live = switch["mode"] == "live" and switch["place"] == settings.public_url
    words = "dry run: say `nightdesk notifications mode live`, once this is the place that reaches real people"
    yield warn_unless("delivery", live, f"live for {settings.public_url}", words)


GROUPS = {
    redis_server: {"Redis"},
    postgresql: {"PostgreSQL"},
    schedule: {"Redis", "PostgreSQL"},
    providers: {"Redis", "PostgreSQL"},
    safety: set(),
    delivery: {"PostgreSQL"},
}
AWAY = {"Redis": (RedisGone, RedisSilent), "PostgreSQL": (OperationalError, InterfaceError)}
