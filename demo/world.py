"""The world behind the stand-in servers: its clock, and its parts, one for each module of `demo/worlds/`."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from demo import worlds

T = TypeVar("T")


@dataclass(frozen=True)
class Clock:
    """World time runs from `start` at the real instant `started_at`, `speed` times as fast (epoch seconds)."""

    started_at: float
    start: float
    speed: float = 1

    def world(self, real: float) -> float:
        """The world's time at a real instant."""
        return self.start + (real - self.started_at) * self.speed

    def real(self, world: float) -> float:
        """The real instant of a time of the world."""
        return self.started_at + (world - self.start) / self.speed


class World:
    """Parts of a simulated world, or those that a folder of recorded data has; the same seed gives the same world."""

    def __init__(self, clock: Clock, seed: int = 1, folder: Path | None = None) -> None:
        self.clock = clock
        self._parts: dict[type, Any] = {}
        for module in pkgutil.iter_modules(worlds.__path__, "demo.worlds."):
            area = importlib.import_module(module.name)
            self._parts[area.PART] = area.replay(folder) if folder else area.simulate(seed)

    def part(self, kind: type[T]) -> T:
        """The part of this kind: `world.part(Market)`."""
        found: T = self._parts[kind]
        return found
