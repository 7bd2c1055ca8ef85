"""What a messenger took, and the limits that it enforces: at most so many in any window, by the time they came."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 10_000  # messages


@dataclass(frozen=True)
class Taken:
    """One message as it came."""

    number: int
    to: str
    text: str
    key: str  # by which a repeat is known; empty where the service has none
    received_at: float


class Inbox:
    """The messages of one stand-in."""

    def __init__(self) -> None:
        self.messages: deque[Taken] = deque(maxlen=KEPT)
        self.refused = 0  # for a limit
        self.repeats = 0  # that were known by their key
        self._numbers = itertools.count(1)
        self._windows: dict[str, deque[float]] = {}
        self._keys: dict[str, Taken] = {}
        self._lock = threading.Lock()

    def admit(self, now: float, limits: dict[str, tuple[int, float]]) -> tuple[str, float] | None:
        """Count a message against limits `{name: (count, seconds)}`; the one that is full, and for how long."""
        with self._lock:
            for name, (count, seconds) in limits.items():
                window = self._windows.setdefault(name, deque())
                while window and window[0] <= now - seconds:
                    window.popleft()
                if len(window) >= count:
                    self.refused += 1
                    return name, window[0] + seconds - now
            for name in limits:
                self._windows[name].append(now)
            return None

    def keep(self, to: str, text: str, now: float, key: str = "") -> tuple[Taken, bool]:
        """Keep a message; the one that came before under the same key, and False, for a repeat."""
        with self._lock:
            if key and key in self._keys:
                self.repeats += 1
                return self._keys[key], False
            taken = Taken(next(self._numbers), to, text, key, now)
            self.messages.append(taken)
            if key:
                self._keys[key] = taken
            return taken, True

    def list(self) -> list[dict[str, Any]]:
        """The messages as JSON, oldest first."""
        with self._lock:
            return [asdict(taken) for taken in self.messages]
