"""Does each of 5,000 alerts reach its user once when whoever checks and delivers is killed two hundred times?

python -m bench.chaos_alerts [--kills 200] [--count 5000] [--processes 3] [--seed 1]

Prices rise step by step through the levels of alerts, one of each user. Processes that run `check_alerts`,
`deliver_notifications` and `deliver_webhooks` over and over are killed -9, one at a time, at random moments spread over
the whole campaign, and replaced. Each user is reached by LINE and by a webhook, which know a repeat by its key, and by
mail or Telegram, which do not. Promised: one trigger and one notification for each alert; by LINE and webhook exactly
one message each; by mail and Telegram at least one each, and over all of them at most one repeat per kill, a mail's
with the same Message-ID. The lease of a claimed delivery is cut from two minutes to `--lease` seconds, so that it ends
sooner.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import db
from bench import scratch
from demo.server import Demo, running
from domain.prices import Price
from jobs.alerts import check_alerts
from jobs.notifications import deliver_notifications, deliver_webhooks
from models import deliveries, prices, targets

PLACE = "http://bench.example"
PATIENCE = 120.0  # seconds without any progress
STEPS = 100  # of the price
PER_USER = 3  # deliveries
LATENCY = 0.003  # seconds for which a message is taken and nobody knows it yet


def work(lease: float) -> None:
    """A process that checks and delivers until it is killed."""
    deliveries.LEASE = timedelta(seconds=lease)
    with db.database.connection_context():
        while True:
            check_alerts(due_at=datetime.now(UTC))
            deliver_notifications(due_at=datetime.now(UTC))
            deliver_webhooks(due_at=datetime.now(UTC))
            time.sleep(0.02)


def prepare(demo: Demo, count: int) -> None:
    """A user for each alert, with three addresses; the levels are 1,001, 1,002 and so on, and the price is 1,000."""
    targets.turn_switch("live", PLACE, "bench")
    move(0)
    db.rows(
        """insert into app_user (external_id, email)
           select n::text, case when n %% 5 > 0 then 'user' || n || '@example.com' end from generate_series(1, %s) n""",
        count,
    )
    db.rows(
        """insert into target (user_id, channel, address, verified_at)
           select u.id, t.channel, t.address, now() from app_user u cross join lateral (values
             ('line', 'U' || lpad(u.external_id || 'a', 32, '0')),
             ('webhook', %s || '/webhook/' || u.external_id || 'a'),
             ('telegram', case when u.email is null then '7' || u.external_id || '1' end)) as t(channel, address)
           where t.address is not null""",
        demo.url,
    )
    db.rows(
        """insert into alert (user_id, subject, condition, level)
           select id, 'BTCUSD', 'above', 1000 + external_id::int from app_user"""
    )
    while check_alerts(due_at=datetime.now(UTC))["adopted"]:
        pass


def move(step: int) -> None:
    """The price is 1,000 and `step` more."""
    now = datetime.now(UTC)
    prices.record([Price("BTCUSD", Decimal(1000 + step), now, "binance")], {}, now)


def campaign(desk: scratch.Desk, demo: Demo, arguments: argparse.Namespace, dice: random.Random) -> float:
    """Let everything fire and be delivered under fire; returns the seconds that it took."""
    total = arguments.count * PER_USER
    moments = sorted(dice.sample(range(total * 95 // 100), arguments.kills))  # deliveries that have ended by then
    command = ("python", "-m", "bench.chaos_alerts", "--work", "--lease", str(arguments.lease))
    environment = {**demo.environment, "PUBLIC_URL": PLACE, "MAILS_PER_MINUTE": "1000000"}
    environment["CHANNELS"] = "email,telegram,line,webhook"
    alive = [desk.start(*command, log=f"work-{n}.log", **environment) for n in range(arguments.processes)]
    start = progress = time.monotonic()
    done, step = 0, 0
    while done < total and time.monotonic() - progress < PATIENCE:
        before, done = done, ended()
        progress = time.monotonic() if done > before else progress
        if step < STEPS and done >= total * step // STEPS * 9 // 10:  # the price goes on when most of it has arrived
            step += 1
            move(arguments.count * step // STEPS)
        if moments and done >= moments[0]:
            moments.pop(0)
            time.sleep(dice.uniform(0, 0.02))
            victim = alive.pop(dice.randrange(len(alive)))
            victim.kill()
            victim.wait()
            number = arguments.processes + arguments.kills - len(moments)
            alive.append(desk.start(*command, log=f"work-{number}.log", **environment))
        time.sleep(0.001)
    seconds = time.monotonic() - start
    time.sleep(2 * arguments.lease)  # whatever comes twice comes now
    desk.stop(*alive)
    return seconds


def ended() -> int:
    return db.rows("select count(*) from delivery where ended_at is not null")[0][0]


def received(demo: Demo) -> dict[str, Counter[str]]:
    """How often each address got its message."""
    mails = Counter(message.recipients[0] for message in demo.mail.messages)
    return {name: Counter(m.to for m in demo.inboxes[name].messages) for name in ("line", "webhook", "telegram")} | {
        "email": mails
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.lease)
    count, dice = arguments.count, random.Random(arguments.seed)
    with scratch.started() as desk, running(seed=1) as demo, db.database.connection_context():
        for name in ("line", "webhook", "telegram"):
            demo.faults.add(name, "slow", for_s=86_400, seconds=LATENCY)
        demo.mail.latency, demo.mail.messages = LATENCY, deque()
        prepare(demo, count)
        seconds = campaign(desk, demo, arguments, dice)
        told = db.rows("select count(*), count(distinct alert_id) from alert_trigger")[0]
        in_app = db.rows("select count(*), count(distinct key) from notification")[0]
        states = dict(db.rows("select channel || ' ' || state, count(*) from delivery group by 1 order by 1"))
        found = received(demo)
        ids = {(m.recipients[0], m.parsed["Message-ID"]) for m in demo.mail.messages}
        known = sum(inbox.repeats for inbox in demo.inboxes.values())
    expected = {"line": count, "webhook": count, "telegram": count // 5, "email": count - count // 5}
    lines, repeats, missing = [["in the app", f"{in_app[1]:,}", str(in_app[0] - in_app[1])]], {}, count - told[1]
    for name, most in expected.items():
        repeats[name] = sum(found[name].values()) - len(found[name])
        missing += most - len(found[name])
        lines.append([name, f"{len(found[name]):,}", str(repeats[name])])
    scratch.table(["channel", "delivered", "repeats"], lines)
    print(f"{arguments.kills} kills in {seconds:.1f} s; {known} repeats known by their key; rows: {states}", flush=True)
    once = told == in_app == (count, count) and repeats["line"] == repeats["webhook"] == 0
    same_id = len(ids) == len(found["email"])
    blind = repeats["email"] + repeats["telegram"]
    return scratch.verdict(
        "chaos_alerts",
        blind,
        f"repeats by mail and Telegram, {missing} missing, of {count:,} alerts, {arguments.kills} kills",
        target="none missing; LINE and webhook none; others <= kills; a repeated mail has the same Message-ID",
        ok=once and same_id and missing == 0 and blind <= arguments.kills,
    )


if __name__ == "__main__":
    sys.exit(main())
