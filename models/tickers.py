"""Tickers: exactly the last 24 hours of every pair. What came is added and what left is taken away.

High and low are found again only where the trade that made them has left, from whole hours, the minutes at their
edges, and the single trades at the edges of those (`_AFRESH`); so are corrected pairs, and all of them once an hour.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from peewee import BigIntegerField, DecimalField, TextField

import db
from domain.candles import LENGTHS, MONDAY
from domain.candles import start as start_of
from domain.prices import Price
from models import events
from models.events import Position
from models.fields import InstantField

READER = "build_tickers"
WINDOW = timedelta(hours=24)
AWAY = timedelta(minutes=5)  # after so long it is cheaper to begin afresh than to catch up


class Ticker(db.BaseModel):
    """The last 24 hours of a pair, up to `ticker_window.until`; a pair without trades in it has only `last`."""

    app_may = "select"

    symbol = TextField(primary_key=True)
    open = DecimalField(null=True)  # of the first trade in the window
    high = DecimalField(null=True)
    low = DecimalField(null=True)
    last = DecimalField(null=True)  # of the last trade, however long ago
    change = DecimalField(null=True)  # last - open
    percent = DecimalField(null=True)
    volume = DecimalField()  # in the base asset
    quote_volume = DecimalField()
    trades = BigIntegerField()
    opened_at = InstantField(null=True)  # when the first was
    last_at = InstantField(null=True)


class TickerWindow(db.BaseModel):
    """Where the window of all tickers ends."""

    app_may = "select"

    reader = TextField(primary_key=True)
    until = InstantField(null=True)


class Advance(NamedTuple):
    """What one step did."""

    changed: list[str]  # symbols
    afresh: int  # tickers that were made anew
    drifted: int  # of those, how many turned out other than by adding and taking away; 0 unless something is wrong


def advance(now: datetime) -> Advance | None:
    """Move the window on to now, with the trades that the candles have; None while another one is at it.

    Everything is one statement, so that candles and their position are of one moment.
    """
    with db.transaction():
        start = events.hold(READER)
        if start is None:
            return None
        ((before, read_xid, read_id),) = db.rows(_PLACE)
        away = before is None or abs(now - before) > AWAY  # or our clock was set back
        all_afresh = away or start_of("1h", before) < start_of("1h", now)
        if away:
            start, before = Position(read_xid, read_id), now
        until = max(before, now)
        ((changed, afresh, drifted, xid, id_),) = db.database.execute_sql(
            _ADVANCE, {"xid": str(start.xid), "id": start.id, "all": all_afresh, **_edges(before, until)}
        ).fetchall()
        events.move(READER, Position(xid, id_))
        db.rows("update ticker_window set until = %s", until)
    return Advance(changed or [], afresh, 0 if away else drifted)


def _edges(before: datetime, until: datetime) -> dict[str, datetime]:
    """The window `(since, until]`, and where it was before; the whole minutes and hours in it."""
    since = until - WINDOW
    minute, last_minute = start_of("1m", since) + LENGTHS["1m"], start_of("1m", until)
    hour, last_hour = -(-(minute - MONDAY) // LENGTHS["1h"]) * LENGTHS["1h"] + MONDAY, start_of("1h", last_minute)
    return {
        "since": since,
        "soon": since + (until - before),
        "until": until,
        "before": before,
        "since_before": before - WINDOW,
        "minute": minute,
        "hour": hour,
        "last_hour": last_hour,
        "last_minute": last_minute,
    }


_PLACE = """
select w.until, p.xid::text::bigint, p.id from ticker_window w, reader_position p
where p.reader = 'build_candles.trade'
"""

# What came since the last step, and what left: a correction does not say what it changed, so its pair is made afresh.
_MOVES = """
reach as materialized (
  select xid, id from reader_position where reader = 'build_candles.trade'
), new as materialized (
  select t.symbol, t.traded_at, t.id, t.price, t.quantity, t.corrects from reach r join trade t
    on (t.xid, t.id) > (%(xid)s::text::xid8, %(id)s) and (t.xid, t.id) <= (r.xid, r.id)
), came as materialized (
  select * from new where traded_at > %(since)s and traded_at <= %(until)s
  union all  -- and what had come before its time, from a clock ahead of ours
  select t.symbol, t.traded_at, t.id, t.price, t.quantity, t.corrects from trade t
  where t.traded_at > %(before)s and t.traded_at > %(since)s and t.traded_at <= %(until)s
    and (t.xid, t.id) <= (%(xid)s::text::xid8, %(id)s)
), more as materialized (
  select symbol, count(*) as trades, sum(quantity) as volume, sum(quantity * price) as quote_volume,
         max(price) as high, min(price) as low, min(traded_at) as opened_at, max(traded_at) as last_at,
         (array_agg(price order by traded_at desc, id desc))[1] as last
  from came group by symbol
), less as materialized (
  select symbol, count(*) as trades, sum(quantity) as volume, sum(quantity * price) as quote_volume,
         max(price) as high, min(price) as low, bool_or(corrects is not null) as corrected
  from trade
  where traded_at > %(since_before)s and traded_at <= %(since)s and traded_at <= %(before)s
    and (xid, id) <= (%(xid)s::text::xid8, %(id)s)
  group by symbol
), corrected as materialized (
  select symbol from new where corrects is not null union select symbol from came where corrects is not null
), moved as materialized (
  select p.symbol,
         t.symbol is null or c.symbol is not null or coalesce(l.corrected, false)
           or coalesce(l.high >= t.high and (m.high is null or m.high < t.high), false)
           or coalesce(l.low <= t.low and (m.low is null or m.low > t.low), false) as afresh,
         t.trades + coalesce(m.trades, 0) - coalesce(l.trades, 0) as trades,
         t.volume + coalesce(m.volume, 0) - coalesce(l.volume, 0) as volume,
         t.quote_volume + coalesce(m.quote_volume, 0) - coalesce(l.quote_volume, 0) as quote_volume,
         greatest(t.high, m.high) as high, least(t.low, m.low) as low,
         t.open, t.opened_at, t.place,
         coalesce(l.symbol is not null or t.opened_at is null or m.opened_at <= t.opened_at, false) as opens,
         case when t.last_at is null or m.last_at > t.last_at then m.last else t.last end as last,
         greatest(t.last_at, m.last_at) as last_at,
         coalesce(m.last_at = t.last_at, false) as ends
  from pair p left join (select ctid as place, * from ticker) t using (symbol) left join more m using (symbol)
       left join less l using (symbol) left join corrected c using (symbol)
  where p.active and (%(all)s or coalesce(t.symbol is null, true) or m.symbol is not null or l.symbol is not null
                      or c.symbol is not null)
)
"""

# A correction that the candles do not have yet changes nothing, as they still count what it corrects. It is of the
# instant of what it corrects: that is said once more for the planner, which then looks at no other partitions.
_COUNTS = """(v.xid, v.id) <= (r.xid, r.id) and v.quantity > 0 and not exists (
    select from trade c where c.symbol = v.symbol and c.traded_at = v.traded_at and c.corrects = v.id
      and c.corrects is not null and (c.xid, c.id) <= (r.xid, r.id)
      and c.traded_at > %(since)s and c.traded_at <= %(until)s)"""

# The 24 hours of some pairs as the candles and trades say, up to the candles' position.
_AFRESH = f"""
anew as materialized (
  select symbol from moved where afresh or %(all)s
), piece as materialized (
  select v.symbol, v.price as high, v.price as low, v.quantity as volume, v.quantity * v.price as quote_volume,
         1::bigint as trades
  from reach r, anew a join trade v using (symbol)
  where v.traded_at > %(since)s and v.traded_at < %(minute)s and {_COUNTS}
  union all
  select v.symbol, v.price, v.price, v.quantity, v.quantity * v.price, 1
  from reach r, anew a join trade v using (symbol)
  where v.traded_at >= %(last_minute)s and v.traded_at <= %(until)s and {_COUNTS}
  union all
  select c.symbol, c.high, c.low, c.volume, c.quote_volume, c.trades
  from anew a join candle c using (symbol)
  where c."interval" = '1m' and c.starts_at >= %(minute)s and c.starts_at < %(hour)s
  union all
  select c.symbol, c.high, c.low, c.volume, c.quote_volume, c.trades
  from anew a join candle c using (symbol)
  where c."interval" = '1h' and c.starts_at >= %(hour)s and c.starts_at < %(last_hour)s
  union all
  select c.symbol, c.high, c.low, c.volume, c.quote_volume, c.trades
  from anew a join candle c using (symbol)
  where c."interval" = '1m' and c.starts_at >= %(last_hour)s and c.starts_at < %(last_minute)s
), whole as materialized (
  select a.symbol, coalesce(sum(p.trades), 0)::bigint as trades, coalesce(sum(p.volume), 0) as volume,
         coalesce(sum(p.quote_volume), 0) as quote_volume, max(p.high) as high, min(p.low) as low
  from anew a left join piece p using (symbol) group by a.symbol
)
"""

# The first and the last trade in the window are looked up where they may be others than before. The first is mostly
# one that leaves with the next step: those are read in one go.
_ADVANCE = f"""
with {_MOVES}, {_AFRESH}, leaving as materialized (
  select distinct on (v.symbol) v.symbol, v.price, v.traded_at
  from reach r, trade v
  where v.traded_at > %(since)s and v.traded_at <= %(soon)s and v.traded_at <= %(until)s and {_COUNTS}
  order by v.symbol, v.traded_at, v.id
), made as materialized (
  select m.symbol, m.place, w.symbol is not null as anew,
         w.symbol is not null and not m.afresh and (m.trades, m.volume, m.quote_volume, m.high, m.low)
           is distinct from (w.trades, w.volume, w.quote_volume, w.high, w.low) as drifted,
         case when w.symbol is null then m.trades else w.trades end as trades,
         case when w.symbol is null then m.volume else w.volume end as volume,
         case when w.symbol is null then m.quote_volume else w.quote_volume end as quote_volume,
         case when w.symbol is null then m.high else w.high end as high,
         case when w.symbol is null then m.low else w.low end as low,
         case when w.symbol is null and not m.opens then m.open else coalesce(n.price, f.price) end as open,
         case when w.symbol is null and not m.opens then m.opened_at
              else coalesce(n.traded_at, f.traded_at) end as opened_at,
         case when w.symbol is null and not m.ends then m.last else coalesce(l.price, d.close) end as last,
         case when w.symbol is null and not m.ends then m.last_at
              else coalesce(l.traded_at, m.last_at, d.known_at) end as last_at
  from moved m left join whole w using (symbol) left join leaving n using (symbol)
    left join lateral (
      select v.price, v.traded_at from reach r, trade v
      where (w.symbol is not null or m.opens) and n.symbol is null and v.symbol = m.symbol
        and v.traded_at > %(since)s and v.traded_at <= %(until)s and {_COUNTS}
      order by v.traded_at, v.id limit 1) f on true
    left join lateral (
      select v.price, v.traded_at from reach r, trade v
      where (w.symbol is not null or m.ends) and v.symbol = m.symbol and v.traded_at > %(since)s
        and v.traded_at <= %(until)s and {_COUNTS}
      order by v.traded_at desc, v.id desc limit 1) l on true
    left join lateral (
      select c.close, c.known_at from candle c
      where w.symbol is not null and l.price is null and c.symbol = m.symbol and c."interval" = '1d'
      order by c.starts_at desc limit 1) d on true
), gone as (
  delete from ticker t using pair p where p.symbol = t.symbol and not p.active
), news as materialized (
  select m.* from made m left join ticker t on t.ctid = m.place
  where (m.open, m.high, m.low, m.last, m.volume, m.quote_volume, m.trades, m.opened_at, m.last_at) is distinct from
        (t.open, t.high, t.low, t.last, t.volume, t.quote_volume, t.trades, t.opened_at, t.last_at)
), moved_on as (
  update ticker t set
    open = n.open, high = n.high, low = n.low, last = n.last, volume = n.volume, quote_volume = n.quote_volume,
    trades = n.trades, opened_at = n.opened_at, last_at = n.last_at
  from news n where t.ctid = n.place
), added as (
  insert into ticker (symbol, open, high, low, last, volume, quote_volume, trades, opened_at, last_at)
  select symbol, open, high, low, last, volume, quote_volume, trades, opened_at, last_at
  from news where place is null order by symbol
)
select (select array_agg(symbol::text) from news), (select count(*) from made where anew),
       (select count(*) from made where drifted), r.xid::text::bigint, r.id
from reach r
"""


def last_prices(symbols: Collection[str]) -> list[Price]:
    """The last prices of these pairs, of those that have one.

    Where the last trade was corrected or cancelled the price is another one from now on, not from when it was made.
    """
    found = db.rows(
        """select t.symbol, t.last,
                  case when q.happened_at >= t.last_at and q.price <> t.last then w.until else t.last_at end, 'exchange'
           from ticker t join instrument i using (symbol) join quote q using (symbol), ticker_window w
           where t.symbol = any(%s::text[]) and t.last is not null and i.active and i.kind = 'pair'""",
        db.array(symbols),
    )
    return [Price(*row) for row in found]


def tickers(symbols: Collection[str] | None = None) -> list[dict[str, Any]]:
    """The tickers of all active pairs, or of some, each with the end of its 24 hours."""
    return db.maps(
        """select t.*, w.until from ticker t join pair p using (symbol), ticker_window w
           where p.active and (%s::text[] is null or t.symbol = any(%s::text[])) order by t.symbol""",
        *[db.array(symbols) if symbols is not None else None] * 2,
    )
