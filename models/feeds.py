"""The streams that candles are made of: when somebody looked at them, and when nobody did."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from peewee import CompositeKey, TextField

import db
from models import events
from models.fields import InstantField

TRADE, TICK = "trade", "tick"
FEEDS = (TRADE, TICK)
ALL = "*"  # in place of a symbol
UNNOTICED = timedelta(minutes=1)  # looking less often than that is an outage


class CandleFeed(db.BaseModel):
    """What candles are made of, `trade` or `tick`, and how far.

    Before `kept_from` the single trades or ticks are gone, and the candles are all that is left.
    """

    app_may = "select"

    feed = TextField(primary_key=True)  # trade, tick
    looked_at = InstantField(null=True)  # when somebody last asked what had happened
    built_until = InstantField(null=True)  # what reached us before is in the candles
    kept_from = InstantField()


class Outage(db.BaseModel):
    """A time when nobody looked, or in vain: an empty bucket in there does not mean that nothing happened."""

    app_may = "select"

    feed = TextField()
    symbol = TextField()  # * is all of the feed
    began_at = InstantField()
    ended_at = InstantField(null=True)  # none: it lasts

    class Meta:
        primary_key = CompositeKey("feed", "symbol", "began_at")


def look(feed: str, now: datetime) -> None:
    """Somebody looks at the feed now. If nobody did for long that was an outage, but for the trades from meanwhile."""
    db.rows(_LOOK, feed, now, UNNOTICED, ALL)


# Trades are written by the served app: where there are some, it was at work, whether or not we were.
_LOOK = """
with before as materialized (
  select f.feed, f.looked_at, n.now, n.unnoticed from candle_feed f, cast(%s as text) as this,
         (select cast(%s as timestamptz) as now, cast(%s as interval) as unnoticed) n
  where f.feed = this for update of f
), seen as (
  select looked_at as at from before
  union select now from before
  union select t.traded_at from before b join trade t on t.traded_at > b.looked_at and t.traded_at < b.now
        where b.feed = 'trade' and b.now - b.looked_at > b.unnoticed
), apart as (
  select at as began_at, lead(at) over (order by at) as ended_at from seen
), noted as (
  insert into outage (feed, symbol, began_at, ended_at)
  select b.feed, %s, a.began_at, a.ended_at from apart a, before b where a.ended_at - a.began_at > b.unnoticed
  on conflict do nothing
)
update candle_feed f set looked_at = b.now from before b
where f.feed = b.feed and (f.looked_at is null or f.looked_at < b.now or f.looked_at > b.now + b.unnoticed)
"""


def note_failures(now: datetime) -> None:
    """Symbols whose price could not be had for long are in an outage, until an answer comes."""
    db.rows(_NOTE_FAILURES, now, UNNOTICED, now)


_NOTE_FAILURES = """
with failing as materialized (
  select q.symbol, q.failing_since from quote q join instrument i using (symbol)
  where i.active and q.failing_since < cast(%s as timestamptz) - cast(%s as interval)
), over as (
  update outage o set ended_at = greatest(cast(%s as timestamptz), o.began_at + interval '1 microsecond')
  where o.feed = 'tick' and o.ended_at is null and not exists (select from failing f where f.symbol = o.symbol)
)
insert into outage (feed, symbol, began_at)
select 'tick', f.symbol, f.failing_since from failing f
where not exists (select from outage o where o.feed = 'tick' and o.symbol = f.symbol and o.ended_at is null)
on conflict do nothing
"""


def freshness(now: datetime) -> list[dict[str, Any]]:
    """How old what the candles have of each feed is; more than a minute is too old."""
    return db.maps(
        """select 'candles of ' || feed || 's' as name, coalesce(%s - built_until, interval '1 day') as age,
                  cast(%s as interval) as allowed
           from candle_feed order by feed""",
        now,
        UNNOTICED,
    )


def keep_from(feed: str, at: datetime) -> datetime:
    """Trades or ticks from before `at` may go: their candles are not made again. Returns from when they must be kept.

    That is earlier than `at` while there are some that no candle has seen yet. Whoever makes candles anew is waited
    for: nothing may go that theirs are made of, and who comes next knows.
    """
    with db.transaction():
        events.hold(f"build_candles.{feed}", wait=True)  # raises where its position says nothing of what has been seen
        kept_from: datetime = db.rows(_KEEP_FROM[feed], at)[0][0]
    return kept_from


_KEEP_FROM = {
    feed: f"""
    update candle_feed f
    set kept_from = greatest(f.kept_from, date_trunc('day', least(
      cast(%s as timestamptz),
      (select min(x.{column}) from reader_position p join {feed} x on (x.xid, x.id) > (p.xid, p.id)
       where p.reader = 'build_candles.{feed}')), 'UTC'))
    where f.feed = '{feed}' returning f.kept_from
    """
    for feed, column in ((TRADE, "traded_at"), (TICK, "received_at"))
}
