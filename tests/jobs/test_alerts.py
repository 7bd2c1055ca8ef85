"""The alert job: from ticks to triggers, and what is told."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

import db
import events
import queues
from domain.alerts import Rule
from domain.prices import Price
from jobs.alerts import check_alerts
from models import portfolios, prices, triggers
from models.alerts import create_alert, user_with


def now() -> datetime:
    return datetime.now(UTC)


def tick(value: int, symbol: str = "BTCUSD") -> None:
    prices.record([Price(symbol, Decimal(value), now(), "binance")], {}, now())


def add(level: int, symbol: str = "BTCUSD") -> int:
    return create_alert(user_with("ann@example.com"), symbol, Rule("above", Decimal(level)), now()).id


def counts(**some: int) -> dict[str, int]:
    none = dict.fromkeys(("adopted", "refused", "values", "turned", "fired", "paused", "expired"), 0)
    return {**none, **some}


def test_an_alert_that_was_reached_fires_and_the_web_is_nudged(database, redis):
    tick(97000)
    add(97500)
    listener = redis.pubsub()
    listener.subscribe(events.NUDGE)
    listener.get_message(timeout=1)
    tick(98000)
    assert check_alerts(due_at=now()) == counts(values=2, fired=1)
    assert (listener.get_message(timeout=1) or {})["type"] == "message"
    listener.close()
    assert db.rows("select title from notification") == [("BTCUSD is at 98000, above 97500",)]


def test_what_users_have_come_to_watch_and_hold_is_followed_at_once_at_whatever_hour(database, redis):
    user = user_with("ann@example.com")
    portfolios.watch(user, ["AAPL", "ETHUSD", "AMAZON"]), portfolios.hold(user, "PTT.BK", Decimal(1))
    portfolios.watch(user, ["MSFT"])
    db.rows("update watchlist_item set active = false where symbol = 'MSFT'")
    for _ in range(2):
        check_alerts(due_at=now())
        assert db.rows("select symbol, market from stock order by 1") == [("AAPL", "XNYS"), ("PTT.BK", "XBKK")]


def test_alerts_that_were_not_reached_are_left_alone(database, redis):
    tick(97000)
    tick(4000, "XAUUSD")
    kept = {add(99000), add(4500, "XAUUSD")}
    tick(98000)
    check_alerts(due_at=now())
    assert {alert for (alert,) in db.rows("select alert_id from alert_watch")} == kept


def test_twice_is_the_same_as_once(database, redis):
    tick(97000)
    add(97500)
    tick(98000)
    check_alerts(due_at=now())
    assert check_alerts(due_at=now()) == counts()
    assert db.rows("select count(*) from alert_trigger") == [(1,)]


def test_a_run_that_was_late_fires_with_the_time_of_the_price_and_not_its_own(database, redis):
    tick(97000)
    add(97500)
    tick(98000)
    ((happened_at,),) = db.rows("select happened_at from quote where symbol = 'BTCUSD'")
    check_alerts(due_at=now() - timedelta(hours=1))
    assert db.rows("select happened_at from alert_trigger") == [(happened_at,)]


def test_a_run_that_gives_way_between_batches_is_taken_up_by_the_next_one(database, redis, monkeypatch):
    monkeypatch.setattr(triggers, "WATCHES", 1)
    monkeypatch.setattr(triggers, "LEAST_PER_STREAM", 1)
    tick(97000)
    for level in (97100, 97200, 97300):
        add(level)
    tick(98000)
    monkeypatch.setattr(queues, "should_yield", lambda: True)
    with pytest.raises(queues.Yielded):
        check_alerts(due_at=now())
    assert db.rows("select count(*) from alert_trigger") == [(1,)]
    monkeypatch.setattr(queues, "should_yield", lambda: False)
    assert check_alerts(due_at=now())["fired"] == 2
