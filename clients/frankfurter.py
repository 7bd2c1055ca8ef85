"""Frankfurter v1: reference rates of the European Central Bank, once each working day (no key).

Documented at github.com/lineofflight/frankfurter. All rates come in one small answer against the euro, so
one call an hour serves every pair; a pair without the euro is the quotient, as the bank itself says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal
from zoneinfo import ZoneInfo

from clients import fields, http
from clients.providers import provider
from domain.failures import Rejected, Unavailable
from domain.prices import Price

FRANKFURTER = provider(
    name="frankfurter",
    url="frankfurter_url",
    doc="reference rates of the ECB, one a working day",
    min_age=3600,  # no limit is stated; rates change once a day
    tries=1,
    read_timeout=4,
    deadline=6,
)
PUBLISHED_AT = time(16, tzinfo=ZoneInfo("Europe/Berlin"))
SIGNIFICANT = Context(prec=6)  # digits: the bank publishes five or six


@dataclass(frozen=True)
class Rates:
    """What one euro costs in each currency, at `happened_at`."""

    by_currency: Mapping[str, Decimal]
    happened_at: datetime


def fetch_prices(symbols: Sequence[str]) -> tuple[list[Price], dict[str, Exception]]:
    """Prices of pairs such as `USDJPY`, and failures by pair."""
    try:
        rates = fetch_rates()
    except (Unavailable, Rejected) as failure:
        return [], dict.fromkeys(symbols, failure)
    prices: list[Price] = []
    failures: dict[str, Exception] = {}
    for symbol in symbols:
        try:
            prices.append(cross(rates, symbol))
        except Rejected as failure:
            failures[symbol] = failure
    return prices, failures


def fetch_rates() -> Rates:
    """The latest rates of every currency against the euro."""
    return parse_rates(http.get(FRANKFURTER, "/latest", {"base": "EUR"}).body)


def parse_rates(body: bytes | str) -> Rates:
    """`{"amount": 1.0, "base": "EUR", "date": "2026-11-20", "rates": {"USD": 1.1568, …}}`; 16:00 in Frankfurt."""
    answer = fields.document("frankfurter", body)
    base = fields.field("frankfurter", answer, "base")
    amount = fields.price("frankfurter", fields.field("frankfurter", answer, "amount"), "amount")
    rates = fields.field("frankfurter", answer, "rates")
    if base != "EUR" or amount != 1 or not isinstance(rates, dict):
        raise Rejected(f"frankfurter: not the rates of one euro: base {base!r:.20}, amount {amount}")
    try:
        day = date.fromisoformat(fields.text("frankfurter", fields.field("frankfurter", answer, "date"), "date"))
    except ValueError:
        day = None
    if day is None or not 2000 <= day.year <= 2099:
        raise Rejected(f"frankfurter: date is {answer['date']!r:.60}, not a day")
    by_currency = {name: fields.price("frankfurter", rate, f"rates.{name}"[:30]) for name, rate in rates.items()}
    return Rates({"EUR": Decimal(1), **by_currency}, datetime.combine(day, PUBLISHED_AT).astimezone(UTC))


def cross(rates: Rates, symbol: str) -> Price:
    """The price of a pair: with 1.1568 USD and 180.00 JPY to the euro, USDJPY is 155.602."""
    base, quote = (rates.by_currency.get(currency) for currency in (symbol[:3], symbol[3:]))
    if base is None or quote is None:
        raise Rejected(f"frankfurter: no rate of {symbol} in the answer")
    return Price(symbol, SIGNIFICANT.divide(quote, base), rates.happened_at, "frankfurter")
