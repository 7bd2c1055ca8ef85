"""How many jobs a second, and what does one cost? One worker process, its queue filled first.

python -m bench.throughput [--jobs 15000] [--rounds 3] [--only ours,celery_safe]

The rate is taken between the moments at which 5 % and 100 % of the jobs had run; CPU is that of the worker's
whole process tree over the same span, and until its history is written; Redis and PostgreSQL are shown apart.
Ours listens to three queues, keeps limits and due times, and has written its run history to PostgreSQL in the
end. Celery's "same guarantee" is results + acks_late. Every figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import db
from bench import scratch
from engine import steps

OURS, SAFE = "nightdesk", "celery -c1, results + acks_late"
PATIENCE = 300.0  # seconds for a batch
CELERY = ["celery", "-A", "bench.peers.celery_app", "worker", "-P", "prefork", "-c", "1"]


@dataclass
class System:
    """How to start a worker and fill its queue; `share` of the jobs is enough for the slow ones."""

    name: str
    key: str
    worker: list[str]
    share: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)


SYSTEMS = [
    System(OURS, "ours", ["rq", "worker", "-w", "bench.peers.ours.Worker", "critical", "default", "low"]),
    System(SAFE, "celery_safe", CELERY, 0.5, {"BENCH_CELERY": "safe"}),
    System("celery -c1, plain", "celery", CELERY, 0.5),
    System("rq worker", "rq", ["rq", "worker", "default"], 0.04),
    System("rq worker -w rq.SimpleWorker", "simple", ["rq", "worker", "-w", "rq.SimpleWorker", "default"], 0.1),
]


@dataclass
class Cost:
    """One batch: jobs a second, and CPU seconds for a thousand of them."""

    rate: float
    worker: float
    redis: float
    postgres: float


def fill_ours(jobs: int, ms: int, first: int = 0) -> None:
    """Runs as the scheduler enqueues them: entry, due time, limit."""
    redis, due = db.redis(), int(time.time() * 1000)
    for start in range(first, first + jobs, 1000):
        with redis.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + 1000, first + jobs)):
                entry = f"work-{number % 50}"
                steps.enqueue(
                    pipe, "bench.peers.ours.work", "default", run_id=f"{entry}-{due + number}", due=due + number,
                    entry=entry, kwargs={"ms": ms}, timeout=30, tries=3, limits=json.dumps([[f"entry:{entry}", 1]]),
                )  # fmt: skip


def fill_rq(jobs: int, ms: int) -> None:
    """As `Queue.enqueue_many` does."""
    from rq import Queue

    queue = Queue("default", connection=db.redis())
    queue.enqueue_many([Queue.prepare_data("bench.peers.stock.work", args=(ms,)) for _ in range(jobs)])


def measure(desk: scratch.Desk, system: System, jobs: int, ms: int) -> Cost:
    """Fill, start one worker, watch the count grow."""
    file = desk.folder / "count"
    file.unlink(missing_ok=True)
    desk.empty()
    environment = {**system.environment, "BENCH_MARKS": str(file)}
    if system.key == "ours":
        fill_ours(jobs, ms)
    elif system.worker[0] == "rq":
        fill_rq(jobs, ms)
    else:
        fill = desk.start("python", "-m", "bench.peers.celery_app", "work", str(ms), str(jobs), **environment)
        if fill.wait(PATIENCE):
            raise RuntimeError("Celery took no jobs")
    worker = desk.start(*system.worker, log=f"{system.key}.log", **environment)
    cpu = partial(_cpu, desk, worker)
    start = _when(file, jobs // 20)
    before = cpu()
    end = _when(file, jobs)
    if system.key == "ours":
        _history_is_complete(jobs)
    after = cpu()
    desk.stop(worker)
    per_thousand = [(b - a) / (jobs - jobs // 20) * 1000 for a, b in zip(before, after, strict=True)]
    return Cost((jobs - jobs // 20) / (end - start), *per_thousand)


def _cpu(desk: scratch.Desk, worker: subprocess.Popen[bytes]) -> list[float]:
    processes = [worker, desk.valkey.process, desk.postgres.process]
    return [scratch.cpu_seconds(process.pid) if process else 0.0 for process in processes]


def _when(file: Path, size: int) -> float:
    """The moment at which the file has that many bytes."""
    if not scratch.wait_for(lambda: file.is_file() and file.stat().st_size >= size, PATIENCE, 0.002):
        raise RuntimeError(f"only {file.stat().st_size if file.is_file() else 0} of {size} jobs ran")
    return time.monotonic()


def _history_is_complete(jobs: int) -> None:
    with db.database.connection_context():
        if not scratch.wait_for(
            lambda: db.rows("select count(*) from run where outcome = 'ok'")[0][0] >= jobs, 30, 0.2
        ):
            raise RuntimeError(
                f"only {db.rows('select outcome, count(*) from run group by 1')} runs are in the history"
            )


def killers(desk: scratch.Desk, jobs: int = 2000, deaths: int = 10) -> list[str]:
    """Jobs that kill their own process, mixed with others; returns what went wrong, nothing if all is true.

    Each of the others runs exactly once in the same worker; `rq info` and rq-dashboard count right, before and after.
    """
    file = desk.folder / "count"
    file.unlink(missing_ok=True)
    desk.empty()
    part = jobs // deaths
    for number in range(deaths):
        fill_ours(part, 0, number * part)
        due = int(time.time() * 1000) + number
        path, run_id = "bench.peers.ours.die", f"die-{due}"
        steps.enqueue(db.redis(), path, "default", run_id=run_id, due=due, entry="die", timeout=30, tries=2)
    wrong = _compare("before", _counts(desk), {"queued": jobs + deaths, "finished": 0, "failed": 0, "workers": 0})
    worker = desk.start(*SYSTEMS[0].worker, log="killers.log", BENCH_MARKS=str(file))
    began = _when(file, 1)
    last = _when(file, jobs)
    history = {"ok": jobs, "lost": deaths, "failed": deaths}
    with db.database.connection_context():
        scratch.wait_for(lambda: dict(db.rows("select outcome, count(*) from run group by 1")) == history, 120, 0.2)
        told = dict(db.rows("select outcome, count(*) from run group by 1"))
    took = time.monotonic() - began
    truth = {"queued": 0, "failed": deaths, "workers": 1, "worker's finished": jobs, "worker's failed": deaths}
    if took < 50:  # a run's hash, and its place among the finished, live for a minute
        truth["finished"] = jobs
    wrong += _compare("after", _counts(desk), truth)
    if told != history:
        wrong.append(f"history says {told}")
    if file.stat().st_size != jobs:
        wrong.append(f"{file.stat().st_size} runs of {jobs} jobs")
    if worker.poll() is not None:
        wrong.append("the worker is gone")
    desk.stop(worker)
    print(
        f"\n{deaths} jobs that kill their own process, twice each, among {jobs} others: the others done after "
        f"{last - began:.1f} s, all after {took:.1f} s; {'; '.join(wrong) or 'no other was hurt, all counts are true'}"
    )
    return wrong


def _counts(desk: scratch.Desk) -> dict[str, dict[str, int]]:
    """What `rq info` and rq-dashboard say."""
    told = subprocess.run(["rq", "info", "--raw"], env=desk.environment, capture_output=True, text=True, timeout=30)
    queues = re.findall(r"^queue \S+ (\d+), \d+ executing, (\d+) finished, (\d+) failed", told.stdout, re.MULTILINE)
    workers = re.findall(r"^worker .* jobs: (\d+) finished, (\d+) failed", told.stdout, re.MULTILINE)
    queued, finished, failed = (sum(int(queue[column]) for queue in queues) for column in range(3))
    said = {"queued": queued, "finished": finished, "failed": failed, "workers": len(workers)}
    if workers:
        said["worker's finished"], said["worker's failed"] = (int(count) for count in workers[0])
    return {"rq info": said, "rq-dashboard": dashboard(desk.valkey.url)}


def dashboard(url: str) -> dict[str, int]:
    """The counts on rq-dashboard's own pages."""
    import rq_dashboard
    from flask import Flask

    app = Flask("dashboard")
    app.config.from_object(rq_dashboard.default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = url
    rq_dashboard.web.setup_rq_connection(app)
    app.register_blueprint(rq_dashboard.blueprint, url_prefix="/rq")
    client = app.test_client()
    queues = client.get("/rq/0/data/queues.json").get_json()["queues"]
    workers = client.get("/rq/0/data/workers.json").get_json()["workers"]
    return {
        "queued": sum(queue["count"] for queue in queues),
        "failed": sum(queue["failed_job_registry_count"] for queue in queues),
        "finished": sum(queue["finished_job_registry_count"] for queue in queues),
        "workers": len(workers),
    }


def _compare(moment: str, said: dict[str, dict[str, int]], truth: dict[str, int]) -> list[str]:
    return [
        f"{moment}: {who} says {said[who][what]} {what}, true is {number}"
        for who in said
        for what, number in truth.items()
        if said[who].get(what, number) != number
    ]


def main() -> int:
    """Measure, print, judge."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jobs", type=int, default=15_000, help="no-op jobs for the fastest; slow peers get fewer")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", default="", help=f"some of {','.join(s.key for s in SYSTEMS)}")
    chosen = options.parse_args()
    systems = [s for s in SYSTEMS if not chosen.only or s.key in chosen.only.split(",")]
    costs: dict[tuple[str, int], list[Cost]] = {}
    with scratch.started() as desk:
        for number in range(chosen.rounds):
            for system in systems:
                print(f"round {number + 1}: {system.name} …", file=sys.stderr, flush=True)
                for ms in (0, 1):
                    jobs = int(chosen.jobs * system.share) // (3 if ms else 1)
                    costs.setdefault((system.name, ms), []).append(measure(desk, system, max(jobs, 200), ms))
        scratch.table(
            ["system, job", "jobs/s", "(lowest - highest)", "CPU s/1000", "Redis", "PostgreSQL"],
            [_row(name, ms, found) for (name, ms), found in costs.items()],
        )
        wrong = killers(desk)
    return _verdict(costs, wrong)


def _row(name: str, ms: int, costs: list[Cost]) -> list[str]:
    rates = [cost.rate for cost in costs]
    cpu = [median(getattr(cost, part) for cost in costs) for part in ("worker", "redis", "postgres")]
    span = f"({min(rates):.0f} - {max(rates):.0f})"
    return [
        f"{name}, {'1 ms' if ms else 'no-op'}",
        f"{median(rates):.0f}",
        span,
        *(f"{seconds:.3f}" for seconds in cpu),
    ]


def _verdict(costs: dict[tuple[str, int], list[Cost]], wrong: list[str]) -> int:
    rate = {name: median(cost.rate for cost in found) for (name, ms), found in costs.items() if not ms}
    cpu = {name: median(cost.worker for cost in found) for (name, ms), found in costs.items() if not ms}
    compared = OURS in rate and SAFE in rate
    faster = rate[OURS] / rate[SAFE] if compared else 0.0
    cheaper = cpu[OURS] / cpu[SAFE] if compared else 1.0
    print(f"{faster:.2f} times the jobs a second of {SAFE} at {cheaper:.2f} of its CPU a job")
    return scratch.verdict(
        "throughput", rate.get(OURS, 0.0), "no-op jobs/s", peer=SAFE, peer_value=rate.get(SAFE),
        target="ratio >= 2 at <= 0.5 of the CPU; a job that kills its process harms no other; counts are true",
        ok=compared and faster >= 2 and cheaper <= 0.5 and not wrong,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
