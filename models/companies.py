"""Companies: key figures, and the days on which they report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from peewee import CompositeKey, DateField, DecimalField, TextField

import db
from domain.stocks import Fundamentals, Report
from models.fields import InstantField


class Fundamental(db.BaseModel):
    """A company's key figures, in its currency."""

    app_may = "select"

    symbol = TextField(primary_key=True)
    name = TextField(null=True)
    exchange = TextField(null=True)
    currency = TextField(null=True)
    country = TextField(null=True)
    sector = TextField(null=True)
    industry = TextField(null=True)
    market_cap = DecimalField(null=True)
    shares = DecimalField(null=True)
    pe = DecimalField(null=True)
    eps = DecimalField(null=True)
    book_value = DecimalField(null=True)
    dividend_share = DecimalField(null=True)
    dividend_yield = DecimalField(null=True)
    profit_margin = DecimalField(null=True)
    beta = DecimalField(null=True)
    high_52w = DecimalField(null=True)
    low_52w = DecimalField(null=True)
    quarter_on = DateField(null=True)  # the end of the latest quarter that is in it
    source = TextField()
    received_at = InstantField()


class EarningsReport(db.BaseModel):
    """A day on which a company is expected to report."""

    app_may = "select"

    symbol = TextField()
    report_on = DateField()
    fiscal_end_on = DateField(null=True)
    hour = TextField(null=True)  # before open, after close, while open
    estimate = DecimalField(null=True)  # earnings per share
    source = TextField()
    received_at = InstantField()

    class Meta:
        table_name = "earnings_report"
        primary_key = CompositeKey("symbol", "report_on")


def keep_fundamentals(found: Fundamentals, received_at: datetime) -> None:
    """Write a company's figures over what was there."""
    values = {**found.words, **found.numbers, "quarter_on": found.quarter_on, "source": found.source}
    names = [*values, "received_at"]
    db.rows(
        f"""insert into fundamental (symbol, {", ".join(names)}) values (%s, {", ".join(["%s"] * len(names))})
            on conflict (symbol) do update set {", ".join(f"{name} = excluded.{name}" for name in names)}""",
        *(found.symbol, *values.values(), received_at),
    )


def keep_reports(found: Sequence[Report], today: date, received_at: datetime) -> int:
    """Write the days of the stocks that we follow; a day to come that the answer does not have any more is gone.

    Returns how many are other ones than before. An answer without a company leaves that company's days alone.
    """
    names = ("symbol", "report_on", "fiscal_end_on", "hour", "estimate", "source")
    ((changed,),) = db.rows(
        _REPORTS, *(db.array(getattr(row, name) for row in found) for name in names), today, received_at
    )
    return int(changed)


_REPORTS = """
with said as materialized (
  select distinct on (s.symbol, s.report_on) s.*
  from unnest(%s::text[], %s::date[], %s::date[], %s::text[], %s::numeric[], %s::text[])
       as s(symbol, report_on, fiscal_end_on, hour, estimate, source) join stock using (symbol)
  order by s.symbol, s.report_on
), gone as (
  delete from earnings_report r where r.report_on >= %s and r.symbol in (select symbol from said)
    and not exists (select from said s where s.symbol = r.symbol and s.report_on = r.report_on)
  returning 1
), written as (
  insert into earnings_report as r (symbol, report_on, fiscal_end_on, hour, estimate, source, received_at)
  select s.*, %s from said s order by s.symbol, s.report_on
  on conflict (symbol, report_on) do update set
    fiscal_end_on = coalesce(excluded.fiscal_end_on, r.fiscal_end_on), hour = coalesce(excluded.hour, r.hour),
    estimate = excluded.estimate, source = excluded.source, received_at = excluded.received_at
  where (r.hour, r.estimate) is distinct from (coalesce(excluded.hour, r.hour), excluded.estimate)
  returning 1
)
select (select count(*) from gone) + (select count(*) from written)
"""
