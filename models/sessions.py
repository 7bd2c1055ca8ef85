"""The table of sessions: filled by the calendar library, corrected by operators, read into domain.sessions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

from peewee import BooleanField, CompositeKey, DateField, TextField

import db
from domain.sessions import WEEKS, Calendar, Session, set_calendars
from models.fields import InstantField

AHEAD = timedelta(days=731)  # sessions are known two years ahead
ENOUGH = timedelta(days=30)  # with less the operator has to look
OPERATOR = "operator"


class MarketSession(db.BaseModel):
    """A trading day of a market. Without times: an operator says that it stays closed. No row: no session.

    Markets are XNYS, XNAS, XLON, XHKG, XTKS, XBKK, FX (Sunday 17:00 to Friday 17:00 in New York) and CRYPTO.
    """

    app_may = "select"

    market = TextField()
    date = DateField()  # the market's own
    opens_at = InstantField(null=True)
    closes_at = InstantField(null=True)  # open until before this instant
    break_from = InstantField(null=True)
    break_to = InstantField(null=True)
    half_day = BooleanField()
    source = TextField()
    note = TextField(null=True)
    changed_at = InstantField()

    class Meta:
        table_name = "market_session"
        primary_key = CompositeKey("market", "date")


def replace(sessions: Sequence[Session], sources: dict[str, str], first: date, last: date) -> dict[str, list[Any]]:
    """Make the days from `first` to `last` what `sessions` say, for their markets; what operators said stays.

    `sources` names who says so for each market.

    Returns rows [market, date] that were added, and those whose hours were others before or that are gone:
    special closings are published late.
    """
    columns = ("market", "date", "opens_at", "closes_at", "break_from", "break_to", "half_day")
    ((added, changed),) = db.rows(
        _REPLACE,
        *(db.array(getattr(session, column) for session in sessions) for column in columns),
        *(db.array(sources), db.array(sources.values()), first, last),
    )
    return {"added": added or [], "changed": changed or []}


_REPLACE = """
with said as materialized (
  select s.*, m.source from unnest(%s::text[], %s::date[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[],
      %s::timestamptz[], %s::boolean[]) as s(market, date, opens_at, closes_at, break_from, break_to, half_day)
  join unnest(%s::text[], %s::text[]) as m(market, source) using (market)
), span as (
  select cast(%s as date) as first, cast(%s as date) as last
), gone as (
  delete from market_session k using span
  where k.date between span.first and span.last and k.source <> 'operator'
    and k.market in (select market from said)
    and not exists (select from said s where s.market = k.market and s.date = k.date)
  returning k.market, k.date
), written as (
  insert into market_session as k (market, date, opens_at, closes_at, break_from, break_to, half_day, source)
  select s.* from said s left join market_session o using (market, date)
  where o.market is null or (o.source <> 'operator'
    and (o.opens_at, o.closes_at, o.break_from, o.break_to, o.half_day)
        is distinct from (s.opens_at, s.closes_at, s.break_from, s.break_to, s.half_day))
  order by s.market, s.date
  on conflict (market, date) do update set
    opens_at = excluded.opens_at, closes_at = excluded.closes_at, break_from = excluded.break_from,
    break_to = excluded.break_to, half_day = excluded.half_day, source = excluded.source, note = null,
    changed_at = now()
  where k.source <> 'operator'
  returning k.market, k.date, k.xmax = 0 as added
)
select (select jsonb_agg(jsonb_build_array(market, date) order by market, date) from written where added),
       (select jsonb_agg(jsonb_build_array(market, date) order by market, date)
        from (select market, date from written where not added union all select market, date from gone) c)
"""


def correct(
    market: str, day: date, hours: Session | None, note: str | None
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """An operator's word on one day, in the open transaction: its hours, or None for closed. Old and new row.

    Raises LookupError for a day beyond those that are known: the days up to it would all seem to be holidays.
    """
    known = db.rows(
        "select min(date), max(date) from market_session where market = %s and source <> 'operator'", market
    )
    first, last = known[0]
    if first is None or not first <= day <= last:
        raise LookupError(f"the sessions of {market} are known from {first} to {last}: {day} is not among them")
    old = db.maps("select * from market_session where market = %s and date = %s for update", market, day)
    (new,) = db.maps(
        """insert into market_session (market, date, opens_at, closes_at, break_from, break_to, half_day, source, note)
           values (%s, %s, %s, %s, %s, %s, %s, 'operator', %s)
           on conflict (market, date) do update set
             opens_at = excluded.opens_at, closes_at = excluded.closes_at, break_from = excluded.break_from,
             break_to = excluded.break_to, half_day = excluded.half_day, source = excluded.source,
             note = excluded.note, changed_at = now()
           returning *""",
        market,
        day,
        *(hours and getattr(hours, name) for name in ("opens_at", "closes_at", "break_from", "break_to")),
        bool(hours and hours.half_day),
        note,
    )
    return old[0] if old else None, new


def give_back(market: str, day: date) -> dict[str, Any] | None:
    """Drop an operator's word: the day is the library's again, at its next look. The row as it was; None if none."""
    old = db.maps(
        "delete from market_session where market = %s and date = %s and source = 'operator' returning *", market, day
    )
    return old[0] if old else None


def between(first: date, last: date, market: str | None = None) -> list[dict[str, Any]]:
    """The table's rows from `first` to `last`, by day."""
    return db.maps(
        """select * from market_session where date between %s and %s and (%s::text is null or market = %s)
           order by date, market""",
        *(first, last, market, market),
    )


_remembered: list[Any] = []  # what the table was when the calendars of this process were made from it


def remember() -> list[str]:
    """Make the calendars of this process those of the table, unless it is as it was; texts about what is missing."""
    state = db.rows("select current_date, count(*), max(changed_at) from market_session")
    if state != _remembered:
        set_calendars(calendars())
        _remembered[:] = state
    return missing(state[0][0])


def calendars() -> list[Calendar]:
    """A calendar of each market that the table knows, with about a year behind and two ahead."""
    rows = db.rows(
        """select market, date, opens_at, closes_at, break_from, break_to, half_day from market_session
           where date > (select max(date) - 1100 from market_session) order by market, date"""
    )
    found = []
    for market, days in groupby(rows, key=lambda row: row[0]):
        known = list(days)
        if market in WEEKS:
            sessions = [Session(*row) for row in known if row[2]]
            found.append(Calendar(market, sessions, known[0][1], known[-1][1]))
    return found


def missing(today: date) -> list[str]:
    """Markets of which the table knows less than a month ahead, in words; those of one day together."""
    lacking: dict[date | None, list[str]] = {}
    for row in reach():
        if row["last"] is None or row["last"] < today + ENOUGH:
            lacking.setdefault(row["last"], []).append(row["name"])
    return [
        f"the sessions of {', '.join(markets)} are {f'known until {last}' if last else 'not known'}: "
        "their regular week is assumed, without holidays; run `nightdesk run sync_sessions`"
        for last, markets in lacking.items()
    ]


def reach() -> list[dict[str, Any]]:
    """The last day that is known of each market."""
    return db.maps(
        """select m.name, max(s.date) as last from unnest(%s::text[]) m(name)
           left join market_session s on s.market = m.name group by m.name order by m.name""",
        db.array(WEEKS),
    )


def freshness(now: datetime) -> list[dict[str, Any]]:
    """How long ago each market's sessions were known two years ahead; old when less than a month is left of them."""
    today = now.date()
    return [
        {"name": row["name"], "age": max(AHEAD - (row["last"] - today if row["last"] else timedelta()), timedelta()),
         "allowed": AHEAD - ENOUGH}
        for row in reach()
    ]  # fmt: skip
