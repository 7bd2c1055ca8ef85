"""What an operator reads of outside services."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

import db
from cli.budget import budget
from clients import gate
from clients.binance import BINANCE
from clients.yahoo import YAHOO

pytestmark = pytest.mark.usefixtures("database", "redis")


@pytest.fixture
def call():
    """Run the command in this process; it opens and closes the connection itself."""

    def run(*words):
        db.database.close()
        result = CliRunner().invoke(budget, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_every_provider_has_a_row(call):
    names = {row["name"] for row in json.loads(call("--json"))}
    assert {"binance", "frankfurter", "gold-api", "yahoo"} <= names


def test_it_shows_what_is_spent_and_that_a_breaker_is_open(call):
    for _ in range(gate.OPENS_AFTER):
        gate.failed(BINANCE, "binance: 500 out of order", None)
    began = time.monotonic()
    gate.enter(YAHOO)
    rows = {row["name"]: row for row in json.loads(call("--json"))}
    took = time.monotonic() - began
    shown = " ".join(call().split())
    assert "1 of 20,000 a day" in shown
    assert "yahoo (unofficial)" in shown
    assert "open for" in shown
    assert rows["binance"]["breaker"] == "open"
    assert rows["binance"]["error"] == "binance: 500 out of order"
    second, day = rows["yahoo"]["windows"]
    assert day["used"] == 1
    assert second["used"] == 1 or took > 0.9  # it may have passed on a busy machine


def test_it_says_why_a_provider_is_off(call, monkeypatch):
    from dataclasses import replace

    import config

    monkeypatch.setattr(config, "settings", replace(config.settings, yahoo=False))
    rows = {row["name"]: row for row in json.loads(call("--json"))}
    assert rows["yahoo"]["off"] == "YAHOO is off"
    assert "no: YAHOO is off" in " ".join(call().split())
