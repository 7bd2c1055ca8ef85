"""Quotes of stocks: the newest of each, with its day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from peewee import BigIntegerField, DecimalField, TextField

import db
from domain.stocks import Quote, old_at
from models import prices
from models.fields import InstantField


class StockQuote(db.BaseModel):
    """The newest quote of a stock with its day. Its state and age are those of the `quote` of the symbol.

    What its source did not say is null: `bid` and `ask` always, as none of our sources gives them. No source gives
    `market_cap` with a quote: it is `last` times the shares in `fundamental`, and null where those are not known.
    """

    app_may = "select"

    symbol = TextField(primary_key=True)
    last = DecimalField()
    open = DecimalField(null=True)
    high = DecimalField(null=True)
    low = DecimalField(null=True)
    previous_close = DecimalField(null=True)
    volume = BigIntegerField(null=True)
    bid = DecimalField(null=True)  # as `ask`: no source of ours gives it
    ask = DecimalField(null=True)
    market_cap = DecimalField(null=True)  # where the company's shares are known
    currency = TextField(null=True)
    change = DecimalField(null=True)  # since the previous close
    percent = DecimalField(null=True)
    source = TextField()
    happened_at = InstantField()
    received_at = InstantField()

    class Meta:
        table_name = "stock_quote"


def record(quotes: Sequence[Quote], failures: Mapping[str, Exception], received_at: datetime) -> list[dict[str, Any]]:
    """Write quotes, newer ones alone, in both their tables, as `models.prices.record` does; returns those written.

    Closed hours do not make them old.
    """
    limits = dict(
        db.rows("select symbol, max_age from instrument where symbol = any(%s)", [quote.symbol for quote in quotes])
    )
    old = {quote.symbol: old_at(quote, limits.get(quote.symbol)) for quote in quotes}
    with db.transaction():
        written, _ = prices.record(quotes, failures, received_at, old)
        newer = {quote["symbol"] for quote in written}
        quotes = [quote for quote in quotes if quote.symbol in newer]
        columns = (
            "symbol", "price", "open", "high", "low", "previous_close", "volume", "bid", "ask", "market_cap",
            "currency", "source", "happened_at",
        )  # fmt: skip
        db.rows(_QUOTE, *(db.array(getattr(quote, name) for quote in quotes) for name in columns), received_at)
    return written


_QUOTE = """
insert into stock_quote as q (symbol, last, open, high, low, previous_close, volume, bid, ask, market_cap, currency,
                              source, happened_at, received_at)
select s.symbol, last, open, high, low, previous_close, volume, bid, ask,
       coalesce(s.market_cap, last * f.shares), coalesce(s.currency, f.currency), s.source,
       least(happened_at, t.now), t.now
from unnest(%s::text[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::numeric[], %s::bigint[],
            %s::numeric[], %s::numeric[], %s::numeric[], %s::text[], %s::text[], %s::timestamptz[])
       as s(symbol, last, open, high, low, previous_close, volume, bid, ask, market_cap, currency, source, happened_at)
     cross join (select cast(%s as timestamptz) as now) t join stock using (symbol)
     left join fundamental f using (symbol)
order by s.symbol
on conflict (symbol) do update set
  last = excluded.last, open = excluded.open, high = excluded.high, low = excluded.low,
  previous_close = excluded.previous_close, volume = excluded.volume, bid = excluded.bid, ask = excluded.ask,
  market_cap = excluded.market_cap, currency = excluded.currency, source = excluded.source,
  happened_at = excluded.happened_at, received_at = excluded.received_at
where q.happened_at < excluded.happened_at
"""
