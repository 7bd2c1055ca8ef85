"""What a rule means."""

from decimal import Decimal

import pytest

from domain.alerts import Rule, Watch, first_watch, true_at_once

D = Decimal


@pytest.mark.parametrize(
    ("rule", "price", "holds"),
    [
        (Rule("above", D(100)), D("100.01"), True),
        (Rule("above", D(100)), D(100), True),
        (Rule("above", D(100)), D("99.99"), False),
        (Rule("below", D(100)), D("99.99"), True),
        (Rule("below", D(100)), D(100), True),
        (Rule("below", D(100)), D("100.01"), False),
        (Rule("above", D(100)), None, False),
        (Rule("crosses", D(100), "up"), D(101), False),
        (Rule("crosses", D(100), "either"), D(100), False),
    ],
)
def test_a_level_rule_that_is_already_true_fires_at_once_and_a_crossing_never_does(rule, price, holds):
    assert true_at_once(rule, price) is holds


@pytest.mark.parametrize(
    ("direction", "price", "watch"),
    [
        ("up", 99, Watch("up")),
        ("up", 100, Watch("down", arms=True)),
        ("up", 101, Watch("down", arms=True)),
        ("up", None, Watch("down", arms=True)),
        ("down", 101, Watch("down")),
        ("down", 100, Watch("up", arms=True)),
        ("down", 99, Watch("up", arms=True)),
        ("down", None, Watch("up", arms=True)),
        ("either", 99, Watch("up")),
        ("either", 101, Watch("down")),
        ("either", 100, Watch("either", arms=True)),
        ("either", None, Watch("either", arms=True)),
    ],
)
def test_a_crossing_is_armed_only_by_a_price_on_the_near_side(direction, price, watch):
    assert first_watch(Rule("crosses", D(100), direction), None if price is None else D(price)) == watch


def test_made_at_101_a_crossing_of_100_upwards_stays_silent_until_99_and_then_101():
    level = D(100)
    watch = first_watch(Rule("crosses", level, "up"), D(101))
    assert not any(watch.reached(level, D(price)) for price in (102, 100, 101)), "touching the level arms nothing"
    assert watch.reached(level, D(99))
    watch = watch.armed(level, D(99))
    assert not watch.reached(level, D("99.999"))
    assert watch.reached(level, D(101))


def test_a_crossing_either_way_takes_the_side_of_the_first_price_off_the_level():
    watch = Watch("either", arms=True)
    assert not watch.reached(D(100), D(100))
    assert watch.armed(D(100), D(101)) == Watch("down")
    assert watch.armed(D(100), D(99)) == Watch("up")


@pytest.mark.parametrize("level", ["NaN", "sNaN", "Infinity", "-Infinity", "0", "-5", "1e15"])
def test_a_level_that_no_price_can_reach_is_refused(level):
    with pytest.raises(ValueError, match="never reached"):
        Rule("above", D(level))


@pytest.mark.parametrize(
    ("kind", "direction", "words"),
    [
        ("equals", None, "one of above, below, crosses"),
        ("above", "up", "has no direction"),
        ("crosses", None, "one of either, up, down"),
        ("crosses", "sideways", "no direction 'sideways'"),
    ],
)
def test_an_impossible_rule_is_refused_with_what_would_be_right(kind, direction, words):
    with pytest.raises(ValueError, match=words):
        Rule(kind, D(100), direction)
