"""Buckets in all nine intervals as their trades or ticks say: made anew, compared with what stands there, mended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import db
from domain.candles import BELOW_A_DAY, INTERVALS, LENGTHS, ROLL_UP
from models import events, feeds
from models.events import Position

BY_KEY = "set local enable_seqscan = off"  # everything is found by key, also while there are no statistics yet


class Buckets(NamedTuple):
    """Buckets of one interval by columns: array literals that go back to the database as they came."""

    symbols: str
    starts: str
    since: datetime  # of the first
    until: datetime  # of the last, at its end


def rebuild(feed: str, minutes: Buckets, end: Position) -> int:
    """Make these minutes anew from their trades or ticks, and all that is made of them; how many candles changed.

    The caller holds the feed. Candles are of what comes up to its position and of no more, whatever is there: so who
    reads them together with the position knows exactly what is in them.
    """
    return sum(count for ((count,),) in _each_interval(feed, minutes, end, "count(*)"))


def mend(feed: str, since: datetime, until: datetime, symbols: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Compare the candles of a time with what they are made of and mend them, in one transaction; what was wrong.

    Each as symbol, interval, starts_at and `was`: missing, wrong, or too many where there was no trade.
    """
    with db.transaction():
        position = events.hold(f"build_candles.{feed}", wait=True) or Position(0, 0)
        found = db.rows(_ALL_OF[feed], since, until, None if symbols is None else list(symbols), list(INTERVALS))
        if found[0][0] is None:
            return []
        levels = _each_interval(feed, Buckets(*found[0]), position, _WHAT_WAS_WRONG)
        return [
            {"symbol": symbol, "interval": interval, "starts_at": starts_at, "was": was}
            for interval, rows in zip(INTERVALS, levels, strict=True)
            for symbol, starts_at, was in rows
        ]


_WHAT_WAS_WRONG = """symbol, starts_at,
  case when place is null then 'missing' when open is null then 'too many' else 'wrong' end"""

# Every minute of a time that has trades or ticks, and every candle of any interval that begins in it.
_ALL_OF = {
    feed: f"""
    with given as materialized (
      select greatest(%s::timestamptz, f.kept_from) as since, %s::timestamptz as until, %s::text[] as only
      from candle_feed f where f.feed = '{feed}'
    ), named as materialized (
      select n.symbol from given g, {names} n where g.only is null or n.symbol = any(g.only)
    ), bucket as materialized (
      select x.symbol, date_bin('1 minute', x.{column}, timestamptz '2000-01-03 00:00Z') as starts_at
      from given g, named n join {feed} x using (symbol) where x.{column} >= g.since and x.{column} < g.until
      union
      select c.symbol, c.starts_at
      from given g, named n cross join unnest(%s::text[]) as i("interval") join candle c using (symbol, "interval")
      where c.starts_at >= g.since and c.starts_at < g.until
    )
    select array_agg(symbol)::text, array_agg(starts_at)::text, min(starts_at), max(starts_at) + interval '1 minute'
    from bucket
    """
    for feed, column, names in (
        (feeds.TRADE, "traded_at", "pair"),
        (feeds.TICK, "happened_at", "(select symbol from instrument except select symbol from pair)"),
    )
}


def _each_interval(feed: str, minutes: Buckets, end: Position, report: str) -> Iterator[list[tuple[Any, ...]]]:
    """Write what these minutes, and then what is made of them, should be; yields a report of what changed in each."""
    bounds = {"as_of": "infinity", "xid": str(end.xid), "id": end.id, **minutes._asdict()}
    db.rows(BY_KEY)
    for interval, lower in (("1m", ""), *ROLL_UP):
        source = FROM_RAW[feed] if interval == "1m" else _ROLL_UP[feed]
        around = {"since": minutes.since - LENGTHS[interval], "until": minutes.until + LENGTHS[interval]}
        values = {**bounds, **around, "interval": interval, "lower": lower}
        yield db.database.execute_sql(_WRITE.format(built=source, report=report), values).fetchall()


# One bucket each from its trades or ticks, of those that had reached us at an instant. The bounds of all buckets are
# there for the planner: it looks at no other partitions. So is `offset 0`: buckets are looked up one by one, where a
# join by symbol would hold each of a symbol's buckets against all of its trades. A trade that was corrected or
# cancelled counts for nothing.
_TOUCHED = """
touched as materialized (
  select distinct u.symbol, candle_start(%(interval)s, u.starts_at) as starts_at,
         candle_end(%(interval)s, candle_start(%(interval)s, u.starts_at)) as ends_at
  from unnest(%(symbols)s::text[], %(starts)s::timestamptz[]) as u(symbol, starts_at)
)
"""

