"""The price jobs: from what the sources say to quotes, ticks, cache and live listeners."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

import clients.prices
import db
import events
from domain.failures import Rejected, Unavailable
from domain.prices import Price
from jobs.prices import prune_prices, sync_prices


@pytest.fixture
def sources(monkeypatch):
    """What the outside says: put prices and failures by symbol into it."""
    answers: dict[str, Price | Exception] = {}

    def fetch(instruments, **_):
        asked = {i["symbol"] for i in instruments}
        found = {symbol: answer for symbol, answer in answers.items() if symbol in asked}
        prices = [answer for answer in found.values() if isinstance(answer, Price)]
        return prices, {symbol: answer for symbol, answer in found.items() if isinstance(answer, Exception)}

    monkeypatch.setattr(clients.prices, "fetch", fetch)
    return answers


def now(seconds: float = 0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def say(symbol: str, value: str, at: datetime | None = None, source: str = "binance") -> Price:
    return Price(symbol, Decimal(value), at or now(), source)


def cached(redis, symbol: str) -> dict:
    return json.loads(redis.get(f"nightdesk:quote:{symbol}"))


def heard(listener) -> list[dict]:
    messages = []
    while message := listener.get_message(timeout=0.1):
        if message["type"] == "message":
            messages.append(json.loads(message["data"]))
    return messages


def test_a_price_reaches_quote_tick_cache_and_listeners(database, redis, sources):
    listener = redis.pubsub()
    listener.subscribe(events.LIVE)
    sources["BTCUSD"] = say("BTCUSD", "97000.50")
    assert sync_prices(due_at=now()) == {"written": 1, "changed": 1, "failed": 0, "turned": 1}
    assert db.rows("select price, state from quote where symbol = 'BTCUSD'") == [(Decimal("97000.50"), "fresh")]
    assert db.rows("select symbol, price, fresh from tick") == [("BTCUSD", Decimal("97000.50"), True)]
    assert cached(redis, "BTCUSD")["price"] == "97000.50"
    assert {"happened_at", "received_at", "stale_at"} <= cached(redis, "BTCUSD").keys()
    assert 10_000 < redis.pttl("nightdesk:quote:BTCUSD") <= 15_000
    assert [(m["topic"], m["payload"]["symbol"]) for m in heard(listener)] == [("quote", "BTCUSD")]
    listener.close()


def test_the_other_instruments_are_left_alone_and_cached_as_missing(database, redis, sources):
    sources["BTCUSD"] = say("BTCUSD", "97000")
    sync_prices(due_at=now())
    assert db.rows("select count(*) from quote where state = 'missing'") == [(5,)]
    assert (cached(redis, "XAUUSD")["state"], cached(redis, "XAUUSD")["price"]) == ("missing", None)


def test_one_symbols_failure_costs_only_that_symbol_and_is_recorded_on_it(database, redis, sources):
    sources |= {"BTCUSD": say("BTCUSD", "97000"), "XAUUSD": Unavailable("gold-api: 503")}
    counts = sync_prices(due_at=now())
    assert (counts["written"], counts["failed"]) == (1, 1)
    assert db.rows("select error from quote where symbol = 'XAUUSD'") == [("gold-api: 503",)]
    assert db.rows("select state, error from quote where symbol = 'BTCUSD'") == [("fresh", None)]


def test_a_price_that_nobody_can_have_made_costs_that_symbol_and_keeps_its_last_good_value_as_stale(
    database, redis, sources
):
    sources |= {"BTCUSD": say("BTCUSD", "97000"), "ETHUSD": say("ETHUSD", "3000")}
    sync_prices(due_at=now())
    sources |= {"BTCUSD": say("BTCUSD", "NaN"), "XAUUSD": say("XAUUSD", "4165.2", source="gold-api")}
    sync_prices(due_at=now())
    assert cached(redis, "BTCUSD")["price"] == "97000"
    assert cached(redis, "BTCUSD")["state"] == "stale"
    assert "not a number" in cached(redis, "BTCUSD")["error"]
    assert cached(redis, "XAUUSD")["state"] == "fresh"


def test_twice_is_the_same_as_once(database, redis, sources):
    sources["BTCUSD"] = say("BTCUSD", "97000")
    sync_prices(due_at=now())
    assert sync_prices(due_at=now()) == {"written": 0, "changed": 0, "failed": 0, "turned": 0}
    assert db.rows("select count(*) from tick") == [(1,)]
    assert db.rows("select count(*) from event") == [(1,)]


def test_becoming_stale_is_a_fact_and_the_cache_says_so(database, redis, sources):
    sources["BTCUSD"] = say("BTCUSD", "97000", at=now(-30))
    sync_prices(due_at=now())
    db.rows("update quote set stale_at = now() where symbol = 'BTCUSD'")  # half a minute later
    assert sync_prices(due_at=now())["turned"] == 1
    assert (cached(redis, "BTCUSD")["state"], cached(redis, "BTCUSD")["reason"]) == ("stale", "old")
    sources["BTCUSD"] = Rejected("binance: price is 'x'")
    assert sync_prices(due_at=now())["turned"] == 0, "it was stale before"
    facts = db.rows("select topic, payload from event order by id")
    assert [topic for topic, _ in facts] == ["prices.fresh", "prices.stale"]
    assert facts[1][1] == {"symbols": {"BTCUSD": "old"}}


def test_a_price_that_did_not_move_is_a_tick_but_no_news_for_listeners(database, redis, sources):
    sources["BTCUSD"] = say("BTCUSD", "97000")
    sync_prices(due_at=now())
    listener = redis.pubsub()
    listener.subscribe(events.LIVE)
    sources["BTCUSD"] = say("BTCUSD", "97000")
    assert sync_prices(due_at=now()) == {"written": 1, "changed": 0, "failed": 0, "turned": 0}
    assert heard(listener) == []
    listener.close()


def test_without_any_instrument_nothing_happens(database, redis, sources):
    db.rows("update instrument set active = false")
    assert sync_prices(due_at=now()) == {"written": 0, "changed": 0, "failed": 0, "turned": 0}


def test_pruning_makes_room_drops_what_is_old_and_says_if_ticks_found_no_partition(database, redis):
    with database.atomic() as transaction:
        db.rows("create table tick_20200101 partition of tick for values from ('2020-01-01') to ('2020-01-02')")
        db.rows(
            "insert into tick (symbol, happened_at, received_at, price, source, fresh)"
            " select 'BTCUSD', t, t, 1, 'x', true from cast('2200-01-01 12:00+00' as timestamptz) t"
        )
        prune_prices(due_at=now())  # days that were missing depend on what ran before
        assert prune_prices(due_at=now()) == {"made": 0, "dropped": 0, "strays": 0}
        facts = db.rows("select topic, payload from event")
        partitions = [name for (name,) in db.rows("select inhrelid::regclass::text from pg_inherits")]
        assert facts == [("partitions.strays", {"table": "tick", "rows": 1})]
        assert "tick_22000101" in partitions
        assert "tick_20200101" not in partitions
        transaction.rollback()
