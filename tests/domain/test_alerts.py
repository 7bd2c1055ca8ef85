"""What may be asked, what it comes to, and why some of it is refused."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product

import pytest

from domain.alerts import Rule, aim, check, fires_again, stream
from domain.measures import PRICE, TYPES, Reading, believable, measure, of_name, of_stream
from domain.watches import Aim

D = Decimal
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("rule", "comes_to"),
    [
        (Rule("above", D(100)), Aim("up", D(100), way_back=D("0.200"))),
        (Rule("below", D(100)), Aim("down", D(100), way_back=D("0.200"))),
        (Rule("equals", D(100)), Aim("at", D(100), band=D("0.5"), way_back=D("0.200"))),
        (Rule("crosses", D(100), "up"), Aim("up", D(100), edge=True, way_back=D("0.200"))),
        (Rule("percent_up", D(5), base="creation"), Aim("up", D(84), way_back=D("0.168"))),
        (Rule("percent_down", D(5), base="creation"), Aim("down", D(76), way_back=D("0.152"))),
        (Rule("percent_up", D(5), base="24h"), Aim("up", D(5), way_back=D("0.2"))),
        (Rule("percent_down", D(5), base="close"), Aim("down", D(-5), way_back=D("0.2"))),
    ],
)
def test_a_rule_comes_to_a_level_in_a_stream(rule, comes_to):
    assert aim(rule, PRICE, base=D(80), tick_size=D("0.5")) == comes_to


@pytest.mark.parametrize(
    ("type_", "name", "rule", "watched"),
    [
        ("price", "price", Rule("above", D(1)), "price"),
        ("price", "price", Rule("above", D(1), frequency="bar", bar="1h"), "price"),
        ("price", "price", Rule("above", D(1), frequency="close", bar="1h"), "price@1h"),
        ("price", "price", Rule("percent_up", D(1), base="creation"), "price"),
        ("price", "price", Rule("percent_up", D(1), base="24h"), "price/24h"),
        ("technical", "rsi14", Rule("above", D(70), bar="1d"), "rsi14@1d"),
        ("technical", "sma50", Rule("above", D(70), bar="1d", frequency="close"), "sma50@1d"),
        ("match_start", "starts_at", Rule("within", D(1800)), "starts_at"),
    ],
)
def test_what_a_rule_watches_is_a_stream_of_values(type_, name, rule, watched):
    measured = measure(type_, name)
    check(rule, measured)
    assert stream(rule, measured) == watched
    assert of_stream(watched).name == measured.name


@pytest.mark.parametrize("level", ["NaN", "sNaN", "Infinity", "-Infinity", "0", "-5", "1e15"])
def test_a_level_that_no_price_can_reach_or_that_every_price_is_beyond_is_refused(level):
    with pytest.raises(ValueError, match=r"never reached|always true"):
        check(Rule("above", D(level)), PRICE)
    with pytest.raises(ValueError, match=r"never reached|always true"):
        check(Rule("below", D(level)), PRICE)


@pytest.mark.parametrize("level", ["-1e14", "-1", "0", "1e-30", "1", "100", "1e14", "1e300"])
def test_whatever_is_asked_of_a_measure_comes_to_something_or_is_refused(level):
    for measured in (each for kind in TYPES.values() for each in kind.measures):
        for condition, bar, base in product(measured.conditions, (None, "1d"), (None, "creation", "24h")):
            with suppress(ValueError):
                rule = Rule(condition, D(level), "up" if condition == "crosses" else None, base, bar=bar)
                aim(rule, measured, base=D("1e14"))


@pytest.mark.parametrize(
    ("name", "rule", "words"),
    [
        ("volume", {"condition": "above", "level": D(0), "bar": "1d"}, "always true: it must be a number above 0"),
        ("rsi14", {"condition": "above", "level": D(100), "bar": "1d"}, "never reached"),
        ("rsi14", {"condition": "below", "level": D(100), "bar": "1d"}, "always true"),
        ("rsi14", {"condition": "above", "level": D(0), "bar": "1d"}, "always true"),
        ("rsi14", {"condition": "below", "level": D(0), "bar": "1d"}, "never reached"),
        ("rsi14", {"condition": "crosses", "level": D(101), "direction": "up", "bar": "1d"}, "never reached"),
        (
            "bollinger",
            {"condition": "above", "level": D(5), "bar": "1d"},
            "never reached.* above -0.5898 and below 1.5898",
        ),
        ("bollinger20", {"condition": "above", "level": D("1.59"), "bar": "1d"}, "never reached"),
        ("bollinger20", {"condition": "above", "level": D("-0.6"), "bar": "1d"}, "always true"),
        ("bollinger5", {"condition": "crosses", "level": D("1.1"), "direction": "up", "bar": "1h"}, "never reached"),
        ("rsi14", {"condition": "above", "level": D(70)}, "of what bar"),
        ("rsi14", {"condition": "equals", "level": D(70), "bar": "1d"}, "one of above, below, crosses"),
        ("price", {"condition": "percent_down", "level": D(100), "base": "creation"}, "never reached"),
        ("price", {"condition": "percent_up", "level": D(-1), "base": "creation"}, "never reached"),
        ("price", {"condition": "percent_up", "level": D("1e15"), "base": "24h"}, "never reached"),
        (
            "price",
            {"condition": "percent_up", "level": D(1), "base": "24h", "frequency": "close", "bar": "1h"},
            "close",
        ),
        ("price", {"condition": "above", "level": D(1), "bar": "1h"}, "without a frequency"),
        ("price", {"condition": "within", "level": D(60)}, "never 'within'"),
        ("odds", {"condition": "below", "level": D(1)}, "never reached"),
        ("sentiment", {"condition": "above", "level": D(1)}, "never reached"),
        ("sentiment", {"condition": "below", "level": D("-0.5"), "frequency": "close", "bar": "1h"}, "no close"),
        ("mention", {"condition": "happens", "level": D(3)}, "no level"),
        ("starts_at", {"condition": "within", "level": D(0)}, "more than none"),
        ("starts_at", {"condition": "within", "level": D(60), "frequency": "bar", "bar": "1h"}, "no bars"),
        ("price", {"condition": "above", "level": D("1e-31")}, "at most 30 decimals"),
    ],
)
def test_a_rule_that_never_fires_or_always_or_makes_no_sense_for_its_measure_is_refused(name, rule, words):
    _, measured = of_name(name)
    with pytest.raises(ValueError, match=words):
        check(Rule(**rule), measured)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"condition": "near"}, "one of above, below, equals"),
        ({"condition": "above", "direction": "up"}, "only 'crosses' has"),
        ({"condition": "crosses"}, "one of either, up, down"),
        ({"condition": "crosses", "direction": "sideways"}, "no direction 'sideways'"),
        ({"condition": "percent_up"}, "has a base"),
        ({"condition": "above", "base": "24h"}, "only a percentage has"),
        ({"condition": "percent_up", "base": "0h"}, "no base '0h'"),
        ({"condition": "percent_up", "base": "721h"}, "no base '721h'"),
        ({"condition": "percent_up", "base": "2\u0664h"}, "no base '2\u0664h'"),  # no digit that SQL reads
        ({"condition": "above", "frequency": "often"}, "one of once, bar, close, every"),
        ({"condition": "above", "frequency": "bar"}, "of what bar"),
        ({"condition": "above", "bar": "2h"}, "no bar '2h'"),
        ({"condition": "above", "frequency": "every"}, "has a cool-down"),
        ({"condition": "above", "cooldown": HOUR}, "only 'every' has"),
        ({"condition": "above", "frequency": "every", "cooldown": timedelta(0)}, "not between"),
    ],
)
def test_an_impossible_rule_is_refused_with_what_would_be_right(rule, words):
    with pytest.raises(ValueError, match=words):
        Rule(**rule)


def test_a_percentage_that_leads_beyond_every_price_is_refused():
    with pytest.raises(ValueError, match="never reached"):
        aim(Rule("percent_up", D("1e14"), base="creation"), PRICE, D(100_000))


def test_a_percentage_needs_a_value_to_count_from():
    with pytest.raises(ValueError, match="no fresh value"):
        aim(Rule("percent_up", D(5), base="creation"), PRICE)


def test_measures_are_found_by_name_and_lengths_of_indicators_are_free():
    assert [of_name(name)[1].name for name in ("price", "rsi", "sma50", "starts_at")] == [
        "price", "rsi14", "sma50", "starts_at",
    ]  # fmt: skip
    for wrong in ("rsi1", "sma401", "rsi201", "atr201", "sma", "obv", "rsi014", "macd9", "sma1\u0664"):
        with pytest.raises(ValueError, match="no indicator"):
            measure("technical", wrong)
    with pytest.raises(ValueError, match="no type 'magic'"):
        measure("magic", "price")
    with pytest.raises(ValueError, match="no measure 'odds' of price"):
        measure("price", "odds")


def test_names_of_measures_are_unique_so_that_a_stream_says_what_it_is():
    names = [m.name for kind in TYPES.values() for m in kind.measures if m is not PRICE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e15", "-1e16"])
def test_a_reading_that_is_no_number_is_left_out_with_the_reason_and_the_others_stay(value):
    now = datetime(2026, 11, 26, tzinfo=UTC)
    good = Reading("AAPL", "rsi14@1d", D(71), now, "candles")
    off = Reading("M1", "starts_at", D("Infinity"), now, "fixtures")
    kept, doubts = believable([Reading("AAPL", "rsi14@1d", D(value), now, "x"), good, off])
    assert kept == [good, off]
    assert "AAPL" in doubts[0]
    assert "no measure 'obv'" in believable([Reading("AAPL", "obv", D(1), now, "x")])[1][0]
    in_milliseconds = Reading("M1", "starts_at", D(1_795_000_000_000), now, "x")
    assert "not a date" in believable([in_milliseconds])[1][0]


def test_rules_of_a_version_that_is_not_known_are_not_guessed_at():
    with pytest.raises(ValueError, match="version 99"):
        fires_again({"version": 99}, {}, D(1), datetime(2026, 1, 1, tzinfo=UTC))
