"""The stand-ins answer as the real APIs are documented to, errors and limits included."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, date, datetime
from urllib.parse import quote

import pytest

BROWSER = {"User-Agent": "Mozilla/5.0"}


def binance(ask, what, **params):
    return ask(f"/binance/api/v3/{what}?" + "&".join(f"{name}={quote(str(value))}" for name, value in params.items()))


def test_binance_gives_one_price_or_many(ask):
    assert set(binance(ask, "ticker/price", symbol="BTCUSDT").body) == {"symbol", "price"}
    many = binance(ask, "ticker/price", symbols='["BTCUSDT","ETHUSDT"]').body
    assert [row["symbol"] for row in many] == ["BTCUSDT", "ETHUSDT"]
    assert len(binance(ask, "ticker/price").body) > 20


def test_binances_24_hours_are_full_or_mini(ask):
    mini = binance(ask, "ticker/24hr", symbol="BTCUSDT", type="MINI").body
    full = binance(ask, "ticker/24hr", symbol="BTCUSDT").body
    assert {"lastPrice", "openTime", "closeTime", "volume", "quoteVolume"} <= set(mini) < set(full)
    assert {"priceChangePercent", "weightedAvgPrice", "bidPrice", "askPrice"} <= set(full)
    assert float(mini["lowPrice"]) <= float(mini["lastPrice"]) <= float(mini["highPrice"])
    assert abs(mini["closeTime"] / 1000 - time.time()) < 5


@pytest.mark.parametrize(
    ("what", "params", "code"),
    [
        ("ticker/price", {"symbol": "NOSUCH"}, -1121),
        ("ticker/price", {"symbols": '["BTCUSDT","NOSUCH"]'}, -1121),
        ("ticker/price", {"symbol": "BTCUSD"}, -1121),
        ("ticker/price", {"symbols": "BTCUSDT"}, -1100),
        ("ticker/price", {"symbols": "[]"}, -1105),
        ("ticker/price", {"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, -1128),
        ("klines", {"interval": "1m"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
    ],
)
def test_binance_refuses_with_400_a_code_and_a_message(ask, what, params, code):
    answer = binance(ask, what, **params)
    assert answer.status == 400
    assert answer.body["code"] == code
    assert answer.body["msg"]


def test_binances_candles_follow_one_another(ask):
    rows = binance(ask, "klines", symbol="ETHUSDT", interval="1m", limit=5).body
    assert [len(row) for row in rows] == [12] * 5
    assert [later[0] - earlier[0] for earlier, later in itertools.pairwise(rows)] == [60_000] * 4
    assert all(float(low) <= min(float(o), float(c)) for _, o, _, low, c, *_ in rows)
    assert all(earlier[4] == later[1] for earlier, later in itertools.pairwise(rows))


def test_binance_counts_weight_then_answers_429_then_418(ask, demo, monkeypatch):
    api = demo.apis["binance"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # the count starts again with the minute
    used = int(binance(ask, "ticker/price", symbol="BTCUSDT").headers["X-MBX-USED-WEIGHT-1M"])
    assert int(binance(ask, "ticker/price").headers["X-MBX-USED-WEIGHT-1M"]) == used + 4
    api.limit = 0
    try:
        answers = [binance(ask, "ping") for _ in range(25)]
    finally:
        api.limit, api._banned_until = 6000, 0.0
    assert answers[0].status == 429
    assert 0 < int(answers[0].headers["Retry-After"]) <= 60
    assert answers[-1].status == 418
    assert int(answers[-1].headers["Retry-After"]) <= 121
    assert answers[-1].body["code"] == -1003


def test_frankfurter_gives_the_rates_of_the_last_working_day(ask):
    answer = ask("/frankfurter/v1/latest?base=USD&symbols=THB,EUR")
    assert set(answer.body) == {"amount", "base", "date", "rates"}
    assert list(answer.body["rates"]) == ["EUR", "THB"]
    assert date.fromisoformat(answer.body["date"]).weekday() < 5
    assert len(ask("/frankfurter/v1/latest").body["rates"]) == 30


def test_frankfurters_day_does_not_change(ask):
    friday = ask("/frankfurter/v1/2026-11-20?symbols=USD")
    saturday = ask("/frankfurter/v1/2026-11-21?symbols=USD")
    assert friday.body == saturday.body
    assert friday.body["date"] == "2026-11-20"


def test_frankfurters_weeks_have_no_weekends(ask):
    body = ask("/frankfurter/v1/2026-11-09..2026-11-20?symbols=USD").body
    assert (body["start_date"], body["end_date"]) == ("2026-11-09", "2026-11-20")
    assert [date.fromisoformat(day).weekday() for day in body["rates"]] == [0, 1, 2, 3, 4] * 2


def test_frankfurter_answers_304_to_who_has_it(ask):
    first = ask("/frankfurter/v1/latest")
    again = ask("/frankfurter/v1/latest", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("path", ["/latest?base=XXX", "/latest?symbols=XXX", "/nowhere"])
def test_frankfurter_does_not_find(ask, path):
    answer = ask(f"/frankfurter/v1{path}")
    assert (answer.status, answer.body) == (404, {"message": "not found"})


def test_frankfurter_does_not_understand(ask):
    answer = ask("/frankfurter/v1/2026-13-45")
    assert answer.status == 422
    assert answer.body["message"]


def test_gold_api_gives_a_metal_in_any_currency(ask):
    gold = ask("/gold-api/price/XAU").body
    assert set(gold) == {
        "currency", "currencySymbol", "exchangeRate", "name", "price", "symbol", "updatedAt", "updatedAtReadable",
    }  # fmt: skip
    assert abs(datetime.fromisoformat(gold["updatedAt"]) - datetime.now(UTC)).total_seconds() < 5
    assert ask("/gold-api/price/XAU/EUR").body["price"] < gold["price"]
    assert ask("/gold-api/price/XXX").status == 404


def test_yahoo_gives_charts_with_nulls_to_browsers(ask):
    answer = ask("/yahoo/v8/finance/chart/EURUSD=X?interval=1m&range=1d", headers=BROWSER)
    result = answer.body["chart"]["result"][0]
    assert answer.body["chart"]["error"] is None
    assert result["meta"]["symbol"] == "EURUSD=X"
    closes = result["indicators"]["quote"][0]["close"]
    assert len(closes) == len(result["timestamp"])
    assert None in closes
    for symbol in ("GC=F", "JPY=X", "BTC-USD", "AAPL"):
        assert ask(f"/yahoo/v8/finance/chart/{symbol}", headers=BROWSER).status == 200


def test_yahoo_sends_429_as_text_to_programs(ask):
    answer = ask("/yahoo/v8/finance/chart/AAPL", headers={"User-Agent": "python-requests/2"})
    assert (answer.status, answer.body) == (429, b"Too Many Requests\r\n")


def test_yahoo_does_not_know_a_symbol(ask):
    answer = ask("/yahoo/v8/finance/chart/NOSUCH", headers=BROWSER)
    assert answer.status == 404
    assert answer.body["chart"]["result"] is None
    assert answer.body["chart"]["error"]["code"] == "Not Found"


def test_all_stand_ins_tell_of_one_world(ask):
    metal = ask("/gold-api/price/XAU").body["price"]
    rates = ask("/frankfurter/v1/latest?symbols=USD").body["rates"]["USD"]
    live = ask("/yahoo/v8/finance/chart/EURUSD=X", headers=BROWSER).body["chart"]["result"][0]["meta"]
    future = ask("/yahoo/v8/finance/chart/GC=F", headers=BROWSER).body["chart"]["result"][0]["meta"]
    assert future["regularMarketPrice"] == pytest.approx(metal, rel=0.01)
    assert live["regularMarketPrice"] == pytest.approx(rates, rel=0.05)
