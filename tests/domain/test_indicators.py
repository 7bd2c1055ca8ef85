"""Indicators are those of TA-Lib, and know nothing of what comes later."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.indicators import atr, bollinger, ema, macd, rsi, sma

GOLDEN = json.loads(Path(__file__).with_name("indicators.json").read_text())  # it says where it is from
HIGHS, LOWS, CLOSES = GOLDEN["highs"], GOLDEN["lows"], GOLDEN["closes"]

PRICES = st.lists(st.floats(0.01, 1e6), max_size=60)
LENGTHS = st.integers(1, 15)


def same(line, golden) -> None:
    assert [value is None for value in line] == [value is None for value in golden]
    assert line == [None if value is None else pytest.approx(value, rel=0, abs=1e-9) for value in golden]


def test_averages_are_those_of_ta_lib():
    same(sma(CLOSES, 10), GOLDEN["sma_10"])
    same(ema(CLOSES, 10), GOLDEN["ema_10"])


def test_rsi_is_that_of_ta_lib():
    same(rsi(CLOSES), GOLDEN["rsi_14"])


def test_macd_is_that_of_ta_lib_whose_line_begins_when_its_signal_does():
    found = macd(CLOSES)
    same(found.signal, GOLDEN["macd_signal"])
    same(found.histogram, GOLDEN["macd_histogram"])
    assert found.line[24:26] == [None, pytest.approx(found.line[25])]
    same([None] * 33 + found.line[33:], GOLDEN["macd"])


def test_bollinger_bands_are_those_of_ta_lib():
    found = bollinger(CLOSES)
    same(found.upper, GOLDEN["bollinger_upper"])
    same(found.middle, GOLDEN["bollinger_middle"])
    same(found.lower, GOLDEN["bollinger_lower"])


def test_atr_is_that_of_ta_lib():
    same(atr(HIGHS, LOWS, CLOSES), GOLDEN["atr_14"])


def test_prices_may_be_decimal():
    closes = [Decimal(str(close)) for close in CLOSES]
    assert rsi(closes) == rsi(CLOSES)
    assert bollinger(closes) == bollinger(CLOSES)


def test_a_price_that_has_never_moved_is_neither_strong_nor_weak():
    assert rsi([7.0] * 20)[14:] == [50.0] * 6
    assert bollinger([7.0] * 20).upper[-1] == 7


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_bars_have_no_value(count):
    few = CLOSES[:count]
    nothing = [None] * count
    assert sma(few, 10) == ema(few, 10) == rsi(few) == atr(few, few, few) == nothing
    assert macd(few) == bollinger(few) == (nothing, nothing, nothing)


def test_lengths_that_mean_nothing_are_refused():
    for line in (sma, ema, rsi):
        with pytest.raises(ValueError, match="0 bars"):
            line(CLOSES, 0)
    with pytest.raises(ValueError, match="not shorter"):
        macd(CLOSES, 26, 12)


@given(PRICES, LENGTHS, st.integers(0, 60))
def test_a_value_is_not_changed_by_what_follows(closes, length, cut):
    lines = (
        lambda c: sma(c, length),
        lambda c: ema(c, length),
        lambda c: rsi(c, length),
        lambda c: macd(c, length, length + 3, 4).line,
        lambda c: macd(c, length, length + 3, 4).signal,
        lambda c: bollinger(c, length).lower,
        lambda c: atr([p * 1.01 for p in c], c, c, length),
    )
    for line in lines:
        assert line(closes)[:cut] == line(closes[:cut])


@given(PRICES, LENGTHS)
def test_averages_lie_among_the_values_and_rsi_in_its_range(closes, length):
    room = 1e-12 * max(closes, default=0)
    for value in (*sma(closes, length), *ema(closes, length)):
        assert value is None or min(closes) - room <= value <= max(closes) + room
    assert all(value is None or 0 <= value <= 100 for value in rsi(closes, length))
