"""How much memory do a scheduler and two workers take, each having done real work?

python -m bench.memory

The processes are the Procfile's own, over the demo world; every entry of SCHEDULE has run several times. Counted
is PSS, a page that several processes share in proportion, of each process and its work-horse, when the demo world
has gone: more processes would share more. The peers are stock, with the same modules imported in the middle of a
job: rq-scheduler with two `rq worker`s, and Celery beat with two prefork workers. The demo world, the web process
and the supervisor of `nightdesk up` are shown apart.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from functools import partial

import config
import db
from bench import scratch
from cli.supervisor import procfile

LIMIT = 170.0  # MB
OURS = ("scheduler", "worker", "worker_critical")
STOCK = {
    "rqscheduler": ["rqscheduler", "-i", "1"],
    "rq worker": ["rq", "worker", "default"],
    "rq worker, 2nd": ["rq", "worker", "default"],
}
CELERY = ["celery", "-A", "bench.peers.celery_app"]
CELERIES = {
    "celery beat": [*CELERY, "beat"],
    "celery -c1": [*CELERY, "worker", "-P", "prefork", "-c", "1", "-n", "one@%h"],
    "celery -c1, 2nd": [*CELERY, "worker", "-P", "prefork", "-c", "1", "-n", "two@%h"],
}


def memory(process: subprocess.Popen[bytes]) -> list[float]:
    """PSS in MB of a process and its children, the process first."""
    return [scratch.pss_mb(pid) for pid in scratch.tree(process.pid)]


def ours(desk: scratch.Desk) -> tuple[dict[str, list[float]], list[float]]:
    """The Procfile's scheduler and workers after real work, and the demo world that they worked in."""
    addresses = desk.folder / "demo.env"
    demo = desk.start("python", "-m", "demo", "--env-file", addresses, "--mail", desk.folder / "mail")
    if not scratch.wait_for(lambda: addresses.is_file() and addresses.read_text().endswith("\n")):
        raise RuntimeError("the demo world does not answer")
    world = config.dotenv(addresses)
    lines = procfile(config.ROOT / "Procfile")
    running = {name: desk.start("sh", "-c", f"exec env {lines[name]}", log=f"{name}.log", **world) for name in OURS}
    exercise(desk)
    beside = memory(demo)
    desk.stop(demo)
    time.sleep(1)
    found = {name: memory(process) for name, process in running.items()}
    desk.stop(*running.values())
    return found, beside


def exercise(desk: scratch.Desk, times: int = 10) -> None:
    """Every entry of SCHEDULE several times, with alerts that fire and a mail for each."""
    from engine import entries
    from scheduler import SCHEDULE

    alert = subprocess.run(
        ["python", "-m", "cli.main", "alerts", "add", "BTCUSD", "above", "1"],
        cwd=config.ROOT, env=desk.environment, capture_output=True, text=True,
    )  # fmt: skip
    if alert.returncode:
        raise RuntimeError(f"no alert was added: {alert.stderr}")
    with db.database.connection_context():
        for _ in range(times):
            ids = [entries.run_now(db.redis(), entry, "bench") for entry in SCHEDULE]
            if not scratch.wait_for(partial(_ended, ids), 60, 0.1):
                raise RuntimeError(f"some of these did not end: {ids}")
        failed = db.rows("select job, min(error) from run where outcome <> 'ok' group by 1")
        share = db.rows("select count(*) from run group by worker")
    print(f"runs by worker: {', '.join(str(count) for (count,) in share)}; failed: {failed or 'none'}")


def _ended(ids: list[str]) -> bool:
    return bool(db.rows("select count(*) from run where run_id = any(%s)", ids)[0][0] >= len(ids))


def supervisor(desk: scratch.Desk) -> dict[str, list[float]]:
    """`nightdesk up` itself and its web process, in a copy of the project so that nobody's own is disturbed."""
    house = desk.folder / "house"
    unwanted = shutil.ignore_patterns(".git", ".venv", ".nightdesk", ".env", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(config.ROOT, house, ignore=unwanted)
    up = desk.start("python", "-m", "cli.main", "up", "--no-demo", log="up.log", cwd=house)
    notes = house / ".nightdesk"
    wanted = [name for name in procfile(house / "Procfile") if name != "release"]
    if not scratch.wait_for(lambda: all((notes / f"{name}.pid").is_file() for name in wanted), 60):
        raise RuntimeError((desk.folder / "up.log").read_text()[-2000:])
    time.sleep(5)
    found = {"supervisor": [scratch.pss_mb(up.pid)]}
    if "web" in wanted:
        pid = int((notes / "web.pid").read_text().split()[0])
        found["web"] = [scratch.pss_mb(number) for number in scratch.tree(pid)]
    desk.stop(up, patience=40)
    return found


def stock(desk: scratch.Desk, processes: dict[str, list[str]]) -> dict[str, list[float]]:
    """Peers in the middle of a job each, with our jobs' modules imported."""
    from rq import Queue

    desk.empty()
    running = {}
    for name, command in processes.items():
        beat = ["-s", str(desk.folder / "beat")] if command[-1] == "beat" else []
        running[name] = desk.start(*command, *beat, log=f"{name}.log")
    time.sleep(5)
    for _ in range(2):
        if "rqscheduler" in processes:
            Queue("default", connection=db.redis()).enqueue("bench.peers.stock.hold", 20)
        else:
            desk.start("python", "-m", "bench.peers.celery_app", "hold", "20", "1").wait(30)
    time.sleep(10)
    found = {name: memory(process) for name, process in running.items()}
    if any(len(parts) < 2 for name, parts in found.items() if "worker" in name or "-c1" in name):
        raise RuntimeError(f"a worker was not at work: {found}")
    desk.stop(*running.values(), patience=30)
    return found


def main() -> int:
    """Measure, print, judge."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with scratch.started() as desk:
        mine, demo = ours(desk)
        apart = {"demo world": demo, **supervisor(desk)}
        rq, celery = stock(desk, STOCK), stock(desk, CELERIES)
    lines = []
    for title, found in (("nightdesk", mine), ("stock rq", rq), ("celery", celery)):
        lines += [[f"  {name}", " + ".join(f"{part:.1f}" for part in parts), ""] for name, parts in found.items()]
        lines.append([f"{title}, together", "", f"{total(found):.1f}"])
    lines += [[f"apart: {name}", " + ".join(f"{part:.1f}" for part in parts), ""] for name, parts in apart.items()]
    scratch.table(["PSS in MB", "process + children", "together"], lines)
    return scratch.verdict(
        "memory", total(mine), "MB PSS, scheduler + 2 workers", peer="rqscheduler + 2 rq workers at work",
        peer_value=total(rq), target=f"< {LIMIT:.0f} MB", ok=total(mine) < LIMIT,
    )  # fmt: skip


def total(found: dict[str, list[float]]) -> float:
    """All of it."""
    return sum(sum(parts) for parts in found.values())


if __name__ == "__main__":
    sys.exit(main())
