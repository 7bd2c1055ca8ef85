"""Stocks that somebody wants: which, whose turn it is to be asked for what, and what sources said of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from peewee import DateField, IntegerField, TextField

import db
from domain.failures import Renamed, Unlisted
from domain.stocks import Quote, Wanted, ask_again_at, market_of
from domain.symbols import guess
from models import events, prices
from models.fields import InstantField

AT_ONCE = 500  # new symbols of one run


class Stock(db.BaseModel):
    """A stock that we follow. `unknown`: no source has it (any more): it is wrong, renamed or delisted.

    Where a source answers for another symbol than the one that it was asked for, that is noted in `renamed_to`, and
    nothing of the answer is kept. An operator then moves the symbol to that name, with all that stands under the old
    one: watchlists, portfolios, alerts, prices, bars and candles.
    """

    app_may = "select"

    symbol = TextField(primary_key=True)
    market = TextField()  # XNYS, XLON, XHKG, XTKS, XBKK: whose hours it has
    state = TextField()  # new, listed, unknown
    refused = IntegerField()  # times in a row that no source knew it
    ask_at = InstantField()
    asked_at = InstantField(null=True)
    bars_at = InstantField(null=True)
    bars_from = DateField(null=True)  # since when a source was asked for its bars and answered, at the furthest
    fundamentals_at = InstantField(null=True)
    dividends_at = InstantField(null=True)
    splits_at = InstantField(null=True)
    looked_at = InstantField(null=True)  # at its bars for gaps
    checked_at = InstantField(null=True)  # its year of bars against the source's
    known_at = InstantField(null=True)  # when a source last had it
    error = TextField(null=True)
    renamed_to = TextField(null=True)  # its name now, as a source says
    renamed_by = TextField(null=True)  # which one


def adopt(since: datetime | None = None) -> None:
    """Follow the stocks that users watch or hold and nobody followed before. `since`: those put there later alone."""
    wanted = db.rows(
        """select symbol from (
             select symbol from watchlist_item where active and created_at > cast(%s as timestamptz)
             union select symbol from portfolio_item where quantity > 0 and created_at > cast(%s as timestamptz)) w
           where not exists (select from instrument i where i.symbol = w.symbol) order by symbol""",
        *[since or "-infinity"] * 2,
    )
    follow([symbol for (symbol,) in wanted if guess(symbol) == "stock"][:AT_ONCE])


def follow(symbols: Collection[str]) -> None:
    """Follow stocks; one that was ever followed, and is so no longer, stays as it is."""
    if not symbols:
        return
    prices.follow(symbols, "stock")
    db.rows(
        """insert into stock (symbol, market)
           select n.* from unnest(%s::text[], %s::text[]) as n(symbol, market) join instrument i using (symbol)
           where i.kind = 'stock' order by symbol on conflict do nothing""",
        db.array(symbols),
        db.array(map(market_of, symbols)),
    )


MANY = 100  # alerts that wait in a direction: more say no more

# A retired instrument is wanted by nobody; one that an operator follows by hand is, if only a little. Of alerts only
# those on stocks are looked at, by the index in which the check finds them: there may be a million on other things.
_WATCHES = " union all ".join(
    f"(select 1 from alert_watch w where w.direction = '{direction}' and w.subject = s.symbol limit {MANY})"
    for direction in ("up", "down", "either")
)
_WANT = f"""
with want as (
  select symbol, sum(points) as want, bool_or(held) as held from (
    select symbol, 3 as points, true as held from portfolio_item where quantity > 0
    union all select symbol, 1, false from watchlist_item where active) w
  group by symbol
)
select s.symbol, s.market, (coalesce(w.want, 0) + 2 * a.waiting)::int as want, coalesce(w.held, false) as held,
       s.asked_at, s.ask_at, i.max_age
from stock s join instrument i using (symbol) left join want w using (symbol)
  cross join lateral (select count(*) as waiting from ({_WATCHES}) a) a
