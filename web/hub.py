"""Live events for every client of this process.

Facts come from the event table by position, at a nudge and once a second, so that reading is the
sweeping: none is missed and none comes twice, whatever happens to Redis or to this process. State
(quotes) comes over Redis as it changes and is never stored; the newest of each key wins.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from peewee import InterfaceError, OperationalError
from redis.exceptions import RedisError

import events as bus
from config import settings
from models import events
from models.events import Position
from web import blocking

SWEEP = 1.0  # seconds between looks without a nudge
KEPT = 10_000  # latest facts in memory: whoever comes back within them costs no query
WAITING = 1_000  # facts that may wait for a slow client before it is sent away
PAGE = 500

log = logging.getLogger("nightdesk.web")


class TooSlow(Exception):
    """The client does not read: it is sent away and resumes by its token."""


@dataclass(frozen=True)
class Fact:
    """One event, ready to be sent."""

    position: Position
    topic: str
    user_id: int | None
    text: str  # JSON with id, topic, at, payload

    @property
    def token(self) -> str:
        """The resume token."""
        return f"{self.position.xid}-{self.position.id}"


def fact(row: dict[str, Any]) -> Fact:
    """A row of the event table."""
    position = Position(row["xid"], row["id"])
    message = {
        "id": f"{position.xid}-{position.id}",
        "topic": row["topic"],
        "at": row["created_at"].isoformat(),
        "payload": row["payload"],
    }
    return Fact(position, row["topic"], row["user_id"], json.dumps(message, default=str))


def parse_token(text: str) -> Position:
    """A resume token `xid-id`. Raises ValueError."""
    xid, _, id_ = text.partition("-")
    if not (xid.isascii() and xid.isdigit() and id_.isascii() and id_.isdigit() and len(text) < 42):
        raise ValueError("a resume token looks like 4711-42")
    return Position(int(xid), int(id_))


@dataclass(eq=False)
class Client:
    """Whoever listens: what waits for them, and whose facts they may see."""

    user_id: int | None  # None: an operator, who sees everything
    everything: bool
    facts: deque[Fact] = field(default_factory=deque)
    state: dict[str, str] = field(default_factory=dict)  # newest message by topic and key
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    too_slow: bool = False

    def may_see(self, fact: Fact) -> bool:
        """Facts of nobody are everybody's; an app's user sees those, and their own."""
        return self.everything or (fact.user_id is None and fact.topic in PUBLIC) or fact.user_id == self.user_id

    def offer(self, fact: Fact) -> None:
        """Hand over a fact, unless the client is not theirs to see or hopelessly behind."""
        if not self.may_see(fact):
            return
        if len(self.facts) >= WAITING:
            self.too_slow = True
        else:
            self.facts.append(fact)
        self.ready.set()

    async def messages(self) -> AsyncIterator[tuple[str, str]]:
        """(resume token or '', JSON text) as they come. Raises TooSlow."""
        while True:
            await self.ready.wait()
            self.ready.clear()
            while self.facts:
                fact = self.facts.popleft()
                yield fact.token, fact.text
            if self.too_slow:
                raise TooSlow
            state, self.state = self.state, {}
            for text in state.values():
                yield "", text


PUBLIC = frozenset({"prices.fresh", "prices.stale", "prices.missing", "schedule.stopped", "schedule.resumed"})
STATE_TOPICS = frozenset({"quote"})


class Hub:
    """Reads once for all clients of this process."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()
        self.kept: deque[Fact] = deque(maxlen=KEPT)
        self.position: Position | None = None  # everything up to here was handed out
        self.floor: Position | None = None  # `kept` has everything behind this
        self.nudged = asyncio.Event()
        self.database_away = False
        self.redis_away = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to read."""
        self._tasks = [asyncio.create_task(self._follow_table()), asyncio.create_task(self._follow_redis())]

    async def stop(self) -> None:
        """Stop reading; clients are told by the server that closes their connections."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _follow_table(self) -> None:
        while True:
            try:
                if self.position is None:
                    self.position = self.floor = await blocking.run(events.tail)
                await self._read()
                self.database_away = False
            except (OperationalError, InterfaceError) as failure:
                if not self.database_away:
                    log.warning("PostgreSQL is away, events wait: %s", str(failure).strip().splitlines()[:1])
                self.database_away = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self.nudged.wait(), SWEEP)
            self.nudged.clear()

    async def _read(self) -> None:
        while self.position is not None:
            rows = await blocking.run(events.after, self.position, PAGE)
            for row in rows:
                self._hand_out(fact(row))
            if len(rows) < PAGE:
                return

    def _hand_out(self, new: Fact) -> None:
        if len(self.kept) == KEPT:
            self.floor = self.kept[0].position
        self.kept.append(new)
        self.position = new.position
        for client in self.clients:
            client.offer(new)

    async def _follow_redis(self) -> None:
        from redis.asyncio import Redis

        while True:
            try:
                async with Redis.from_url(settings.redis_url) as redis, redis.pubsub() as channel:
                    await channel.subscribe(bus.NUDGE, bus.LIVE)
                    self.redis_away = False
                    self.nudged.set()
                    async for message in channel.listen():
                        if message["type"] != "message":
                            continue
                        if message["channel"] == bus.NUDGE.encode():
                            self.nudged.set()
                        else:
                            self._show(message["data"])
            except (RedisError, OSError) as failure:
                if not self.redis_away:
                    log.warning("Redis is away, events come once a second: %s", failure)
                self.redis_away = True
                await asyncio.sleep(1)

    def _show(self, data: bytes) -> None:
        """State goes to all: the newest of a key replaces what a client has not read yet."""
        try:
            message = json.loads(data)
            key = f"{message['topic']}/{message['payload'].get('symbol', '')}"
        except (ValueError, KeyError, AttributeError, TypeError):
            return  # not ours
        text = data.decode()
        for client in self.clients:
            client.state[key] = text
            client.ready.set()

    async def join(self, client: Client, after: Position | None) -> str:
        """Add a client behind `after`, or from now on. Returns its first resume token, or 'gap'.

        What it missed is read first; then, without a pause in between, it is one of the clients, so
        that nothing is missed and nothing comes twice.
        """
        while self.position is None:
            await asyncio.sleep(0.05)
        if after is None:
            self.clients.add(client)
            return f"{self.position.xid}-{self.position.id}"
        if await blocking.run(events.is_too_old, after):
            return "gap"
        while self.floor is not None and after < self.floor:
            rows = await blocking.run(events.after, after, PAGE)
            missed = [f for f in map(fact, rows) if f.position <= self.position]
            for old in missed:
                while len(client.facts) >= WAITING // 2:
                    await asyncio.sleep(0.05)  # at the client's own pace
                client.offer(old)
                after = old.position
            if len(missed) < PAGE:
                break
        for recent in self.kept:
            if recent.position > after:
                client.facts.append(recent) if client.may_see(recent) else None
        client.ready.set()
        self.clients.add(client)
        return f"{after.xid}-{after.id}"

    def leave(self, client: Client) -> None:
        """Forget a client."""
        self.clients.discard(client)
