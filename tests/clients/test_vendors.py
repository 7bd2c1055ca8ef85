"""Each vendor's module against its stand-in, over sockets, and against recorded answers."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from clients import binance, frankfurter, gate, gold_api, yahoo
from domain.failures import Rejected, Unavailable

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "api" / "yahoo"


def age(price):
    return datetime.now(UTC) - price.happened_at


def test_binance_gives_many_prices_in_one_call(demo):
    prices, failures = binance.fetch_prices(["BTCUSDT", "ETHUSDT", "SOLUSDT"])
    assert [price.symbol for price in prices] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert not failures
    assert all(age(price) < timedelta(seconds=10) and price.source == "binance" for price in prices)
    assert demo.requests["binance"] == 1


def test_one_unknown_symbol_costs_only_itself_at_binance(demo):
    asked = ["BTCUSDT", "ETHUSDT", "NOSUCH", "SOLUSDT", "XRPUSDT", "ADAUSDT", "DOGEUSDT", "BNBUSDT"]
    prices, failures = binance.fetch_prices(asked)
    assert {price.symbol for price in prices} == set(asked) - {"NOSUCH"}
    assert list(failures) == ["NOSUCH"]
    assert isinstance(failures["NOSUCH"], Rejected)
    assert "-1121" in str(failures["NOSUCH"])
    first = demo.requests["binance"]
    assert first == 7
    binance.fetch_prices(asked)
    assert demo.requests["binance"] - first == 3  # who was refused is not asked again within a minute


def test_more_than_twenty_symbols_are_asked_in_cheap_sets(demo):
    from demo.apis.binance import CRYPTO, QUOTES

    asked = [base + quote for base in CRYPTO for quote in QUOTES if base != quote][:24]
    prices, failures = binance.fetch_prices(asked)
    assert len(prices) == 24
    assert not failures
    assert demo.requests["binance"] == 2


def test_a_refusal_of_everything_at_binance_is_not_asked_in_halves(demo):
    demo.faults.add("binance", 451)
    prices, failures = binance.fetch_prices(["BTCUSDT", "ETHUSDT"])
    assert not prices
    assert set(failures) == {"BTCUSDT", "ETHUSDT"}
    assert demo.requests["binance"] == 1


def test_one_unreadable_price_costs_only_itself_at_binance(raw, redis):
    row = {"symbol": "BTCUSDT", "lastPrice": "1.5", "closeTime": 1_795_449_600_000}
    body = json.dumps([row, {**row, "symbol": "ETHUSDT", "lastPrice": "-"}])
    raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    _, failures = binance.fetch_prices(["BTCUSDT", "ETHUSDT"])
    assert "lastPrice is '-'" in str(failures["ETHUSDT"])


def test_binance_over_its_weight_says_when_to_come_back_and_bans_who_goes_on(demo, redis):
    demo.apis["binance"].limit = 0
    with pytest.raises(Unavailable, match="429") as wait:
        binance.fetch_tickers(["BTCUSDT"])
    assert 0 < wait.value.retry_after <= 60
    demo.faults.add("binance", 418, retry_after="259200")
    redis.flushall()
    with pytest.raises(Unavailable, match="418") as banned:
        binance.fetch_tickers(["BTCUSDT"])
    assert banned.value.retry_after == 900


def test_frankfurter_prices_every_pair_with_one_call_an_hour(demo):
    prices, failures = frankfurter.fetch_prices(["EURUSD", "GBPUSD", "USDJPY", "USDTHB"])
    assert not failures
    by_symbol = {price.symbol: price.price for price in prices}
    assert by_symbol["EURUSD"] * by_symbol["USDJPY"] == pytest.approx(
        frankfurter.fetch_rates().by_currency["JPY"], rel=Decimal("1e-4")
    )
    assert demo.requests["frankfurter"] == 1


def test_frankfurter_says_the_day_of_its_rates(demo):
    (price,), _ = frankfurter.fetch_prices(["EURUSD"])
    there = price.happened_at.astimezone(frankfurter.PUBLISHED_AT.tzinfo)
    assert (there.hour, there.minute) == (16, 0)
    assert there.weekday() < 5
    assert timedelta(0) < age(price) < timedelta(days=4)


def test_summer_and_winter_rates_are_of_16_00_in_frankfurt():
    body = {"amount": 1.0, "base": "EUR", "rates": {"USD": 1.1}}
    summer = frankfurter.parse_rates(json.dumps({**body, "date": "2026-07-03"}))
    winter = frankfurter.parse_rates(json.dumps({**body, "date": "2026-11-20"}))
    assert summer.happened_at == datetime(2026, 7, 3, 14, tzinfo=UTC)
    assert winter.happened_at == datetime(2026, 11, 20, 15, tzinfo=UTC)


def test_a_pair_without_the_euro_is_the_quotient_of_two_rates():
    rates = frankfurter.parse_rates('{"amount":1,"base":"EUR","date":"2026-11-20","rates":{"USD":1.1568,"JPY":180.00}}')
    assert frankfurter.cross(rates, "USDJPY").price == Decimal("155.602")
    assert frankfurter.cross(rates, "EURUSD").price == Decimal("1.1568")


def test_an_unknown_currency_costs_only_its_pair(demo):
    prices, failures = frankfurter.fetch_prices(["EURUSD", "EURXXX"])
    assert [price.symbol for price in prices] == ["EURUSD"]
    assert "no rate of EURXXX" in str(failures["EURXXX"])


def test_gold_api_gives_each_metal_at_most_every_30_seconds(demo):
    for _ in range(3):
        prices, failures = gold_api.fetch_prices(["XAU", "XAG", "XXX"])
        assert [price.symbol for price in prices] == ["XAU", "XAG"]
        assert "404" in str(failures["XXX"])
    assert demo.requests["gold-api"] == 3


def test_yahoo_gives_one_symbol_a_second(demo, database, monkeypatch):
    monkeypatch.setattr(gate, "enter", partial(gate.enter, now=datetime.now(UTC)))  # both come within one
    prices, failures = yahoo.fetch_prices(["EURUSD=X", "GC=F"])
    (failure,) = failures.values()
    assert isinstance(failure, Unavailable)
    assert failure.retry_after <= 1.1
    assert {price.symbol for price in prices} | set(failures) == {"EURUSD=X", "GC=F"}
    assert demo.requests["yahoo"] == 1


def test_yahoo_does_not_know_a_symbol(demo, database):
    _, failures = yahoo.fetch_prices(["NOSUCH"])
    assert isinstance(failures["NOSUCH"], Rejected)
    assert "No data found" in str(failures["NOSUCH"])


def test_yahoo_is_left_alone_for_15_minutes_after_a_429(demo, database):
    demo.faults.add("yahoo", 429)
    with pytest.raises(Unavailable, match="429 Too Many Requests: Too Many Requests") as wait:
        yahoo.fetch_price("EURUSD=X")
    assert wait.value.retry_after == 900
    demo.faults.clear()
    with pytest.raises(Unavailable, match="not asked"):
        yahoo.fetch_price("EURUSD=X")


def test_london_prices_in_pence_are_given_in_pounds():
    meta = {"symbol": "VOD.L", "currency": "GBp", "regularMarketPrice": 92.5, "regularMarketTime": 1_795_449_600}
    body = json.dumps({"chart": {"result": [{"meta": meta}], "error": None}})
    assert yahoo.parse_price(body, "VOD.L").price == Decimal("0.925")


def recorded_charts():
    return sorted(RECORDED.glob("*chart*")) or [None]


@pytest.mark.parametrize("path", recorded_charts(), ids=lambda path: path.name if path else "absent")
def test_recorded_answers_of_yahoo_are_read(path):
    if path is None:
        pytest.skip(f"no recorded answers in {RECORDED}")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text()
    body = json.loads(text)["response"]["body"]
    meta = body["chart"]["result"][0]["meta"]
    price = yahoo.parse_price(json.dumps(body), meta["symbol"])
    assert price.price == Decimal(str(meta["regularMarketPrice"]))
    assert price.happened_at.timestamp() == meta["regularMarketTime"]
