"""Daily bars that were missing or wrong: found, mended, and kept on record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from json import dumps
from typing import Any

from peewee import CompositeKey, DateField, IntegerField, TextField
from playhouse.postgres_ext import BinaryJSONField

import db
from domain.stocks import Bar
from models.fields import InstantField
from models.quarantine import value


class BarGap(db.BaseModel):
    """A day of a stock without a bar, or with one that was wrong; `healed_at` is when the right one came."""

    symbol = TextField()
    date = DateField()
    problem = TextField()  # missing, wrong
    found_at = InstantField()
    tries = IntegerField()
    error = TextField(null=True)
    was = BinaryJSONField(index=False, null=True)
    became = BinaryJSONField(index=False, null=True)
    healed_at = InstantField(null=True)

    class Meta:
        table_name = "bar_gap"
        primary_key = CompositeKey("symbol", "date", "found_at")


def missing(symbol: str, days: Iterable[date]) -> list[date]:
    """Those of the days, from the symbol's first bar on, that have none."""
    rows = db.rows(
        """select d.date from unnest(%s::date[]) d(date)
           where d.date > (select min(date) from daily_bar where symbol = %s)
             and not exists (select from daily_bar b where b.symbol = %s and b.date = d.date) order by 1""",
        *(db.array(days), symbol, symbol),
    )
    return [day for (day,) in rows]


def note(symbol: str, problem: str, bars: Mapping[date, Bar | None], found_at: datetime) -> int:
    """Put days on record, each once as long as it is not healed; a bar that is wrong is no data any more. How many."""
    noted = db.rows(
        """insert into bar_gap (symbol, date, problem, found_at, was)
           select %s, s.date, %s, %s, s.was from unnest(%s::date[], %s::jsonb[]) as s(date, was) order by s.date
           on conflict (symbol, date) where healed_at is null do nothing returning date""",
        *(symbol, problem, found_at, db.array(bars)),
        db.array(dumps(value(bar)) if bar else None for bar in bars.values()),
    )
    db.rows(
        "delete from daily_bar where symbol = %s and date = any(%s)", symbol, [day for day, bar in bars.items() if bar]
    )
    return len(noted)


def heal(symbol: str, bars: Mapping[date, Bar], now: datetime, error: str | None) -> int:
    """Close the open days of a symbol for which there is a bar now; note on the others that it was tried."""
    healed = db.rows(
        """update bar_gap g set healed_at = %s, became = s.became, error = null
           from unnest(%s::date[], %s::jsonb[]) as s(date, became)
           where g.symbol = %s and g.date = s.date and g.healed_at is null returning 1""",
        *(now, db.array(bars), db.array(dumps(value(bar)) for bar in bars.values()), symbol),
    )
    db.rows(
        "update bar_gap set tries = tries + 1, error = %s where symbol = %s and healed_at is null and found_at <= %s",
        *(error or "no source has it, or what it says cannot be: see `nightdesk stocks quarantine`", symbol, now),
    )
    return len(healed)


def open_days(symbols: Iterable[str], most_tries: int) -> dict[str, date]:
    """For each symbol with days that are still to be mended the first of them."""
    rows = db.rows(
        """select symbol, min(date) from bar_gap where healed_at is null and tries < %s and symbol = any(%s)
           group by symbol""",
        *(most_tries, list(symbols)),
    )
    return dict(rows)


def listed(since: datetime) -> list[dict[str, Any]]:
    """What is open, and what was healed since then, newest first."""
    return db.maps(
        """select * from bar_gap where healed_at is null or healed_at >= %s
           order by healed_at is not null, found_at desc, symbol, date""",
        since,
    )
