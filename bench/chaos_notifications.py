"""Are 1,000 notifications delivered when whoever delivers them is killed twenty times?

python -m bench.chaos_notifications [--kills 20] [--count 1000] [--processes 2] [--seed 1]

Alerts fire on one price; each makes a notification in the app and deliveries by mail (to a local SMTP server that
takes its time) and to the console. Processes that run `deliver_notifications` over and over are killed -9, one at
a time, at random moments spread over the whole delivery, and replaced. Promised: in the app exactly one each; on
mail and console at least one each, at most one repeat per kill, and a repeat of a mail has the same Message-ID.
The lease of a claimed delivery is cut from two minutes to `--lease` seconds, so that the campaign ends sooner.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import socket
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email import message_from_bytes
from pathlib import Path
from typing import Any

import db
from bench import scratch
from domain.alerts import Rule
from domain.prices import Price
from jobs.alerts import check_alerts
from jobs.notifications import deliver_notifications
from models import alerts, deliveries, prices, targets

CHANNELS = ("email", "console")
PLACE = "http://bench.example"
PATIENCE = 120.0  # seconds without any progress


class Inbox:
    """Mails by recipient, each with its Message-ID."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.ids: dict[str, list[str]] = {}

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        await asyncio.sleep(self.dice.uniform(0, 0.003))
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        message_id = message_from_bytes(envelope.content)["Message-ID"]
        self.ids.setdefault(envelope.rcpt_tos[0], []).append(message_id)
        await asyncio.sleep(self.dice.uniform(0, 0.02))  # taken, and the client does not know it yet
        return "250 OK"


def deliver(lease: float) -> None:
    """A delivering process: runs the job until it is killed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    deliveries.LEASE = timedelta(seconds=lease)
    with db.database.connection_context():
        while True:
            deliver_notifications(due_at=datetime.now(UTC))
            time.sleep(0.05)


def fire(count: int) -> None:
    """Let `count` alerts of as many users fire on one price."""
    targets.turn_switch("live", PLACE, "bench")
    now = datetime.now(UTC)
    prices.record([Price("BTCUSD", Decimal(97000), now, "binance")], {}, now)
    for n in range(count):
        user = alerts.user_with(f"user{n}@example.com")
        alerts.create_alert(user, "BTCUSD", Rule("above", Decimal(97001)), now)
    now = datetime.now(UTC)
    prices.record([Price("BTCUSD", Decimal(97002), now, "binance")], {}, now)
    check_alerts(due_at=now)


def campaign(desk: scratch.Desk, arguments: argparse.Namespace, dice: random.Random, smtp: str) -> float:
    """Deliver everything under fire; returns the seconds that it took."""
    total = arguments.count * len(CHANNELS)
    environment = {"SMTP_URL": smtp, "PUBLIC_URL": PLACE, "MAILS_PER_MINUTE": "1000000"}
    moments = sorted(dice.sample(range(total * 95 // 100), arguments.kills))  # deliveries that have ended by then
    command = ("python", "-m", "bench.chaos_notifications", "--deliver", "--lease", str(arguments.lease))
    running = [desk.start(*command, log=f"deliver-{n}.log", **environment) for n in range(arguments.processes)]
    start = progress = time.monotonic()
    done = 0
    while done < total and time.monotonic() - progress < PATIENCE:
        before, done = done, ended()
        progress = time.monotonic() if done > before else progress
        if moments and done >= moments[0]:
            moments.pop(0)
            time.sleep(dice.uniform(0, 0.02))
            victim = running.pop(dice.randrange(len(running)))
            victim.kill()
            victim.wait()
            number = arguments.processes + arguments.kills - len(moments)
            running.append(desk.start(*command, log=f"deliver-{number}.log", **environment))
        time.sleep(0.001)
    desk.stop(*running)
    return time.monotonic() - start


def ended() -> int:
    return db.rows("select count(*) from delivery where state in ('sent', 'dead')")[0][0]


def console_lines(folder: Path) -> Counter[str]:
    """Console messages by recipient, over all processes that ever ran."""
    lines = (line for log in folder.glob("deliver-*.log") for line in log.read_text().splitlines())
    return Counter(line.split()[1].removesuffix(":") for line in lines if line.startswith("to "))


def serve(inbox: Inbox) -> tuple[Any, str]:
    """The mail server, in a thread of this process, and its address."""
    from aiosmtpd.controller import Controller

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    return controller, f"smtp://127.0.0.1:{port}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deliver", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.deliver:
        deliver(arguments.lease)
    dice = random.Random(arguments.seed)
    with scratch.started() as desk, db.database.connection_context():
        inbox = Inbox(random.Random(arguments.seed))
        controller, smtp = serve(inbox)
        fire(arguments.count)
        seconds = campaign(desk, arguments, dice, smtp)
        controller.stop()
        console = console_lines(desk.folder)
        in_app = db.rows("select count(*), count(distinct key) from notification")[0]
        states = dict(db.rows("select channel || ' ' || state, count(*) from delivery group by 1"))
    mails = Counter({target: len(ids) for target, ids in inbox.ids.items()})
    expected = [f"user{n}@example.com" for n in range(arguments.count)]
    lines, repeats, missing = (
        [["in the app", f"{in_app[1]:,}", f"{in_app[0] - in_app[1]}"]],
        0,
        arguments.count - in_app[1],
    )
    for name, found in (("email", mails), ("console", console)):
        twice = sum(found.values()) - len(found)
        repeats, missing = repeats + twice, missing + sum(found[target] == 0 for target in expected)
        lines.append([name, f"{len(found):,}", f"{twice}"])
    scratch.table(["channel", "delivered", "repeats"], lines)
    strange = sum(len(set(ids)) > 1 for ids in inbox.ids.values())
    print(f"{arguments.kills} kills in {seconds:.1f} s; rows: {states}", flush=True)
    ok = missing == strange == 0 and in_app == (arguments.count, arguments.count) and repeats <= arguments.kills
    return scratch.verdict(
        "chaos_notifications",
        repeats,
        f"repeats, {missing} missing, of {arguments.count:,} notifications on 2 channels, {arguments.kills} kills",
        target="none missing, repeats <= kills, none in the app, a repeated mail has the same Message-ID",
        ok=ok,
    )


if __name__ == "__main__":
    sys.exit(main())