FROM_RAW = {
    feed: f"""{_TOUCHED}, raw as materialized (
  select t.symbol, t.starts_at, x.{column} as at, x.id, x.price, {quantity} as quantity, x.received_at,
         {corrects} as corrects
  from touched t cross join lateral (
    select * from {feed} x
    where x.symbol = t.symbol and x.{column} >= t.starts_at and x.{column} < t.ends_at
      and x.received_at <= %(as_of)s and x.{partitioned_by} >= %(since)s and x.{column} < %(until)s
      and (x.xid, x.id) <= (%(xid)s::text::xid8, %(id)s) offset 0) x
), built as materialized (
  select symbol, starts_at, prices[1] as open, high, low, prices[cardinality(prices)] as close, volume, quote_volume,
         trades, known_at, last_at
  from (
    select symbol, starts_at, array_agg(price order by at, id) filter (where counts) as prices,
           max(price) filter (where counts) as high, min(price) filter (where counts) as low,
           sum(quantity) filter (where counts) as volume, sum(quantity * price) filter (where counts) as quote_volume,
           count(*) filter (where counts) as trades, max(received_at) as known_at,
           max(at) filter (where counts) as last_at
    from (select r.*, {counts} as counts from raw r left join raw c on c.corrects = r.id) r
    group by symbol, starts_at) b
  where trades > 0
)
"""
    for feed, column, partitioned_by, quantity, corrects, counts in (
        (feeds.TRADE, "traded_at", "traded_at", "x.quantity", "x.corrects", "r.quantity <> 0 and c.corrects is null"),
        (feeds.TICK, "happened_at", "received_at", "0", "null::bigint", "true"),
    )
}

# A minute whose trades were all cancelled has no candle that could say when: the corrections do.
_ROLL_UP = {
    feed: f"""{_TOUCHED}, built as materialized (
  select symbol, starts_at, opens[1] as open, high, low, closes[cardinality(closes)] as close, volume, quote_volume,
         trades, {known_at} as known_at, last_at
  from (
    select t.symbol, t.starts_at, t.ends_at, array_agg(c.open order by c.starts_at) as opens, max(c.high) as high,
           min(c.low) as low, array_agg(c.close order by c.starts_at) as closes, sum(c.volume) as volume,
           sum(c.quote_volume) as quote_volume, sum(c.trades)::bigint as trades, max(c.known_at) as known_at,
           max(c.last_at) as last_at
    from touched t cross join lateral (
      select * from candle c
      where c.symbol = t.symbol and c."interval" = %(lower)s and c.starts_at >= t.starts_at
        and c.starts_at < t.ends_at offset 0) c
    group by 1, 2, 3) b
)
"""
    for feed, known_at in (
        (
            feeds.TRADE,
            """greatest(known_at, (
             select max(x.received_at) from trade x
             where x.symbol = b.symbol and x.traded_at >= b.starts_at and x.traded_at < b.ends_at
               and x.corrects is not null and x.traded_at >= %(since)s and x.traded_at < %(until)s
               and (x.xid, x.id) <= (%(xid)s::text::xid8, %(id)s)))""",
        ),
        (feeds.TICK, "known_at"),
    )
}

# What is as it should be is not written: anti-join before the upsert. A bucket whose trades were cancelled goes.
_WRITE = """
with {built}, news as materialized (
  select t.symbol, t.starts_at, b.open, b.high, b.low, b.close, b.volume, b.quote_volume, b.trades, b.known_at,
         b.last_at, c.place
  from touched t left join built b using (symbol, starts_at) left join lateral (
    select c.ctid as place, c.* from candle c
    where c.symbol = t.symbol and c."interval" = %(interval)s and c.starts_at = t.starts_at limit 1) c on true
  where (c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trades, c.known_at, c.last_at) is distinct from
        (b.open, b.high, b.low, b.close, b.volume, b.quote_volume, b.trades, b.known_at, b.last_at)
), gone as (
  delete from candle where ctid = any(array(select place from news where open is null))
), mended as (
  update candle c
  set open = n.open, high = n.high, low = n.low, close = n.close, volume = n.volume,
      quote_volume = n.quote_volume, trades = n.trades, known_at = n.known_at, last_at = n.last_at
  from news n where c.ctid = n.place and n.open is not null
), added as (
  insert into candle (symbol, "interval", starts_at, open, high, low, close, volume, quote_volume, trades, known_at,
                      last_at)
  select symbol, %(interval)s, starts_at, open, high, low, close, volume, quote_volume, trades, known_at, last_at
  from news where open is not null and place is null order by symbol, starts_at
)
select {report} from news
"""


def agrees(feed: str, symbol: str, since: datetime, until: datetime) -> bool:
    """Whether in whole days the candles of every interval up to a day have as many trades or ticks, and as much volume,
    as there are.
    """
    source = {
        feeds.TRADE: "(select symbol, traded_at as at, quantity from valid_trade)",
        feeds.TICK: "(select symbol, happened_at as at, 0 as quantity from tick)",
    }
    ((same,),) = db.rows(
        f"""select bool_and((c.trades, c.volume) = (x.trades, x.volume))
            from (select count(*) as trades, coalesce(sum(x.quantity), 0) as volume
                  from {source[feed]} x where x.symbol = %s and x.at >= %s and x.at < %s) x
              cross join unnest(%s::text[]) as i("interval") cross join lateral (
                select coalesce(sum(c.trades), 0)::bigint as trades, coalesce(sum(c.volume), 0) as volume from candle c
                where c.symbol = %s and c."interval" = i."interval" and c.starts_at >= %s and c.starts_at < %s) c""",
        *(symbol, since, until, db.array([*BELOW_A_DAY, "1d"]), symbol, since, until),
    )
    return bool(same)
