"""Real input: prices fetched through the clients from a replay of recorded data."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import config
from clients import prices
from demo.server import running

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


def test_recorded_prices_move(tape):
    seen = set()
    for _ in range(10):
        seen |= {price.price for price in prices.fetch(["BTCUSD"])[0]}
        time.sleep(0.05)
    assert len(seen) > 5
