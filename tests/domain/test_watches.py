"""What an alert waits for, and what each value does to it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from domain.watches import Aim, Seen, Watch, bar_end, first_watch, follow, true_at_once

D = Decimal
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
ABOVE, BELOW = Aim("up", D(100), way_back=D("0.2")), Aim("down", D(100), way_back=D("0.2"))
EQUALS = Aim("at", D(100), band=D(1), way_back=D("0.2"))


def crossing(side: str) -> Aim:
    return Aim(side, D(100), edge=True, way_back=D("0.2"))


def path(*values: float | str, seconds: int = 10) -> list[Seen]:
    """Values `seconds` apart from noon on, each with the one before it."""
    numbers = [D(str(value)) for value in values]
    return [
        Seen(NOON + timedelta(seconds=seconds * n), value, numbers[n - 1] if n and numbers[n - 1] != value else None)
        for n, value in enumerate(numbers)
    ]


def fired(aim: Aim, *values: float | str, seconds: int = 10, made_at: float | None = None) -> list[int]:
    """At which of the values it fires, counted from 0."""
    watch = first_watch(aim, None if made_at is None else D(str(made_at)))
    seen = follow(aim, watch, path(*values, seconds=seconds)).fired
    return [int((firing.seen.at - NOON).total_seconds()) // seconds for firing in seen]


@pytest.mark.parametrize(
    ("aim", "price", "holds"),
    [
        (ABOVE, "100.01", True), (ABOVE, 100, True), (ABOVE, "99.99", False), (ABOVE, None, False),
        (BELOW, "99.99", True), (BELOW, 100, True), (BELOW, "100.01", False),
        (EQUALS, 99, True), (EQUALS, 101, True), (EQUALS, "98.9", False), (EQUALS, "101.1", False),
        (crossing("up"), 101, False), (crossing("either"), 100, False),
        (replace(ABOVE, way_back=None), 101, False),
    ],
)  # fmt: skip
def test_a_level_rule_that_is_already_true_fires_at_once_and_a_crossing_or_an_event_never_does(aim, price, holds):
    assert true_at_once(aim, None if price is None else D(price)) is holds


@pytest.mark.parametrize(
    ("direction", "price", "waits_for", "arms"),
    [
        ("up", 99, "up", False), ("up", 100, "down", True), ("up", 101, "down", True), ("up", None, "down", True),
        ("down", 101, "down", False), ("down", 100, "up", True), ("down", 99, "up", True), ("down", None, "up", True),
        ("either", 99, "up", False), ("either", 101, "down", False),
        ("either", 100, "either", True), ("either", None, "either", True),
    ],
)  # fmt: skip
def test_a_crossing_is_armed_only_by_a_price_on_the_near_side(direction, price, waits_for, arms):
    watch = first_watch(crossing(direction), None if price is None else D(price))
    assert watch == Watch(waits_for, D(100), arms)


def test_made_at_101_a_crossing_of_100_upwards_stays_silent_until_99_and_then_101():
    assert fired(crossing("up"), 102, 100, 101, 99, "99.999", 101, made_at=101) == [5]


def test_a_crossing_either_way_takes_the_side_of_the_first_price_off_the_level():
    assert fired(crossing("either"), 100, 101, 102, "99.9") == [3]
    assert fired(crossing("either"), 100, 99, 98, "100") == [3]


def test_equal_is_within_the_tick_size_and_what_jumps_over_it_is_not():
    assert fired(EQUALS, 98, 102, 98, "98.9", 103, 101) == [5]
    assert fired(EQUALS, 103, "101.1", 99) == [2]


def every(aim: Aim, seconds: int = 1) -> Aim:
    return replace(aim, frequency="every", cooldown=timedelta(seconds=seconds))


def test_every_time_means_having_been_back_by_the_hysteresis():
    assert fired(every(ABOVE), 101, 102, "99.9", 101, "99.8", 101, "99.7", 100, made_at=99) == [0, 7]
    assert fired(every(BELOW), 99, "100.1", 99, "100.3", 100) == [0, 4]
    assert fired(every(EQUALS), 100, "101.1", 100, "101.3", 100) == [0, 4]
    assert fired(every(crossing("up")), 99, 100, "99.9", 100, 99, 100) == [1, 5]
    assert fired(every(crossing("either")), 99, "100.1", "99.9", 101, 99, "98", 101) == [1, 4, 6]


def test_a_price_that_swings_by_a_thousandth_around_the_level_fires_once_and_the_touches_are_counted():
    swings = ["99.9", "100.1"] * 1000
    done = follow(every(ABOVE), first_watch(ABOVE, D(99)), path(*swings))
    assert len(done.fired) == 1
    assert done.touches == 999
    again = follow(every(ABOVE), first_watch(ABOVE, D(99)), path(*swings, 99, 101))
    assert [firing.touches for firing in again.fired] == [0, 999]


def test_a_cool_down_holds_the_next_firing_back_and_a_level_that_holds_when_it_ends_fires_then():
    values = (101, 99, 101, 101, 101, 101, 101, 101)
    assert fired(every(ABOVE, 60), *values) == [0, 7], "ten seconds apart: the first one later than 60 s"
    assert fired(every(crossing("up"), 60), 99, *values) == [1], "the crossing was at another time"
    assert fired(every(crossing("up"), 60), 99, 101, 99, 101, 99, 101, 101, 99, 99, 101) == [1, 9]


def test_once_per_bar_is_the_first_time_in_each_bar_in_which_it_holds():
    hourly = replace(ABOVE, frequency="bar", bar="1h")
    values = [99, 101, 102, 103, 101, 99, 99, 99, 101, 101]  # 20 minutes apart
    assert fired(hourly, *values, seconds=1200) == [1, 3, 8, 9]
    crosses = replace(crossing("up"), frequency="bar", bar="1h")
    assert fired(crosses, 99, 101, 99, 101, 99, 101, 101, 101, 99, seconds=1200) == [1, 3]
    assert fired(crosses, 99, 101, 99, 101, 102, 99, 101, seconds=600) == [1, 6]


def test_once_per_bar_close_fires_at_each_close_for_which_it_holds():
    assert fired(replace(ABOVE, frequency="close", bar="1h"), 99, 101, 102, 99, 100, seconds=3600) == [1, 2, 4]
    assert fired(replace(crossing("up"), frequency="close", bar="1h"), 99, 101, 102, 99, 100, seconds=3600) == [1, 4]


def test_every_event_is_news_of_its_own_and_the_cool_down_is_kept():
    happens = every(Aim("up", D(0)), 15)
    assert fired(happens, 1, 1, 1, 1, 1) == [0, 2, 4]


def test_the_sixteenth_firing_in_three_minutes_pauses_the_alert():
    done = follow(every(Aim("up", D(0))), Watch("up", D(0)), path(*[1] * 20))
    assert (len(done.fired), done.paused, done.watch) == (15, True, None)
    slow = follow(every(Aim("up", D(0))), Watch("up", D(0)), path(*[1] * 20, seconds=12))
    assert (len(slow.fired), slow.paused) == (20, False)


def test_bars_lie_on_the_clock_of_utc():
    at = datetime(2026, 11, 26, 10, 59, 59, tzinfo=UTC)
    assert bar_end(at, "1h") == datetime(2026, 11, 26, 11, tzinfo=UTC)
    assert bar_end(at + timedelta(seconds=1), "1h") == datetime(2026, 11, 26, 12, tzinfo=UTC)
    assert bar_end(at, "1d") == datetime(2026, 11, 27, tzinfo=UTC)
