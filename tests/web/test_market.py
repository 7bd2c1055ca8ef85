"""Candles, tickers and prices of an instant, for programs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from bench.tape import Print, follow, insert
from domain.prices import Price
from models import building, feeds, operators, prices, tickers
from tests.web.conftest import Site, Visitor
from web.access import READ

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)


@pytest.fixture
def program(site: Site, database) -> Visitor:
    """A program with a token, and an hour of trades."""
    follow(["BTCUSDT", "ETHUSDT"])
    insert(Print("BTCUSDT", NOW + timedelta(minutes=n), Decimal(100 + n), Decimal(2)) for n in range(0, 60, 20))
    list(building.build(feeds.TRADE, NOW + timedelta(hours=1)))
    tickers.advance(NOW + timedelta(hours=1))
    return site.stranger(authorization=f"Bearer {operators.new_token('app', READ, None)}")


def test_candles_come_without_gaps_and_with_an_etag(program):
    path = "/api/candles?symbol=BTCUSDT&interval=1m&from=2025-11-03T12:18:00Z&to=2025-11-03T12:22:00Z"
    answer = program.get(path)
    assert [(c["close"], c["synthetic"], c["closed"]) for c in answer.json()["candles"]] == [
        ("100", True, True),
        ("100", True, True),
        ("120", False, True),
        ("120", True, True),
    ]
    assert program.get(path, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert len(program.get("/api/candles?symbol=BTCUSDT&interval=1h&to=2025-11-03T13:00:00Z").json()["candles"]) == 1
    assert program.get(f"{path}&as_of=2025-11-03T12:00:00Z").json()["candles"] == [], "we knew of none by then"


def test_what_cannot_be_meant_is_refused_with_the_reason(program):
    answer = program.get("/api/candles?symbol=BTCUSDT&interval=2m")
    assert (answer.status_code, "'2m' is not one of 1m, 5m" in answer.text) == (422, True)
    answer = program.get("/api/candles?symbol=BTCUSDT&interval=1m&from=yesterday")
    assert (answer.status_code, "from: 'yesterday' is not an instant" in answer.text) == (422, True)
    assert program.get("/api/candles").json()["candles"] == []


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("candles?symbol=BTCUSDT&interval=1w&to=0001-01-01", "to: '0001-01-01' is not an instant of 1600 to 2999"),
        ("candles?symbol=BTCUSDT&as_of=9999-12-31T23:59:59-14:00", "as_of: '9999-12-31T23:59:59-14:00' is not an"),
        ("candles?symbol=%00", "symbol: there is a NUL in it"),
        ("tickers?symbol=BTCUSDT&symbol=%00", "symbol: there is a NUL in it"),
        ("quotes?symbol=%00", "symbol: there is a NUL in it"),
        ("candles?symbol=BTCUSDT&interval=1y", "1w, 1M"),
    ],
)
def test_hostile_parameters_are_refused_as_the_callers_fault(program, asked, says):
    answer = program.get(f"/api/{asked}")
    assert (answer.status_code, says in answer.json()["error"]) == (422, True), answer.text


def test_no_span_however_long_or_turned_round_is_more_than_an_answer_holds(program):
    path = "/api/candles?symbol=BTCUSDT&interval=1m"
    assert len(program.get(f"{path}&from=1600-01-01&to=2025-11-07&limit=1000000000").json()["candles"]) <= 5000
    assert program.get(f"{path}&from=2025-11-04&to=2025-11-03").json()["candles"] == []


def test_tickers_come_with_the_end_of_their_24_hours(program):
    answer = program.get("/api/tickers?symbol=BTCUSDT").json()
    assert answer["until"] == "2025-11-03T13:00:00+00:00"
    (ticker,) = answer["tickers"]
    assert (ticker["last"], ticker["percent"], ticker["trades"]) == ("140", "40.0000", 3)
    assert len(program.get("/api/tickers").json()["tickers"]) == 2


def test_a_price_can_be_asked_as_it_was_known_at_an_instant(program):
    for minute, value in ((0, 97000), (5, 97100)):
        at = NOW + timedelta(minutes=minute)
        prices.record([Price("BTCUSD", Decimal(value), at, "binance")], {}, at + timedelta(seconds=30))
    asked = "/api/quotes?symbol=BTCUSD&symbol=XAUUSD&as_of=2025-11-03T12:05:"
    (quote,) = program.get(f"{asked}29Z").json()["quotes"]
    assert (quote["symbol"], quote["price"], quote["source"]) == ("BTCUSD", "97000", "binance")
    assert program.get(f"{asked}30%2B00:00").json()["quotes"][0]["price"] == "97100"
    assert program.get("/api/quotes?symbol=BTCUSD&as_of=2025-11-03T12:00:29Z").json()["quotes"] == []
