"""The two kinds of outside failure. Nothing else leaves a client or a channel."""

from __future__ import annotations


class Unavailable(Exception):
    """A later run may succeed: time-out, 429, 5xx, lost connection, spent budget."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        """`retry_after` in seconds, where the service said when to come back."""
        super().__init__(message)
        self.retry_after = retry_after


class Rejected(Exception):
    """A person must look: wrong key, unknown symbol, malformed answer. Names the provider and the field."""


class Unlisted(Rejected):
    """The source answered that it has no such symbol: wrong from the start, renamed, or delisted."""


class Renamed(Unlisted):
    """The source answered for another symbol than the one that it was asked for: it has it under a new name."""

    def __init__(self, message: str, source: str, name: str) -> None:
        """`source` says that the symbol is called `name` now."""
        super().__init__(message)
        self.source = source
        self.name = name
