"""A stream that has fallen silent is told to the owners of its alerts, once."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

import db
from domain.alerts import Rule
from domain.measures import Reading
from domain.prices import Price
from jobs.alerts import check_silences
from models import prices, readings, silences
from models.alerts import create_alert, remove_alert, user_with

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime.now(UTC)
LATER = NOW + timedelta(minutes=30)


def tick(symbol: str, at: datetime = NOW) -> None:
    prices.record([Price(symbol, Decimal(100), at, "binance")], {}, at)


def add(symbol: str, by: str = "ann@example.com", level: int = 200) -> int:
    return create_alert(user_with(by), symbol, Rule("above", Decimal(level)), NOW).id


def told() -> list[tuple[str, str]]:
    return db.rows(
        "select u.email, n.title from notification n join app_user u on u.id = n.user_id order by n.id, u.email"
    )


def test_the_owners_of_alerts_on_a_silent_stream_are_told_once_and_their_alerts_say_so():
    for symbol in ("BTCUSD", "EURUSD", "XAUUSD"):
        tick(symbol)
    add("BTCUSD"), add("BTCUSD", level=300), add("EURUSD"), add("XAUUSD", by="bob@example.com")
    tick("XAUUSD", LATER)
    assert silences.settle(NOW) == (0, 0, 0)
    assert silences.settle(LATER) == (2, 0, 1)
    assert told() == [("ann@example.com", "No fresh value of BTCUSD, EURUSD: 3 of your alerts wait")]
    assert db.rows("select subject, silence, count(*) from alert group by 1, 2 order by 1") == [
        ("BTCUSD", "stale", 2), ("EURUSD", "stale", 1), ("XAUUSD", None, 1),
    ]  # fmt: skip
    ((details,),) = db.rows("select data -> 'details' from notification")
    assert [label for label, _ in details] == ["BTCUSD", "EURUSD"]
    assert details[0][1]["at"].startswith(f"{NOW:%Y-%m-%dT%H:%M}")
    assert silences.settle(LATER) == (0, 0, 0), "once"


def test_of_more_alerts_than_one_look_takes_the_rest_follows_owner_by_owner(monkeypatch):
    monkeypatch.setattr(silences, "ALERTS", 2)
    tick("BTCUSD")
    for by in ("bob@example.com", "ann@example.com", "bob@example.com", "ann@example.com"):
        add("BTCUSD", by)
    assert [silences.settle(LATER) for _ in range(3)] == [(1, 0, 1), (0, 0, 1), (0, 0, 0)]
    assert [owner for owner, _ in told()] == ["bob@example.com", "ann@example.com"]
    tick("BTCUSD", LATER)
    silences.settle(LATER)
    assert db.rows("select count(*) from alert where silence is null") == [(2,)]
    silences.settle(LATER)
    assert db.rows("select count(*) from alert where silence is null") == [(4,)]


def test_a_silence_that_ends_is_forgotten_and_the_next_one_is_told_again():
    tick("BTCUSD")
    add("BTCUSD")
    silences.settle(LATER)
    tick("BTCUSD", LATER)
    assert silences.settle(LATER) == (0, 1, 0)
    assert db.rows("select silence from alert") == [(None,)]
    assert silences.settle(LATER + timedelta(minutes=30)).told == 1
    assert len(told()) == 2


def test_a_value_that_is_a_little_late_is_no_silence():
    tick("BTCUSD")
    add("BTCUSD")
    assert silences.settle(NOW + timedelta(minutes=10)) == (0, 0, 0), "a minute is allowed, and ten of patience"
    assert silences.settle(NOW + timedelta(minutes=11)).begun == 1


def test_a_value_that_never_came_is_missing():
    db.rows("update instrument set created_at = %s", NOW)
    add("BTCUSD")
    rule = Rule("above", Decimal(70), bar="1d")
    create_alert(user_with("bob@example.com"), "EURUSD", rule, NOW, type_="technical", measure_="rsi14")
    assert silences.settle(NOW + timedelta(minutes=5)) == (0, 0, 0)
    assert silences.settle(LATER) == (2, 0, 2)
    assert told() == [
        ("ann@example.com", "No fresh value of BTCUSD: one alert of yours waits"),
        ("bob@example.com", "No fresh value of EURUSD rsi14 (1d): one alert of yours waits"),
    ]
    assert {silence for (silence,) in db.rows("select silence from alert")} == {"missing"}


def test_a_new_stock_is_not_missing_before_its_market_has_been_open():
    add("TSLA"), add("PTT.BK")
    db.rows("update instrument set created_at = %s", NOW)
    db.rows(
        """insert into market_session (market, date, opens_at, closes_at, source) values
             ('XNYS', '2026-11-30', %s, %s, 'tests'), ('XBKK', '2026-11-27', %s, %s, 'tests')""",
        *(NOW + timedelta(hours=40), NOW + timedelta(hours=46), NOW - timedelta(hours=9), NOW),
    )
    assert silences.settle(NOW + timedelta(hours=40)) == (0, 0, 0)
    assert silences.settle(NOW + timedelta(hours=40, minutes=11)) == (1, 0, 1)
    assert told() == [("ann@example.com", "No fresh value of TSLA: one alert of yours waits")]


def test_what_has_no_value_yet_is_not_missing_while_its_price_comes():
    db.rows("insert into instrument (symbol, kind) values ('AAPL', 'stock')")
    db.rows("insert into quote (symbol) values ('AAPL')")
    tick("AAPL")
    db.rows("update quote set stale_at = %s where symbol = 'AAPL'", NOW + timedelta(hours=15))  # its market is closed
    for rule, type_, measure in (
        (Rule("above", Decimal("0.5")), "dividend", "dividend"),
        (Rule("within", Decimal(86400)), "dividend", "ex_date"),
        (Rule("percent_up", Decimal(5), base="24h"), "price", "price"),
        (Rule("above", Decimal(500), frequency="close", bar="1h"), "price", "price"),
        (Rule("above", Decimal(70), bar="1d"), "technical", "rsi14"),
    ):
        create_alert(user_with("ann@example.com"), "AAPL", rule, NOW, type_=type_, measure_=measure)
    assert silences.settle(LATER) == (0, 0, 0)
    assert silences.settle(NOW + timedelta(hours=16)) == (3, 0, 1), "what comes of a price that does not come"


def test_who_makes_an_alert_on_a_silent_stream_is_told_there_and_then():
    tick("BTCUSD")
    add("BTCUSD")
    silences.settle(LATER)
    add("BTCUSD", by="bob@example.com")
    assert told()[1] == ("bob@example.com", "No fresh value of BTCUSD: one alert of yours waits")
    assert db.rows("select count(*) from alert where silence = 'stale'") == [(2,)]


def test_what_is_worked_out_of_a_silent_price_is_silent_too():
    tick("EURUSD")
    rule = Rule("above", Decimal(70), bar="1d")
    create_alert(user_with("bob@example.com"), "EURUSD", rule, NOW, type_="technical", measure_="rsi14")
    readings.record([Reading("EURUSD", "rsi14@1d", Decimal(50), NOW, "candles")], NOW)
    assert silences.settle(LATER) == (1, 0, 1)
    assert told() == [("bob@example.com", "No fresh value of EURUSD rsi14 (1d): one alert of yours waits")]
    tick("EURUSD", LATER)
    assert silences.settle(LATER) == (0, 1, 0)


def test_nobody_is_told_of_a_stream_for_which_nobody_waits_any_more():
    tick("BTCUSD"), tick("EURUSD")
    alert = add("BTCUSD")
    silences.settle(LATER)
    remove_alert(alert)
    assert silences.settle(LATER) == (0, 1, 0)
    assert len(told()) == 1


@contextmanager
def held(alert: int) -> Iterator[None]:
    """While somebody else has an alert's row: a check that fires it, say. Who waits for that one fails."""
    from psycopg2 import connect

    with closing(connect(**db.database.connect_params, dbname=db.database.database)) as other:
        other.cursor().execute("select 1 from alert where id = %s for update", (alert,))
        db.rows("set lock_timeout = '1s'")
        try:
            yield
        finally:
            db.rows("reset lock_timeout")


