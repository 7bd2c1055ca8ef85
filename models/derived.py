"""Derived streams: closes of bars and changes in percent, worked out where an alert asks for them.

What is asked for stands in `gauge`: `price@1h` is the last price of each hour, `price/24h` by how many percent the
price is another than 24 hours before. Nothing is worked out of what came later than the instant that it is of.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile

import db
from domain.measures import MEASURES, Reading
from domain.sessions import calendar

GRACE = timedelta(seconds=15)  # for the last values of a bar to reach us
BARS = 500  # so many closes of a stream at once, after an outage
VALUES = 1000  # so many changes of a stream at once
MARKETS = {"fx": "FX", "metal": "FX"}  # where a day ends at 17:00 in New York; elsewhere at midnight UTC

_PLAIN = [name for name, measured in MEASURES.items() if measured.kind == "value" and not measured.by_bar]


def closes(now: datetime) -> list[Reading]:
    """The last value of every bar that has ended since the one before it; a bar without values has no close."""
    found = db.rows(_CLOSES, now - GRACE, BARS, db.array(_PLAIN))
    return [Reading(*row) for row in found]


_CLOSES = """
select g.subject, g.measure, v.value, e.ends_at, v.source
from cast(%s as timestamptz) as t(now), gauge g
     cross join lateral (select split_part(g.measure, '@', 1) collate "C" as name,
                                nullif(split_part(g.measure, '@', 2), '')::interval as bar) m
     cross join lateral (select date_bin(m.bar, t.now, timestamptz '1970-01-01 00:00+00') as at) l
     cross join lateral generate_series(
       greatest(coalesce(g.happened_at + m.bar, least(l.at, date_bin(m.bar, g.created_at, l.at) + m.bar)),
                l.at - m.bar * %s), l.at, m.bar) as e(ends_at)
     cross join lateral (
       select s.value, s.source from stream s
       where s.subject = g.subject and s.stream = m.name and s.fresh
         and s.happened_at < e.ends_at and s.happened_at >= e.ends_at - m.bar and s.received_at >= e.ends_at - m.bar
       order by s.happened_at desc limit 1) v
where m.bar is not null and m.name = any(%s::text[])
"""


def changes(now: datetime) -> list[Reading]:
    """By how many percent each value that came since is another than that of its base, if there is one so old."""
    asked = db.rows(
        """select g.subject, g.measure, i.kind from gauge g left join instrument i on i.symbol = g.subject
           where g.measure like '%%/%%'"""
    )
    found = db.rows(
        _CHANGES,
        db.array(subject for subject, _, _ in asked),
        db.array(measure for _, measure, _ in asked),
        db.array(last_close(kind, now) if measure.endswith("/close") else None for _, measure, kind in asked),
        VALUES,
    )
    return [Reading(*row) for row in found]


_CHANGES = """
select a.subject, a.measure, round((v.value / b.value - 1) * 100, 6), v.happened_at, v.source
from unnest(%s::text[], %s::text[], %s::timestamptz[]) as a(subject, measure, closed_at)
     join gauge g on g.subject = a.subject and g.measure = a.measure
     cross join lateral (select split_part(a.measure, '/', 1) collate "C" as name,
                                nullif(split_part(a.measure, '/', 2), 'close')::interval as ago) m
     cross join lateral (
       select * from stream s
       where s.subject = a.subject and s.stream = m.name and s.fresh
         and s.happened_at > greatest(coalesce(g.happened_at, g.created_at), a.closed_at)
         and s.received_at > greatest(coalesce(g.happened_at, g.created_at), a.closed_at)
       order by s.happened_at limit %s) v
     cross join lateral (
       select s.value from stream s
       where s.subject = a.subject and s.stream = m.name
         and s.happened_at <= coalesce(a.closed_at, v.happened_at - m.ago)
         and s.happened_at > coalesce(a.closed_at, v.happened_at - m.ago) - interval '5 days'
         and s.received_at > coalesce(a.closed_at, v.happened_at - m.ago) - interval '5 days'
       order by s.happened_at desc limit 1) b
order by a.subject, a.measure, v.happened_at
"""


def last_close(kind: str | None, now: datetime) -> datetime:
    """When the last session of a kind of instrument ended: what a change since the close counts from."""
    sessions = calendar(MARKETS.get(kind or "", "CRYPTO")).sessions(now - timedelta(days=14))
    return max(session.closes_at for session in takewhile(lambda session: session.closes_at <= now, sessions))


def forget() -> int:
    """Stop working out what no alert waits for any more; how many streams."""
    watched = " and ".join(
        f"""not exists (select from alert_watch w where w.direction = '{direction}' and w.subject = g.subject
              and w.stream = g.measure)"""
        for direction in ("up", "down", "either")
    )
    return len(db.rows(f"delete from gauge g where g.measure ~ '[@/]' and {watched} returning 1"))
