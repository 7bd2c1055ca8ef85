"""Whatever a service sends, a parser gives prices or Rejected with the provider's name, and nothing else."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clients import binance, fields, frankfurter, gold_api, yahoo
from domain.failures import Rejected
from domain.prices import Price

PARSERS = {
    "binance": binance.parse_tickers,
    "frankfurter": frankfurter.parse_rates,
    "gold-api": lambda body: gold_api.parse_price(body, "XAU"),
    "yahoo": lambda body: yahoo.parse_price(body, "GC=F"),
}
GOOD = {
    "binance": [{"symbol": "BTCUSDT", "lastPrice": "60000.01", "closeTime": 1_795_449_600_000}],
    "frankfurter": {"amount": 1.0, "base": "EUR", "date": "2026-11-20", "rates": {"USD": 1.1568, "JPY": 180}},
    "gold-api": {"symbol": "XAU", "currency": "USD", "price": 4165.200195, "updatedAt": "2026-07-03T16:08:54Z"},
    "yahoo": {
        "chart": {
            "result": [
                {
                    "meta": {
                        "symbol": "GC=F",
                        "currency": "USD",
                        "regularMarketPrice": 4170.5,
                        "regularMarketTime": 1_795_449_600,
                    }
                }
            ],
            "error": None,
        }
    },
}
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["-", "None", "", "N/D", "SP", "–", "NaN", "Infinity", "-1", "0", "1e999999999", "9" * 5000, "1_0"]
    ),
    st.sampled_from([float("nan"), float("inf"), -1, 0, 10**400, 1e-300, [], {}, [[]]]),
)
anything = st.recursive(odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def holds(name, body):
    words = None
    try:
        found = PARSERS[name](body)
    except Rejected as wrong:
        words = str(wrong)
    if words is not None:
        assert name in words
        assert len(words) < 300
        assert words.encode()
        return
    prices = list(found) if isinstance(found, tuple) else [found]
    for price in prices:
        values = price.by_currency.values() if isinstance(price, frankfurter.Rates) else [price.price]
        assert all(value.is_finite() and value > 0 for value in values)
        assert price.happened_at.utcoffset().total_seconds() == 0


@pytest.mark.parametrize("name", PARSERS)
@given(body=st.binary(max_size=200))
@example(body=b"")
@example(body=b"\xff\xfe")
@example(body=b"[" * 100_000)
@example(body=b"9" * 10_000)
@example(body=b"1e99999999999999999999")
@example(body=b'[{"symbol": "\\ud800", "lastPrice": "\\ud800", "closeTime": 1}]')
@example(body=b"<!doctype html><title>Checking your browser</title>")
def test_no_bytes_break_a_parser(name, body):
    holds(name, body)


@pytest.mark.parametrize("name", PARSERS)
@given(value=anything)
def test_no_json_breaks_a_parser(name, value):
    holds(name, json.dumps(value))


def paths(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize(("name", "path"), [(name, path) for name in GOOD for path in paths(GOOD[name])])
@given(new=anything)
def test_no_single_wrong_field_breaks_a_parser(name, path, new):
    holds(name, json.dumps(changed(GOOD[name], path, new)))


@pytest.mark.parametrize("name", PARSERS)
def test_the_documented_shape_is_read(name):
    assert PARSERS[name](json.dumps(GOOD[name]))


@pytest.mark.parametrize(
    ("name", "path", "new", "words"),
    [
        ("binance", (0, "lastPrice"), "0.00000000", r"binance: lastPrice is '0\.0"),
        ("binance", (0, "lastPrice"), "-", "binance: lastPrice is '-', not a price"),
        ("binance", (0, "lastPrice"), float("nan"), "binance: the answer is not JSON"),
        ("binance", (0, "closeTime"), 0, "binance: closeTime is"),
        ("binance", (), {"code": 0, "msg": "x"}, "binance: the answer is .*not a list"),
        ("frankfurter", ("rates", "USD"), -1, "frankfurter: rates.USD is -1"),
        ("frankfurter", ("base",), "USD", "frankfurter: not the rates of one euro"),
        ("frankfurter", ("amount",), 10, "frankfurter: not the rates of one euro"),
        ("frankfurter", ("date",), "20 Nov", "frankfurter: date is '20 Nov'"),
        ("gold-api", ("symbol",), "XAG", "gold-api: symbol is 'XAG'"),
        ("gold-api", ("currency",), "EUR", "gold-api: symbol is 'XAU' in 'EUR'"),
        ("gold-api", ("updatedAt",), "2026-07-03T16:08:54", "gold-api: updatedAt is"),
        ("yahoo", ("chart", "result"), None, "yahoo: no chart.result.0 in the answer"),
        ("yahoo", ("chart", "result", 0, "meta", "symbol"), "SI=F", "yahoo: symbol is 'SI=F', not GC=F"),
        ("yahoo", ("chart", "error"), {"code": "Not Found"}, "yahoo: GC=F: .*Not Found"),
        ("yahoo", ("chart", "result", 0, "meta", "regularMarketPrice"), None, "yahoo: regularMarketPrice is None"),
    ],
)
def test_a_refusal_names_the_provider_and_the_field(name, path, new, words):
    with pytest.raises(Rejected, match=words):
        PARSERS[name](json.dumps(changed(GOOD[name], path, new)))


def test_numbers_keep_every_digit():
    assert fields.document("x", "[0.1, 4165.200195]") == [Decimal("0.1"), Decimal("4165.200195")]
    body = json.dumps(GOOD["gold-api"])
    assert gold_api.parse_price(body, "XAU").price == Decimal("4165.200195")


@given(st.decimals("0.00000001", "999999999", allow_nan=False))
def test_a_price_survives_the_journey_as_text(price):
    rows = [{"symbol": "X", "lastPrice": f"{price:f}"[:38], "closeTime": 1_795_449_600_000}]
    try:
        (found,) = binance.parse_tickers(json.dumps(rows))
    except Rejected:
        assert Decimal(f"{price:f}"[:38]) == 0
    else:
        assert isinstance(found, Price)
        assert found.price == Decimal(f"{price:f}"[:38])
