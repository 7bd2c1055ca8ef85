"""A database that was restored into another cluster: its rows and positions bear numbers of transactions made there.

This cluster counts on its own. Where it is younger, what is written here sorts before the positions that came with the
backup and would never be read, and what came is ahead of every snapshot. So what came is put before all that is written
here, cut into the pieces between the positions: what a reader had seen stays before it, and the rest behind it.
"""

from __future__ import annotations

from typing import Any

import db
from models.events import CLUSTER, FLOOR, FOREIGN, LAST_ID

# Every table whose rows have a position, in the order in which transactions write them: the facts, then their events.
STREAMS = ("trade", "tick", "reading", "event")
NOTICE = "this database was restored from another cluster's backup: {} stand still until `nightdesk restore` was run"
PATIENCE = "10s"  # for those who are writing: whoever comes later waits behind us


def foreign() -> list[str]:
    """The readers whose positions are of another cluster."""
    return [reader for (reader,) in db.rows(f"select reader from reader_position f where {FOREIGN} order by reader")]


def notice() -> list[str]:
    """What is to be said at a start where `settle` has not been called since the backup was read in."""
    readers = foreign()
    return [NOTICE.format(", ".join(readers))] if readers else []


def settle() -> list[dict[str, Any]]:
    """Make all that came with a backup mean here what it meant there, in one transaction; what was done.

    Each as `what` (a stream or a reader), `was`, `now`, and of a stream how many `rows`. No row that a reader has not
    seen is lost, neither one that came nor one that was written here since, and none is read twice. Readers and writers
    of the streams wait until the end.
    """
    with db.transaction():
        db.rows(f"set local lock_timeout = '{PATIENCE}'")
        db.rows(f"lock table reader_position, {', '.join(STREAMS)} in exclusive mode")
        if not foreign():
            return []
        db.rows("set local statement_timeout = 0")
        ((here,),) = db.rows("select pg_current_xact_id()::text::bigint")  # first: ages are counted from it
        ((came,),) = db.rows(_CAME, here, FLOOR)
        before, rows = _positions(), {}
        if db.rows(_MIXED, came, *(came, came, here) * len(STREAMS)):
            places = db.rows("select distinct xid, id from reader_position where reader <> %s", FLOOR)
            edges = [db.array(column) for column in zip(*places, strict=True)] or ["{}", "{}"]
            for stream in STREAMS:
                ((rows[stream],),) = db.rows(_STAMP.format(stream), *edges, came, here)
            db.rows(_MOVE, *edges, LAST_ID, FLOOR)
            db.rows(_START_OVER, FLOOR, LAST_ID)
        db.rows(f"update reader_position set cluster = {CLUSTER}")
        return [
            *({"what": stream, "was": None, "now": None, "rows": count} for stream, count in rows.items()),
            *({"what": name, "was": before.get(name), "now": now, "rows": None} for name, now in _positions().items()),
        ]


def _positions() -> dict[str, str]:
    return dict(db.rows("select reader, xid || '-' || id from reader_position order by reader"))


# The last transaction that read the backup in: it wrote the positions, or made their key. The floor moves at night too.
_CAME = f"""
select %s - min(age) from (
  select age(f.xmin) from reader_position f where {FOREIGN} and f.reader <> %s
  union all
  select age(c.xmin) from pg_constraint c where c.conrelid = 'reader_position'::regclass and c.contype = 'p') r
"""

# A row that was written here is stamped by a transaction after those that read the backup in, and written by the same
# one (a savepoint in it has a later number). Every other row came with the backup.
_HERE = "(x.xid > %s::text::xid8 and x.xid::text::bigint <= %s - age(x.xmin))"

# Whether any of what came sorts behind what is written here. In a cluster that had counted further nothing does.
_MIXED = f"""
select 1 from reader_position f where {FOREIGN} and f.xid > %s::text::xid8
""" + "".join(
    f"union all select 1 from {stream} x where x.xid > %s::text::xid8 and not {_HERE}\n" for stream in STREAMS
)

# How many positions a row (or a position) is behind is its new number: those of this cluster are all higher.
_PIECE = """(
  select count(*) from unnest(%s::xid8[], %s::bigint[]) p(xid, id) where (p.xid, p.id) < (x.xid, x.id))::text::xid8"""

_STAMP = f"""
with stamped as (update {{}} x set xid = {_PIECE} where not {_HERE} returning 1) select count(*) from stamped
"""

_MOVE = f"update reader_position x set xid = {_PIECE}, id = %s where reader <> %s"

# Whoever follows the events with a token of before is told to load all anew: it compares with nothing here.
_START_OVER = """
insert into reader_position (reader, xid, id)
select %s, (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8, %s
on conflict (reader) do update set xid = excluded.xid, id = excluded.id
"""
