"""Who listens to live events in this process, and what waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from json import dumps
from typing import Any, NamedTuple

from models.events import Position

PUBLIC = frozenset({"prices.fresh", "prices.stale", "prices.missing", "schedule.stopped", "schedule.resumed"})
NOW = Position(-1, -1)  # of who asks for what comes from now on
WAITING = 5_000  # facts that may wait for a slow client before it is sent away
PATIENCE = 10.0  # seconds that one of its messages may take to leave
KEEP_ALIVE = 15.0  # seconds of silence after which it hears that the line is open


class Ended(Exception):
    """The client is sent away, and says why: `slow` or `restart`; it resumes by its token."""


class Fact(NamedTuple):
    """One event, ready to be sent."""

    position: Position
    token: str  # to resume behind it
    topic: str
    user_id: int | None
    text: str  # JSON with id, topic, at, payload

    @classmethod
    def of(cls, row: dict[str, Any]) -> Fact:
        """A row of models.events.Page."""
        token, topic = f"{row['xid']}-{row['id']}", row["topic"]
        at, payload = row["created_at"].isoformat(), row["payload"]
        text = f'{{"id": "{token}", "topic": {dumps(topic)}, "at": "{at}", "payload": {payload}}}'
        return cls(Position(row["xid"], row["id"]), token, topic, row["user_id"], text)


class Message(NamedTuple):
    """What goes to a client: JSON, and the token to resume behind it where it has one."""

    token: str
    text: str


@dataclass(eq=False)
class Client:
    """A connection: whose facts it may see, how far it is, and what waits for it."""

    user_id: int | None  # None: an operator's, who may see everything
    position: Position = NOW  # it was offered everything up to here
    came_at: Position = NOW  # where it stood when it joined those that hear what comes
    facts: list[Fact] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)  # newest message by topic and key
    ended: str = ""  # why it is sent away
    sending: asyncio.Task[str] | None = None
    busy_since: float = 0.0  # since when a message has been on its way; 0: none is
    _heard_at: float = 0.0
    _waiter: asyncio.Future[None] | None = None

    def may_see(self, fact: Fact) -> bool:
        """A user's facts are that user's; of nobody's the public ones are everybody's."""
        if self.user_id is None:
            return True
        return fact.topic in PUBLIC if fact.user_id is None else fact.user_id == self.user_id

    def offer(self, fact: Fact) -> None:
        """Hand over a fact that it may see and does not have; too many that wait are the end."""
        if self.ended or fact.position <= self.position or not self.may_see(fact):
            return
        self.position = fact.position
        self.facts.append(fact)
        self._wake()
        if len(self.facts) > WAITING:
            self.end("slow")

    def show(self, key: str, text: str) -> None:
        """Hand over state; what it replaces need not be read any more."""
        self.state[key] = text
        self._wake()

    def end(self, why: str) -> None:
        """Send it away: what waits is dropped, so that nothing can be missing in the middle."""
        self.ended = self.ended or why
        self.facts.clear()
        self._wake()

    def tend(self, now: float) -> None:
        """Once a second: who takes no message for long is slow, who has heard nothing for long is woken."""
        if self.busy_since and now - self.busy_since > PATIENCE:
            self.end("slow")
        if self.busy_since and self.ended and self.sending:
            self.sending.cancel()
        elif not self.busy_since and now - self._heard_at > KEEP_ALIVE:
            self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def messages(self) -> Sequence[Fact | Message]:
        """What waits, as soon as something does; nothing after KEEP_ALIVE. Raises Ended."""
        loop = asyncio.get_running_loop()
        self.busy_since, self._heard_at = 0.0, loop.time()
        if not (self.facts or self.state or self.ended):
            self._waiter = loop.create_future()
            await self._waiter
        if self.ended:
            raise Ended(self.ended)
        facts, self.facts = self.facts, []
        if not self.state:
            return facts
        state, self.state = self.state, {}
        return [*facts, *(Message("", text) for text in state.values())]
