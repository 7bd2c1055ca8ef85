"""Are runs lost, or run twice at once, when whoever has them in hand is killed -9?

python -m bench.chaos_workers [--count 1000] [--kills 50] [--workers 32] [--seed 1] [--peer]

Three dozen workers nap. Again and again most of them are killed in one blow, in four ways by turns: between the pop and
the start (the work-horse stops itself when it has its answer, and is killed there), the horse alone, the parent alone,
both together. What was in hand must be run again within 15 s, never beside itself, and end well, or as a dead letter
where its tries are bounded; the slots of its limits must be free. Each job writes what it does into a file of its own
accord, every 50 ms: that file is the witness, PostgreSQL and Redis are only compared with it.
`--peer`: meanwhile a stock rq worker is killed with its horse, and how long its job (with a retry) takes to come back.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import defaultdict
from itertools import cycle
from pathlib import Path

import db
from bench import scratch
from bench.fleet import AT_ONCE, KINDS, Fleet, children, is_bounded, limit_of, lines

SOON = 15.0  # seconds
PATIENCE = 90.0  # seconds for everything to end after the last kill


def campaign(fleet: Fleet, count: int, kills: int) -> None:
    """Strike until enough runs have lost their process often enough, then let the rest end."""
    kinds = cycle(KINDS)
    each = max(1, -(-count // kills))
    fleet.fill()
    while len(fleet.orphaned) < count or sum(fleet.events.values()) < kills:
        scratch.wait_for(lambda: fleet.at_work() > fleet.size * 0.9, 30, 0.1)
        kind = next(kinds)
        everybody = sum(fleet.events.values()) % 9 == 8
        done = fleet.strike(kind, fleet.size if everybody else each)
        fleet.fill()
        print(
            f"{sum(fleet.events.values()):4}. {kind:22} {done:3} runs orphaned, {len(fleet.orphaned)} in all",
            flush=True,
        )
        time.sleep(fleet.dice.uniform(0.5, 2.5))


def settled(fleet: Fleet) -> bool:
    """Whether every run has come to its end, and its history to PostgreSQL."""
    ended = db.rows("select count(distinct run_id) from run where outcome = 'ok' or dead")[0][0]
    return bool(ended == fleet.number)


def judge(fleet: Fleet) -> tuple[dict[str, int], list[tuple[str, float]]]:
    """What went wrong, by name (0 = it did not), and after how many seconds each orphaned run began again."""
    seen: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
    for word, run_id, pid, at in lines(fleet.folder):
        seen[run_id].append((word, pid, at))
    ends = dict(db.rows("select run_id, bool_or(outcome = 'ok') from run where outcome = 'ok' or dead group by 1"))
    died = dict(db.rows("select run_id, max(extract(epoch from ended_at))::float from run where dead group by 1"))
    wall = time.time() - time.monotonic()
    again: list[tuple[str, float]] = []
    never = 0
    for run_id, killed_at, kind in fleet.orphaned:
        begun = [at for word, _, at in seen[run_id] if word in ("begun", "popped") and at > killed_at]
        if run_id in died and died[run_id] - wall > killed_at:
            begun.append(died[run_id] - wall)
        if begun:
            again.append((kind, min(begun) - killed_at))
        else:
            never += 1
    redis = db.redis()
    faults = {
        "lost": fleet.number - len(ends),
        "dead though their tries are not bounded": sum(
            not good and not is_bounded(run_id) for run_id, good in ends.items()
        ),
        "run twice at once": sum(overlaps(marks, fleet.killed) for marks in seen.values()),
        "recorded as ok twice": db.rows(
            "select count(*) from (select from run where outcome = 'ok' group by run_id having count(*) > 1) d"
        )[0][0],
        f"not begun again within {SOON:.0f} s": never + sum(seconds > SOON for _, seconds in again),
        "over a limit": over_limit(fleet, seen),
        "slots not freed": sum(redis.zcard(key) for key in redis.keys("nightdesk:running:*")),
        "parked for ever": sum(redis.llen(key) for key in redis.keys("nightdesk:waiting:*")),
        "still marked as running": sum(redis.zcard(key) for key in redis.keys("rq:wip:*")),
    }
    return faults, again


def intervals(marks: list[tuple[str, int, float]], killed: dict[int, float]) -> list[tuple[float, float, int]]:
    """When a run was in whose hand: from its begin to its end, to its process's kill, or to its last sign of life."""
    found: dict[int, tuple[float, float, int]] = {}
    done = []
    for word, pid, at in marks:
        if word in ("begun", "popped") and not (word == "begun" and pid in found):
            found[pid] = (at, at, pid)
        elif pid in found:
            found[pid] = (found[pid][0], at, pid)
        if word == "ended" and pid in found:
            done.append(found.pop(pid))
    for pid, (begin, last, _) in found.items():
        done.append((begin, max(last, killed.get(pid, last)), pid))
    return sorted(done)


