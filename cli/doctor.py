"""`nightdesk doctor`: what would keep this from working, each with its remedy."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

import db
from cli.output import json_option, show
from config import ROOT, settings
from engine import history, state, steps


@dataclass(frozen=True)
class Finding:
    """One check: `ok` True, False, or None for a warning."""

    check: str
    ok: bool | None
    says: str


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check servers, schedule, clock, indexes, versions and keys; exit 1 if something is wrong."""
    findings = list(examine())
    marks = {True: "ok", None: "warning", False: "WRONG"}
    rows = [{"check": f.check, "result": marks[f.ok], "says": f.says, "bad": f.ok is False} for f in findings]
    show("Doctor", {"check": "check", "result": "", "says": ""}, rows, as_json=as_json)
    raise SystemExit(any(f.ok is False for f in findings))


def examine() -> Iterator[Finding]:
    """Every check in turn; one that cannot be made is itself a finding."""
    for group in (redis_server, schedule, postgresql, providers, safety):
        try:
            yield from group()
        except Exception as failure:
            # A check that fails must not hide the others.
            if isinstance(failure, KeyboardInterrupt):
                raise
            yield Finding(group.__name__.replace("_", " "), False, " ".join(str(failure).split()))


def redis_server() -> Iterator[Finding]:
    """Reachable, never evicting, persistent, with a clock like ours."""
    redis = db.redis()
    before = time.time()
    seconds, micros = redis.time()  # type: ignore[misc]
    offset = seconds + micros / 1e6 - (before + time.time()) / 2
    yield Finding(
        "clock", abs(offset) < 1 or None, f"Redis's clock is {offset * 1000:+.0f} ms from this machine's; Redis's counts"
    )
    info: dict[str, Any] = redis.info()  # type: ignore[assignment]
    policy = info.get("maxmemory_policy", "?")
    yield Finding("eviction", policy == "noeviction", f"maxmemory-policy is {policy}" + ("" if policy == "noeviction" else
        ": set noeviction, or Redis throws runs away when it is full"))  # fmt: skip
    persistent = info.get("aof_enabled") == 1
    yield Finding("persistence", persistent or None, "append-only file is on" if persistent else
        "no append-only file: a restart of Redis forgets what waits in the queues (the schedule goes on)")  # fmt: skip
    waiting = redis.xlen(steps.RUNS)
    yield Finding("run history", waiting < 10_000, f"{waiting} lines wait to be written to PostgreSQL")


def schedule() -> Iterator[Finding]:
    """Somebody moves it, nobody else does, somebody works."""
    redis = db.redis()
    alive = state.schedulers(redis)
    yield Finding("scheduler", bool(alive), f"{len(alive)} alive" if alive else
        "none is alive: start `python scheduler.py` (Procfile: scheduler)")  # fmt: skip
    behind = state.behind(redis)
    late = behind is not None and behind > history.STOPPED_AFTER
    yield Finding("schedule", behind is not None and not late, "no entry is declared" if behind is None else
        f"behind by {behind:.0f} s" if late else "moves")  # fmt: skip
    stock = stock_schedulers()
    yield Finding("stock rqscheduler", not stock, f"{', '.join(stock)} runs beside ours and would enqueue everything a second "
        "time: stop it" if stock else "none beside ours")  # fmt: skip
    workers = state.workers(redis)
    silent = [w.name for w in workers if w.silent * 1000 > state.WORKER_MS]
    yield Finding("workers", len(workers) > len(silent), f"{len(workers) - len(silent)} alive" + (
        f", silent: {', '.join(silent)}" if silent else ""))  # fmt: skip


def stock_schedulers() -> list[str]:
    """Instances of rq-scheduler's own class: registered as ours are, but without our heartbeat."""
    redis = db.redis()
    names = [key.decode().rpartition(":")[2] for key in redis.scan_iter("rq:scheduler_instance:*")]
    found = [
        name
        for name in names
        if redis.zscore(steps.SCHEDULERS, name) is None and not redis.hexists(f"rq:scheduler_instance:{name}", "death")
        and not redis.hexists(f"rq:scheduler_instance:{name}", "offset")
    ]  # fmt: skip
    return [*found, *(["a scheduler that holds rq:scheduler_lock"] if redis.exists("rq:scheduler_lock") and not found else [])]


def postgresql() -> Iterator[Finding]:
    """New enough, migrated, with every index, with room for the next days; and a pg_dump that can read it."""
    from playhouse.migrations import Runner

    with db.database.connection_context():
        ((version,),) = db.rows("select current_setting('server_version_num')::int / 10000")
        yield Finding("PostgreSQL", version >= 15, f"version {version}" + ("" if version >= 15 else ": 15 is the oldest supported"))
        pending = [m.name for m in Runner(db.database, str(ROOT / "migrations")).status() if not m.applied]
        yield Finding("migrations", not pending, f"pending: {', '.join(pending)}: run `nightdesk migrate`" if pending else "applied")
        missing = missing_indexes()
        yield Finding("indexes", not missing, f"missing or invalid: {', '.join(missing)}" if missing else "all there")
        strays = [t for (t,) in db.rows("select relname::text from pg_class where relname like '%%\\_rest' and relkind = 'r'")
                  if db.rows(f"select exists(select from {t})")[0][0]]  # fmt: skip  # noqa: S608 - names from the catalog
        yield Finding("partitions", not strays or None, f"rows found no partition of their day: {', '.join(strays)}" if strays else
            "every row has its day")  # fmt: skip
    yield _pg_dump(version)


def missing_indexes() -> list[str]:
    """Indexes that a migration makes and the database lacks, or has as invalid."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "migrations").glob("[0-9]*.py")))
    made = set(re.findall(r"create (?:unique )?index (?:if not exists )?(\w+)", text, re.IGNORECASE))
    dropped = set(re.findall(r"drop index (?:if exists )?(\w+)", text, re.IGNORECASE))
    there = {name for (name,) in db.rows("select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid where indisvalid")}
    return sorted(made - dropped - there)


def _pg_dump(server: int) -> Finding:
    program = shutil.which("pg_dump")
    if not program:
        return Finding("pg_dump", None, "not installed: backups need the client of PostgreSQL")
    words = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)", words)
    version = int(found[1]) if found else 0
    return Finding("pg_dump", version >= server or None, f"version {version}" + ("" if version >= server else
        f" is older than the server's {server} and cannot dump it"))  # fmt: skip


def providers() -> Iterator[Finding]:
    """Which outside services are off, and why."""
    from clients import http

    for provider in http.status():
        yield Finding(f"provider {provider.name}", None if provider.off else True, provider.off or f"on, breaker {provider.breaker}")


def safety() -> Iterator[Finding]:
    """Settings that belong to the demo alone, and channels that lead nowhere."""
    yield Finding("private targets", None if settings.private_targets else True,
        "PRIVATE_TARGETS is on: users' URLs may reach this machine; for the demo alone" if settings.private_targets else "closed")  # fmt: skip
    yield Finding("mail", bool(settings.smtp_url) or None, "SMTP_URL is set" if settings.smtp_url else "SMTP_URL is not set: no mail goes out")
