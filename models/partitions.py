"""Partitions of append-only tables: made ahead, dropped by age. Rows that found none wait in the default one.

What asks a table for all that is new looks at each partition, in the plan before all: so there are as few of them
however long the rows are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime

from peewee import OperationalError
from psycopg2.errors import LockNotAvailable

import db
from domain.failures import Unavailable
from models import events

SHARES = 12  # a partition has a twelfth of the days that are kept, and goes with the last of them
PATIENCE = "2s"  # for a lock: whoever reads or writes the table meanwhile waits behind us


def tidy(parent: str, days: int, before: datetime) -> dict[str, int]:
    """What an upkeep job does with a table of which so many days are kept.

    It makes room for the coming week, and drops what is wholly from before `before`.
    """
    strays = rescue_strays(parent, width(days))
    return {"made": make_ahead(parent, width(days)), "dropped": drop_older(parent, before), "strays": strays}


def width(days: int) -> int:
    """Days in a partition of a table of which so many are kept: `width(3650)` is 304."""
    return max(1, days // SHARES)


def make_ahead(parent: str, days_each: int, days: int = 7) -> int:
    """Make the partitions of the coming days; returns how many were missing."""
    with _briefly(parent):
        ((made,),) = db.rows("select make_partitions(%s, %s, %s)", parent, days, days_each)
    return int(made)


def rescue_strays(parent: str, days_each: int) -> int:
    """Move the rows of the default partition into partitions of their days, one by one; returns how many there were.

    There are some only if the partitions were not made in time, and that is an event: somebody must ask why this was
    not run for a week. While they lie there, the partitions of their days cannot be made, so this goes first.
    """
    moved = 0
    while (day := _first_stray(parent)) is not None:
        with _briefly(parent):
            db.rows("set local statement_timeout = 0")  # however many there are: they have to go at some time
            ((rows,),) = db.rows("select make_partition(%s, %s, %s)", parent, day, days_each)
            events.add("partitions.strays", {"table": parent, "rows": rows}, None)
        moved += rows
    return moved


def _first_stray(parent: str) -> date | None:
    ((column,),) = db.rows("select substring(pg_get_partkeydef(%s::regclass) from '[(]([a-z_]+)[)]')", parent)
    ((day,),) = db.rows(f"select min({column})::date from {parent}_rest")
    return day


def drop_older(parent: str, before: datetime) -> int:
    """Drop the partitions that hold nothing from `before` on; returns how many. Space is back at once."""
    names = db.rows("select name from partition_spans(%s) where until <= %s order by since", parent, before)
    for (name,) in names:
        with _briefly(name):
            db.rows(f"drop table {name}")
    return len(names)


@contextmanager
def _briefly(table: str) -> Iterator[None]:
    """A transaction that waits for its locks no longer than a moment.

    Raises Unavailable while somebody (a backup, say) holds the table for longer.
    """
    try:
        with db.transaction():
            db.rows(f"set local lock_timeout = '{PATIENCE}'")
            yield
    except OperationalError as error:
        if not isinstance(error.__context__, LockNotAvailable):
            raise
        raise Unavailable(f"{table} is in use", retry_after=60) from error
