"""Day partitions of append-only tables: made ahead, dropped by age. Rows that found none wait in the default one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from peewee import OperationalError
from psycopg2.errors import LockNotAvailable

import db
from domain.failures import Unavailable
from models import events

PATIENCE = "2s"  # for a lock: whoever reads or writes the table meanwhile waits behind us


def tidy(parent: str, before: datetime) -> dict[str, int]:
    """What an upkeep job does with a table: room for the coming week, and nothing from before `before` any more.

    Rows that found no partition are moved into one, and that is an event: somebody must ask why this was not run for
    a week.
    """
    with db.transaction():
        if strays := rescue_strays(parent):
            events.add("partitions.strays", {"table": parent, "rows": strays}, None)
    return {"made": make_ahead(parent), "dropped": drop_older(parent, before), "strays": strays}


def make_ahead(parent: str, days: int = 7) -> int:
    """Make the partitions of the coming days; returns how many were missing."""
    with _briefly(parent):
        ((made,),) = db.rows("select make_partitions(%s, %s)", parent, days)
    return int(made)


def rescue_strays(parent: str) -> int:
    """Move the rows of the default partition into partitions of their days; returns how many there were.

    There are some only if the partitions were not made in time. While they lie there, the partitions of
    their days cannot be made, so this goes first.
    """
    rest, column = f"{parent}_rest", _partition_column(parent)
    moved = 0
    if not db.rows(f"select exists (select from {rest})")[0][0]:
        return 0  # without a lock, for which everybody would wait behind us
    with _briefly(parent):
        db.rows(f"lock table {rest} in access exclusive mode")
        for (day,) in db.rows(f"select distinct {column}::date from {rest} order by 1"):
            name = f"{parent}_{day:%Y%m%d}"
            db.rows(f"create table {name} (like {parent} including defaults including constraints including indexes)")
            ((count,),) = db.rows(
                f"""with gone as (delete from {rest} where {column} >= %s::date and {column} < %s::date + 1
                                  returning *),
                         kept as (insert into {name} select * from gone returning 1)
                    select count(*) from kept""",
                day,
                day,
            )
            db.rows(f"alter table {parent} attach partition {name} for values from (%s) to (%s::date + 1)", day, day)
            moved += count
    return moved


def drop_older(parent: str, before: datetime) -> int:
    """Drop the partitions that hold nothing from `before` on; returns how many. Space is back at once."""
    names = db.rows(
        """select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
           where i.inhparent = %s::regclass
             and substring(pg_get_expr(c.relpartbound, c.oid) from 'TO \\(''([^'']+)''\\)')::timestamptz <= %s
           order by c.relname""",
        parent,
        before,
    )
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


def _partition_column(parent: str) -> str:
    ((key,),) = db.rows("select pg_get_partkeydef(%s::regclass)", parent)
    return str(key).removeprefix("RANGE (").removesuffix(")")
