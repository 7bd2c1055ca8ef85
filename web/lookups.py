"""Many questions in one query: a thousand who come at once cost a handful. Nothing is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from peewee import PeeweeException

from web import blocking

V = TypeVar("V")


class Lookups(Generic[V]):
    """`ask(keys)` answers for all keys at once; whoever asks while one query is under way shares the next."""

    def __init__(self, ask: Callable[[list[str]], Mapping[str, V]]) -> None:
        self.ask = ask
        self.waiting: dict[str, asyncio.Future[V | None]] = {}
        self.asking: asyncio.Task[None] | None = None

    async def get(self, key: str) -> V | None:
        """The answer for a key, None for an unknown one. Raises peewee.PeeweeException."""
        if self.asking is None or self.asking.done():
            self.waiting = {}
            self.asking = asyncio.create_task(self._ask())
        if key not in self.waiting:
            self.waiting[key] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self.waiting[key])

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # whoever comes in the same moment asks along
        while self.waiting:
            asked, self.waiting = self.waiting, {}
            try:
                answers = await blocking.run(self.ask, list(asked))
            except PeeweeException as failure:
                for future in asked.values():
                    future.set_exception(failure)
                    future.exception()  # seen: who asked may be gone
            else:
                for key, future in asked.items():
                    future.set_result(answers.get(key))
