"""Derived streams: closes of bars, changes in percent, indicators and dates, worked out where an alert asks for them.

What is asked for stands in `gauge`: `price@1h` is the last price of each hour, `price/24h` by how many percent the
price is another than 24 hours before, `rsi14@1d` an indicator over closed days. Nothing is worked out of what came
later than the instant that it is of.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import takewhile
from typing import Any

import db
from domain.measures import MEASURES, Reading, of_stream
from domain.sessions import calendar
from domain.stocks import market_of
from domain.technical import Bar, line, need
from domain.watches import MOMENT
from models import bars

GRACE = timedelta(seconds=15)  # for the last values of a bar to reach us
BARS = 500  # so many closes of a stream at once, after an outage, and so many bars at least are looked at
SUBJECTS = 200  # so many bars of subjects are gone through at once
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
        """select g.subject, g.measure, i.kind, s.opens_at
           from gauge g left join instrument i on i.symbol = g.subject left join session_at(g.subject, %s) s on true
           where g.measure like '%%/%%'""",
        now,
    )
    found = db.rows(
        _CHANGES,
        db.array(subject for subject, *_ in asked),
        db.array(measure for _, measure, *_ in asked),
        db.array(
            (opened_at - MOMENT if opened_at else last_close(kind, now)) if measure.endswith("/close") else None
            for _, measure, kind, opened_at in asked
        ),
        VALUES,
    )
    return [Reading(*row) for row in found]


# A split between the two is no change: what was before it is counted in the shares of the value's day.
_CHANGES = """
select a.subject, a.measure, round((v.value / b.value - 1) * 100, 6), v.happened_at, v.source,
       trim_scale(v.value) || ' against ' || trim_scale(b.value) || ' of ' || b.happened_at
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
     cross join value_at(a.subject, m.name, coalesce(a.closed_at, v.happened_at - m.ago),
                         (v.happened_at + interval '2 hours')::date) b
order by a.subject, a.measure, v.happened_at
"""


def last_close(kind: str | None, now: datetime) -> datetime:
    """When the last day of what trades round the clock ended: what a change since the close counts from."""
    sessions = calendar(MARKETS.get(kind or "", "CRYPTO")).sessions(now - timedelta(days=14))
    return max(session.closes_at for session in takewhile(lambda session: session.closes_at <= now, sessions))


def indicator_values(now: datetime) -> Iterator[Reading]:
    """The indicators and volumes of every bar that was closed since the one before it."""
    for subject, width, kind, measures, since in db.rows(_BARS_DUE, now, *_ready(), SUBJECTS):
        names = [measure.partition("@")[0] for measure in measures]
        found = _bars(subject, width, kind, now, max(BARS, *(need(name).all for name in names)))
        zone = _zone(subject, width, kind)
        for measure, name, last_at in zip(measures, names, since, strict=True):
            path = _same_times(subject, width, zone, last_at) if zone and name == "volume_ratio" else found
            values = line(name, path, zone)
            known = [(bar.ends_at, value) for bar, value in zip(path, values, strict=True) if value is not None]
            for ends_at, value in known if last_at else known[-1:]:
                if not last_at or ends_at > last_at:
                    yield Reading(subject, measure, Decimal(str(round(value, 8))), ends_at, "candles")


def _zone(subject: str, width: str, kind: str | None) -> tzinfo | None:
    """By which clock the volumes of bars have their usual times; none for those of whole days."""
    if width == "1d":
        return None
    return calendar(market_of(subject)).week.zone if kind == "stock" else UTC


def _bars(subject: str, width: str, kind: str | None, now: datetime, count: int) -> list[Bar]:
    """The last closed bars in which something happened, oldest first; of a stock's days those that are adjusted."""
    if kind == "stock" and width == "1d":
        return [Bar(*row) for row in db.rows(_DAYS, subject, now, count)]
    return [Bar(*row) for row in db.rows(_CANDLES, subject, width, count)]


def _same_times(subject: str, width: str, zone: tzinfo, last_at: datetime | None) -> list[Bar]:
    """The bars that were closed since `last_at`, or the last one, and those of the same times in the weeks before."""
    found = db.rows(_SAME_TIMES, subject, width, str(zone), last_at, BARS if last_at else 1)
    return [Bar(*row) for row in found]


