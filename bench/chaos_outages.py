"""What do an emptied, stopped, frozen or full Redis or PostgreSQL, a frozen worker, a deploy and a foreign zone cost?

python -m bench.chaos_outages [--only redis_emptied,…] [--scale 1] [--list]

Two schedulers and three workers keep twenty entries that are due every second; each run writes a row into a table.
Then one outage after the other. Whatever happens: each due time is run or recorded with the reason why not, nobody
has to be started again, and each process says once that it waits and once that it goes on. The rows that show it
are printed. `--scale 0.1` shortens the outages to a tenth.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from peewee import InterfaceError, OperationalError
from redis.exceptions import RedisError

import db
from bench import scratch
from bench.deployment import ENTRIES, Deployment
from bench.outages import OUTAGES
from domain.cadence import cron
from engine import history

AWAY = re.compile(r"WARNING (.+), waiting: ")
BACK = re.compile(r"WARNING (.+) no longer, after ")


@dataclass
class Found:
    """What an outage has cost."""

    name: str
    seconds: float  # it lasted
    recovered: float  # seconds after its end until a run ended well
    runs: int
    skips: dict[str, int]
    missing: int  # due times neither run nor recorded
    doubled: int  # due times with more than one run that ended well
    restarted: int  # processes that had to be started again
    lines: list[int]  # that a process said for this outage, the most and the fewest: it waits, it goes on
    wrong: list[str]

    @property
    def ok(self) -> bool:
        return not (self.missing or self.doubled or self.restarted or self.wrong)


def examine(at: Deployment, name: str) -> Found:
    """One outage from calm to calm."""
    before = {n: len(at.log(n)) for n in at.processes}
    pids = {n: p.pid for n, p in at.processes.items()}
    began = time.time()
    wrong = OUTAGES[name](at)
    ended = time.time()
    if not scratch.wait_for(lambda: at.good_since(ended) > 0, 60, 0.05):
        wrong.append("no run ended well within a minute")
    recovered = time.time() - ended
    at.quiet()
    time.sleep(1.5)
    settle()
    runs, skips, missing, doubled = due_times(began - 5, time.time() - 4)
    meant = name in ("deploy", "zone_changed")  # these stop processes themselves
    restarted = 0 if meant else sum(p.poll() is not None or p.pid != pids[n] for n, p in at.processes.items())
    lines = [said(at.log(n)[before.get(n, 0) :]) for n in at.processes]
    for process, text in ((n, at.log(n)[before.get(n, 0) :]) for n in at.processes):
        counts = Counter(AWAY.findall(text))
        allowed = 2 if process.startswith("worker") else 1  # a worker is two processes
        wrong += [f"{process} said {times} times: {what}" for what, times in counts.items() if times > allowed]
        if "Traceback" in text and not meant:
            wrong.append(f"{process} wrote a traceback")
    return Found(name, ended - began, recovered, runs, skips, missing, doubled, restarted, lines, wrong)


def said(text: str) -> int:
    """How many lines of a log tell of an outage."""
    return len(AWAY.findall(text)) + len(BACK.findall(text))


def settle() -> None:
    """All history that waits, into PostgreSQL."""
    for _ in range(50):
        try:
            while history.write(db.redis()):
                pass
        except (RedisError, OperationalError, InterfaceError):
            db.drop_unusable()
            time.sleep(0.2)
        else:
            return


def due_times(since: float, until: float) -> tuple[int, dict[str, int], int, int]:
    """Between two instants (Unix s): runs that ended, skips by reason, due times without either, and doubled ones."""
    runs = db.maps(
        """select entry, (extract(epoch from due_at) * 1000)::bigint as due,
                  count(*) filter (where outcome = 'ok')::int as good, count(distinct run_id)::int as ids
           from run where entry like 'work-e%%' group by 1, 2"""
    )
    recorded: dict[str, set[int]] = defaultdict(set)
    reasons: Counter[str] = Counter()
    for run in runs:
        recorded[run["entry"]].add(run["due"])
    skipped = db.maps(
        """select entry, reason, (extract(epoch from first_due_at) * 1000)::bigint as first,
                  (extract(epoch from last_due_at) * 1000)::bigint as last from skip where entry like 'work-e%%'"""
    )
    for skip in skipped:
        for due in range(skip["first"], skip["last"] + 1, 1000):
            recorded[skip["entry"]].add(due)
            reasons[skip["reason"]] += since * 1000 <= due <= until * 1000
    missing = 0
    for n in range(ENTRIES - 1):  # the last one comes and goes with a deploy, the first changes its cadence
        if n == 0:
            continue
        dues = recorded[f"work-e{n}"]
        first, last = max(min(dues), int(since) * 1000), int(until) * 1000
        missing += sum(due not in dues for due in range(first, last + 1, 1000))
    doubled = sum(run["good"] > 1 or run["ids"] > 1 for run in runs)
    good = sum(run["good"] for run in runs if since * 1000 <= run["due"] <= until * 1000)
    return good, {reason: count for reason, count in reasons.items() if count}, missing, doubled


def changes_of_clocks() -> list[str]:
    """The two days a year, for two zones, in rows: what is due when, in UTC and on the wall."""
    wrong = []
    days = {"Europe/London": ("2026-03-29", "2026-10-25"), "America/New_York": ("2026-03-08", "2026-11-01")}
    for zone, dates in days.items():
        for day in dates:
            start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
            end = (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
            for line in ("30 1 * * *", "30 2 * * *", "0 * * * *"):
                found, at = [], cron(line, zone).after(start - timedelta(milliseconds=1))
                while at < end:
                    found.append(at)
                    at = cron(line, zone).after(at)
                hours = (end - start) / timedelta(hours=1)
                shown = " ".join(f"{at:%H:%M}Z={at.astimezone(ZoneInfo(zone)):%H:%M%Z}" for at in found[:3])
                print(f"   {zone:17} {day} {line:11} {len(found):2} times in {hours:.0f} h: {shown}")
                if len(found) != (hours if line.startswith("0 *") else 1):
                    wrong.append(f"{line} in {zone} on {day}: {len(found)} times")
    return wrong


@contextmanager
def at_work(scale: float) -> Iterator[Deployment]:
    """Servers, schedulers and workers that run as they should."""
    with scratch.started(fsync=False) as desk:
        db.database.connect()  # lost and found again: not in a context
        made = Deployment(desk, scale)
        made.quiet()
        time.sleep(3)
        yield made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--list", action="store_true", help="list the outages")
    wanted = parser.parse_args()
    if wanted.list:
        for name, function in OUTAGES.items():
            print(f"{name:28} {(function.__doc__ or '').splitlines()[0]}")
        return 0
    found = []
    with at_work(wanted.scale) as at:
        for name in wanted.only.split(",") if wanted.only else OUTAGES:
            print(f"{name}: {(OUTAGES[name].__doc__ or '').splitlines()[0]}", flush=True)
            found.append(examine(at, name))
            if not found[-1].ok:
                for process in at.processes:
                    print(f"--- {process}\n{at.log(process)[-3000:]}")
            for wrong in found[-1].wrong:
                print(f"   WRONG: {wrong}", flush=True)
    print("the nights when clocks change:")
    wrong = [] if wanted.only else changes_of_clocks()
    rows = [
        [f.name, f"{f.seconds:.1f}", f"{f.recovered:.1f}", str(f.runs),
         " ".join(f"{reason}:{count}" for reason, count in f.skips.items()),
         str(f.missing), str(f.doubled), str(f.restarted), "/".join(map(str, f.lines)), "ok" if f.ok else "WRONG"]
        for f in found
    ]  # fmt: skip
    heads = ["outage", "lasted s", "well after s", "runs", "skipped", "missing", "doubled", "restarts", "lines", ""]
    scratch.table(heads, rows)
    longest = max(f.recovered for f in found)
    return scratch.verdict(
        "chaos_outages", longest, "s from the end of an outage to the next good run, the longest",
        target="every due time run or recorded, no restart, one line each", ok=all(f.ok for f in found) and not wrong,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