where i.active
"""


def wanted(market: str, now: datetime) -> list[Wanted]:
    """The stocks of a market that may be asked for now."""
    rows = db.maps(_WANT + " and s.market = %s and s.ask_at <= %s order by want desc, symbol", market, now)
    return [Wanted(row["symbol"], row["want"], row["held"], row["asked_at"]) for row in rows]


def unchecked(due_at: datetime, a_night: int) -> list[str]:
    """Of those whose bars were not compared since `due_at` the ones that have waited longest, up to so many a night."""
    rows = db.rows(
        f"""select w.symbol from ({_WANT}) w join stock s using (symbol)
            where s.ask_at <= now() and coalesce(s.checked_at < %s, true)
            order by s.checked_at nulls first, w.want desc, w.symbol
            limit greatest(0, %s - (select count(*) from stock where checked_at >= %s))""",
        *(due_at, a_night, due_at),
    )
    return [symbol for (symbol,) in rows]


def markets() -> dict[str, int]:
    """How many stocks each market has."""
    return dict(db.rows("select market, count(*) from stock join instrument using (symbol) where active group by 1"))


def due(what: str, before: datetime, market: str | None = None) -> list[str]:
    """Stocks whose `what` (bars, splits, looked …: a column) was last asked for before that, most wanted first."""
    rows = db.rows(
        f"""select symbol from ({_WANT} and s.ask_at <= now() and coalesce(s.{what}_at < %s, true)
              and (%s::text is null or s.market = %s)) w order by want desc, symbol""",
        *(before, market, market),
    )
    return [symbol for (symbol,) in rows]


def asked(what: str, symbols: Collection[str], at: datetime) -> None:
    """Note that these were asked for `what` (prices: `asked`), whatever the answer: others have their turn before."""
    db.rows(f"update stock set {what}_at = %s where symbol = any(%s)", at, sorted(symbols))


def reached(symbol: str, first: date) -> None:
    """Note that a source has answered for its bars from that day on, however many it had."""
    db.rows("update stock set bars_from = least(bars_from, %s) where symbol = %s", first, symbol)


def known(symbols: Collection[str], at: datetime) -> None:
    """Sources have them: whatever was wrong before is over."""
    db.rows(
        """update stock set state = 'listed', refused = 0, ask_at = '-infinity', known_at = %s, error = null
           where symbol = any(%s) and (state <> 'listed' or error is not null or known_at < %s - interval '1 hour')""",
        *(at, sorted(symbols), at),
    )


def renamed(said: Mapping[str, Exception], quotes: Sequence[Quote] = ()) -> None:
    """Note the new names that sources tell, and forget those of sources that have the old one again; tell the news."""
    claims = {symbol: claim for symbol, claim in said.items() if isinstance(claim, Renamed)}
    with db.transaction():
        db.rows(
            """update stock s set renamed_to = null, renamed_by = null
               from unnest(%s::text[], %s::text[]) as q(symbol, source)
               where s.symbol = q.symbol and s.renamed_by = q.source""",
            db.array(quote.symbol for quote in quotes),
            db.array(quote.source for quote in quotes),
        )
        news = db.rows(
            """update stock s set renamed_to = c.name, renamed_by = c.source
               from unnest(%s::text[], %s::text[], %s::text[]) as c(symbol, name, source)
               where s.symbol = c.symbol and s.renamed_to is distinct from c.name returning s.symbol, s.renamed_to""",
            db.array(claims),
            db.array(claim.name for claim in claims.values()),
            db.array(claim.source for claim in claims.values()),
        )
        if news:
            events.add("stocks.renamed", {"symbols": dict(news)}, None)


def failed(failures: Mapping[str, Exception], now: datetime) -> None:
    """Note what went wrong. A symbol that no source has is asked for ever more rarely; tell of it, if that is news.

    Of one that has another name now `renamed` tells.
    """
    if not failures:
        return
    with db.transaction():
        known = db.rows(
            "select symbol, refused, renamed_to from stock where symbol = any(%s) order by symbol for update",
            sorted(failures),
        )
        times = {s: refused + isinstance(failures[s], Unlisted) for s, refused, _ in known}
        unlisted = [symbol for symbol in times if isinstance(failures[symbol], Unlisted)]
        db.rows(
            """update stock s set error = f.error, refused = f.refused,
                 state = case when f.ask_at is null then s.state else 'unknown' end,
                 ask_at = coalesce(f.ask_at, s.ask_at)
               from unnest(%s::text[], %s::text[], %s::int[], %s::timestamptz[]) as f(symbol, error, refused, ask_at)
               where s.symbol = f.symbol""",
            db.array(times),
            db.array(str(failures[symbol]) for symbol in times),
            db.array(times.values()),
            db.array(ask_again_at(now, refused) if s in unlisted else None for s, refused in times.items()),
        )
        news = [symbol for symbol, refused, name in known if name is None and symbol in unlisted and not refused]
        if news:
            events.add("stocks.unknown", {"symbols": news}, None)


def stocks(now: datetime) -> list[dict[str, Any]]:
    """Every stock that is followed: who wants it, its quote with its age, and what is wrong with it."""
    return db.maps(
        f"""select w.symbol, w.market, w.want, w.held, s.state, s.refused, s.ask_at, s.error, s.asked_at, s.known_at,
                   s.renamed_to, s.renamed_by,
                   k.last, k.last - c.previous_close as change,
                   round((k.last / c.previous_close - 1) * 100, 4) as percent,
                   k.open, k.high, k.low, c.previous_close, k.volume, k.bid, k.ask,
                   k.market_cap, k.currency, k.source, k.happened_at, k.received_at, t.now - k.happened_at as age,
                   case when q.stale_at <= t.now then 'stale' else q.state end as price_state,
                   (select max(date) from daily_bar b where b.symbol = w.symbol) as last_bar_on
            from ({_WANT}) w join stock s using (symbol) join quote q using (symbol)
                 left join stock_quote k using (symbol)
                 left join lateral (
                   select b.value from session_at(w.symbol, k.happened_at) s
                     cross join value_at(w.symbol, 'price', s.opens_at - interval '1 us', s.date) b) b on true
                 cross join lateral (
                   select coalesce(trim_scale(round(b.value, 8)), k.previous_close) as previous_close) c,
                 cast(%s as timestamptz) as t(now)
            order by w.want desc, w.symbol""",
        now,
    )


def freshness(market: str, now: datetime) -> list[dict[str, Any]]:
    """Each known stock's age against what is allowed for it, in which closed hours do not count."""
    return db.maps(
        """select q.symbol as name, cast(%s as timestamptz) - q.happened_at as age,
                  q.stale_at - q.happened_at as allowed
           from quote q join stock s using (symbol) join instrument i using (symbol)
           where i.active and s.market = %s and s.state = 'listed' and q.price is not null""",
        *(now, market),
    )
