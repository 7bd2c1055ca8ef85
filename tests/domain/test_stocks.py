"""Whose turn it is, what a budget allows, and which prices cannot be."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.bad_ticks import NAMES, Neighbours, impossible, out_of_level
from domain.budget import Window
from domain.stocks import (
    HELD_EVERY,
    Bar,
    Split,
    Wanted,
    affordable,
    ask_again_at,
    bar_doubt,
    before,
    believable,
    in_one_run,
    ratio_between,
    share_of_day,
    step_at,
    turns,
)

NOW = datetime(2026, 11, 25, 15, tzinfo=UTC)
prices = st.decimals(Decimal("0.01"), Decimal(100_000), places=2)


def bar(day: date, price: Decimal) -> Bar:
    return Bar("A", day, price, price, price, price, 1, "x")


@pytest.mark.parametrize(
    ("symbol", "price", "step"),
    [
        ("AAPL", "285.03", "0.01"), ("SIRI", "0.9", "0.0001"), ("VOD.L", "71.2", "0.01"), ("PTT.BK", "33.25", "0.25"),
        ("DELTA.BK", "400", "2"), ("7203.T", "2850", "0.5"), ("9983.T", "48000", "10"), ("0005.HK", "101.3", "0.1"),
        ("0005.HK", "0.2", "0.001"),
    ],
)  # fmt: skip
def test_the_smallest_step_of_a_price_is_its_markets_at_that_price(symbol, price, step):
    assert step_at(symbol, Decimal(price)) == Decimal(step)


# --- turns


def test_the_most_overdue_goes_first_and_a_held_symbol_is_due_four_times_as_often():
    wanted = [
        Wanted("NEW", 1, False, None),
        Wanted("HELD", 3, True, NOW - timedelta(seconds=40)),
        Wanted("SEEN", 9, False, NOW - timedelta(seconds=61)),
        Wanted("JUST", 9, False, NOW - timedelta(seconds=30)),
    ]
    assert turns(wanted, NOW, None) == ["NEW", "HELD", "SEEN"]


def test_with_fewer_calls_a_day_than_symbols_only_the_most_wanted_are_asked_for():
    wanted = [Wanted(f"S{n}", n, False, None) for n in range(60)]
    assert turns(wanted, NOW, 3) == ["S59", "S58", "S57"]
    assert turns(wanted, NOW, 0) == []


@settings(max_examples=30)
@given(st.integers(0, 400), st.integers(1, 30), st.integers(0, 100))
def test_a_day_dealt_out_run_by_run_is_never_overspent_and_is_used(credits_, calls_each, seed):
    left, asked_at, spent = credits_, None, 0
    end = NOW + timedelta(hours=6)
    at = NOW
    while at < end:
        allowed = min(affordable(left, asked_at, at, end - at), calls_each)
        assert 0 <= allowed <= left
        if allowed:
            left, spent, asked_at = left - allowed, spent + allowed, at
        at += timedelta(minutes=1)  # a run in four is late
    assert spent <= credits_
    if 0 < credits_ <= 60:
        assert spent >= credits_ * 0.75


def test_a_large_budget_is_dealt_out_by_the_run_whoever_else_asked_just_now():
    assert affordable(8000, NOW, NOW, timedelta(hours=6)) == 5
    assert affordable(20, NOW, NOW, timedelta(minutes=200)) == 0
    assert affordable(20, NOW - timedelta(minutes=10), NOW, timedelta(minutes=200)) == 1
    assert affordable(3, NOW, NOW, HELD_EVERY) == 3


def test_a_run_keeps_within_a_sources_seconds_and_minutes():
    assert in_one_run([Window("second", 1), Window("day", 20_000)]) == 4
    assert in_one_run([Window("second", 30), Window("minute", 60)]) == 15
    assert in_one_run([Window("minute", 2)]) == 1


def test_a_days_credits_are_shared_between_markets_by_their_stocks_and_the_hours_that_are_left():
    share, left = share_of_day("XNYS", {"XNYS": 30, "XLON": 10}, NOW)  # 6 hours of New York, 1.5 of London
    assert left == timedelta(hours=6)
    assert share == pytest.approx(180 / 195)
    assert share_of_day("XTKS", {"XNYS": 30}, NOW) == (0.0, timedelta())


def test_a_symbol_that_nobody_knows_is_asked_for_after_one_two_four_hours_and_at_last_once_a_week():
    waits = [(ask_again_at(NOW, n) - NOW) / timedelta(hours=1) for n in (1, 2, 3, 20, 500)]
    assert waits == [1, 2, 4, 168, 168]


# --- bad ticks


@settings(max_examples=60)
@given(prices, st.lists(st.floats(0.7, 1.4), min_size=1, max_size=8), st.sampled_from(["10", "100", "0.1", "0.01"]))
def test_ten_and_a_hundred_times_are_always_caught_and_a_day_of_a_third_never_is(price, moves, factor):
    near = Neighbours([price * Decimal(f"{move:.3f}") for move in moves])
    assert out_of_level(dict.fromkeys(NAMES, price), near) is None
    assert out_of_level(dict.fromkeys(NAMES, price * Decimal(factor)), near)


@settings(max_examples=40)
@given(prices, st.sampled_from(NAMES), st.sampled_from(["0", "-1", "NaN", "Infinity"]))
def test_what_is_no_price_is_caught_in_any_place_and_without_neighbours(price, name, worse):
    assert impossible(dict.fromkeys(NAMES, price)) is None
    assert impossible({**dict.fromkeys(NAMES, price), name: Decimal(worse)})


def test_high_below_low_and_prices_out_of_both_are_caught_but_not_what_sources_round():
    assert impossible({"high": Decimal(9), "low": Decimal(10)}) == "high 9 is below low 10"
    assert impossible({"close": Decimal("10.05"), "high": Decimal(10), "low": Decimal(9)}) is None
    assert impossible({"close": Decimal(11), "high": Decimal(10), "low": Decimal(9)}) == "close 11 is above high 10"


def test_a_split_explains_its_jump_and_one_that_was_applied_twice_does_not():
    week = [date(2026, 11, day) for day in (16, 17, 18, 19, 20)]
    split = Split("A", week[2], Decimal(4), "x")
    raw = {day: Decimal(400 if day < week[2] else 100) for day in week}
    found = [bar(day, price) for day, price in raw.items()]
    assert believable(found, {}, [split])[1] == []
    three = Split("A", week[2], Decimal(3), "x")
    threes = [bar(day, Decimal(300 if day < week[2] else 100)) for day in week]
    threes[1] = bar(week[1], Decimal(100))  # adjusted already, on this day alone
    (doubted,) = believable(threes, {}, [three])[1]
    assert doubted[0].date == week[1]
    assert "as a split by 3" in doubted[1]


@settings(max_examples=40)
@given(st.lists(prices, min_size=2, max_size=12), st.sampled_from(["2", "4", "7", "0.1"]), st.data())
def test_a_price_in_that_days_shares_is_the_same_money_before_and_after_a_split(found, ratio, data):
    days = [date(2026, 3, 2) + timedelta(days=n) for n in range(len(found))]
    split = Split("A", data.draw(st.sampled_from(days[1:])), Decimal(ratio), "x")
    assert ratio_between([split], days[0], days[-1]) == Decimal(ratio)
    closes = dict(zip(days[:-1], found, strict=False))
    near = before(closes, days[-1], [split], count=99).prices
    for day, price in zip(sorted(closes), near, strict=True):
        expected = closes[day] / Decimal(ratio) if day < split.date else closes[day]
        assert price == pytest.approx(expected)


def test_a_bar_without_neighbours_is_judged_by_its_own_prices():
    assert bar_doubt(bar(date(2026, 3, 2), Decimal(5)), Neighbours()) is None
    odd = Bar("A", date(2026, 3, 2), Decimal(5), Decimal(500), Decimal(5), Decimal(5), 1, "x")
    assert bar_doubt(odd, Neighbours())
