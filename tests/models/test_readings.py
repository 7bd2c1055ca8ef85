"""Readings: streams of values beside the prices, and alerts on them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Thread

import pytest
from peewee import PeeweeException

import db
from domain.alerts import Rule
from domain.failures import Rejected
from domain.measures import Reading
from domain.prices import Price
from models import alerts, prices, readings, triggers
from models.alerts import create_alert, user_with

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime.now(UTC).replace(microsecond=0)
D = Decimal


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def read(second: float, value: float | str, subject: str = "X", measure: str = "odds", about: str | None = None) -> int:
    return readings.record([Reading(subject, measure, D(str(value)), at(second), "tests", about)], at(second))


def began(*measures: str, subject: str = "BTCUSD") -> None:
    """There was an event of each long ago."""
    for measure in measures:
        read(-1000, 0, subject, measure)


def add(
    subject: str, measure: str, condition: str, level: float | str = 0, type_: str = "odds_change", **how: object
) -> int:
    rule = Rule(condition, D(str(level)), **how)
    made = create_alert(user_with("ann@example.com"), subject, rule, at(0), type_=type_, measure_=measure)
    return made.id


def check(second: float = 0) -> int:
    reached = sum(batch.fired for batch in triggers.fire_reached())
    return reached + sum(batch.fired for batch in triggers.fire_due(at(second)))


def titles() -> list[str]:
    return [title for (title,) in db.rows("select title from notification order by id")]


def test_a_reading_is_written_once_with_the_value_before_it_and_shown_as_the_newest():
    assert [read(0, "2.5"), read(0, "2.5"), read(-5, 3), read(10, "2.5"), read(20, "2.4")] == [1, 0, 0, 1, 1]
    assert db.rows("select value, previous, changed, fresh from reading order by id") == [
        (D("2.5"), None, True, True), (D("2.5"), D("2.5"), False, True), (D("2.4"), D("2.5"), True, True),
    ]  # fmt: skip
    assert db.rows("select subject, measure, value, happened_at from gauge") == [("X", "odds", D("2.4"), at(20))]


def test_several_readings_of_one_call_follow_each_other():
    seen = [Reading("X", "odds", D(value), at(second), "t") for second, value in ((20, 3), (0, 2), (10, "2.5"))]
    assert readings.record([*seen, Reading("Y", "odds", D(9), at(5), "t")], at(20)) == 4
    assert db.rows("select value, previous from reading where subject = 'X' order by happened_at") == [
        (D(2), None), (D("2.5"), D(2)), (D(3), D("2.5")),
    ]  # fmt: skip


def test_events_of_the_same_moment_are_all_kept_in_order():
    event = [Reading("AAPL", "mention", D(1), at(0), "t", about) for about in ("one", "two", "three")]
    assert readings.record(event, at(1)) == 3
    assert readings.record([Reading("AAPL", "mention", D(1), at(-60), "t", "late")], at(2)) == 1
    found = db.rows("select about, happened_at from reading order by happened_at")
    assert [about for about, _ in found] == ["one", "two", "three", "late"]
    assert found[-1][1] - found[0][1] == timedelta(microseconds=3)


def test_a_value_that_is_too_old_when_it_comes_is_not_fresh_and_fires_nothing():
    read(-8000, 2)
    alert = add("X", "odds", "above", 3)
    readings.record([Reading("X", "odds", D(4), at(-7000), "t")], at(0))
    assert check() == 0
    read(1, "4.5")
    assert check() == 1
    assert db.rows("select alert_id, value from alert_trigger") == [(alert, D("4.5"))]


def test_a_reading_fires_what_waits_for_its_measure_and_nothing_else():
    read(0, 2), read(0, 2, "Y"), read(0, "0.4", measure="prob")
    hit = add("X", "odds", "above", "2.5")
    add("Y", "odds", "above", "2.5")
    add("X", "odds", "above", 4)
    add("X", "prob", "above", "0.5")
    read(5, 3)
    assert check() == 1
    assert db.rows("select alert_id, stream, value from alert_trigger") == [(hit, "odds", D(3))]
    assert titles() == ["X odds is at 3, above 2.5"]


def test_nobody_can_wait_for_a_subject_that_nobody_knows():
    with pytest.raises(LookupError, match="there has been no odds yet of 'NOSUCH'"):
        add("NOSUCH", "odds", "above", 2)
    with pytest.raises(LookupError, match="there has been no mention yet of 'BTCUSD'"):
        add("BTCUSD", "mention", "happens", type_="news")
    with pytest.raises(LookupError, match="EURUSD is no stock"):
        add("EURUSD", "ex_date", "within", 60, "dividend")
    with pytest.raises(LookupError, match="EURUSD has no volume"):
        add("EURUSD", "volume", "above", 2, "stock_volume", bar="1h")
    assert db.rows("select count(*) from alert") == [(0,)]
    with pytest.raises(ValueError, match="no measure"):
        readings.record([Reading("X", "magic", D(1), at(0), "t")], at(0))


def test_every_event_fires_with_its_words():
    began("mention", "sentiment")
    happens = add("BTCUSD", "mention", "happens", type_="news", frequency="every", cooldown=timedelta(seconds=1))
    grim = add("BTCUSD", "sentiment", "below", "-0.5", type_="news")
    read(1, 1, "BTCUSD", "mention", "Bitcoin is mentioned")
    read(1, "-0.2", "BTCUSD", "sentiment", "Bitcoin is mentioned")
    read(5, 1, "BTCUSD", "mention", "Bitcoin falls")
    read(5, "-0.8", "BTCUSD", "sentiment", "Bitcoin falls")
    assert check() == 3
    assert db.rows("select alert_id, count(*) from alert_trigger group by 1 order by 1") == [(happens, 2), (grim, 1)]
    assert sorted(titles()) == [
        "BTCUSD: Bitcoin falls", "BTCUSD: Bitcoin falls (sentiment -0.8)", "BTCUSD: Bitcoin is mentioned",
    ]  # fmt: skip


def test_an_event_that_was_there_before_the_alert_fires_nothing():
    read(0, 1, "BTCUSD", "mention")
    add("BTCUSD", "mention", "happens", type_="news")
    assert check() == 0


def epoch(instant: datetime) -> int:
    return int(instant.timestamp())


def test_a_date_fires_when_it_is_near_and_moves_with_the_match():
    start = at(7200)
    read(0, epoch(start), "M1", "starts_at")
    alert = add("M1", "starts_at", "within", 1800, "match_start")
    assert check(5399) == 0
    read(60, epoch(start + timedelta(hours=1)), "M1", "starts_at")  # postponed
    assert check(5400) == 0
    assert check(9000) == 1
    assert db.rows("select alert_id, happened_at from alert_trigger") == [(alert, at(9000))]
    assert titles() == [f"M1 starts on {start + timedelta(hours=1):%-d %b %Y %H:%M} UTC"]
    assert check(9001) == 0


def test_a_match_that_is_off_or_begun_starts_nothing():
    read(0, epoch(at(3600)), "M1", "starts_at")
    add("M1", "starts_at", "within", 1800, "match_start")
    read(1, "Infinity", "M1", "starts_at")
    assert check(10_000) == 0
    read(2, epoch(at(-60)), "M2", "starts_at")
    add("M2", "starts_at", "within", 1800, "match_start")
    assert check(10_000) == 0


def test_a_date_that_is_near_already_fires_when_it_is_checked():
    read(0, epoch(at(600)), "M1", "starts_at")
    add("M1", "starts_at", "within", 1800, "match_start")
    assert check(1) == 1


def test_every_new_date_is_told_again_and_the_same_date_once():
    read(0, epoch(at(600)), "M1", "starts_at")
    add("M1", "starts_at", "within", 1800, "match_start", frequency="every", cooldown=timedelta(seconds=1))
    assert check(1) == 1
    read(2, epoch(at(600)), "M1", "starts_at")
    assert check(3) == 0
    read(4, epoch(at(5000)), "M1", "starts_at")
    assert [check(10), check(3200), check(3201)] == [0, 1, 0]


def test_a_date_that_goes_to_and_fro_is_told_again_after_the_cool_down():
    read(0, epoch(at(7000)), "M1", "starts_at")
    add("M1", "starts_at", "within", 7200, "match_start", frequency="every", cooldown=timedelta(hours=1))
    assert check(1) == 1
    for second in range(60, 600, 60):
        read(second, epoch(at(7000 + second % 120)), "M1", "starts_at")
        assert check(second) == 0
    assert [check(3599), check(3600), check(3601)] == [0, 1, 0]
    read(3700, epoch(at(7200)), "M1", "starts_at")
    assert check(10_000) == 0, "when the cool-down ends, it has begun"
    assert db.rows("select happened_at from alert_trigger order by number") == [(at(0),), (at(3600),)]


def test_percentages_count_from_the_value_at_creation_or_watch_the_stream_of_changes():
    read(0, 2)
    add("X", "odds", "percent_up", 10, base="creation")
    add("X", "odds", "percent_down", 5, base="24h")
    assert db.rows("select subject, measure from gauge order by 2") == [("X", "odds"), ("X", "odds/24h")]
    read(5, "2.1"), read(6, "2.25")
    readings.record([Reading("X", "odds/24h", D("-5.5"), at(7), "t")], at(7))
    assert check() == 2
    assert titles() == ["X odds is up 12.5 % at 2.25, from 2", "X odds is down 5.5 % in 24h"]


def test_a_percentage_without_a_fresh_value_to_count_from_is_refused():
    with pytest.raises(LookupError, match="no fresh value"):
        add("BTCUSD", "price", "percent_up", 5, "price", base="creation")


def test_once_per_bar_close_watches_the_closes():
    readings.record([Reading("X", "odds", D(2), at(0), "t")], at(0))
    alert = add("X", "odds", "above", 3, frequency="close", bar="1h")
    assert db.rows("select stream from alert_watch") == [("odds@1h",)]
    read(5, 9)
    assert check() == 0, "a value within a bar is no close"
    read(6, "3.5", measure="odds@1h"), read(7, 3, measure="odds@1h"), read(8, 2, measure="odds@1h")
    assert check() == 2
    assert db.rows("select alert_id, value from alert_trigger order by number") == [(alert, D("3.5")), (alert, D(3))]


def test_every_trigger_can_be_decided_again_from_what_it_has_kept():
    from domain.alerts import fires_again

    read(0, 2), read(0, epoch(at(600)), "M1", "starts_at")
    how = {"frequency": "every", "cooldown": timedelta(seconds=1)}
    add("X", "odds", "above", 3, **how), add("X", "odds", "crosses", 3, direction="either", **how)
    (
        add("X", "odds", "equals", 3, **how),
        add("X", "odds", "percent_down", 20, base="creation", frequency="bar", bar="1m"),
    )
    add("X", "odds", "below", 2), add("M1", "starts_at", "within", 1800, "match_start")
    for second, value in enumerate((2, 3, 1.5, 2.5, 3, 4, 1.2, 3, 1.4), 5):
        read(10 * second, value)
    assert check(1) > 10
    for trigger in db.maps("select * from alert_trigger"):
        assert fires_again(trigger["rule"], trigger["waited"], trigger["value"], trigger["happened_at"])
        assert trigger["rule"]["version"] == 1
    assert db.rows("select count(*) from alert_trigger where waited ? 'level' and received_at is not null") == db.rows(
        "select count(*) from alert_trigger"
    )


def test_an_alert_whose_time_is_over_fires_no_more():
    read(0, 2)
    rule = Rule("above", D(3))
    made = create_alert(user_with("a@b.c"), "X", rule, at(0), type_="odds_change", measure_="odds", expires_at=at(60))
    read(61, 4)
    assert check() == 0
    assert db.rows("select status from alert where id = %s", made.id) == [("expired",)]
    with pytest.raises(LookupError, match="before it begins"):
        create_alert(user_with("a@b.c"), "X", rule, at(0), type_="odds_change", measure_="odds", expires_at=at(-1))
    add("X", "odds", "above", 9)
    db.rows("update alert set expires_at = %s where status = 'active'", at(100))
    assert (alerts.expire(at(99)), alerts.expire(at(100)), alerts.expire(at(101))) == (0, 1, 0)
    assert db.rows("select count(*) from alert_watch") == [(0,)]


def test_a_storm_pauses_the_alert_and_tells_its_owner():
    began("mention")
    alert = add("BTCUSD", "mention", "happens", type_="news", frequency="every", cooldown=timedelta(seconds=1))
    for second in range(1, 60, 2):
        read(second, 1, "BTCUSD", "mention", f"news {second}")
    assert check() == 15
    assert db.rows("select status, reason, trigger_count from alert") == [
        ("paused", "more than 15 times in 3 minutes", 15)
    ]
    assert titles()[-1] == f"BTCUSD: alert {alert} is paused, more than 15 times in 3 minutes"
    assert db.rows("select severity from notification order by id desc limit 1") == [("warning",)]
    assert db.rows("select count(*) from event where topic = 'alert.paused'") == [(1,)]
    assert alerts.resume_alert(alert, at(300))
    read(301, 1, "BTCUSD", "mention", "again")
    assert check() == 1


def test_an_alert_that_is_taken_up_in_its_storm_is_paused_and_told_again_and_stops_nobody():
    from models.adoption import adopt

    read(0, 2)
    swings, holds = [
        add("X", "odds", condition, 3, direction=way, frequency="every", cooldown=timedelta(seconds=1))
        for condition, way in (("crosses", "either"), ("above", None))
    ]
    other = add("X", "odds", "above", 9)
    for second in range(1, 70):
        read(second, 4 if second % 2 else 2)
    check()
    assert db.rows("select status from alert order by id") == [("paused",), ("paused",), ("active",)]
    db.rows("update alert set status = 'new' where status = 'paused'")
    assert adopt(at(70)) == (2, 0, 0), "what holds would fire at once, and is paused again"
    read(71, 2), read(72, 4), read(73, 10)
    assert check() == 1
    assert dict(db.rows("select id, status from alert")) == {swings: "paused", holds: "paused", other: "triggered"}
    told = sorted(title for title in titles() if "paused" in title)
    assert told == sorted(2 * [f"X: alert {n} is paused, more than 15 times in 3 minutes" for n in (swings, holds)])


def test_what_the_app_pauses_or_removes_by_itself_fires_nothing_and_can_be_taken_up():
    read(0, 2)
    paused, removed = add("X", "odds", "above", 3), add("X", "odds", "above", 3)
    db.rows("update alert set status = 'paused' where id = %s", paused)
    db.rows("update alert set status = 'removed' where id = %s", removed)
    read(1, 4)
    assert check() == 0
    assert db.rows("select count(*) from alert_watch") == [(0,)]
    db.rows("update alert set status = 'new' where id = %s", paused)
    from models.adoption import adopt

    assert adopt(at(2)) == (1, 0, 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [("level", "NaN"), ("level", "1e16"), ("level", "1e-16383"), ("condition", "near"), ("frequency", "often"),
     ("cooldown", "-1 s"), ("cooldown", "400 days"), ("expires_at", "infinity"), ("expires_at", "0044-03-15 BC")],
)  # fmt: skip
def test_the_database_refuses_what_is_not_even_a_rule(column, value):
    with pytest.raises(PeeweeException):
        db.rows(
            f"insert into alert (user_id, subject, condition, {column}) values (%s, 'BTCUSD', 'above', %s)"
            if column != "condition"
            else "insert into alert (user_id, subject, condition) values (%s, 'BTCUSD', %s)",
            *(user_with("a@b.c"), value),
        )


@pytest.mark.parametrize(
    ("busy", "wanted", "seen", "failed", "writes_first"),
    [
        ("EURUSD", ("BTCUSD", "EURUSD", "XAUUSD"), ("XAUUSD", "BTCUSD"), (), False),
        ("BTCUSD", ("EURUSD", "XAUUSD"), ("XAUUSD",), ("BTCUSD", "EURUSD"), True),
    ],
)
def test_alerts_that_begin_and_prices_that_are_written_wait_for_one_another_in_no_circle(
    database, busy, wanted, seen, failed, writes_first
):
    """Streams are wanted in order; their prices come in another one, and behind them what has failed."""
    failures: list[PeeweeException] = []

    def read():
        readings.newest([(symbol, "price") for symbol in wanted], NOW)

    def write():
        known = [Price(symbol, Decimal(1), NOW, "x") for symbol in seen]
        prices.record(known, {symbol: Rejected("x") for symbol in failed}, NOW)

    def apart(work):
        with db.database.connection_context():
            try:
                with db.transaction():
                    work()
            except PeeweeException as error:
                failures.append(error)

    threads: list[Thread] = []
    with db.transaction():
        db.rows("select 1 from quote where symbol = %s for update", busy)
        for work in (write, read) if writes_first else (read, write):
            threads.append(Thread(target=apart, args=(work,)))
            threads[-1].start()
            while all(thread.is_alive() for thread in threads) and db.rows(
                "select count(*) < %s from pg_locks where not granted", len(threads)
            ) == [(True,)]:
                pass
    for thread in threads:
        thread.join()
    assert failures == []


def test_of_the_apps_alerts_the_bad_ones_are_refused_with_the_reason_and_cost_the_others_nothing():
    from models.adoption import adopt

    user = user_with("a@b.c")
    for columns, values in (
        ("subject, condition, level", ("NOSUCH", "above", 1)),
        ("subject, condition, level", ("BTCUSD", "above", 0)),
        ("subject, condition, level", ("BTCUSD", "crosses", 5)),
        ("subject, condition, level, type", ("BTCUSD", "above", 5, "magic")),
        ("subject, condition, level, measure", ("BTCUSD", "above", 5, "odds")),
        ("subject, condition, level, bar", ("BTCUSD", "above", 5, "2 weeks")),
        ("subject, condition, level, frequency", ("BTCUSD", "above", 5, "every")),
        ("subject, condition, level, type, measure, bar", ("BTCUSD", "above", 0, "stock_volume", "volume", "1d")),
        ("subject, condition, level", ("BTCUSD", "above", 5)),
    ):
        db.rows(f"insert into alert (user_id, {columns}) values (%s, {', '.join(['%s'] * len(values))})", user, *values)
    assert adopt(at(0))[:2] == (1, 8)
    reasons = [reason for (reason,) in db.rows("select reason from alert where status = 'refused' order by id")]
    for reason, words in zip(
        reasons,
        (
            *("not followed", "always true", "has a direction", "no type", "no measure", "no bar", "cool-down"),
            "volume above 0 is always true",
        ),
        strict=True,
    ):
        assert words in reason


def test_a_stock_that_an_alert_is_about_is_followed_if_the_alert_makes_sense():
    from models.adoption import adopt

    readings.record([Reading("NVDA", "mention", D(1), at(0), "t"), Reading("M1", "odds", D(2), at(0), "t")], at(0))
    prices.add("OLD", "stock", None, None), prices.retire("OLD")
    user = user_with("a@b.c")
    for subject, level, type_, measure, condition in (
        ("TSLA", 1, "price", "price", "above"),
        ("PTT.BK", 3600, "earnings", "report_date", "within"),
        ("GOOG", 0, "price", "price", "above"),
        ("BTCUDS", 1, "price", "price", "above"),
        ("ETHUSD", 1, "stock_price", "price", "above"),
        ("OLD", 1, "price", "price", "above"),
        ("NVDA", 0, "news", "mention", "happens"),
        ("M1", 3, "odds_change", "odds", "above"),
    ):
        db.rows(
            "insert into alert (user_id, subject, level, type, measure, condition) values (%s, %s, %s, %s, %s, %s)",
            *(user, subject, level, type_, measure, condition),
        )
    assert adopt(at(0)) == (4, 4, 0)
    assert db.rows("select symbol, market, state from stock order by 1") == [
        ("PTT.BK", "XBKK", "new"), ("TSLA", "XNYS", "new"),
    ]  # fmt: skip
    assert db.rows("select symbol from quote where symbol in ('PTT.BK', 'TSLA', 'GOOG', 'NVDA', 'M1') order by 1") == [
        ("PTT.BK",), ("TSLA",),
    ]  # fmt: skip
    assert db.rows("select subject, reason from alert where status = 'refused' and subject <> 'GOOG' order by id") == [
        ("BTCUDS", "BTCUDS is not followed, and no stock has such a symbol"),
        ("ETHUSD", "ETHUSD is not followed, and no stock has such a symbol"),
        ("OLD", "OLD is not followed any more"),
    ]
