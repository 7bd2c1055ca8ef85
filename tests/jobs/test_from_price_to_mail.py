"""The whole way: from an outside service over price, alert and notification to a person's inbox."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from decimal import Decimal

import pytest

import config
import db
from demo.server import running
from domain.alerts import Rule
from jobs.alerts import check_alerts
from jobs.notifications import deliver_notifications
from jobs.prices import sync_prices
from models import prices, targets
from models.alerts import create_alert, user_with
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("database", "redis")


@pytest.fixture
def demo(database, redis, monkeypatch):
    """A demo world, and settings that lead there."""
    with running(seed=5) as world:
        place = {"CHANNELS": "email", "PUBLIC_URL": world.url}
        monkeypatch.setattr(config, "settings", config.load({**os.environ, **world.environment, **place}))
        targets.turn_switch("live", world.url, "tests")
        yield world


def now() -> datetime:
    return datetime.now(UTC)


def quote(symbol: str) -> dict:
    return prices.quotes(now(), [symbol])[0]


def fires() -> int:
    """How many alerts the next prices let fire."""
    sync_prices(due_at=now())
    return check_alerts(due_at=now())["fired"]


def test_six_prices_come_from_the_services_that_stand_behind_them(demo):
    assert sync_prices(due_at=now())["written"] == 6
    found = {q["symbol"]: (q["source"], q["price"]) for q in prices.quotes(now())}
    assert found["BTCUSD"][0] == "binance"
    assert found["XAUUSD"][0] == "gold-api"
    assert all(price and price > 0 for _, price in found.values())


def test_a_price_that_reaches_a_level_is_a_mail_in_the_inbox(demo):
    sync_prices(due_at=now())
    price = quote("BTCUSD")["price"]
    ann, step = user_with("ann@example.com"), Decimal("0.01")
    for rule in (Rule("above", price + step), Rule("below", price - step)):  # whichever way it goes
        assert not create_alert(ann, "BTCUSD", rule, now()).fired
    until(fires, every=0.1)
    assert deliver_notifications(due_at=now()) == {"routed": 1, "sent": 1}
    (mail,) = [message.parsed for message in demo.mail.messages]
    ((key, title, shot),) = db.rows(
        "select d.key, n.title, t.value from delivery d join notification n on n.id = d.notification_id"
        " join alert_trigger t on n.key = 'trigger-' || t.id"
    )
    assert mail["To"] == "ann@example.com"
    assert mail["Subject"] == title
    assert mail["Message-ID"] == f"<{key}@localhost>"
    assert f"Price: {shot.normalize():f} from binance" in mail.get_body(("plain",)).get_content()


def test_a_service_that_talks_garbage_costs_its_symbol_alone_and_the_last_price_is_kept_as_stale(demo, monkeypatch):
    monkeypatch.setattr(config, "settings", config.load({**os.environ, **demo.environment, "YAHOO": "off"}))
    sync_prices(due_at=now())
    before = quote("BTCUSD")["price"]
    demo.faults.add("binance", "garbage")
    counts = sync_prices(due_at=now())
    assert counts["failed"] == 1
    assert (quote("BTCUSD")["state"], quote("BTCUSD")["price"]) == ("stale", before)
    assert "binance" in quote("BTCUSD")["error"]
    assert quote("XAUUSD")["state"] == "fresh"
    made = create_alert(user_with("ann@example.com"), "BTCUSD", Rule("above", Decimal(1)), now())
    assert not made.fired, "a stale price fires nothing"
    demo.faults.clear()
    until(fires, every=0.1)
    assert quote("BTCUSD")["error"] is None
    assert db.rows("select alert_id from alert_trigger") == [(made.id,)]
