"""5,000 messages to 250 recipients by Telegram, LINE, Discord and mail, whose limits are enforced: how long, who waits?

python -m bench.deliveries [--count 5000] [--workers 3]

Stand-ins refuse whatever is over their limits: Telegram 30 a second, one a second to a chat and 20 a minute to a group;
LINE 2,000 a second; Discord 50 a second and 5 in two seconds to a webhook; the mail server 1,200 a minute. As many
runs of `deliver_notifications` as there are workers go on side by side, so that the limits must hold over all of them,
and a critical job is due every second, which must not wait for them. Promised: each message arrives once, no stand-in
refuses any, and the critical job begins within a second of its due time.

*floor* is what the tightest limit needs for its messages when nothing else costs time. The peer is the sender that
most projects have: one loop that sleeps until the next message may go, counted on a virtual clock with the same limits.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import db
from bench import scratch
from demo.server import Demo, running
from domain.cadence import every
from domain.deliveries import Limit
from engine.entries import Entry
from jobs.notifications import deliver_notifications
from models import targets
from notify.channels import channel
from queues import CRITICAL, job

PLACE = "http://bench.example"
MAILS = 1200  # a minute
EACH = 20  # messages to each recipient
PATIENCE = 60.0  # seconds without any progress
PROBES = "nightdesk:bench:probes"  # seconds from due time to beginning
SCHEDULER = "import bench.deliveries as b, scheduler; scheduler.Scheduler(b.schedule({})).run()"
WORKER = "import bench.deliveries, queues, sys; from rq.cli import main; sys.argv = ['rq', *sys.argv[1:]]; main()"


@job(CRITICAL, timeout=5)
def check_wait(due_at: datetime) -> None:
    """A critical job that must not wait for messages."""
    db.redis().rpush(PROBES, (datetime.now(UTC) - due_at).total_seconds())


def schedule(workers: int) -> list[Entry]:
    """As many delivering runs as there are workers, and what must not wait for them."""
    delivering = [Entry(every(2, stagger=0.3 * n), deliver_notifications, key=str(n)) for n in range(1, workers + 1)]
    return [*delivering, Entry(every(1), check_wait)]


def recipients(demo: Demo, count: int) -> Iterator[tuple[str, str]]:
    """(channel, address): three in ten by Telegram, among them groups, three by mail, two each by Discord and LINE."""
    for n in range(count):
        match n % 10:
            case 0 | 1 | 2:
                yield "telegram", f"-{1000 + n}" if n % 50 == 0 else f"{1000 + n}"
            case 3 | 4 | 5:
                yield "email", f"user{n}@example.com"
            case 6 | 7:
                yield "discord", f"https://discord.com/api/webhooks/{1000 + n}/token"
            case _:
                yield "line", f"U{n:032x}"


def tell(demo: Demo, count: int) -> list[tuple[str, str]]:
    """Write the notifications, in random order; (channel, address) of each. Critical ones: none waits for another."""
    who = list(recipients(demo, count // EACH))
    db.rows("insert into app_user (external_id) select 'user' || n from generate_series(0, %s - 1) n", len(who))
    db.rows(
        """insert into target (user_id, channel, address, verified_at)
           select u.id, t.channel, t.address, now() from app_user u
             join unnest(%s::text[], %s::text[]) with ordinality as t(channel, address, n)
               on u.external_id = 'user' || (t.n - 1)""",
        db.array(name for name, _ in who),
        db.array(address for _, address in who),
    )
    order = [n for n in range(len(who)) for _ in range(EACH)]
    random.Random(1).shuffle(order)
    db.rows(
        """insert into notification (user_id, kind, severity, title)
           select u.id, 'order', 'critical', 'message ' || t.n
           from unnest(%s::int[]) with ordinality as t(who, n) join app_user u on u.external_id = 'user' || t.who""",
        order,
    )
    return [who[n] for n in order]


def limits(messages: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[Limit, int]]:
    """Each limit that holds, by (channel, address or ""), and how many messages it is for."""
    opened = {name: channel(name) for name, _ in messages}
    counts = Counter([key for name, address in messages for key in ((name, ""), (name, address))])
    found = {(name, at): opened[name].limit_of(at) if at else opened[name].limit for name, at in counts}
    return {key: (limit, counts[key]) for key, limit in found.items() if limit}


def one_loop(messages: list[tuple[str, str]], held: dict[tuple[str, str], tuple[Limit, int]]) -> float:
    """Seconds of a loop that sleeps until each message may go, on a virtual clock."""
    now, free = 0.0, dict.fromkeys(held, 0.0)
    for name, address in messages:
        keys = [key for key in ((name, ""), (name, address)) if key in held]
        for key in keys:
            now = max(now, free[key] - (held[key][0].burst - 1) * held[key][0].pace)
        for key in keys:
            free[key] = max(free[key], now) + held[key][0].pace
    return now


def arrived(demo: Demo) -> int:
    return sum(len(inbox.messages) for inbox in demo.inboxes.values()) + len(demo.mail.messages)


def deliver(desk: scratch.Desk, demo: Demo, total: int, workers: int) -> float:
    """Seconds until everything has arrived, or nothing more does."""
    cwd = Path.cwd()
    for _ in range(workers):
        words = ("worker", "-S", "json", "-w", "queues.Worker", "critical", "default", "low")
        desk.start("python", "-c", WORKER, *words, cwd=cwd, **demo_environment(demo))
    start = progress = time.monotonic()
    desk.start("python", "-c", SCHEDULER.format(workers), cwd=cwd, **demo_environment(demo))
    done = 0
    while done < total and time.monotonic() - progress < PATIENCE:
        before, done = done, arrived(demo)
        progress = time.monotonic() if done > before else progress
        time.sleep(0.1)
    return time.monotonic() - start


def demo_environment(demo: Demo) -> dict[str, str]:
    return {**demo.environment, "PUBLIC_URL": PLACE, "MAILS_PER_MINUTE": str(MAILS)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["MAILS_PER_MINUTE"] = str(MAILS)
    with scratch.started() as desk, running(seed=1) as demo, db.database.connection_context():
        demo.mail.limit, demo.mail.messages = (MAILS, 60), deque()
        targets.turn_switch("live", PLACE, "bench")
        messages = tell(demo, arguments.count)
        held = limits(messages)
        needs = {key: max(0, count - limit.burst) * limit.pace for key, (limit, count) in held.items()}
        floor, peer = max(needs.values()), one_loop(messages, held)
        seconds = deliver(desk, demo, len(messages), arguments.workers)
        time.sleep(3)  # whatever came twice comes now
        probes = [float(lateness) for lateness in db.redis().lrange(PROBES, 0, -1)]
        states = dict(db.rows("select channel || ' ' || state, count(*) from delivery group by 1 order by 1"))
        texts = Counter(message.text.splitlines()[0] for inbox in demo.inboxes.values() for message in inbox.messages)
        texts.update(str(message.parsed["Subject"]) for message in demo.mail.messages)
        refused = {name: inbox.refused for name, inbox in demo.inboxes.items()} | {"mail": demo.mail.inbox.refused}
    per_channel = Counter(name for name, _ in messages)
    lines = [
        [name, f"{count:,}", f"{states.get(f'{name} sent', 0):,}", str(refused["mail" if name == "email" else name])]
        for name, count in per_channel.items()
    ]
    scratch.table(["channel", "messages", "sent", "over a limit"], lines)
    whole = len({title.strip("*<b>/ ") for title in texts}) == len(messages) == sum(texts.values())
    print(
        f"{len(set(messages))} recipients; {seconds:.1f} s, floor {floor:.1f} s; critical job: {len(probes)} runs, "
        f"begun after {scratch.percentile(probes, 0.5) * 1000:.0f} ms, at most {max(probes, default=9) * 1000:.0f} ms",
        flush=True,
    )
    ok = whole and not any(refused.values()) and max(probes, default=9.0) < 1 and seconds < 180
    return scratch.verdict(
        "deliveries",
        seconds,
        f"s for {len(messages):,} messages under four limits, floor {floor:.1f} s",
        target="each once, none over a limit, a critical job begins within 1 s, under 3 min",
        ok=ok,
        peer="one loop that sleeps until the next may go (virtual clock)",
        peer_value=peer,
    )


if __name__ == "__main__":
    sys.exit(main())
