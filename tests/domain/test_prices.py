"""What an observation may be."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from domain.prices import Price, allowed_age, believable, doubt, snapshot

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def price(value: str, symbol: str = "XAUUSD", at: datetime = NOW, source: str = "gold-api") -> Price:
    return Price(symbol, Decimal(value), at, source)


def test_a_usual_price_raises_no_doubt():
    assert doubt(price("4165.200195"), NOW) is None
    assert doubt(price("4165.2", at=NOW + timedelta(seconds=30)), NOW) is None, "clocks differ a little"


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity", "0", "-1", "1e15"])
def test_a_price_that_no_market_makes_is_doubted_with_source_and_symbol(value):
    reason = doubt(price(value), NOW)
    assert reason is not None
    assert "gold-api" in reason
    assert "XAUUSD" in reason


def test_a_price_from_the_future_is_doubted_because_it_would_block_every_later_one():
    assert "future" in (doubt(price("4165", at=NOW + timedelta(minutes=16)), NOW) or "")


def test_the_newest_of_two_observations_of_a_symbol_is_kept():
    older, newer = price("1", at=NOW - timedelta(seconds=5)), price("2")
    assert believable([newer, older], NOW) == ([newer], {})
    assert believable([older, newer], NOW) == ([newer], {})


def test_a_doubtful_observation_costs_only_its_symbol():
    good = price("1.1568", "EURUSD")
    kept, doubts = believable([price("-1"), good], NOW)
    assert kept == [good]
    assert list(doubts) == ["XAUUSD"]


def test_a_source_that_publishes_daily_may_be_days_old_and_a_live_one_may_not():
    easter = datetime(2027, 3, 30, 16, tzinfo=UTC) - datetime(2027, 3, 25, 16, tzinfo=UTC)
    assert allowed_age("frankfurter") > easter
    assert allowed_age("binance") == timedelta(minutes=1)
    assert allowed_age("a new one") == timedelta(minutes=15)


def test_a_snapshot_keeps_every_digit_and_both_times():
    shown = snapshot({
        "symbol": "BTCUSD", "state": "fresh", "reason": None, "price": Decimal("0.00000012"), "source": "binance",
        "happened_at": NOW, "received_at": NOW + timedelta(seconds=1), "stale_at": NOW + timedelta(minutes=1),
        "previous": None, "previous_source": None, "previous_happened_at": None, "previous_received_at": None,
        "error": None,
    })  # fmt: skip
    assert shown["price"] == "0.00000012"
    assert shown["happened_at"] == "2026-11-23T12:00:00+00:00"
    assert shown["received_at"] == "2026-11-23T12:00:01+00:00"
