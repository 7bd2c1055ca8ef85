"""Live events for every client of this process.

Facts come from the event table by position, at a nudge and once a second, so that reading is the
sweeping: none is missed and none comes twice, whatever happens to Redis or to this process. State
(quotes) comes over Redis as it changes and is never stored; the newest of each key wins.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any

from peewee import PeeweeException
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import RedisError

import events as bus
from config import settings
from models import events
from models.events import LAST_ID, Page, Position
from web import blocking
from web.listeners import NOW, PUBLIC, Client, Ended, Fact

SWEEP = 1.0  # seconds between looks without a nudge
KEPT = 2_000  # latest facts in memory: whoever comes back within them costs no query
PAGE = 500
HELD_BACK = 0.01  # seconds until another look at facts that an open transaction holds back
LONG_HELD_BACK = 30.0  # seconds after which that is worth a line in the log
REDIS_SILENCE = 15.0  # seconds after which a connection that answers no ping is given up

log = logging.getLogger("nightdesk.web")


class Gap(Exception):
    """What the client missed is no longer kept, or was never ours: it reloads and goes on from now."""


class Hub:
    """Reads once for all clients of this process."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()
        self.kept: deque[Fact] = deque()
        self.floor = Position(0, 0)  # `kept` has everything behind this
        self.position = Position(0, 0)  # everything up to here was handed out
        self.next_xid = 0  # no token of this database is as far
        self.started = asyncio.Event()
        self.nudged = asyncio.Event()
        self.database_away = False
        self.redis_away: bool | None = None  # until it is listened to
        self.is_ending = False
        self.held_back_since: float | None = None
        self._whose: dict[int | None, set[Client]] = defaultdict(set)  # by user; None: who sees everything
        self._pages: dict[tuple[Position, int | None], asyncio.Task[Page]] = {}
        self._own_thread = ThreadPoolExecutor(1, "events")  # slow pages of others do not hold events up
        self._catching_up = asyncio.Semaphore(2)  # of the database's threads
        self._tasks: list[asyncio.Task[None]] = []
        self._servers_handlers: dict[int, Any] = {}

    async def start(self) -> None:
        """Begin to read; when the server is told to stop, streams end before it waits for them."""
        self._tasks = [asyncio.create_task(work()) for work in (self._follow_table, self._follow_redis, self._tend)]
        for task in self._tasks:
            task.add_done_callback(self._must_not_end)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.signal(number, partial(self._stopping, asyncio.get_running_loop()))
                self._servers_handlers[number] = before

    def _stopping(self, loop: asyncio.AbstractEventLoop, number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(self.send_away)
        if callable(before := self._servers_handlers[number]):
            before(number, frame)

    def _must_not_end(self, task: asyncio.Task[None]) -> None:
        """A process that no longer reads events must not look well: the platform starts another."""
        if not task.cancelled():
            log.critical("live events have stopped: the process ends", exc_info=task.exception())
            os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self) -> None:
        """Stop reading and send everybody away."""
        for number, before in self._servers_handlers.items():
            signal.signal(number, before)
        self.send_away()
        going = set(self._tasks)
        while going:  # a library that takes the cancellation for its own time-out must not hold up the end
            for task in going:
                task.cancel()
            _, going = await asyncio.wait(going, timeout=1)
        self._own_thread.shutdown(wait=False, cancel_futures=True)

    def send_away(self, for_good: bool = True) -> None:
        """Clients go and come back, elsewhere when this process ends."""
        self.is_ending = for_good
        for client in self.clients:
            client.end("restart")

    # facts

    async def _follow_table(self) -> None:
        while True:
            pause = SWEEP
            try:
                if not self.started.is_set():
                    await self._begin()
                pause = self._pause(await self._read())
                if self.database_away:
                    log.warning("PostgreSQL is back: events go on")
                self.database_away = False
            except PeeweeException as failure:
                if not self.database_away:
                    log.warning("PostgreSQL is away, events wait: %s", str(failure).strip().splitlines()[:1])
                self.database_away = True
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.nudged.wait()
            self.nudged.clear()

    def _pause(self, is_held_back: bool) -> float:
        """Seconds until the next look: soon for what is held back, less often the longer that lasts."""
        now = asyncio.get_running_loop().time()
        if not is_held_back:
            self.held_back_since = None
            return SWEEP
        since = self.held_back_since = self.held_back_since or now
        if now - since > LONG_HELD_BACK:
            log.warning("events have waited for a transaction that has been open for %.0f s", now - since)
            self.held_back_since = now
        return min(max(now - since, HELD_BACK), SWEEP / 4)

    async def _begin(self) -> None:
        page = await self._ask(events.latest, KEPT)
        self.kept = deque(map(Fact.of, page.rows))
        self.floor = self.kept[0].position if page.is_full and self.kept else page.floor
        self.position, self.next_xid = page.settled, page.next_xid
        self.started.set()

    async def _read(self) -> bool:
        """Hand out what is new; whether more is committed, but held back by an older transaction."""
        while True:
            page = await self._ask(events.after, self.position, PAGE)
            self.next_xid = page.next_xid
            if self.position.xid >= page.next_xid:
                log.warning("the database is another or an older one: every client starts over")
                self.started.clear()
                self.send_away(for_good=False)
                return True
            for new in map(Fact.of, page.rows):
                self._hand_out(new)
            self.position = page.settled
            if not page.is_full or page.is_held_back:
                return page.is_held_back

    async def _ask(self, question: Any, *arguments: Any) -> Page:
        ask = partial(blocking.connected, question, *arguments)
        page: Page = await asyncio.get_running_loop().run_in_executor(self._own_thread, ask)
        return page

    def _hand_out(self, new: Fact) -> None:
        self.kept.append(new)
        if len(self.kept) > KEPT:
            self.floor = self.kept.popleft().position
        for client in self._audience(new):
            client.offer(new)

    def _audience(self, new: Fact) -> Iterable[Client]:
        """Facts of nobody are the operators', or everybody's; a user's are the operators' and their own."""
        if new.user_id is None:
            return self.clients if new.topic in PUBLIC else self._whose[None]
        return [*self._whose[None], *self._whose.get(new.user_id, ())]

    # state

    async def _follow_redis(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as failure:
                if not self.redis_away:
                    log.warning("Redis is away, events come once a second: %s", failure)
                self.redis_away = True
                await asyncio.sleep(SWEEP)

    async def _listen(self) -> None:
        from redis.asyncio import Redis

        loop = asyncio.get_running_loop()
        redis = Redis.from_url(settings.redis_url, socket_connect_timeout=3)
        async with redis, redis.pubsub() as channel:
            await channel.subscribe(bus.NUDGE, bus.LIVE)
            heard = loop.time()
            while loop.time() - heard < REDIS_SILENCE:
                message = await channel.get_message(timeout=REDIS_SILENCE / 3)
                if message is None:
                    await channel.ping()
                    continue
                heard = loop.time()
                if message["type"] == "subscribe":  # what was said before is found in the table
                    if self.redis_away:
                        log.warning("Redis is back: events come at once")
                    self.redis_away = False
                    self.nudged.set()
                elif message["channel"] == bus.NUDGE.encode():
                    self.nudged.set()
                elif message["type"] == "message":
                    self._show(message["data"])
        raise RedisGone("it answers no ping")

    def _show(self, data: bytes) -> None:
        """State goes to all: the newest of a key replaces what a client has not read yet."""
        try:
            message = json.loads(data)
            key = f"{message['topic']}/{message['payload'].get('symbol', '')}"
        except (ValueError, KeyError, AttributeError, TypeError):
            return  # not ours
        text = data.decode()
        for client in self.clients:
            client.show(key, text)

    # clients

    async def catch_up(self, client: Client) -> AsyncIterator[Fact]:
        """What a client missed that memory no longer has, at its own pace; at the end it is one of the clients.

        Between the last look and joining there is no pause, so nothing is missed; what the client has
        is not offered again, so nothing comes twice. Raises Gap.
        """
        await self.started.wait()
        if client.position == NOW:
            client.position = self.position
        if client.position.xid >= self.next_xid:  # from a process that has read on, or from another database
            page = await self._page(client)
            if client.position.xid >= page.next_xid:
                raise Gap
        while client.position < self.floor:
            page = await self._page(client)
            if client.position < page.floor:
                raise Gap
            for missed in map(Fact.of, page.rows):
                client.position = missed.position
                yield missed
            client.position = max(client.position, page.settled)
        self.join(client)

    async def _page(self, client: Client) -> Page:
        """The next page for a client; those that ask for the same one at the same time share the query."""
        if self.is_ending:
            raise Ended("restart")
        key = (client.position, client.user_id)
        if key not in self._pages:
            self._pages[key] = asyncio.create_task(self._fetch(*key))
            self._pages[key].add_done_callback(lambda _: self._pages.pop(key, None))
        return await asyncio.shield(self._pages[key])

    async def _fetch(self, after: Position, user_id: int | None) -> Page:
        async with self._catching_up:
            return await blocking.run(events.after, after, PAGE, user_id, PUBLIC)

    def join(self, client: Client) -> None:
        """From now on it is offered what comes; first what memory has behind its position."""
        client.came_at = client.position
        behind = takewhile(lambda kept: kept.position > client.came_at, reversed(self.kept))
        for missed in reversed(list(behind)):
            client.offer(missed)
        self.clients.add(client)
        self._whose[client.user_id].add(client)
        if self.is_ending:
            client.end("restart")

    def leave(self, client: Client) -> None:
        """Forget a client."""
        self.clients.discard(client)
        self._whose[client.user_id].discard(client)
        if not self._whose[client.user_id]:
            del self._whose[client.user_id]

    async def _tend(self) -> None:
        """Wake who has been silent for long, and send away who does not read."""
        while True:
            await asyncio.sleep(SWEEP)
            now = asyncio.get_running_loop().time()
            for client in list(self.clients):
                client.tend(now)


def parse_token(text: str) -> Position:
    """A resume token `xid-id`. Raises ValueError."""
    xid, _, id_ = text.partition("-")
    if len(text) < 42 and all(part.isascii() and part.isdigit() for part in (xid, id_)):
        position = Position(int(xid), int(id_))
        if position.xid < 2**63 and position.id <= LAST_ID:
            return position
    raise ValueError("a resume token looks like 4711-42")
