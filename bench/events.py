"""From a committed fact to 1,000 WebSocket clients over two web processes, and twenty of those killed meanwhile.

python -m bench.events [--clients 1000] [--facts 2000] [--kills 20] [--rate 10] [--seed 1]
python -m bench.events --viewers 20 [--seconds 60]

A tenth of the clients are operators, who hear everything; the others are users of the app, who hear what is public
(eight facts of ten) and what is theirs. A quarter of the facts is written in quiet: the latency is from the moment at
which the writer asks for the commit to that at which the client's process has the bytes, by this machine's one clock.
While the rest is written, by three writers whose transactions overlap, web processes are killed -9 one at a time and
replaced, and Redis is restarted once. In the end each client's facts are compared with the table. The peer sends what
comes over Redis pub/sub to all its WebSockets, after the same commit, and is killed twice. The floor is a commit and
one hop through a local socket.

With --viewers: what so many browsers with the operator's page open cost the web process, over the demo world.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import config
import db
import events as bus
from bench import scratch, viewers
from bench.crowd import SECRET, Client, Crowd, Heard
from bench.peers.pubsub import CHANNEL
from cli.supervisor import procfile
from models import operators
from web.listeners import PUBLIC

WORDS = "something that happened, told at about the length that most facts have"
PEER_KILLS = 2
SLOWER = 3  # times the peer's p99: ours asks the table first

Committed = dict[int, float]  # fact's number -> when its commit was asked for


def people(count: int) -> list[Client]:
    """A tenth of them operators, the others the app's users."""
    import jwt

    operators.save("oscar", "a password for this run", "viewer")
    session = operators.open_session("oscar", "a password for this run")
    everybody = [Client(f"Cookie: nightdesk={session}\r\n", None) for _ in range(max(1, count // 10))]
    for number in range(count - len(everybody)):
        ((user,),) = db.rows("insert into app_user (external_id) values (%s) returning id", f"user {number}")
        token = jwt.encode({"sub": f"user {number}", "exp": int(time.time()) + 7200}, SECRET, "HS256")
        everybody.append(Client(f"Authorization: Bearer {token}\r\n", user))
    return everybody


@dataclass
class Author:
    """Whoever writes facts."""

    users: list[int]
    dice: random.Random
    committed: Committed = field(default_factory=dict)

    def ours(self, number: int) -> None:
        """One fact as a job writes it."""
        with db.transaction():
            self._publish(number)
            self.committed[number] = time.time()

    def peers(self, number: int) -> None:
        """The same row, and its text over Redis after the commit."""
        fact = {"id": f"{number}-0", "topic": "prices.stale", "at": "2026-01-01T00:00:00.000000+00:00"}
        with db.transaction():
            bus.publish("prices.stale", {"n": number, "words": WORDS})
            self.committed[number] = time.time()
        db.redis().publish(CHANNEL, json.dumps({**fact, "payload": {"n": number, "words": WORDS}}))

    def overlapping(self, numbers: range, rate: float) -> None:
        """Several facts in a transaction that stays open for a while; others begin and end meanwhile."""
        began, left = time.monotonic(), list(numbers)
        while left:
            with db.transaction():
                for _ in range(self.dice.randint(1, min(3, len(left)))):
                    self._publish(left.pop(0))
                    time.sleep(self.dice.random() * 0.03)
            time.sleep(max(0.0, began + (len(numbers) - len(left)) / rate - time.monotonic()))

    def _publish(self, number: int) -> None:
        kind, topic, user = self.dice.random(), "prices.stale", None
        if kind > 0.9:
            topic, user = "alert.triggered", self.dice.choice(self.users)
        elif kind > 0.8:
            topic = "run.failed"
        bus.publish(topic, {"n": number, "words": WORDS}, user)


def steadily(numbers: range, rate: float, write: Callable[[int], None]) -> None:
    """One after the other."""
    began = time.monotonic()
    for place, number in enumerate(numbers):
        time.sleep(max(0.0, began + place / rate - time.monotonic()))
        write(number)


def campaign(
    writers: list[Callable[[], None]], seconds: float, strikes: list[Callable[[], None]], dice: random.Random
) -> None:
    """What writers do in `seconds`, and at random moments meanwhile whatever else happens."""
    threads = [threading.Thread(target=connected, args=[write]) for write in writers]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for moment, strike in zip(sorted(seconds * dice.random() for _ in strikes), strikes, strict=True):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        strike()
    for thread in threads:
        thread.join()


def connected(work: Callable[[], None]) -> None:
    """In a thread, on a connection of its own."""
    with db.database.connection_context():
        work()


def restart(desk: scratch.Desk) -> None:
    """Redis goes and comes back."""
    desk.valkey.stop()
    time.sleep(1)
    desk.valkey.start()


def due(clients: list[Client]) -> list[list[bytes]]:
    """The tokens of the facts that each should hear, by position."""
    facts = db.rows("select xid::text || '-' || id, user_id, topic from event order by xid, id")
    everything = [token.encode() for token, _, _ in facts]
    return [
        everything
        if client.user is None
        else [t.encode() for t, user, topic in facts if user == client.user or (user is None and topic in PUBLIC)]
        for client in clients
    ]


def differences(clients: list[Client], heard: list[Heard]) -> Counter[str]:
    """What each client should have heard against what it heard."""
    found = Counter[str]()
    for theirs, its in zip(due(clients), heard, strict=True):
        wanted, got = set(theirs), set(its.tokens)
        found["due"] += len(theirs)
        found["missed"] += len(wanted - got)
        found["doubled"] += len(its.tokens) - len(got)
        found["foreign"] += len(got - wanted)
        found["out of order"] += wanted == got and its.tokens != theirs
        found["gaps"] += its.gaps
        found["lines cut"] += its.cuts
    return found


def latencies(heard: list[Heard], committed: Committed, number_of: dict[bytes, int]) -> list[float]:
    """Milliseconds, of every fact at every client."""
    return [
        (at - committed[number_of[token]]) * 1000
        for its in heard
        for token, at in zip(its.tokens, its.times, strict=True)
        if number_of.get(token) in committed
    ]


def floor(count: int = 200) -> list[float]:
    """Milliseconds of a commit and one hop through a local socket."""
    here, there = socket.socketpair()
    found = []
    for number in range(count):
        with db.transaction():
            bus.publish("prices.stale", {"n": -number - 1, "words": WORDS})
            began = time.time()
        here.sendall(WORDS.encode())
        there.recv(4096)
        found.append((time.time() - began) * 1000)
    return found


def the_peer(desk: scratch.Desk, options: argparse.Namespace) -> tuple[list[float], int]:
    """Milliseconds of the quiet part, and how many messages two kills cost."""
    dice, clients = random.Random(options.seed), [Client("", None)] * options.clients
    calm, author, kills = options.facts // 4, Author([], dice), min(PEER_KILLS, options.kills)
    rest = range(calm, calm + round(4 * kills * options.rate))
    peer = Crowd(desk, "peer", ["sh", "-c", "exec python -m bench.peers.pubsub $PORT"], clients)
    peer.start()
    steadily(range(calm), options.rate, author.peers)
    peer.settle(calm * len(clients))
    write = partial(steadily, rest, options.rate, author.peers)
    campaign([write], len(rest) / options.rate, [partial(peer.kill, dice)] * kills, dice)
    peer.settle(rest.stop * len(clients))
    heard = peer.stop()
    times = latencies(heard, author.committed, {f"{number}-0".encode(): number for number in range(calm)})
    return times, rest.stop * len(clients) - sum(len(set(its.tokens)) for its in heard)


def ours(desk: scratch.Desk, options: argparse.Namespace) -> tuple[list[float], Counter[str]]:
    """Milliseconds of the quiet part, and what the whole campaign did to each client's facts."""
    dice, clients = random.Random(options.seed), people(options.clients)
    users = [client.user for client in clients if client.user is not None]
    calm, author = options.facts // 4, Author(users, dice)
    rest = range(calm, options.facts)
    web = Crowd(desk, "nightdesk", ["sh", "-c", f"exec {procfile(config.ROOT / 'Procfile')['web']}"], clients)
    web.start()
    steadily(range(calm), options.rate, author.ours)
    time.sleep(2)
    writers = [
        partial(Author(users, random.Random(number)).overlapping, rest[number::3], options.rate / 3)
        for number in range(3)
    ]
    strikes = [partial(web.kill, dice)] * options.kills
    strikes.insert(len(strikes) // 2, partial(restart, desk))
    campaign(writers, len(rest) / options.rate, strikes, dice)
    web.settle(sum(len(theirs) for theirs in due(clients)))
    heard = web.stop()
    numbers = dict(db.rows("select xid::text || '-' || id, (payload->>'n')::int from event"))
    times = latencies(heard, author.committed, {token.encode(): number for token, number in numbers.items()})
    return times, differences(clients, heard)


def run(desk: scratch.Desk, options: argparse.Namespace) -> int:
    """Peer, floor, ours; print, judge."""
    theirs, lost = the_peer(desk, options)
    hops = floor()
    db.rows("truncate event")
    mine, found = ours(desk, options)
    lines = [
        ["nightdesk", *shown(mine), str(found["missed"]), str(found["doubled"]), str(options.kills)],
        ["Redis pub/sub", *shown(theirs), str(lost), "-", str(min(PEER_KILLS, options.kills))],
        ["a commit and a hop", *shown(hops), "-", "-", "-"],
    ]
    scratch.table(["from the commit to the client, ms", "p50", "p99", "max", "missed", "doubled", "kills"], lines)
    print(", ".join(f"{name}: {count}" for name, count in found.items()), flush=True)
    wrong = sum(found[name] for name in ("missed", "doubled", "foreign", "out of order", "gaps"))
    p99, peers = scratch.percentile(mine, 0.99), scratch.percentile(theirs, 0.99)
    return scratch.verdict(
        "events", p99, "ms p99", peer="Redis pub/sub, which loses what is said meanwhile", peer_value=peers,
        target=f"none missed, none doubled; p99 at most {SLOWER:.0f} times the peer's",
        ok=not wrong and p99 <= SLOWER * peers,
    )  # fmt: skip


def shown(values: list[float]) -> list[str]:
    """p50, p99 and the worst."""
    return [f"{value:.1f}" for value in (*(scratch.percentile(values, share) for share in (0.5, 0.99)), max(values))]


def main() -> int:
    """Parse, start servers, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--facts", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=10.0, help="facts a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--viewers", type=int, help="the other benchmark: so many browsers with the operator's page")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with scratch.started() as desk, db.database.connection_context():
        return viewers.run(desk, options.viewers, options.seconds) if options.viewers else run(desk, options)


if __name__ == "__main__":
    sys.exit(main())
