"""The world behind the stand-ins: the same for the same seed, plausible, always moving; or recorded."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from demo.world import Clock, World
from demo.worlds.prices import ASSETS, Market, SimulatedMarket, pair

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
NOON = 1_795_435_200.0
recorded = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recorded data in {DATA}")


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    one, same, other = SimulatedMarket(7), SimulatedMarket(7), SimulatedMarket(8)
    instants = [NOON + step for step in range(0, 1000, 7)]
    assert [one.price("BTCUSD", at) for at in instants] == [same.price("BTCUSD", at) for at in reversed(instants)][::-1]
    assert [one.price("BTCUSD", at) for at in instants] != [other.price("BTCUSD", at) for at in instants]


@pytest.mark.parametrize("symbol", ["BTCUSD", "XAUUSD", "XAGUSD", "EURUSD", "GBPUSD", "USDJPY"])
def test_each_default_symbol_moves_within_any_minute(symbol):
    market = SimulatedMarket(1)
    for minute in range(200):
        prices = {market.price(symbol, NOON + minute * 60 + step).price for step in range(0, 60, 5)}
        assert len(prices) > 1


@pytest.mark.parametrize("symbol", ["BTCUSD", "XAUUSD", "EURUSD"])
@pytest.mark.parametrize("lag", [60, 3600, 86_400])
def test_it_moves_as_much_as_such_a_market_does(symbol, lag):
    market = SimulatedMarket(3)
    expected = ASSETS[symbol[:3]][1]
    logs = [math.log(market.price(symbol, NOON + step * lag).price) for step in range(1000)]
    steps = [later - earlier for earlier, later in itertools.pairwise(logs)]
    yearly = math.sqrt(sum(step * step for step in steps) / len(steps) * 365 * 86_400 / lag)
    assert 0.5 < yearly / expected < 2
    assert all(0.5 < math.exp(log) / (ASSETS[symbol[:3]][0]) < 2 for log in logs)


def test_a_calm_hour_and_a_wild_one_differ():
    market = SimulatedMarket(1)
    ranges = []
    for hour in range(0, 200, 3):
        logs = [math.log(market.price("BTCUSD", NOON + hour * 3600 + step * 5).price) for step in range(200)]
        ranges.append(sum((b - a) ** 2 for a, b in itertools.pairwise(logs)))
    assert max(ranges) > 4 * min(ranges)


def test_no_money_is_made_in_a_circle():
    market = SimulatedMarket(1)
    euro, yen, cross = (market.price(symbol, NOON).price for symbol in ("EURUSD", "USDJPY", "EURJPY"))
    assert float(euro * yen / cross) == pytest.approx(1, abs=1e-4)


def test_what_the_world_does_not_have_has_no_price():
    assert SimulatedMarket(1).price("NOSUCH", NOON) is None
    assert pair("BTCUSD") == ("BTC", "USD")
    assert pair("DOGEUSD") == ("DOGE", "USD")
    assert pair("AAPL") is None


def test_a_clock_may_run_faster():
    clock = Clock(started_at=1000, start=50, speed=10)
    assert clock.world(1003) == 80
    assert clock.real(80) == 1003


@pytest.fixture(scope="module")
def tape():
    if not DATA.is_dir():
        pytest.skip(f"no recorded data in {DATA}")
    return World(Clock(0, 0), folder=DATA).part(Market)


def test_a_replay_has_what_was_recorded_at_its_finest(tape):
    assert set(tape.series) == {"BTCUSD", "EURUSD", "XAUUSD", "XRPETH"}
    assert len(tape.series["BTCUSD"].offsets) == 19_904
    assert len(tape.series["XAUUSD"].offsets) == 9_889
    assert tape.price("USDJPY", 0) is None


def test_a_replay_begins_with_the_first_row_of_each_series(tape):
    assert str(tape.price("BTCUSD", 0).price) == "61837.63"
    assert float(tape.price("XAUUSD", 0).price) == pytest.approx((1300.151 + 1301.801) / 2)
    assert float(tape.price("EURUSD", 0).price) == pytest.approx((1.22926 + 1.2294) / 2)


def test_a_replay_keeps_the_pace_of_the_record(tape):
    """The second trade came 275 ms after the first, the last one 650.458 s after it."""
    assert tape.price("BTCUSD", 0.274).at == 0
    assert tape.price("BTCUSD", 0.276).at == pytest.approx(0.275)
    last = tape.price("BTCUSD", 650.46)
    assert str(last.price) == "61602.02"
    assert last.at == pytest.approx(650.458)


def test_a_replay_starts_again_at_its_end(tape):
    length = tape.series["BTCUSD"].length
    assert tape.price("BTCUSD", length + 5).price == tape.price("BTCUSD", 5).price
    assert tape.price("BTCUSD", length + 5).at == pytest.approx(tape.price("BTCUSD", 5).at + length)
    assert tape.price("BTCUSD", -5).price == tape.price("BTCUSD", length - 5).price


@recorded
def test_a_replay_of_one_folder_has_only_that(tmp_path):
    assert set(World(Clock(0, 0), folder=DATA / "crypto").part(Market).series) == {"BTCUSD", "XRPETH"}


def test_a_folder_without_prices_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no recorded prices"):
        World(Clock(0, 0), folder=tmp_path)