def _ready() -> tuple[str, str]:
    """Which of the measures without a value can have one, their subjects and names: their bars are enough, or all.

    All are, of a stock's days, those that a source was asked for since long enough; of others, those that we have made.
    """
    ready = [(subject, measure) for subject, measure, is_ready, *_ in _first_bars() if is_ready]
    return db.array(subject for subject, _ in ready), db.array(measure for _, measure in ready)


def waiting() -> dict[tuple[str, str], str]:
    """What each measure without a value waits for: `{("AAPL", "ema200@1d"): "262 of 1122 bars"}`."""
    found = {(subject, measure): counts for subject, measure, is_ready, *counts in _first_bars() if not is_ready}
    return {key: f"{count} of {wanted} bars" for key, (count, wanted) in found.items()}


def _first_bars() -> list[tuple[Any, ...]]:
    """Of each measure of bars without a value: whether it can have one, how many bars there are, and of how many."""
    asked = db.rows("select subject, measure from gauge where happened_at is null and measure like '%%@%%'")
    keys = [(subject, measure) for subject, measure in asked if of_stream(measure).by_bar]
    needs = [need(measure.partition("@")[0]) for _, measure in keys]
    return keys and db.rows(
        _FIRST_BARS,
        db.array(subject for subject, _ in keys),
        db.array(measure for _, measure in keys),
        db.array(each.least for each in needs),
        db.array(each.all for each in needs),
        db.array(bars.reach(each.all) for each in needs),
    )


_FIRST_BARS = """
select n.subject, n.measure,
       t.count >= n.enough or t.count >= n.least and (not m.by_day or exists (
         select from stock s where s.symbol = n.subject and s.bars_from <= (t.last - n.reach)::date)),
       t.count, case when m.by_day then n.enough else n.least end
from unnest(%s::text[], %s::text[], %s::int[], %s::int[], %s::interval[]) as n(subject, measure, least, enough, reach)
     join instrument i on i.symbol = n.subject
     cross join lateral (
       select split_part(n.measure, '@', 2) as bar, i.kind = 'stock' and n.measure like '%%@1d' as by_day) m
     cross join lateral (
       select count(*) as count, max(date) as last from (
         (select date from daily_bar b where m.by_day and b.symbol = n.subject order by b.date desc limit n.enough)
         union all
         (select null from candle c where not m.by_day and c.symbol = n.subject and c."interval" = m.bar limit n.enough)
       ) b) t
"""


_NAMED = """gauge g cross join lateral (select split_part(g.measure, '@', 1) collate "C" as name,
                                             split_part(g.measure, '@', 2) collate "C" as bar) m"""

# A stock's day is closed when its bar is there, and has ended with its session.
_STOCK_DAY = """coalesce((select k.closes_at from market_session k join stock t on t.market = k.market
                          where t.symbol = b.symbol and k.date = b.date),
                         (b.date + 1)::timestamp at time zone 'UTC')"""

_BARS_DUE = f"""
with asked as materialized (
  select g.subject, g.measure, m.bar, g.happened_at, i.kind from {_NAMED} join instrument i on i.symbol = g.subject
  where m.bar <> '' and m.name <> 'price'
), ended as (
  select a.*, c.ended_at from asked a cross join lateral (
    select candle_end(c."interval", c.starts_at) as ended_at from candle c
      join candle_feed f on f.feed = case when exists (select from pair p where p.symbol = c.symbol)
                                          then 'trade' else 'tick' end
    where (a.kind <> 'stock' or a.bar <> '1d') and c.symbol = a.subject and c."interval" = a.bar
      and candle_end(c."interval", c.starts_at) <= f.built_until
    order by c.starts_at desc limit 1) c
  union all
  select a.*, c.ended_at from asked a cross join lateral (
    select {_STOCK_DAY} as ended_at from daily_bar b
    where a.kind = 'stock' and a.bar = '1d' and b.symbol = a.subject order by b.date desc limit 1) c
)
select subject, bar, kind, array_agg(measure order by measure), array_agg(happened_at order by measure)
from ended where ended_at <= %s and case when happened_at is null
  then (subject, measure) in (select * from unnest(%s::text[], %s::text[])) else ended_at > happened_at end
group by subject, bar, kind order by min(happened_at) nulls first limit %s
"""

