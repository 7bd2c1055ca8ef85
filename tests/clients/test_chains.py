"""Prices by fallback chains: the first source that has a price which is not old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from clients import prices
from domain.failures import Rejected, Unavailable
from domain.prices import allowed_age
from domain.symbols import guess

SIX = ["XAUUSD", "XAGUSD", "EURUSD", "GBPUSD", "USDJPY", "BTCUSD"]


@pytest.fixture(autouse=True)
def _servers(demo, database):
    """Every test here asks."""


def sources(found):
    return {price.symbol: price.source for price in found[0]}


def test_the_six_default_symbols_have_prices_at_the_first_fetch():
    found = prices.fetch(SIX)
    assert set(sources(found)) == set(SIX)
    assert not found[1]


def test_a_run_every_five_seconds_does_not_hammer_anybody(demo):
    for _ in range(5):
        prices.fetch(SIX)
    assert demo.requests["binance"] == 5
    assert demo.requests["gold-api"] == 2
    assert demo.requests["frankfurter"] == 1
    assert demo.requests["yahoo"] <= 3


def test_each_kind_has_its_own_first_source():
    found = prices.fetch(["XAUUSD", "EURUSD", "BTCUSD"])
    assert sources(found) == {"XAUUSD": "gold-api", "EURUSD": "yahoo", "BTCUSD": "binance"}


def test_without_yahoo_fx_is_of_the_last_working_day(settings):
    settings(yahoo=False)
    (found,), failures = prices.fetch(["EURUSD"])
    assert found.source == "frankfurter"
    assert datetime.now(UTC) - found.happened_at > timedelta(0)
    assert not failures


@pytest.mark.parametrize(
    "fault", ["429", "500", "reset", "garbage", "empty", "html", "truncated", "404", "redirect", "flood"]
)
def test_whatever_happens_to_the_first_source_the_next_is_asked(demo, fault):
    demo.faults.add("binance", fault)
    assert sources(prices.fetch(["BTCUSD"])) == {"BTCUSD": "yahoo"}


def test_a_frozen_source_is_passed_over_for_a_newer_price(demo, monkeypatch):
    fault = demo.faults.add("binance", "frozen")
    object.__setattr__(fault, "since", fault.since - 120)
    assert sources(prices.fetch(["BTCUSD"])) == {"BTCUSD": "yahoo"}
    demo.faults.add("yahoo", 500)
    (price,), failures = prices.fetch(["ETHUSD"])
    assert price.source == "binance"
    assert datetime.now(UTC) - price.happened_at > allowed_age("binance")
    assert not failures


def test_one_symbols_failure_costs_only_that_symbol(demo):
    found, failures = prices.fetch([*SIX, "NOSUCHUSD"])
    assert {price.symbol for price in found} == set(SIX)
    assert list(failures) == ["NOSUCHUSD"]


def test_a_failure_tells_of_every_source(demo):
    demo.faults.add("*", 500)
    found, failures = prices.fetch(["XAUUSD", "BTCUSD"])
    assert not found
    assert isinstance(failures["XAUUSD"], Unavailable)
    assert "gold-api" in str(failures["XAUUSD"])
    assert "yahoo" in str(failures["XAUUSD"])


def test_a_symbol_that_nobody_knows_is_rejected(settings):
    settings(yahoo=False)
    _, failures = prices.fetch(["NOSUCHUSD", "XAUEUR"])
    assert {type(failure) for failure in failures.values()} == {Rejected}
    assert "no source that is on" in str(failures["XAUEUR"])


def test_rows_say_their_kind():
    found = prices.fetch([{"symbol": "AAPL", "kind": "stock"}, {"symbol": "ETHUSD", "kind": "crypto"}])
    assert sources(found) == {"AAPL": "yahoo", "ETHUSD": "binance"}


def test_two_of_our_symbols_may_be_one_of_theirs(demo):
    assert set(sources(prices.fetch(["BTCUSD", "BTCUSDT"]))) == {"BTCUSD", "BTCUSDT"}
    assert demo.requests["binance"] == 1


def test_nothing_is_asked_for_nothing(demo):
    assert prices.fetch([]) == ([], {})
    assert not demo.requests


@pytest.mark.parametrize(
    ("symbol", "kind", "links"),
    [
        ("BTCUSD", "crypto", ["binance BTCUSDT", "yahoo BTC-USD"]),
        ("ETHBTC", "crypto", ["binance ETHBTC"]),
        ("SOLUSDT", "crypto", ["binance SOLUSDT"]),
        ("EURUSD", "fx", ["yahoo EURUSD=X", "frankfurter EURUSD"]),
        ("XAGUSD", "metal", ["gold-api XAG", "yahoo SI=F"]),
        ("XAUEUR", "metal", []),
        ("AAPL", "stock", ["yahoo AAPL"]),
        ("PTT.BK", "stock", ["yahoo PTT.BK"]),
        ("BRK-B", "stock", ["yahoo BRK-B"]),
        ("005930.KS", "stock", ["yahoo 005930.KS"]),
        ("BTCUDS", "other", ["yahoo BTCUDS"]),
        ("7203", "other", ["yahoo 7203"]),
    ],
)
def test_the_chain_of_a_symbol_follows_from_its_kind(symbol, kind, links):
    assert guess(symbol) == kind
    assert [f"{link.provider.name} {link.symbol}" for link in prices.chain(symbol)] == links