def test_an_alert_that_somebody_else_has_is_not_waited_for_and_speaks_at_the_next_look():
    tick("BTCUSD")
    firing, waiting = add("BTCUSD"), add("BTCUSD", level=300)
    silences.settle(LATER)
    tick("BTCUSD", LATER)
    with held(firing):
        assert silences.settle(LATER) == (0, 1, 0)
        assert dict(db.rows("select id, silence from alert")) == {firing: "stale", waiting: None}
    assert silences.settle(LATER) == (0, 0, 0)
    assert dict(db.rows("select id, silence from alert")) == {firing: None, waiting: None}


def test_of_an_alert_that_somebody_else_has_its_owner_is_told_at_the_next_look():
    tick("BTCUSD")
    firing, waiting = add("BTCUSD"), add("BTCUSD", level=300)
    with held(firing):
        assert silences.settle(LATER) == (1, 0, 1)
        assert dict(db.rows("select id, silence from alert")) == {firing: None, waiting: "stale"}
    assert silences.settle(LATER) == (0, 0, 1)
    assert told() == [("ann@example.com", "No fresh value of BTCUSD: one alert of yours waits")] * 2
    assert dict(db.rows("select id, silence from alert")) == {firing: "stale", waiting: "stale"}
    assert silences.settle(LATER) == (0, 0, 0), "once"


def test_events_and_dates_are_never_stale():
    readings.record([Reading("M1", "starts_at", Decimal(1_900_000_000), NOW, "x")], NOW)
    create_alert(user_with("ann@example.com"), "M1", Rule("within", Decimal(60)), NOW, type_="match_start",
                 measure_="starts_at")  # fmt: skip
    readings.record([Reading("EURUSD", "mention", Decimal(1), NOW, "x")], NOW)
    create_alert(user_with("ann@example.com"), "EURUSD", Rule("happens"), NOW, type_="news", measure_="mention")
    assert silences.settle(NOW + timedelta(days=300)) == (0, 0, 0)


def test_the_job_counts_and_twice_is_the_same_as_once():
    tick("BTCUSD")
    add("BTCUSD")
    assert check_silences(due_at=LATER) == {"begun": 1, "ended": 0, "told": 1}
    assert check_silences(due_at=LATER) == {"begun": 0, "ended": 0, "told": 0}