_FEED = """join candle_feed f
    on f.feed = case when exists (select from pair p where p.symbol = a.symbol) then 'trade' else 'tick' end"""

# In the shares of the last bar: a split is no fall of an average, and no bar of four times the volume.
_CANDLES = f"""
with asked as materialized (
  select a.*, f.built_until from (select %s::text as symbol, %s::text as width, %s as count) a {_FEED}
), line as materialized (
  select c.* from asked a cross join lateral (
    select *, candle_end("interval", starts_at) as ends_at from candle c
    where c.symbol = a.symbol and c."interval" = a.width and candle_end("interval", starts_at) <= a.built_until
    order by c.starts_at desc limit a.count) c
), newest as materialized (
  select max(starts_at) as at from line
)
select l.ends_at, l.high / r.ratio, l.low / r.ratio, l.close / r.ratio, l.volume * r.ratio
from line l, newest n cross join lateral (
  select product(s.ratio) as ratio from split s
  where s.symbol = l.symbol and s.date > (l.starts_at + interval '2 hours')::date
    and s.date <= (n.at + interval '2 hours')::date) r
order by l.ends_at
"""

_SAME_TIMES = f"""
with asked as materialized (
  select a.*, f.built_until from (
    select %s::text as symbol, %s::text as width, %s::text as zone, %s::timestamptz as last_at, %s as count) a
  {_FEED}
), due as materialized (
  select a.*, c.starts_at from asked a cross join lateral (
    select starts_at from candle c
    where c.symbol = a.symbol and c."interval" = a.width and candle_end("interval", starts_at) <= a.built_until
      and candle_end("interval", starts_at) > coalesce(a.last_at, '-infinity')
    order by c.starts_at desc limit a.count) c
), times as (
  select distinct symbol, width, (starts_at at time zone zone - n * interval '1 day') at time zone zone as starts_at
  from due, generate_series(0, 42) n
)
select candle_end(c."interval", c.starts_at) as ends_at, c.high, c.low, c.close, c.volume
from times t join candle c on c.symbol = t.symbol and c."interval" = t.width and c.starts_at = t.starts_at
order by ends_at
"""

_DAYS = f"""
select * from (
  select {_STOCK_DAY} as ends_at, b.high, b.low, b.close, coalesce(b.volume, 0) from adjusted_bar b
  where b.symbol = %s and b.date <= cast(%s as timestamptz)::date and b.high is not null and b.low is not null
  order by b.date desc limit %s) d order by ends_at
"""


def dates(now: datetime) -> list[Reading]:
    """The next report and the next ex-dividend day of each stock, and each dividend that was announced since."""
    return [Reading(*row) for row in db.rows(_DATES, now, now)]


_DATES = """
select g.subject, g.measure, extract(epoch from r.on_date::timestamp at time zone 'UTC'), r.received_at, r.source, null
from gauge g cross join lateral (
  select report_on as on_date, received_at, source from earnings_report e
  where g.measure = 'report_date' and e.symbol = g.subject and e.report_on >= cast(%s as timestamptz)::date
  union all
  select ex_on, received_at, source from dividend d
  where g.measure = 'ex_date' and d.symbol = g.subject and d.ex_on >= cast(%s as timestamptz)::date
  order by on_date limit 1) r
where g.measure in ('report_date', 'ex_date')
union all
select d.symbol, 'dividend', d.amount, d.received_at, d.source,
       trim_scale(d.amount) || ' a share, ex dividend on ' || to_char(d.ex_on, 'FMDD Mon YYYY')
from gauge g join dividend d on d.symbol = g.subject and d.received_at > coalesce(g.happened_at, g.created_at)
where g.measure = 'dividend'
"""


def forget() -> int:
    """Stop working out what no alert waits for any more, nor a message that is held; how many streams."""
    watched = " and ".join(
        f"""not exists (select from alert_watch w where w.direction = '{direction}' and w.subject = g.subject
              and w.stream = g.measure)"""
        for direction in ("up", "down", "either")
    )
    return len(
        db.rows(
            f"""with held as materialized (
                  select n.subject, n.data ->> 'stream' as stream
                  from delivery d join notification n on n.id = d.notification_id where d.state = 'held')
                delete from gauge g where g.measure ~ '[@/]' and {watched}
                  and not exists (select from held h where h.subject = g.subject and h.stream = g.measure)
                returning 1"""
        )
    )
