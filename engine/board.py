"""What a worker's parent knows of its work-horse: a page of memory that both see."""

from __future__ import annotations

import time
from dataclasses import dataclass
from mmap import mmap
from struct import Struct

_HAND = Struct("dB?H200s")  # deadline (monotonic s, 0 = none), whether a run is in hand, comes again; its id
_COUNT = Struct("Q")
_COUNT_AT = 512


@dataclass(frozen=True)
class InHand:
    """The run that the horse is in."""

    run_id: str
    deadline: float  # monotonic seconds, 0 = none yet
    comes_again: bool  # the schedule will enqueue it anew if Redis forgets it


class Board:
    """Written by the horse, read by its parent; it outlives horses."""

    def __init__(self) -> None:
        self.page = mmap(-1, 4096)

    def begin(self, run_id: str, *, comes_again: bool) -> None:
        """A run is in hand."""
        encoded = run_id.encode("utf-8", "replace")[:200]
        _HAND.pack_into(self.page, 0, 0.0, 1, comes_again, len(encoded), encoded)

    def limit(self, seconds: float) -> None:
        """The run in hand has to end in so many seconds."""
        _, busy, comes_again, length, encoded = _HAND.unpack_from(self.page, 0)
        _HAND.pack_into(
            self.page, 0, time.monotonic() + seconds if seconds else 0.0, busy, comes_again, length, encoded
        )

    def clear(self) -> None:
        """Nothing is in hand: the run ended, or the horse is gone."""
        _HAND.pack_into(self.page, 0, 0.0, 0, False, 0, b"")

    def in_hand(self) -> InHand | None:
        """The run in hand, if there is one."""
        deadline, busy, comes_again, length, encoded = _HAND.unpack_from(self.page, 0)
        return InHand(encoded[:length].decode("utf-8", "replace"), deadline, comes_again) if busy else None

    @property
    def count(self) -> int:
        """How many runs all horses have begun."""
        (count,) = _COUNT.unpack_from(self.page, _COUNT_AT)
        return int(count)

    def add_one(self) -> None:
        """One more has begun."""
        _COUNT.pack_into(self.page, _COUNT_AT, self.count + 1)
