"""Alerts and prices from a shell."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

import config
import db
from domain.failures import Rejected
from domain.measures import TYPES, Reading
from domain.prices import Price
from models import prices, readings, triggers
from tests.exchange import open_market

pytestmark = pytest.mark.usefixtures("database")


def tick(symbol: str, value: str) -> None:
    now = datetime.now(UTC)
    prices.record([Price(symbol, Decimal(value), now, "binance")], {}, now)


def test_an_alert_that_is_not_reached_waits_for_the_operator(call):
    tick("BTCUSD", "97000.50")
    said = call("alerts", "add", "btcusd", "above", "98000").output
    assert "waits (BTCUSD above 98000); it is 97000.5 (" in said
    assert "operator@localhost is told" in said
    (row,) = json.loads(call("alerts", "list", "--json").output)
    assert (row["email"], row["status"], row["level"], row["state"]) == (
        "operator@localhost",
        "active",
        "98000",
        "fresh",
    )


def test_an_alert_that_is_already_true_fires_at_once(call):
    tick("BTCUSD", "97000")
    made = call("alerts", "add", "BTCUSD", "below", "97000", "--user", "ann@example.com", "--json").output
    (row,) = json.loads(made)
    assert (row["fired"], row["status"], row["email"]) == (True, "triggered", "ann@example.com")


def test_an_address_that_two_users_have_is_refused_and_one_is_meant_by_the_apps_id(call):
    db.rows("insert into app_user (external_id, email) values ('ann', 'ann@example.com'), ('anne', 'Ann@example.com')")
    for words in (
        ("alerts", "add", "BTCUSD", "above", "1"),
        ("stocks", "watch", "AAPL"),
        ("stocks", "hold", "AAPL", "1"),
    ):
        refused = call(*words, "--user", "ann@example.com", code=1).output
        assert "'ann@example.com' is 2 users: say the app's id of one" in refused
    call("alerts", "add", "BTCUSD", "above", "1", "--user", "anne")
    assert db.rows("select external_id from alert join app_user u on u.id = user_id") == [("anne",)]
    assert db.rows("select count(*) from watchlist_item") == db.rows("select count(*) from portfolio_item") == [(0,)]


def test_a_crossing_has_a_direction(call):
    tick("XAUUSD", "4165.2")
    call("alerts", "add", "XAUUSD", "crosses", "4100", "--direction", "up")
    call("alerts", "add", "XAUUSD", "crosses", "4200")
    shown = " ".join(call("alerts", "list").output.split())
    assert "XAUUSD crosses 4100 (up)" in shown
    assert "waits for the near side" in shown
    assert "XAUUSD crosses 4200 (either)" in shown


def test_the_list_says_what_is_wrong_with_a_price(call):
    tick("BTCUSD", "97000")
    prices.record([], {"BTCUSD": Rejected("binance: no field price")}, datetime.now(UTC))
    call("alerts", "add", "BTCUSD", "above", "90000")
    call("alerts", "add", "EURUSD", "above", "1.2")
    assert (
        "it is MISSING: 0 of 400 bars now"
        in call("alerts", "add", "EURUSD", "sma400", "above", "1", "--bar", "1d").output
    )
    shown = " ".join(call("alerts", "list").output.split())
    assert "old, STALE)" in shown
    assert "MISSING" in shown
    assert [row["bars"] for row in json.loads(call("alerts", "list", "--json").output)] == ["0 of 400 bars", None, None]
    assert "waits for the level" in shown


def test_a_list_can_be_one_users(call):
    call("alerts", "add", "BTCUSD", "above", "1", "--user", "Ann@example.com")
    call("alerts", "add", "BTCUSD", "above", "2", "--user", "bob@example.com")
    (row,) = json.loads(call("alerts", "list", "--json", "--user", "ann@EXAMPLE.com").output)
    assert row["level"] == "1"


def test_a_list_shows_what_the_app_has_asked_for_whatever_it_was(call):
    db.rows(
        """with u as (insert into app_user (external_id) values ('ann') returning id)
           insert into alert (user_id, type, subject, measure, condition, level)
           select id, 'match_start', 'M1', 'starts_at', 'within', 1e14 from u"""
    )
    assert "before it starts" in " ".join(call("alerts", "list").output.split())


def test_a_removed_alert_is_gone_from_the_list(call):
    (row,) = json.loads(call("alerts", "add", "BTCUSD", "above", "1", "--json").output)
    assert "is removed" in call("alerts", "rm", str(row["id"])).output
    assert json.loads(call("alerts", "list", "--json").output) == []
    assert "see `nightdesk alerts list`" in call("alerts", "rm", str(row["id"]), code=1).output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("BTCUSD", "above", "NaN"), "never reached"),
        (("BTCUSD", "above", "-5"), "always true"),
        (("BTCUSD", "below", "0"), "never reached"),
        (("BTCUSD", "above", "much"), "'much' is not a number"),
        (("BTCUSD", "sideways", "5"), "no measure 'sideways'"),
        (("BTCUSD",), "BTCUSD above 70000, say"),
        (("BTCUSD", "above"), "BTCUSD above 70000, say"),
        (("BTCUSD", "above", "5", "6"), "BTCUSD above 70000, say"),
        (("BTCUSD", "above", "5", "--direction", "up"), "only 'crosses' has"),
        (("BTCUSD", "above", "5", "--user", "ann"), "'ann' is not a mail address"),
        (("BTCUSD", "rsi", "above", "70"), "rsi14 of what bar"),
        (("BTCUSD", "rsi", "above", "101", "--bar", "1d"), "never reached"),
        (("BTCUSD", "above", "5", "--every", "never"), "is not a duration"),
        (("BTCUSD", "above", "5", "--per-bar"), "once per bar of what bar"),
        (("BTCUSD", "down", "100%"), "never reached"),
        (("BTCUSD", "up", "5%", "--since", "yesterday"), "no base 'yesterday'"),
        (("M123", "starts_at", "within", "soon"), "a duration of at least a millisecond"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason_and_nothing_is_written(call, words, reason):
    assert reason in " ".join(call("alerts", "add", *words, code=2).output.replace("│", " ").split())
    assert db.rows("select count(*) from alert") == [(0,)]
    assert db.rows("select count(*) from app_user") == [(0,)]


@pytest.mark.parametrize(
    ("words", "described"),
    [
        (("BTCUSD", "above", "98000", "--every", "1h"), "BTCUSD above 98000, every time with 60 min between"),
        (("BTCUSD", "up", "5%"), "BTCUSD: up 5 % since the alert was made"),
        (("BTCUSD", "down", "5", "--since", "24h"), "BTCUSD: down 5 % in 24h"),
        (("BTCUSD", "crosses", "98000", "--per-bar", "--bar", "1h"), "crosses 98000 (either), once per bar of 1h"),
        (("BTCUSD", "above", "98000", "--at-close", "--bar", "1d"), "above 98000, at the close of each bar of 1d"),
        (("BTCUSD", "rsi", "above", "70", "--bar", "1d"), "BTCUSD rsi14 (1d) above 70"),
        (("BTCUSD", "macd", "crosses", "0", "--bar", "1h"), "BTCUSD macd (1h) crosses 0 (either)"),
        (("BTCUSD", "mention"), "BTCUSD mention happens"),
    ],
)
def test_the_words_of_a_rule_are_understood(call, words, described):
    tick("BTCUSD", "97000")
    readings.record([Reading("BTCUSD", "mention", Decimal(1), datetime.now(UTC), "x")], datetime.now(UTC))
    assert described in call("alerts", "add", *words).output


def test_a_date_is_waited_for(call):
    readings.record([Reading("M123", "starts_at", Decimal(1_900_000_000), datetime.now(UTC), "x")], datetime.now(UTC))
    assert "waits (M123: 30 min before it starts)" in call("alerts", "add", "M123", "starts_at", "within", "30m").output
    assert "waits for the date" in " ".join(call("alerts", "list").output.split())
    readings.record([Reading("M123", "starts_at", Decimal("Infinity"), datetime.now(UTC), "x")], datetime.now(UTC))
    assert "off" in call("alerts", "list").output


def test_an_alert_rests_and_is_taken_up_again(call):
    tick("BTCUSD", "97000")
    (row,) = json.loads(call("alerts", "add", "BTCUSD", "above", "98000", "--json").output)
    number = str(row["id"])
    assert "is paused" in call("alerts", "pause", number).output
    assert "no active alert" in call("alerts", "pause", number, code=1).output
    assert "paused: by an operator" in " ".join(call("alerts", "list").output.split())
    assert "is active again" in call("alerts", "resume", number).output
    assert "no paused alert" in call("alerts", "resume", number, code=1).output


def test_a_firing_is_explained_and_decided_again(call):
    tick("BTCUSD", "97000")
    call("alerts", "add", "BTCUSD", "below", "97000")
    ((number,),) = db.rows("select id from alert_trigger")
    said = " ".join(call("alerts", "explain", str(number)).output.split())
    assert "BTCUSD price at or below 97000, by the value when it was made" in said
    assert "the same: it fires" in said
    db.rows("update alert_trigger set value = 97001")
    assert "DIFFERENT" in call("alerts", "explain", str(number), code=1).output
    assert "no trigger 0" in call("alerts", "explain", "0", code=1).output


def test_a_change_is_decided_again_from_the_price_and_its_base(call):
    now = datetime.now(UTC)
    about = "94 against 100 of 2026-11-25 21:00:00+00"
    readings.record([Reading("BTCUSD", "price/close", Decimal(-6), now, "binance", about)], now)
    call("alerts", "add", "BTCUSD", "down", "5%", "--since", "close")
    ((number,),) = db.rows("select id from alert_trigger")
    said = " ".join(call("alerts", "explain", str(number)).output.split())
    assert "worked out of 94, from 100 of 2026-11-25 21:00:00" in said
    assert "the same: it fires" in said
    db.rows("update alert_trigger set about = replace(about, '94', '96')")
    assert "DIFFERENT" in call("alerts", "explain", str(number), code=1).output


def test_a_date_that_is_near_is_explained_in_dates(call):
    now = datetime.now(UTC).replace(microsecond=0)
    starts_at, told_at = now + timedelta(minutes=90), now - timedelta(days=3)
    readings.record([Reading("M1", "starts_at", Decimal(int(starts_at.timestamp())), told_at, "fixtures")], told_at)
    call("alerts", "add", "M1", "starts_at", "within", "2h")
    assert [batch.fired for batch in triggers.fire_due(datetime.now(UTC))] == [1]
    ((number,),) = db.rows("select id from alert_trigger")
    said = " ".join(call("alerts", "explain", str(number)).output.split())
    assert "waited for M1 starts_at within 2 h" in said
    assert f"value {starts_at:%Y-%m-%d %H:%M:%S}, says fixtures received {told_at:%Y-%m-%d %H:%M:%S}" in said
    assert "90 min before" in said
    assert "the same: it fires" in said


def test_the_types_say_what_may_be_asked_and_what_is_only_declared(call):
    rows = {(row["type"], row["measure"]): row for row in json.loads(call("alerts", "types", "--json").output)}
    assert rows["price", "price"]["alive"] == "yes"
    assert rows["match_start", "starts_at"]["alive"] == "declared"
    assert rows["technical", "rsi14"]["conditions"] == ["above", "below", "crosses"]


def test_the_operators_page_has_the_same_types():
    page = (config.ROOT / "docs/alerts.md").read_text()
    for kind in TYPES.values():
        for measured in kind.measures:
            alive = "yes" if kind.alive else "declared"
            assert (
                f"| `{kind.name}` | {kind.subject} | `{measured.name}` | {measured.unit} |"
                f" {', '.join(measured.conditions)} | {kind.source} | {alive} |"
            ) in page


def test_a_symbol_that_is_not_followed_is_refused_with_what_to_do(call):
    assert "add it with `nightdesk prices add ETHUSD`" in call("alerts", "add", "ETHUSD", "above", "1", code=1).output
    assert db.rows("select count(*) from app_user") == [(0,)]
    prices.retire("EURUSD")
    assert "EURUSD is not followed any more: add it" in call("alerts", "add", "EURUSD", "above", "1", code=1).output
    assert call("alerts", "add", "M1", "starts_at", "within", "1h", code=1).output.endswith("yet of 'M1'\n")


def test_a_stock_is_followed_from_the_first_alert_on_it_on(call):
    assert "waits (TSLA above 1); it is MISSING now" in call("alerts", "add", "tsla", "above", "1").output
    (row,) = json.loads(call("stocks", "list", "--json").output)
    assert (row["symbol"], row["want"], row["state"]) == ("TSLA", 2, "new")
    call("prices", "add", "MSFT")
    assert len(json.loads(call("stocks", "list", "--json").output)) == 2


def test_an_instrument_keeps_its_sources_until_others_are_asked_for(call):
    open_market()
    db.rows("update pair set symbol = 'BTCUSDT'")
    assert "(pair)" in call("prices", "add", "BTCUSDT").output
    call("prices", "rm", "BTCUSDT")
    assert "(pair)" in call("prices", "add", "BTCUSDT").output
    assert "BTCUSDT is traded here" in call("prices", "add", "BTCUSDT", "--kind", "crypto", code=2).output
    call("prices", "add", "GOLDX", "--kind", "other")
    assert "(other)" in call("prices", "add", "GOLDX", "--max-age", "5m").output
    assert "(stock)" in call("prices", "add", "GOLDX", "--kind", "stock").output


def test_prices_are_listed_with_age_state_and_failure(call):
    tick("BTCUSD", "97000.50")
    prices.record([], {"XAUUSD": Rejected("gold-api: no field price")}, datetime.now(UTC))
    rows = {row["symbol"]: row for row in json.loads(call("prices", "list", "--json").output)}
    assert len(rows) == 6
    assert (rows["BTCUSD"]["price"], rows["BTCUSD"]["state"]) == ("97000.50", "fresh")
    assert 0 <= rows["BTCUSD"]["age"] < 60
    shown = " ".join(call("prices", "list").output.split())
    assert " 97000.5 " in shown
    assert "gold-api: no field price" in shown


def test_an_instrument_is_followed_changed_and_dropped_with_an_audit_row_each(call):
    assert "ETHUSD (crypto) is followed from now on" in call("prices", "add", "ethusd").output
    assert "is changed" in call("prices", "add", "ETHUSD", "--max-age", "5m", "--tick-size", "0.01").output
    row = {row["symbol"]: row for row in json.loads(call("prices", "list", "--json").output)}["ETHUSD"]
    assert (row["max_age"], row["tick_size"]) == (300.0, "0.01")
    assert "followed no longer" in call("prices", "rm", "ETHUSD").output
    assert "is not followed" in call("prices", "rm", "ETHUSD", code=1).output
    actions = db.rows("select action, target from audit order by id")
    assert actions == [("prices add", "ETHUSD"), ("prices add", "ETHUSD"), ("prices rm", "ETHUSD")]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("A B",), "is not a symbol"),
        (("X'; drop table quote; --",), "is not a symbol"),
        (("ETHUSD", "--max-age", "never"), "is not a duration of at least a millisecond"),
        (("ETHUSD", "--tick-size", "NaN"), "is not above 0"),
        (("ETHUSD", "--kind", "magic"), "not one of"),
    ],
)
def test_an_instrument_that_makes_no_sense_is_refused_with_the_reason(call, words, reason):
    assert reason in call("prices", "add", *words, code=2).output
    assert db.rows("select count(*) from instrument") == [(6,)]
