"""Kill a process -9 at a statement of its work: it stops by itself before that statement, says which, and is killed.

    said = killed_before(7, lambda: credit_deposits(due_at=now))   # the statement, or None: it came to its end before

BEGIN and COMMIT are statements too, so that every gap between two words to the database is reached: it is found by a
pause, not by luck. The child is forked from here; it has a connection of its own.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable

from psycopg2.extensions import cursor as Cursor  # noqa: N812

import db


class Pausing(Cursor):
    """A cursor that stops for good before a statement."""

    left, said = 0, -1

    def execute(self, statement, parameters=None):
        """As usual, until the count is at its end."""
        Pausing.left -= 1
        if Pausing.left < 0:
            os.write(Pausing.said, (" ".join(str(statement).split())[:90] + "\n").encode())
            time.sleep(3600)
        return super().execute(statement, parameters)


def killed_before(statement: int, work: Callable[[], object]) -> str | None:
    """Run `work` in a child that is killed before its statement of this number (from 0); which one that was."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        _work(statement, work, write)
    os.close(write)
    with os.fdopen(read) as said:
        line = said.readline().strip()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if line.startswith("!"):
        raise RuntimeError(line)
    return line or None


def _work(statement: int, work: Callable[[], object], write: int) -> None:
    """In the child: never returns."""
    try:
        db.database.connect(reuse_if_open=True)
        db.database.connection().cursor_factory = Pausing
        Pausing.left, Pausing.said = statement, write
        work()
        os.write(write, b"\n")
    except BaseException:
        os.write(write, ("!" + " ".join(traceback.format_exc().split())[-800:] + "\n").encode())
    finally:
        os._exit(0)


def gone() -> None:
    """Wait until the server has noticed that the killed ones are gone."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    deadline = time.monotonic() + 10
    while db.rows(others)[0][0] and time.monotonic() < deadline:
        time.sleep(0.002)
