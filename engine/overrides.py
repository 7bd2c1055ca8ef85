"""What PostgreSQL remembers for the schedule: operators' overrides, latest due times, the markets' sessions."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import db
from engine import outages
from models import clusters, sessions

READ_EVERY, PATIENCE = 60.0, 6.0  # seconds between two readings, and for one that somebody waits for
SOON = 5.0  # seconds between two readings while something is missing: it may come any moment, as on a new desk

log = logging.getLogger("nightdesk.scheduler")


class Unknown(Exception):
    """From when on the schedule is to go on: Redis has forgotten it, and PostgreSQL is away."""


class Overrides:
    """What PostgreSQL remembers of the entries, read once a minute beside the loop: it may be slow, or away."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] | None = None
        self.read_at: float | None = None
        self.failed = False
        self.warned: list[str] = []
        self.reader: threading.Thread | None = None

    def read(self, *, at_once: bool = False, patience: float = PATIENCE) -> dict[str, dict[str, Any]] | None:
        """The rows by entry, a minute old or two while PostgreSQL answers; None while it never did.

        `at_once`: as they are now; None if they do not come within `patience` seconds.
        """
        if at_once:
            deadline = time.monotonic() + patience
            if self.reader:
                self.reader.join(patience)  # what it reads may be older than what asked for this
            reader = self._begin()
            reader.join(max(0.0, deadline - time.monotonic()))
            return None if reader.is_alive() or self.failed else self.rows
        if self.read_at is None or time.monotonic() - self.read_at > (SOON if self.warned else READ_EVERY):
            self._begin()
        return self.rows

    def _begin(self) -> threading.Thread:
        if self.reader is None or not self.reader.is_alive():
            self.read_at = time.monotonic()
            self.reader = threading.Thread(target=self._read, daemon=True)
            self.reader.start()
        return self.reader

    def _read(self) -> None:
        from peewee import DatabaseError, InterfaceError

        try:
            with db.database.connection_context():
                self._warn([*sessions.remember(), *clusters.notice()])
                self.rows = {row["name"]: row for row in db.maps("select * from entry")}
            self.failed = False
            outages.ended(outages.POSTGRESQL_AWAY)
        except (DatabaseError, InterfaceError) as failure:
            self.failed = True
            outages.began(outages.POSTGRESQL_AWAY, failure)

    def _warn(self, texts: list[str]) -> None:
        """Say once what is missing of the sessions, though entries go on by the regular week, and what stands still."""
        for text in texts:
            if text not in self.warned:
                log.warning(text)
        self.warned = texts