def overlaps(marks: list[tuple[str, int, float]], killed: dict[int, float]) -> int:
    """How often a run began while it was in another hand."""
    spans = intervals(marks, killed)
    return sum(b[0] < a[1] and a[2] != b[2] for n, a in enumerate(spans) for b in spans[n + 1 :])


def over_limit(fleet: Fleet, seen: dict[str, list[tuple[str, int, float]]]) -> int:
    """How often more runs of a limit were under way than it allows."""
    edges: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for run_id, marks in seen.items():
        if limit := limit_of(run_id):
            for begin, end, _ in intervals(marks, fleet.killed):
                edges[limit] += [(begin, 1), (end, -1)]
    over = 0
    for marks_of_limit in edges.values():
        now = 0
        for _, step in sorted(marks_of_limit):
            now += step
            over += now > AT_ONCE and step > 0
    return over


class Peer:
    """A stock rq worker whose parent and horse are killed together, and another that should take over."""

    def __init__(self, desk: scratch.Desk) -> None:
        self.desk = desk
        self.url = desk.valkey.url.removesuffix("/0") + "/1"
        self.folder = str(desk.folder / "peer")
        Path(self.folder).mkdir()
        self.killed_at = 0.0

    def begin(self) -> None:
        from redis import Redis
        from rq import Queue, Retry

        Queue("stock", connection=Redis.from_url(self.url)).enqueue(
            "bench.fleet.nap", kwargs={"due_at": None, "folder": self.folder, "run_id": "n1", "seconds": 30},
            retry=Retry(max=1),
        )  # fmt: skip
        command = ("rq", "worker", "-u", self.url, "--maintenance-interval", "2", "--worker-ttl", "20", "stock")
        first = self.desk.start(*command, log="peer.log")
        scratch.wait_for(lambda: any(word == "lives" for word, *_ in lines(self.folder)))
        for pid in [*children(first.pid), first.pid]:
            os.kill(pid, signal.SIGKILL)
        self.killed_at = time.monotonic()
        self.desk.stop(first)
        self.desk.start(*command, log="peer.log")

    def seconds(self) -> float | None:
        """How long it took to begin again; waits for it, for two minutes after the kill at the most."""

        def again() -> list[float]:
            return [at for word, _, _, at in lines(self.folder) if word == "begun" and at > self.killed_at]

        scratch.wait_for(lambda: bool(again()), max(0.0, self.killed_at + 120 - time.monotonic()), 0.5)
        return again()[0] - self.killed_at if again() else None


def report(fleet: Fleet, again: list[tuple[str, float]]) -> None:
    """Print how often whom it hit, and how soon it was made good."""
    rows = []
    for kind, seconds in again:
        if seconds > SOON:
            print(f"slow: {kind} {seconds:.1f} s")
    for kind in KINDS:
        spans = [seconds for k, seconds in again if k == kind]
        shares = [f"{scratch.percentile(spans, share):.2f}" for share in (0.5, 0.9, 0.99, 1.0)]
        rows.append([kind, str(fleet.events[kind]), str(len(spans)), *shares])
    scratch.table(["killed", "events", "runs orphaned", "again after s: p50", "p90", "p99", "max"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="runs that lose their process")
    parser.add_argument("--kills", type=int, default=50, help="kill events, at least")
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer", action="store_true", help="kill a stock rq worker, too")
    wanted = parser.parse_args()
    with scratch.started(fsync=False) as desk, db.database.connection_context():
        fleet = Fleet(desk, wanted.workers, random.Random(wanted.seed))
        peer = Peer(desk) if wanted.peer else None
        if peer:
            peer.begin()
        campaign(fleet, wanted.count, wanted.kills)
        scratch.wait_for(lambda: settled(fleet), PATIENCE, 0.5)
        faults, again = judge(fleet)
        peer_seconds = peer.seconds() if peer else None
        if any(faults.values()):
            print((desk.folder / "workers.log").read_text()[-20_000:])
        desk.stop(*fleet.alive)
    report(fleet, again)
    for fault, times in faults.items():
        print(f"{fault}: {times}")
    longest = max((seconds for _, seconds in again), default=0.0)
    return scratch.verdict(
        "chaos_workers", longest, "s until an orphaned run begins again, the longest",
        target=f"<= {SOON:.0f} s, none lost, none twice at once", ok=not any(faults.values()),
        peer="stock rq worker, looking every 2 s, both killed" if peer_seconds else "", peer_value=peer_seconds,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
