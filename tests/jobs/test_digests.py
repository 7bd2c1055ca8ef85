"""Digests: for those who want one, at their time, about what there is; and nothing where there is nothing."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from peewee import IntegrityError

import db
from domain.notifications import section
from domain.prices import Price
from jobs.digests import build_digests
from models import digests, notifications, prices
from models.alerts import user_with

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
pytestmark = pytest.mark.usefixtures("database")


def run(at: datetime = NOON) -> dict[str, int]:
    return build_digests(due_at=at)


def wants(name: str, kind: str = "daily", at: time | None = None, zone: str = "UTC") -> int:
    """A user who has wanted a digest for days."""
    user = user_with(f"{name}@example.com", zone)
    digests.want(user, kind, at)
    run(NOON - timedelta(hours=6))
    return user


def fire(user: int, title: str = "BTCUSD is at 2", at: datetime = NOON - timedelta(hours=1)) -> None:
    told = notifications.tell(user, "alert", title, subject="BTCUSD", key=f"trigger-{title}-{user}-{at}")
    db.rows("update notification set created_at = %s where id = %s", at, told)


def told() -> list[tuple]:
    return db.rows("select user_id, kind, title, data from notification where kind in ('daily', 'weekly') order by id")


def test_the_day_is_summed_up_at_noon_for_whoever_wants_it(database):
    ann, bob = wants("ann"), user_with("bob@example.com")
    fire(ann), fire(bob)
    assert run(NOON - timedelta(minutes=1)) == {}
    assert run() == {"due": 1, "told": 1}
    ((user, kind, title, data),) = told()
    assert (user, kind, title) == (ann, "daily", f"Your day, {NOON:%d %B %Y}")
    (section,) = data["sections"]
    assert section["title"] == "Alerts that fired"
    assert section["lines"] == [[{"at": (NOON - timedelta(hours=1)).isoformat()}, "BTCUSD is at 2"]]


def test_twice_is_the_same_as_once(database):
    fire(wants("ann"))
    run()
    assert run() == {}
    db.rows("update digest set next_at = %s, last_at = null", NOON)  # … and the plan was lost
    assert run() == {"due": 1, "told": 0}
    assert len(told()) == 1


def test_a_day_on_which_nothing_happened_is_not_told(database):
    fire(wants("ann"), at=NOON - timedelta(days=2))
    assert run() == {"due": 1, "told": 0}
    assert told() == []
    assert db.rows("select next_at from digest") == [(NOON + timedelta(days=1),)]


def test_each_at_their_own_time(database):
    tokyo = wants("ann", at=time(20), zone="Asia/Tokyo")  # 11:00 UTC
    fire(tokyo, at=NOON - timedelta(hours=2)), fire(wants("bob"))
    assert run(NOON - timedelta(hours=1)) == {"due": 1, "told": 1}
    assert run() == {"due": 1, "told": 1}


@pytest.mark.parametrize(
    ("zone", "at", "first"),
    [
        ("America/New_York", time(19, 30), date(2027, 3, 12)),
        ("America/New_York", time(19, 30), date(2027, 11, 5)),
        ("America/Los_Angeles", time(16, 30), date(2027, 3, 12)),
        ("Europe/London", time(0, 30), date(2027, 3, 26)),
        ("Europe/London", time(1, 30), date(2027, 3, 26)),
        ("Europe/London", time(0, 30), date(2027, 10, 29)),
        ("Asia/Tokyo", time(7), date(2027, 3, 12)),
    ],
)
def test_every_day_has_its_own_and_its_users_date_when_the_clock_changes_too(zone, at, first):
    user = user_with("ann@example.com", zone)
    digests.want(user, "daily", at)
    run(datetime.combine(first, at, ZoneInfo(zone)) - timedelta(hours=1))
    for _ in range(4):
        ((due,),) = db.rows("select next_at from digest")
        fire(user, at=due - timedelta(hours=1))
        assert run(due) == {"due": 1, "told": 1}
    assert [title for _, _, title, _ in told()] == [f"Your day, {first + timedelta(n):%d %B %Y}" for n in range(4)]


def test_the_week_is_summed_up_on_sunday(database):
    ann = wants("ann", "weekly")
    ((due,),) = db.rows("select next_at from digest")
    assert (due.weekday(), due.hour) == (6, 14)
    fire(ann, at=due - timedelta(days=6))
    assert run(due) == {"due": 1, "told": 1}
    assert told()[0][2].startswith("Your week, ")


def test_a_desk_that_was_down_for_long_leaves_a_digest_out(database):
    fire(wants("ann"))
    assert run(NOON + timedelta(hours=7)) == {"due": 0, "told": 0}
    assert db.rows("select next_at from digest") == [(NOON + timedelta(days=1),)]
    assert run(NOON + timedelta(days=1)) == {"due": 1, "told": 1}, "what it had to say comes with the next"


def test_the_symbols_that_a_user_follows_come_with_what_they_did_and_a_picture(database):
    ann = wants("ann")
    for hours, value in ((23, 100), (12, 90), (1, 110)):
        at = NOON - timedelta(hours=hours)
        prices.record([Price("BTCUSD", Decimal(value), at, "binance"), Price("XAUUSD", Decimal(4000), at, "x")], {}, at)
    for symbol, stream in (("BTCUSD", "price"), ("XAUUSD", "rsi14@1d"), ("EURUSD", "price")):
        db.rows(
            """insert into alert (user_id, subject, condition, level, status, stream, target)
               values (%s, %s, 'above', 1, 'active', %s, 1)""",
            *(ann, symbol, stream),
        )
    run()
    ((*_, data),) = told()
    (section,) = data["sections"]
    assert section["title"] == "Your symbols"
    assert [line[:2] for line in section["lines"]] == [
        ["BTCUSD", "110 (+10.00\u00a0%)"],
        ["XAUUSD", "4000 (+0.00\u00a0%)"],
    ]
    assert section["lines"][0][2][0] == 100
    assert 90 in section["lines"][0][2]


def test_an_alert_that_fired_once_and_for_good_keeps_its_symbol_in_one_digest(database):
    ann = wants("ann")
    for symbol, hours in (("BTCUSD", 3), ("XAUUSD", 30)):
        for before in (20, 1):
            at = NOON - timedelta(hours=before)
            prices.record([Price(symbol, Decimal(300), at, "x")], {}, at)
        db.rows(
            """insert into alert (user_id, subject, condition, level, status, stream, target, trigger_count,
                                  last_triggered_at)
               values (%s, %s, 'above', 1, 'triggered', 'price', 1, 1, %s)""",
            *(ann, symbol, NOON - timedelta(hours=hours)),
        )
    run()
    ((*_, data),) = told()
    assert [line[0] for line in data["sections"][0]["lines"]] == ["BTCUSD"]


def test_a_symbol_without_a_price_since_the_last_digest_is_left_out(database):
    """A stock on a Sunday, say."""
    ann = wants("ann")
    for symbol, hours in (("AAPL", 39), ("BTCUSD", 39), ("BTCUSD", 3)):
        at = NOON - timedelta(hours=hours)
        prices.record([Price(symbol, Decimal(300), at, "x")], {}, at)
    db.rows("insert into watchlist_item (user_id, symbol) values (%s, 'AAPL')", ann)
    assert run() == {"due": 1, "told": 0}
    db.rows("insert into watchlist_item (user_id, symbol) values (%s, 'BTCUSD')", ann)
    db.rows("update digest set next_at = %s, last_at = null", NOON)
    assert run() == {"due": 1, "told": 1}
    ((*_, data),) = told()
    assert [line[0] for line in data["sections"][0]["lines"]] == ["BTCUSD"]


def test_what_was_told_of_alerts_without_one_that_fired_is_left_out(database):
    ann = wants("ann")
    fire(ann)
    silence = notifications.tell(ann, "alert", "No fresh value of BTCUSD", severity="warning")
    db.rows("update notification set created_at = %s where id = %s", NOON - timedelta(hours=2), silence)
    run()
    ((*_, data),) = told()
    assert [line[1] for line in data["sections"][0]["lines"]] == ["BTCUSD is at 2"]


def test_of_more_alerts_than_are_named_it_is_said_how_many_there_were(database, monkeypatch):
    monkeypatch.setattr(digests, "MOST_ALERTS", 2)
    ann = wants("ann")
    for n in range(5):
        fire(ann, f"alert {n}")
    run()
    ((*_, data),) = told()
    assert section(data["sections"][0], UTC).more == 3


def titles() -> list[list[str]]:
    """What each digest says of alerts, oldest first."""
    return [[line[1] for line in data["sections"][0]["lines"]][::-1] for *_, data in told()]


def test_each_goes_on_where_the_last_one_ended_however_late_it_is(database):
    ann = wants("ann")
    for hours, title in ((-1, "one"), (2, "two"), (23, "three"), (28, "four"), (30, "five")):
        fire(ann, title, NOON + timedelta(hours=hours))
    run()
    run(NOON + timedelta(hours=29))
    run(NOON + timedelta(hours=48))
    assert titles() == [["one"], ["two", "three"], ["four", "five"]]


def test_what_one_that_was_left_out_had_to_say_comes_with_the_next(database):
    ann = wants("ann")
    run()
    fire(ann, "one", NOON + timedelta(hours=2))
    fire(ann, "two", NOON + timedelta(hours=40))
    assert run(NOON + timedelta(hours=31)) == {"due": 0, "told": 0}
    run(NOON + timedelta(hours=48))
    assert titles() == [["one", "two"]]


def test_whoever_wants_it_at_another_time_misses_nothing_and_hears_nothing_twice(database):
    ann = wants("ann")
    fire(ann, "one"), fire(ann, "two", NOON + timedelta(hours=3))
    run()
    digests.want(ann, "daily", time(20))
    run(NOON + timedelta(minutes=1))
    run(NOON + timedelta(hours=8))
    assert titles() == [["one"], ["two"]]


def test_a_split_is_no_fall_in_the_week(database):
    ann = wants("ann")
    db.rows("insert into instrument (symbol, kind) values ('AAPL', 'stock')")
    db.rows("insert into quote (symbol) values ('AAPL')")
    db.rows("insert into watchlist_item (user_id, symbol) values (%s, 'AAPL')", ann)
    for hours, value in ((23, 400), (1, 110)):
        at = NOON - timedelta(hours=hours)
        prices.record([Price("AAPL", Decimal(value), at, "x")], {}, at)
    db.rows("insert into split values ('AAPL', %s, 4, 'tests', %s)", NOON.date(), NOON)
    run()
    ((*_, data),) = told()
    assert data["sections"][0]["lines"][0][1] == "110 (+10.00\u00a0%)"


def test_what_is_watched_or_held_comes_with_its_next_earnings_and_dividends(database):
    ann = wants("ann")
    db.rows("insert into watchlist_item (user_id, symbol) values (%s, 'AAPL')", ann)
    db.rows("insert into portfolio_item (user_id, symbol, quantity) values (%s, 'MSFT', 3), (%s, 'NVDA', 0)", ann, ann)
    on = NOON.date() + timedelta(days=2)
    db.rows(
        """insert into earnings_report (symbol, report_on, hour, source, received_at)
           select symbol, %s, 'after close', 'x', now() from unnest(array['AAPL', 'NVDA', 'TSLA']) as t(symbol)""",
        on,
    )
    db.rows(
        "insert into dividend (symbol, ex_on, amount, source, received_at) values ('MSFT', %s, 0.750, 'x', now())", on
    )
    run()
    ((*_, data),) = told()
    (section,) = data["sections"]
    day = f"{on:%A, %d %B}"
    assert section["title"] == "Coming up"
    assert section["lines"] == [
        [day, "AAPL reports earnings after close"],
        [day, "MSFT goes ex dividend of 0.75"],
    ]


def test_whoever_wants_none_any_more_gets_none(database):
    ann = wants("ann")
    fire(ann)
    digests.unwant(ann, "daily")
    assert run() == {}


@pytest.mark.parametrize("when", ["0044-03-15 BC", "20000-01-01", "-infinity"])
def test_the_app_cannot_plan_a_digest_for_a_time_that_nobody_can_read(database, when):
    user = wants("ann")
    with pytest.raises(IntegrityError):
        db.rows("update digest set next_at = %s where user_id = %s", when, user)
