"""Real input: prices fetched through the clients from a replay of recorded data."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import config
from clients import prices
from demo.recorded import RecordedMarket
from demo.server import running
from tests.waiting import until

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def tape(monkeypatch, redis, database):
    if not DATA.is_dir():
        pytest.skip(f"no recorded data in {DATA}")
    with running(replay=DATA, speed=50) as demo:
        urls = {name.lower(): value for name, value in demo.environment.items() if name.endswith("_URL")}
        del urls["demo_url"], urls["smtp_url"]
        monkeypatch.setattr(config, "settings", replace(config.settings, private_targets=True, yahoo=True, **urls))
        yield demo


def test_recorded_prices_come_through_as_of_now(tape):
    found, failures = prices.fetch(["XAUUSD", "EURUSD", "BTCUSD", "USDJPY", "XAGUSD"])
    by_symbol = {price.symbol: price for price in found}
    assert set(by_symbol) == {"XAUUSD", "EURUSD", "BTCUSD"}
    assert 1295 < by_symbol["XAUUSD"].price < 1320
    assert 1.22 < by_symbol["EURUSD"].price < 1.24
    assert 61_000 < by_symbol["BTCUSD"].price < 62_500
    live = [price for price in found if price.source != "frankfurter"]
    assert len(live) >= 2
    assert all(datetime.now(UTC) - price.happened_at < timedelta(minutes=1) for price in live)
    assert set(failures) == {"USDJPY", "XAGUSD"}


def test_recorded_prices_follow_one_another_as_they_were_recorded(tape):
    series = RecordedMarket(DATA).series["BTCUSD"]
    recorded = (round(price, series.digits) for _ in range(5) for price in series.prices)  # it goes round in 13 s
    seen: list[Decimal] = []

    def moved() -> bool:
        for found in prices.fetch(["BTCUSD"])[0]:
            if found.price not in seen[-1:]:
                seen.append(found.price)
        return len(seen) > 5

    until(moved)
    assert all(float(price) in recorded for price in seen)  # each one after the one before
