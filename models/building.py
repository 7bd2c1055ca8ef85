"""Building candles as trades and ticks come: what is in order is added, what is late or corrected made anew."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import db
from domain.candles import INTERVALS
from models import events, feeds
from models.buckets import BY_KEY, Buckets, rebuild
from models.events import Position

ROWS = 50_000  # so many new trades or ticks are looked at in one transaction


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
    db.rows(BY_KEY)
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
             array_agg(p.price order by p.at, p.id) as prices, max(p.price) as high, min(p.price) as low,
             sum(p.quantity) as volume, sum(p.quantity * p.price) as quote_volume, count(*) as trades,
             max(p.received_at) as known_at, min(p.at) as first_at, max(p.at) as last_at
      from page p group by 1, 2
    ), fresh as materialized (
      select t.*, prices[1] as open, prices[cardinality(prices)] as close, count(*) over of as minutes,
             bool_or(t.first_at <= n.last_at or {corrected}) over of as is_late
      from touched t join candle_feed f on f.feed = '{feed}' and t.starts_at >= f.kept_from
        left join lateral (select c.last_at from candle c where c.symbol = t.symbol and c."interval" = '1M'
                           order by c.starts_at desc limit 1) n on true
      {only} window of as (partition by t.symbol)
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
    select (select coalesce(sum(trades), 0)::int from touched), last.xid::text::bigint, last.id,
           (select array_agg(distinct symbol::text) from fresh), (select count(*) from news),
           (select coalesce(sum(t.trades), 0)::int
            from touched t join candle_feed f on f.feed = '{feed}' and t.starts_at < f.kept_from {only}),
           exists(select from {feed} x where x.xid >= pg_snapshot_xmin(pg_current_snapshot())), late.*
    from (select array_agg(symbol)::text, array_agg(starts_at)::text, min(starts_at),
                 max(starts_at) + interval '1 minute' from fresh where is_late) late
      left join (select xid, id from page order by xid desc, id desc limit 1) last on true
    """
    for feed, column, quantity, only, corrected in (
        (feeds.TRADE, "traded_at", "x.quantity", "", _CORRECTED),
        # What the exchange here trades has the candles of its trades.
        (feeds.TICK, "happened_at", "0", "where not exists (select from pair where pair.symbol = t.symbol)", "false"),
    )
}
