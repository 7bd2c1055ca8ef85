"""Building candles in all nine intervals: what comes in order is added, what is late or corrected made anew."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import db
from domain.candles import BELOW_A_DAY, INTERVALS, LENGTHS, ROLL_UP
from models import events, feeds
from models.events import Position

ROWS = 50_000  # so many new trades or ticks are looked at in one transaction


class Buckets(NamedTuple):
    """Buckets of one interval by columns: array literals that go back to the database as they came."""

    symbols: str
    starts: str
    since: datetime  # of the first
    until: datetime  # of the last, at its end


class Batch(NamedTuple):
    """What one transaction did."""

    rows: int  # new trades or ticks
    symbols: list[str]  # whose candles changed
    changed: int  # candles
    too_late: int  # rows from before the feed's kept_from, which change nothing


def build(feed: str, now: datetime) -> Iterator[Batch]:
    """Bring what is new in a feed into the candles, in one transaction per batch, until nothing is left.

    The position moves in the transaction of the candles; of two builds at once one ends without doing anything.
    """
    more = True
    while more:
        with db.transaction():
            position = events.hold(f"build_candles.{feed}")
            if position is None:
                return  # another build is at it
            if feed == feeds.TRADE:
                feeds.look(feed, now)
            else:
                feeds.note_failures(now)
            batch, more = _build_page(feed, position)
        yield batch


def _build_page(feed: str, start: Position) -> tuple[Batch, bool]:
    """One batch behind `start`, and whether there may be more."""
    db.rows(_BY_KEY)
    values = {"xid": str(start.xid), "id": start.id, "limit": ROWS, "intervals": list(INTERVALS)}
    ((rows, xid, id_, names, added, too_late, is_held_back, *late),) = db.database.execute_sql(_ADD[feed], values)
    end = Position(xid, id_) if rows else start
    changed = added + (rebuild(feed, Buckets(*late), end) if late[0] else 0)
    if rows:
        events.move(f"build_candles.{feed}", end)
    is_full = rows == ROWS
    if not is_full and not is_held_back:
        db.rows("update candle_feed set built_until = looked_at where feed = %s", feed)
    return Batch(rows, names if changed else [], changed, too_late), is_full


_BY_KEY = "set local enable_seqscan = off"  # everything is found by key, also while there are no statistics yet

_CORRECTED = """exists (select from trade x where x.symbol = t.symbol and x.traded_at >= t.starts_at
                     and x.traded_at < t.starts_at + interval '1 minute' and x.corrects is not null)"""

# What is new, by position: `(xid, id)` behind the oldest open transaction, so that none that commits late is passed
# over. If all that is new of a symbol happened after all that its candles have, and nothing is corrected, it is added
# to them; otherwise its minutes are late, and returned, to be made anew.
_ADD = {
    feed: f"""
    with page as materialized (
      select x.symbol, x.{column} as at, x.xid, x.id, x.price, {quantity} as quantity, x.received_at from {feed} x
      where (x.xid, x.id) > (%(xid)s::text::xid8, %(id)s) and x.xid < pg_snapshot_xmin(pg_current_snapshot())
      order by x.xid, x.id limit %(limit)s
    ), touched as materialized (
      select p.symbol, date_bin('1 minute', p.at, timestamptz '2000-01-03 00:00Z') as starts_at,
             p.at < f.kept_from as too_late, array_agg(p.price order by p.at, p.id) as prices, max(p.price) as high,
             min(p.price) as low, sum(p.quantity) as volume, sum(p.quantity * p.price) as quote_volume,
             count(*) as trades, max(p.received_at) as known_at, min(p.at) as first_at, max(p.at) as last_at
      from page p join candle_feed f on f.feed = '{feed}' {only} group by 1, 2, 3
    ), fresh as materialized (
      select t.*, prices[1] as open, prices[cardinality(prices)] as close, count(*) over of as minutes,
             bool_or(t.first_at <= n.last_at or {corrected}) over of as is_late
      from touched t left join lateral (select c.last_at from candle c where c.symbol = t.symbol and c."interval" = '1M'
                                        order by c.starts_at desc limit 1) n on true
      where not t.too_late window of as (partition by t.symbol)
    ), news as materialized (
      select symbol, i."interval", candle_start(i."interval", starts_at) as starts_at, open, high, low, close, volume,
             quote_volume, trades, known_at, last_at
      from fresh cross join unnest(%(intervals)s::text[]) as i("interval")
      where is_late is not true and minutes = 1
      union all
      select symbol, i."interval", candle_start(i."interval", starts_at), (array_agg(open order by starts_at))[1],
             max(high), min(low), (array_agg(close order by starts_at desc))[1], sum(volume), sum(quote_volume),
             sum(trades)::bigint, max(known_at), max(last_at)
      from fresh cross join unnest(%(intervals)s::text[]) as i("interval")
      where is_late is not true and minutes > 1 group by 1, 2, 3
    ), added as (
      insert into candle as c (symbol, "interval", starts_at, open, high, low, close, volume, quote_volume, trades,
                               known_at, last_at)
      select * from news
      on conflict (symbol, "interval", starts_at) do update
      set high = greatest(c.high, excluded.high), low = least(c.low, excluded.low), close = excluded.close,
          volume = c.volume + excluded.volume, quote_volume = c.quote_volume + excluded.quote_volume,
          trades = c.trades + excluded.trades, known_at = greatest(c.known_at, excluded.known_at),
          last_at = excluded.last_at
    )
    select (select count(*) from page), last.xid::text::bigint, last.id,
           (select array_agg(distinct symbol::text) from fresh), (select count(*) from news),
           (select coalesce(sum(trades), 0)::int from touched where too_late),
           exists(select from {feed} x where x.xid >= pg_snapshot_xmin(pg_current_snapshot())), late.*
    from (select array_agg(symbol)::text, array_agg(starts_at)::text, min(starts_at),
                 max(starts_at) + interval '1 minute' from fresh where is_late) late
      left join (select xid, id from page order by xid desc, id desc limit 1) last on true
    """
    for feed, column, quantity, only, corrected in (
        (feeds.TRADE, "traded_at", "x.quantity", "", _CORRECTED),
        # What the exchange here trades has the candles of its trades.
        (feeds.TICK, "happened_at", "0", "where not exists (select from pair where pair.symbol = p.symbol)", "false"),
    )
}


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
    db.rows(_BY_KEY)
    for interval, lower in (("1m", ""), *ROLL_UP):
        source = _FROM_RAW[feed] if interval == "1m" else _ROLL_UP[feed]
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

_GROUPED = """{touched}, raw as materialized ({raw}), built as materialized (
  select symbol, starts_at, prices[1] as open, high, low, prices[cardinality(prices)] as close, volume, quote_volume,
         trades, known_at, last_at
  from (
    select symbol, starts_at, array_agg(price order by at, id) filter (where counts) as prices,
           max(price) filter (where counts) as high, min(price) filter (where counts) as low,
           sum(quantity) filter (where counts) as volume, sum(quantity * price) filter (where counts) as quote_volume,
           count(*) filter (where counts) as trades, max(received_at) as known_at,
           max(at) filter (where counts) as last_at
    from (select r.*, r.quantity <> 0 and c.corrects is null as counts
          from raw r left join raw c on c.corrects = r.id) r
    group by symbol, starts_at) b
  where trades > 0
)
"""

_FROM_RAW = {
    feeds.TRADE: _GROUPED.format(
        touched=_TOUCHED,
        raw="""
  select t.symbol, t.starts_at, x.traded_at as at, x.id, x.price, x.quantity, x.received_at, x.corrects
  from touched t cross join lateral (
    select * from trade x
    where x.symbol = t.symbol and x.traded_at >= t.starts_at and x.traded_at < t.ends_at
      and x.received_at <= %(as_of)s and x.traded_at >= %(since)s and x.traded_at < %(until)s
      and (x.xid, x.id) <= (%(xid)s::text::xid8, %(id)s) offset 0) x
