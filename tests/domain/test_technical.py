"""Measures of bars by their names."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from statistics import median
from zoneinfo import ZoneInfo

import pytest

from domain import indicators
from domain.measures import indicator
from domain.technical import Bar, line, need, volume_ratios

START = datetime(2026, 11, 2, 14, 30, tzinfo=UTC)


def bars(count: int) -> list[Bar]:
    dice, price, made = Random(3), Decimal(100), []
    for n in range(count):
        price += Decimal(dice.randint(-100, 100)) / 100
        made.append(Bar(START + timedelta(hours=n), price + 1, price - 1, price, Decimal(dice.randint(1, 9))))
    return made


@pytest.mark.parametrize("name", ["rsi14", "sma20", "ema20", "atr14", "bollinger20", "macd", "volume", "volume_ratio"])
def test_a_value_is_made_of_its_bar_and_those_before_it_alone(name):
    path = bars(200)
    whole = line(name, path)
    assert len(whole) == 200
    assert whole[-1] is not None
    assert line(name, path[:150]) == whole[:150]


@pytest.mark.parametrize(
    "name", ["sma9", "bollinger9", "ema9", "rsi9", "atr9", "macd", "ema200", "rsi100", "volume_ratio"]
)
def test_so_many_bars_as_are_needed_give_the_value_of_the_whole_history_and_fewer_than_the_least_give_none(name):
    path, needed = bars(1400), need(name)
    assert line(name, path[-needed.all :], None)[-1] == pytest.approx(line(name, path, None)[-1], rel=1e-4)
    known = [value is not None for value in line(name, path[: needed.least], None)]
    assert known == [False] * (needed.least - 1) + [True]


def test_names_lead_to_the_indicators():
    path = bars(60)
    closes = [bar.close for bar in path]
    assert line("rsi7", path) == indicators.rsi(closes, 7)
    assert line("macd", path) == indicators.macd(closes).histogram
    assert line("sma5", path)[4] == pytest.approx(float(sum(closes[:5])) / 5)
    with pytest.raises(ValueError, match="no indicator 'obv'"):
        line("obv", path)


def test_the_close_is_placed_between_the_bands():
    flat = [bar._replace(close=Decimal(100)) for bar in bars(25)]
    assert line("bollinger20", flat)[-1] is None, "there is no band"
    rising = [bar._replace(close=Decimal(n)) for n, bar in enumerate(flat)]
    assert line("bollinger20", rising)[-1] == pytest.approx(0.912, abs=0.001)


@pytest.mark.parametrize("length", [2, 5, 20, 400])
def test_one_close_far_from_all_others_is_just_within_what_may_be_asked_of_its_place(length):
    asked = indicator(f"bollinger{length}")
    for close, bound in ((200, asked.high), (1, asked.low)):
        far = [bar._replace(close=Decimal(100)) for bar in bars(length - 1)] + [
            bars(1)[0]._replace(close=Decimal(close))
        ]
        (place,) = line(asked.name, far)[-1:]
        assert 0 < abs(float(bound) - 0.5) - abs(place - 0.5) < 0.0002


def test_volume_is_compared_with_the_same_time_of_day_and_not_with_the_hour_before():
    days = [
        Bar(START + timedelta(days=day, hours=hour), Decimal(1), Decimal(1), Decimal(1), Decimal(volume))
        for day in range(7)
        for hour, volume in ((0, 1000), (1, 10))  # the opening, and later
    ]
    days[-1] = days[-1]._replace(volume=Decimal(50))
    ratios = volume_ratios(days)
    assert ratios[:10] == [None] * 10
    assert ratios[-2:] == [1.0, 5.0], "a large opening is no spike, and 50 is one where 10 is usual"


NEW_YORK = ZoneInfo("America/New_York")


def traded(*ends: datetime) -> list[Bar]:
    """Bars that end then, each with a volume by chance."""
    dice = Random(4)
    return [Bar(at.astimezone(UTC), *[Decimal(1)] * 3, Decimal(dice.randint(1, 9))) for at in ends]


def test_the_volume_of_a_day_is_compared_with_the_20_days_before_also_over_a_change_of_clocks_and_half_days():
    days = [datetime(2026, 9, 1, 16, tzinfo=NEW_YORK) + timedelta(days=n) for n in range(120)]
    path = traded(*(day.replace(hour=13) if day.day == 27 else day for day in days))
    volumes = [float(bar.volume) for bar in path]
    assert volume_ratios(path, None) == [
        volumes[n] / median(volumes[max(0, n - 20) : n]) if n >= 5 else None for n in range(120)
    ]


def test_the_time_of_day_is_that_of_the_markets_own_clock():
    path = traded(
        *(datetime(2026, 10, 20 + n // 2, 10 + n % 2, tzinfo=NEW_YORK) for n in range(12)),
        datetime(2026, 11, 2, 10, tzinfo=NEW_YORK),
    )
    volumes = [float(bar.volume) for bar in path]
    assert volume_ratios(path, NEW_YORK)[-1] == volumes[-1] / median(volumes[:-1:2])
    assert volume_ratios(path, UTC)[-1] == volumes[-1] / median(volumes[1::2]), "of 11:00 in New York, until then"
