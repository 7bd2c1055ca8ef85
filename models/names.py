"""A stock that has another name now: what stands under the old one moves, and becomes one with what stands there."""

from __future__ import annotations

from collections.abc import Mapping

import db
from domain.measures import TYPES
from domain.stocks import market_of
from models import events, triggers

# Tables whose rows are of a symbol: its column, and the others of a key of which both names may have a row.
PLACES: dict[str, tuple[str, ...]] = {
    "watchlist_item": ("symbol", "user_id"),
    "portfolio_item": ("symbol", "user_id"),
    "mute": ("subject", "user_id"),
    "daily_bar": ("symbol", "date"),
    "split": ("symbol", "date"),
    "dividend": ("symbol", "ex_on"),
    "earnings_report": ("symbol", "report_on"),
    "fundamental": ("symbol",),
    "bar_gap": ("symbol", "date"),
    "quarantined": ("symbol", "kind", "source", "happened_at", "value"),
    "tick": ("symbol", "happened_at", "received_at"),
    "candle": ("symbol", "interval", "starts_at"),
    "outage": ("symbol", "feed", "began_at"),
    "gauge": ("subject", "measure"),
    "reading": ("subject", "measure", "happened_at", "received_at"),
    "silence": ("subject", "stream"),
}
ABOUT_IT = [name for name, kind in TYPES.items() if kind.known != "reading"]  # types of alerts


def rename(old: str, new: str) -> dict[str, int]:
    """Move a stock to its new name, in the open transaction; how many rows of each table moved.

    Where both names have a row of the same day, say, the new one's stays. What was said under the old name (events,
    messages, triggers of alerts) stays as it was said. Raises LookupError if the old one is not followed, and
    ValueError for a name that cannot be the new one.
    """
    names = {"old": old, "new": new}
    for reader in ("build_candles.tick", triggers.READER):  # nobody is at its ticks meanwhile
        events.hold(reader, wait=True)
    db.rows("select pg_advisory_xact_lock(hashtext('quote')), pg_advisory_xact_lock(hashtext('gauge'))")
    kinds = dict(db.rows("select symbol, kind from instrument where symbol in (%s, %s) for update", old, new))
    if kinds.get(old) != "stock":
        raise LookupError(f"{old} is not a stock that is followed")
    is_pair = db.rows("select 1 from pair where symbol = %s", new)  # no instrument before its first trade
    if old == new or is_pair or kinds.get(new, "stock") != "stock" or market_of(old) != market_of(new):
        raise ValueError(f"{new} cannot be the new name of {old}: it must be another stock of the same market")
    for statement in _JOIN:
        db.database.execute_sql(statement, names)
    moved = {}
    for table, (column, *key) in PLACES.items():
        same = " and ".join([f"y.{column} = %(new)s", *(f'y."{name}" = x."{name}"' for name in key)])
        moved[table] = _count(_MOVE.format(table=table, column=column, same=same), names)
    moved["alert"] = _count(_ALERTS, {**names, "types": ABOUT_IT})
    db.rows("delete from instrument where symbol = %s", old)  # and its quotes
    events.add("stocks.moved", {"from": old, "to": new}, None)
    return moved


def _count(sql: str, names: Mapping[str, object]) -> int:
    return int(db.database.execute_sql(sql, names).fetchone()[0])


_QUOTE = """state, reason, price, source, happened_at, received_at, said_at, stale_at,
  previous, previous_source, previous_happened_at, previous_received_at"""
_DAY = "last, open, high, low, previous_close, volume, bid, ask, market_cap, currency, source, happened_at, received_at"

# Before the rows move: the new name is followed, and what both have is added up. Of a candle of both the old one's part
# was first.
_JOIN = (
    """insert into instrument (symbol, kind, max_age, tick_size, active)
       select %(new)s, kind, max_age, tick_size, active from instrument where symbol = %(old)s
       on conflict (symbol) do update set active = instrument.active or excluded.active""",
    "delete from quote where symbol = %(new)s and price is null",
    f"""insert into quote (symbol, {_QUOTE}) select %(new)s, {_QUOTE} from quote where symbol = %(old)s
        on conflict do nothing""",
    """insert into stock (symbol, market) select %(new)s, market from stock where symbol = %(old)s
       on conflict (symbol) do update set ask_at = '-infinity'""",
    f"""insert into stock_quote (symbol, {_DAY}) select %(new)s, {_DAY} from stock_quote where symbol = %(old)s
        on conflict do nothing""",
    """update watchlist_item n set active = true from watchlist_item o
       where n.symbol = %(new)s and o.symbol = %(old)s and o.user_id = n.user_id and o.active""",
    """update portfolio_item n set quantity = n.quantity + o.quantity from portfolio_item o
       where n.symbol = %(new)s and o.symbol = %(old)s and o.user_id = n.user_id""",
    """update candle n set open = o.open, high = greatest(n.high, o.high), low = least(n.low, o.low),
         volume = n.volume + o.volume, quote_volume = n.quote_volume + o.quote_volume, trades = n.trades + o.trades,
         known_at = greatest(n.known_at, o.known_at), last_at = greatest(n.last_at, o.last_at)
       from candle o where n.symbol = %(new)s and o.symbol = %(old)s
         and o."interval" = n."interval" and o.starts_at = n.starts_at""",
    "update outage set ended_at = now() where symbol = %(old)s and ended_at is null",  # it is asked for no more
)

_MOVE = """
with twice as (
  delete from {table} x where x.{column} = %(old)s and exists (select from {table} y where {same})
), moved as (
  update {table} x set {column} = %(new)s
  where x.{column} = %(old)s and not exists (select from {table} y where {same}) returning 1
)
select count(*) from moved
"""

_ALERTS = """
with moved as (
  update alert set subject = %(new)s where subject = %(old)s and type = any(%(types)s) returning id
), watching as (
  update alert_watch w set subject = %(new)s from moved m where w.alert_id = m.id
)
select count(*) from moved
"""