""",
    ),
    feeds.TICK: _GROUPED.format(
        touched=_TOUCHED,
        raw="""
  select t.symbol, t.starts_at, x.happened_at as at, x.id, x.price, 0 as quantity, x.received_at,
         null::bigint as corrects
  from touched t cross join lateral (
    select * from tick x
    where x.symbol = t.symbol and x.happened_at >= t.starts_at and x.happened_at < t.ends_at
      and x.received_at <= %(as_of)s and x.received_at >= %(since)s and x.happened_at < %(until)s
      and (x.xid, x.id) <= (%(xid)s::text::xid8, %(id)s) offset 0) x
""",
    ).replace("r.quantity <> 0 and c.corrects is null", "true"),
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


def as_of(symbol: str, interval: str, since: datetime, until: datetime, at: datetime) -> str:
    """The candles of a time, and the last one before it, as they were at an instant: those that have changed since.

    An array literal for candle_line(). Only buckets whose trades or ticks are still there can be made again.
    """
    ((feed, starts, first, last),) = db.rows(_CHANGED_SINCE, symbol, interval, since, min(until, at), at)
    if starts is None:
        return "{}"
    found = Buckets(db.array([symbol] * len(starts)), db.array(starts), first, last)
    values = {"interval": interval, "as_of": at, "xid": str(2**63), "id": events.LAST_ID, **found._asdict()}
    sql = f"""with {_FROM_RAW[feed]}
              select array_agg((symbol, %(interval)s, starts_at, open, high, low, close, volume, quote_volume, trades,
                                known_at, last_at)::candle)::text from built"""
    ((made,),) = db.database.execute_sql(sql, values).fetchall()
    return made or "{}"


_CHANGED_SINCE = """
with given as materialized (
  select f.feed, f.kept_from, g.* from (
    select %s::text as symbol, %s::text as width, %s::timestamptz as since, %s::timestamptz as until,
           %s::timestamptz as as_of) g
  join candle_feed f on f.feed = case when g.symbol in (select symbol from pair) then 'trade' else 'tick' end
), grid as (
  select s at time zone 'UTC' as starts_at
  from given g, generate_series(candle_start(g.width, greatest(g.since, g.kept_from)) at time zone 'UTC',
                                g.until at time zone 'UTC', candle_length(g.width)) s
  union
  select candle_start(g.width, b.at) from given g cross join lateral (
    select x.traded_at as at from trade x
    where g.feed = 'trade' and x.symbol = g.symbol and x.traded_at < candle_start(g.width, g.since)
      and x.received_at <= g.as_of and x.quantity > 0 and not exists (
        select from trade c where c.symbol = x.symbol and c.traded_at = x.traded_at and c.corrects = x.id
          and c.corrects is not null and c.received_at <= g.as_of)
    order by x.traded_at desc limit 1) b
  union
  select candle_start(g.width, b.at) from given g cross join lateral (
    select x.happened_at as at from tick x
    where g.feed = 'tick' and x.symbol = g.symbol and x.happened_at < candle_start(g.width, g.since)
      and x.received_at <= g.as_of
    order by x.happened_at desc limit 1) b
)
select g.feed, array_agg(b.starts_at order by b.starts_at), min(b.starts_at), candle_end(g.width, max(b.starts_at))
from given g left join grid b on b.starts_at >= g.kept_from and not exists (
  select from candle c where c.symbol = g.symbol and c."interval" = g.width and c.starts_at = b.starts_at
    and c.known_at <= g.as_of)
group by g.feed, g.width
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
