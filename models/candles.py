"""Trades, candles, and reading them: without gaps, and as they were at an instant."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, ClassVar

from peewee import BigIntegerField, CompositeKey, DecimalField, TextField

import db
from domain.candles import BELOW_A_DAY, INTERVALS
from models import events, feeds
from models.buckets import FROM_RAW, Buckets
from models.fields import InstantField, Xid8Field


class Trade(db.BaseModel):
    """A trade of the app's exchange: insert one when it happens; it is in candles and tickers seconds later.

    A trade that was wrong stays, and is corrected by another row with its `symbol` and `traded_at` and its `id` in
    `corrects`, which takes its place; with `quantity` 0 it is cancelled. Of trades of one instant the one with the
    lower `id` came first. `traded_at` is from 2000 on and at most 15 minutes ahead of our clock. Kept TRADE_DAYS.
    """

    app_may = "select, insert (symbol, traded_at, price, quantity, side, corrects)"

    symbol = TextField()
    traded_at = InstantField()
    price = DecimalField()
    quantity = DecimalField()
    side = TextField()  # of who took the offer: buy, sell
    corrects = BigIntegerField(null=True)
    received_at = InstantField()
    id = BigIntegerField()
    xid = Xid8Field()

    class Meta:
        primary_key = CompositeKey("symbol", "traded_at", "id")


class Candle(db.BaseModel):
    """A bucket in which something traded, or of a price in which it was asked: 1m, 5m, 15m, 30m, 1h, 4h, 1d, 1w, 1M.

    In UTC; weeks begin on Monday. A late or corrected trade mends its buckets. There is no row for a bucket without
    trades: `candle_line(symbol, interval, since, until)` gives every bucket, with the close before it and `synthetic`
    where nothing traded, `outage` where we were not looking, and whether it is `closed`; with a fifth argument, what
    was known at that instant. Candles shorter than a day are kept MINUTE_DAYS.
    """

    app_may = "select"
    app_calls: ClassVar[dict[str, str]] = {
        "candle_line(text, text, timestamptz, timestamptz, timestamptz, candle[])": "every bucket of a symbol and "
        "interval that begins from the third to before the fourth argument",
    }

    symbol = TextField()
    interval = TextField()
    starts_at = InstantField()
    open = DecimalField()
    high = DecimalField()
    low = DecimalField()
    close = DecimalField()
    volume = DecimalField()  # in the base asset; 0 for a price's candle
    quote_volume = DecimalField()
    trades = BigIntegerField()  # of a price's candle: how many ticks
    known_at = InstantField()  # when we received the last that is in it
    last_at = InstantField()  # when the last that is in it happened

    class Meta:
        primary_key = CompositeKey("symbol", "interval", "starts_at")


def feed_of(symbol: str) -> str | None:
    """What the candles of a symbol are made of: trades if it is a pair, ticks if it is followed; None if neither."""
    ((is_pair, is_followed),) = db.rows(
        "select %s in (select symbol from pair), %s in (select symbol from instrument)", symbol, symbol
    )
    return feeds.TRADE if is_pair else feeds.TICK if is_followed else None


def first_at(feed: str, symbol: str) -> datetime | None:
    """When the oldest begins that candles of a symbol are made of, or one of them; None if there is nothing."""
    oldest = {
        feeds.TRADE: "(select min(traded_at) from trade where symbol = %s)",
        feeds.TICK: "(select min(happened_at) from tick where symbol = %s)",
    }
    found = db.rows(
        f"""select greatest(f.kept_from, o.at)
            from candle_feed f, (select least({oldest[feed]}, (
              select min(c.starts_at) from unnest(%s::text[]) as i("interval") cross join lateral (
                select starts_at from candle where symbol = %s and "interval" = i."interval"
                order by starts_at limit 1) c)) as at) o
            where f.feed = '{feed}' and o.at is not null""",
        *(symbol, db.array(INTERVALS), symbol),
    )
    return found[0][0] if found else None


def line(
    symbol: str, interval: str, since: datetime, until: datetime, as_of: datetime | None = None
) -> list[dict[str, Any]]:
    """Every bucket that begins in the time, oldest first; with `as_of`, what was known at that instant.

    Candles that have changed since then are made again from what had come by then, as long as that is kept.
    """
    if as_of is None:
        return db.maps("select * from candle_line(%s, %s, %s, %s)", symbol, interval, since, until)
    return db.maps(
        "select * from candle_line(%s, %s, %s, %s, %s, %s::candle[])",
        *(symbol, interval, since, until, as_of, _made_again(symbol, interval, since, until, as_of)),
    )


def _made_again(symbol: str, interval: str, since: datetime, until: datetime, at: datetime) -> str:
    """The candles of a time, and the last one before it, as they were at an instant: those that have changed since.

    An array literal for candle_line(). Only buckets whose trades or ticks are still there can be made again.
    """
    ((feed, starts, first, last),) = db.rows(_CHANGED_SINCE, symbol, interval, since, min(until, at), at)
    if starts is None:
        return "{}"
    found = Buckets(db.array([symbol] * len(starts)), db.array(starts), first, last)
    values = {"interval": interval, "as_of": at, "xid": str(2**63), "id": events.LAST_ID, **found._asdict()}
    sql = f"""with {FROM_RAW[feed]}
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


def newest(symbols: Collection[str]) -> list[dict[str, Any]]:
    """The newest candle of each interval of these symbols."""
    return db.maps(
        """select c.*, e.ends_at, coalesce(e.ends_at <= f.built_until, false) as closed
           from unnest(%s::text[]) as s(symbol) cross join unnest(%s::text[]) as i("interval")
             cross join lateral (select * from candle c where c.symbol = s.symbol and c."interval" = i."interval"
                                 order by c.starts_at desc limit 1) c
             cross join lateral candle_end(c."interval", c.starts_at) as e(ends_at)
             join candle_feed f on f.feed = case when exists (select from pair p where p.symbol = s.symbol)
                                                 then 'trade' else 'tick' end
           order by c.symbol, e.ends_at""",
        db.array(symbols),
        db.array(INTERVALS),
    )


def prune(before: datetime) -> int:
    """Drop the candles shorter than a day from before an instant, symbol by symbol; how many. Outages go with them."""
    gone = 0
    for (symbol,) in db.rows("select symbol from pair union select symbol from instrument"):
        ((count,),) = db.rows(
            """with gone as (delete from candle
                             where symbol = %s and "interval" = any(%s::text[]) and starts_at < %s returning 1)
               select count(*) from gone""",
            *(symbol, db.array(BELOW_A_DAY), before),
        )
        gone += count
    db.rows("delete from outage where ended_at < %s", before)
    return gone
