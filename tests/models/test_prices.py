"""Quotes and ticks as a sync leaves them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Thread

import pytest
from peewee import IntegrityError, PeeweeException

import db
from domain.failures import Rejected, Unavailable
from domain.prices import Price
from models import prices

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def price(value: str, symbol: str = "BTCUSD", at: datetime = NOW, source: str = "binance") -> Price:
    return Price(symbol, Decimal(value), at, source)


def quote(symbol: str = "BTCUSD", now: datetime = NOW) -> dict:
    return prices.quotes(now, [symbol])[0]


def ticks(symbol: str = "BTCUSD") -> list[Decimal]:
    return [value for (value,) in db.rows("select price from tick where symbol = %s order by id", symbol)]


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_six_instruments_are_followed_from_the_start_and_have_no_price_yet(database):
    found = prices.quotes(NOW)
    assert [q["symbol"] for q in found] == ["BTCUSD", "EURUSD", "GBPUSD", "USDJPY", "XAGUSD", "XAUUSD"]
    assert {q["state"] for q in found} == {"missing"}


def test_a_price_is_awaited_of_a_pair_without_trades_and_of_a_stock_whose_market_was_shut_ever_since(database):
    prices.follow(["ETHUSD"], "pair")
    prices.follow(["AAPL", "VOD.L", "MSFT"], "stock")
    db.rows("update instrument set created_at = %s where kind = 'stock'", NOW)
    db.rows("insert into stock (symbol, market) values ('AAPL', 'XNYS'), ('MSFT', 'XNYS'), ('VOD.L', 'XLON')")
    db.rows(
        """insert into market_session (market, date, opens_at, closes_at, half_day, source)
           values ('XNYS', '2026-11-23', %s, %s, false, 'x'), ('XLON', '2026-11-23', %s, %s, false, 'x')
           on conflict (market, date) do update set opens_at = excluded.opens_at, closes_at = excluded.closes_at""",
        *(after(3600), after(7200), after(-3600), after(600)),
    )
    prices.record([], {"MSFT": Rejected("no such stock")}, after(1))
    assert prices.awaited(after(1800)) == ["AAPL", "ETHUSD"]
    assert prices.awaited(after(3601)) == ["ETHUSD"]
    prices.record([price("3000", "ETHUSD")], {}, after(3602))
    assert prices.awaited(after(3603)) == []


def test_an_observation_becomes_the_quote_and_a_tick(database):
    written, turned = prices.record([price("97000.5")], {}, after(1))
    assert [(q["symbol"], q["changed"]) for q in written] == [("BTCUSD", True)]
    assert [(q["was"], q["state"]) for q in turned] == [("missing", "fresh")]
    assert quote(now=after(2))["price"] == Decimal("97000.5")
    assert quote(now=after(2))["age"] == timedelta(seconds=2)
    assert quote()["happened_at"] == NOW
    assert quote()["received_at"] == after(1)
    assert ticks() == [Decimal("97000.5")]


def test_the_other_instruments_are_left_alone(database):
    prices.record([price("97000")], {}, NOW)
    assert {q["symbol"]: q["state"] for q in prices.quotes(NOW)}["XAUUSD"] == "missing"
    assert ticks("XAUUSD") == []


def test_the_same_observation_twice_writes_nothing_the_second_time(database):
    prices.record([price("97000")], {}, NOW)
    (before,) = db.rows("select xmin::text, ctid::text from quote where symbol = 'BTCUSD'")
    assert prices.record([price("97000")], {}, after(5)) == ([], [])
    assert db.rows("select xmin::text, ctid::text from quote where symbol = 'BTCUSD'") == [before]
    assert len(ticks()) == 1


def test_an_older_price_never_overwrites_a_newer_one(database):
    prices.record([price("97000", at=NOW)], {}, NOW)
    prices.record([price("1", at=after(-1))], {}, after(5))
    assert quote()["price"] == 97000
    assert len(ticks()) == 1


def test_the_previous_value_is_the_last_different_one_with_its_own_times(database):
    prices.record([price("97000")], {}, after(1))
    prices.record([price("97001", at=after(5), source="yahoo")], {}, after(6))
    (written, _) = prices.record([price("97001", at=after(10))], {}, after(11))
    assert [q["changed"] for q in written] == [False]
    found = quote()
    assert (found["price"], found["source"], found["happened_at"]) == (97001, "binance", after(10))
    assert (found["previous"], found["previous_source"]) == (97000, "binance")
    assert (found["previous_happened_at"], found["previous_received_at"]) == (NOW, after(1))
    assert db.rows("select price, previous from tick order by id") == [(97000, None), (97001, 97000), (97001, 97000)]


def test_a_price_that_is_old_when_it_comes_is_stale_from_the_start(database):
    (_, turned) = prices.record([price("97000", at=after(-600))], {}, NOW)
    assert [(q["was"], q["state"]) for q in turned] == [("missing", "stale")]
    assert quote()["reason"] == "old"
    assert db.rows("select fresh from tick") == [(False,)]


def test_a_feed_frozen_at_an_old_price_becomes_stale_by_the_age_of_its_price(database):
    frozen = price("97000")
    prices.record([frozen], {}, NOW)
    assert prices.record([frozen], {}, after(59)) == ([], [])
    (_, turned) = prices.record([frozen], {}, after(61))
    assert [(q["symbol"], q["was"], q["state"], q["reason"]) for q in turned] == [("BTCUSD", "fresh", "stale", "old")]


def test_a_reader_sees_an_old_price_as_stale_even_if_no_sync_has_said_so(database):
    prices.record([price("97000")], {}, NOW)
    assert quote(now=after(59))["state"] == "fresh"
    assert quote(now=after(60))["state"] == "stale"
    assert quote(now=after(60))["reason"] == "old"


def test_a_daily_fixing_is_fresh_over_a_weekend(database):
    friday = datetime(2026, 11, 20, 15, tzinfo=UTC)
    prices.record([price("1.1568", "EURUSD", friday, "frankfurter")], {}, NOW)
    assert quote("EURUSD")["state"] == "fresh"


def test_an_operators_limit_goes_before_the_sources(database):
    prices.add("EURUSD", "fx", timedelta(hours=1), None)
    prices.record([price("1.1568", "EURUSD", after(-7200), "frankfurter")], {}, NOW)
    assert quote("EURUSD")["state"] == "stale"
    prices.add("EURUSD", "fx", timedelta(hours=3), None)
    (_, turned) = prices.record([], {}, NOW)
    assert [(q["symbol"], q["state"]) for q in turned] == [("EURUSD", "fresh")]


def test_an_outage_is_recorded_and_leaves_a_young_price_fresh(database):
    prices.record([price("97000")], {}, NOW)
    prices.record([], {"BTCUSD": Unavailable("binance: 503")}, after(5))
    assert (quote()["state"], quote()["error"], quote()["failing_since"]) == ("fresh", "binance: 503", after(5))
    prices.record([], {"BTCUSD": Unavailable("binance: 503")}, after(65))
    assert (quote()["state"], quote()["failing_since"]) == ("stale", after(5))


def test_a_refused_answer_keeps_the_last_good_value_as_stale_until_the_next_answer(database):
    prices.record([price("97000")], {}, NOW)
    (_, turned) = prices.record([], {"BTCUSD": Rejected("binance: price is 'x'")}, after(5))
    assert [(q["was"], q["state"], q["reason"]) for q in turned] == [("fresh", "stale", "rejected")]
    assert quote()["price"] == 97000
    prices.record([], {"BTCUSD": Unavailable("binance: 503")}, after(10))
    assert quote()["reason"] == "rejected", "an outage does not make it better"
    (_, turned) = prices.record([price("97000")], {}, after(15))
    assert [(q["was"], q["state"]) for q in turned] == [("stale", "fresh")]
    assert quote()["error"] is None


def test_a_failure_of_a_symbol_without_a_price_leaves_it_missing_with_the_reason(database):
    prices.record([price("97000")], {"XAUUSD": Rejected("gold-api: no field price")}, NOW)
    assert (quote("XAUUSD")["state"], quote("XAUUSD")["error"]) == ("missing", "gold-api: no field price")
    assert quote()["state"] == "fresh"


def test_a_lasting_failure_is_written_once(database):
    failure = {"XAUUSD": Unavailable("gold-api: timed out")}
    prices.record([], failure, NOW)
    (before,) = db.rows("select xmin::text from quote where symbol = 'XAUUSD'")
    prices.record([], failure, after(5))
    assert db.rows("select xmin::text from quote where symbol = 'XAUUSD'") == [before]


def test_a_clock_that_runs_ahead_is_set_back_to_ours(database):
    prices.record([price("97000", at=after(30))], {}, NOW)
    assert quote()["happened_at"] == NOW


def test_what_a_clock_that_runs_ahead_says_again_is_one_observation_and_no_clock_of_ours_makes_it_another(database):
    for second in range(0, 1200, 60):
        prices.record([price("97000", at=after(600))], {}, after(second))
    assert (quote()["happened_at"], ticks()) == (NOW, [97000])
    prices.record([price("97000", at=after(1205))], {}, after(1200))
    assert (quote()["happened_at"], ticks()) == (after(1200), [97000, 97000]), "it goes on"
    prices.record([price("97001", at=after(1204), source="yahoo")], {}, after(1204))
    assert quote()["happened_at"] == after(1204), "another source's clock is another one"


def test_one_stamp_of_a_clock_that_ran_ahead_does_not_silence_what_comes_in_time(database):
    prices.record([price("97000", at=after(840))], {}, NOW)
    for second in (60, 120):
        prices.record([price("97001", at=after(second))], {}, after(second))
        assert quote()["happened_at"] == after(second)


def test_two_syncs_at_once_write_each_observation_once(database):
    symbols = [f"S{i}" for i in range(50)]
    for symbol in symbols:
        prices.add(symbol, "stock", None, None)
    failures = []

    def sync(order: list[str], offset: int) -> None:
        with db.database.connection_context():
            try:
                for second in range(20):
                    prices.record([price(str(second + 1), s, after(second)) for s in order], {}, after(second))
            except PeeweeException as error:
                failures.append(error)

    threads = [Thread(target=sync, args=(symbols[:: 1 - 2 * n], n)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    rows = db.rows("select symbol, array_agg(happened_at order by id), count(*) from tick group by 1")
    assert len(rows) == 50
    assert all(times == sorted(set(times)) and times[-1] == after(19) for _, times, _ in rows)


def test_an_instrument_that_is_retired_is_neither_synced_nor_shown_and_can_come_back(database):
    assert prices.retire("BTCUSD")
    assert not prices.retire("BTCUSD")
    assert "BTCUSD" not in {i["symbol"] for i in prices.active_instruments()}
    prices.record([price("97000")], {}, NOW)
    assert prices.quotes(NOW, ["BTCUSD"]) == []
    assert ticks() == []
    assert prices.add("BTCUSD", "crypto", None, None)
    assert not prices.add("BTCUSD", "crypto", None, None)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "0", "-1"])
def test_the_database_itself_refuses_a_price_that_is_none(database, value):
    with pytest.raises(IntegrityError):
        prices.record([price(value)], {}, NOW)
