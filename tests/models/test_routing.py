"""Routing: what is told goes now, later or not at all, and each way says why."""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from threading import Barrier, Thread

import pytest

import db
from domain.measures import Reading
from domain.prices import Price
from models import notifications, prices, readings, routing, targets
from models.alerts import user_with

ALL = ("email", "telegram", "line", "discord", "webhook", "console")
NOW = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)


def tell(user: int, kind: str = "order", at: datetime = NOW, **more) -> int:
    """Something is told at an instant."""
    told = notifications.tell(user, kind, "BTCUSD has expired", **more)
    db.rows("update notification set created_at = %s, expires_at = %s where id = %s", at, at + timedelta(days=1), told)
    assert told
    return told


def route(channels=ALL, at: datetime = NOW) -> int:
    return sum(routing.route(channels, at))


def ways() -> list[tuple]:
    return db.rows("select channel, state, reason from delivery order by id")


@pytest.fixture
def ann(database) -> int:
    return user_with("ann@example.com", "Europe/London")


def test_what_is_told_goes_to_every_address_that_its_user_has_shown_to_be_theirs(ann):
    targets.add(ann, "telegram", "1001", verified=True)
    targets.add(ann, "telegram", "1002", verified=False)
    targets.add(user_with("bob@example.com"), "line", "U1", verified=True)
    told = tell(ann)
    assert route() == 1
    assert route() == 0
    assert db.rows("select notification_id, channel, target, state, reason from delivery order by 2, 3") == [
        (told, "console", "ann@example.com", "pending", None),
        (told, "email", "ann@example.com", "pending", None),
        (told, "telegram", "1001", "pending", None),
        (told, "telegram", "1002", "skipped", "the address is not verified"),
    ]
    assert db.rows("select routed_at is not null from notification") == [(True,)]


def test_a_channel_that_is_not_in_use_gets_nothing(ann):
    targets.add(ann, "telegram", "1001", verified=True)
    tell(ann)
    route(["telegram"])
    assert ways() == [("telegram", "pending", None)]


def test_an_address_that_is_off_is_passed_over_with_its_reason_until_it_is_added_again(ann):
    targets.add(ann, "telegram", "1001", verified=True)
    assert targets.turn_off(ann, "telegram", "1001", "bot was blocked")
    assert not targets.turn_off(ann, "telegram", "1001", "bot was blocked")
    tell(ann)
    route(["telegram"])
    targets.add(ann, "telegram", "1001", verified=True)
    tell(ann)
    route(["telegram"])
    assert ways() == [
        ("telegram", "skipped", "the address is off: bot was blocked"),
        ("telegram", "pending", None),
    ]


def test_the_apps_own_mail_address_can_be_off_too_and_a_new_one_is_on(ann):
    targets.turn_off(ann, "email", "ann@example.com", "5.1.1 unknown")
    first = tell(ann)
    route(["email"])
    db.rows("update app_user set email = 'new@example.com'")
    second = tell(ann)
    route(["email"])
    assert db.rows("select notification_id, target, state from delivery order by 1, 2") == [
        (first, "ann@example.com", "skipped"),
        (second, "ann@example.com", "skipped"),
        (second, "new@example.com", "pending"),
    ]


@pytest.mark.parametrize(
    ("wishes", "wanted"),
    [
        ([], True),
        ([("order", "email", False)], False),
        ([("*", "email", False)], False),
        ([("*", "email", False), ("order", "email", True)], True),
        ([("order", "telegram", False), ("alert", "email", False)], True),
    ],
)
def test_the_matrix_of_kinds_and_channels(ann, wishes, wanted):
    for wish in wishes:
        targets.want(ann, *wish)
    tell(ann)
    route(["email"])
    assert ways() == [("email", "pending", None) if wanted else ("email", "skipped", "order is not wanted by email")]


def test_a_muted_symbol_is_silent_until_the_mute_ends_and_the_app_still_shows_it(ann):
    db.rows("insert into mute values (%s, 'BTCUSD', %s)", ann, NOW + timedelta(hours=1))
    tell(ann, subject="BTCUSD"), tell(ann, subject="XAUUSD")
    route(["email"])
    tell(ann, subject="BTCUSD")
    route(["email"], NOW + timedelta(hours=1))
    assert ways() == [("email", "skipped", "BTCUSD is muted"), ("email", "pending", None), ("email", "pending", None)]
    assert len(notifications.of_user(ann, 10)) == 3


def test_what_is_news_no_more_goes_nowhere(ann):
    tell(ann, at=NOW - timedelta(days=2))
    route(["email"])
    assert ways() == [("email", "skipped", "too late")]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("told", "goes"),
    [
        ("2027-03-27T22:59:59", "2027-03-27T22:59:59"),
        ("2027-03-27T23:00:00", "2027-03-28T06:00:00"),
        ("2027-03-28T01:00:00", "2027-03-28T06:00:00"),
        ("2027-03-28T05:59:59", "2027-03-28T06:00:00"),
        ("2027-03-28T06:00:00", "2027-03-28T06:00:00"),
        ("2027-10-30T21:59:59", "2027-10-30T21:59:59"),
        ("2027-10-30T22:00:00", "2027-10-31T07:00:00"),
        ("2027-10-31T00:30:00", "2027-10-31T07:00:00"),
        ("2027-10-31T01:30:00", "2027-10-31T07:00:00"),
        ("2027-10-31T06:59:59", "2027-10-31T07:00:00"),
        ("2027-10-31T07:00:00", "2027-10-31T07:00:00"),
    ],
)
def test_quiet_hours_hold_on_both_nights_on_which_the_clock_changes_and_let_go_to_the_second(ann, told, goes):
    targets.be_quiet(ann, time(23), time(7))
    tell(ann, at=at(told))
    route(["email"], at(told))
    held = goes != told
    assert db.rows("select state, due_at, reason from delivery") == [
        ("held" if held else "pending", at(goes), "quiet hours" if held else None)
    ]
    assert list(routing.release(at(goes) - timedelta(seconds=1))) == []
    assert list(routing.release(at(goes))) == ([(1, 0)] if held else [])
    assert ways() == [("email", "pending", None)]


@pytest.mark.parametrize(
    ("severity", "breaks_through", "held"),
    [
        ("info", "critical", True),
        ("warning", "critical", True),
        ("critical", "critical", False),
        ("info", "warning", True),
        ("warning", "warning", False),
        ("critical", "warning", False),
        ("critical", None, True),
    ],
)
def test_what_is_urgent_enough_breaks_through(ann, severity, breaks_through, held):
    targets.be_quiet(ann, time(11), time(13), breaks_through)
    tell(ann, severity=severity)
    route(["email"])
    assert ways()[0][1] == ("held" if held else "pending")


def test_quiet_hours_of_one_user_are_nothing_to_another(ann):
    targets.be_quiet(ann, time(11), time(13))
    bob = user_with("bob@example.com", "Asia/Tokyo")
    targets.be_quiet(bob, time(11), time(13))
    tell(ann), tell(bob), tell(user_with("cid@example.com"))
    route(["email"])
    assert [state for _, state, _ in ways()] == ["held", "pending", "pending"]


def price(value: str, when: datetime) -> None:
    prices.record([Price("BTCUSD", Decimal(value), when, "binance")], {}, when)


def alert(user: int, condition: str = "above", level: str = "97000") -> None:
    rule = {"condition": condition, "side": "down" if condition == "below" else "up", "target": level}
    tell(user, "alert", subject="BTCUSD", data={"stream": "price", "rule": rule})


@pytest.mark.parametrize(
    ("kind", "now", "goes"),
    [("above", "96999", False), ("above", "97001", True), ("below", "97001", False), ("crosses", "96999", True)],
)
def test_a_held_alert_whose_price_is_back_is_dropped_and_says_so(ann, kind, now, goes):
    targets.be_quiet(ann, time(11), time(13))
    alert(ann, kind)
    route(["email"])
    price(now, NOW + timedelta(hours=1))
    assert list(routing.release(NOW + timedelta(hours=1, seconds=1))) == [(1, 0) if goes else (0, 1)]
    assert ways() == [
        ("email", "pending", None) if goes else ("email", "skipped", f"the price is back, at {now}: dropped")
    ]


@pytest.mark.parametrize(
    ("stream", "rule", "now", "back"),
    [
        ("price/close", ("percent_down", "down", -6), "-0.0744", "the price (since the close) is back, at -0.07 %"),
        ("price/24h", ("percent_up", "up", 5), "5.1", None),
        ("rsi14@1d", ("above", "up", 70), "69.90000013", "the rsi14 (1d) is back, at 69.9"),
        ("price@1h", ("below", "down", 97000), "97001", "the price (1h) is back, at 97001"),
        ("odds", ("equals", "at", 2), "2.02", "the odds is back, at 2.02"),
        ("ema20@1h", ("crosses", "up", 97000), "1", None),
        ("dividend", ("above", "up", 1), "0.2", None),
    ],
)
def test_a_held_alert_is_looked_at_by_the_newest_value_of_its_stream(ann, stream, rule, now, back):
    targets.be_quiet(ann, time(11), time(13))
    condition, side, target = rule
    kept = {"condition": condition, "side": side, "target": str(target), "band": "0.01"}
    tell(ann, "alert", subject="BTCUSD", data={"stream": stream, "rule": kept})
    route(["email"])
    later = NOW + timedelta(minutes=50)
    readings.record([Reading("BTCUSD", stream, Decimal(now), later, "tests")], later)
    price("1", later)  # says nothing of any of them
    assert list(routing.release(NOW + timedelta(hours=1))) == [(0, 1) if back else (1, 0)]
    assert ways() == [("email", "skipped", f"{back}: dropped") if back else ("email", "pending", None)]


def test_a_held_alert_goes_when_nobody_knows_the_price(ann):
    targets.be_quiet(ann, time(11), time(13))
    alert(ann)
    route(["email"])
    price("1", NOW)
    assert list(routing.release(NOW + timedelta(hours=2))) == [(1, 0)], "that price is stale"


def test_whoever_unsubscribes_meanwhile_does_not_get_what_was_held(ann):
    targets.be_quiet(ann, time(11), time(13))
    tell(ann, data={"rule": {"side": "up", "target": "x"}}), tell(ann, "deposit", data={"rule": 5})
    route(["email"])
    targets.want(ann, "order", "email", wanted=False)
    assert list(routing.release(NOW + timedelta(hours=2))) == [(1, 1)]
    assert ways() == [("email", "skipped", "order is not wanted by email"), ("email", "pending", None)]


def test_many_of_a_kind_within_five_minutes_wait_and_go_together(ann):
    for n in range(routing.MANY + 3):
        tell(ann, at=NOW + timedelta(seconds=n))
    tell(ann, "deposit"), tell(ann, severity="critical"), tell(user_with("bob@example.com"))
    route(["email"], NOW + timedelta(seconds=20))
    states = [state for _, state, _ in ways()]
    assert states == ["pending"] * routing.MANY + ["held"] * 3 + ["pending"] * 3
    assert db.rows("select distinct due_at, reason from delivery where state = 'held'") == [
        (NOW.replace(minute=5, second=0), "many at once: they go together")
    ]


def test_many_at_once_go_together_whatever_the_price_is_by_then(ann):
    """Each was on its way when it was told: only who asked for quiet hours is spared what has passed."""
    for _ in range(routing.MANY + 2):
        alert(ann)
    route(["email"])
    price("96999", NOW + timedelta(minutes=5))
    assert list(routing.release(NOW + timedelta(minutes=5, seconds=1))) == [(2, 0)]


def test_many_at_once_in_quiet_hours_are_dropped_with_the_price(ann):
    targets.be_quiet(ann, time(11), time(13))
    for _ in range(routing.MANY + 2):
        alert(ann)
    route(["email"])
    price("96999", NOW + timedelta(hours=1))
    assert list(routing.release(NOW + timedelta(hours=1, seconds=1))) == [(0, routing.MANY + 2)]


def test_a_new_window_begins_with_messages_of_their_own(ann):
    for _ in range(routing.MANY):
        tell(ann)
    tell(ann, at=NOW + timedelta(minutes=6))
    route(["email"], NOW + timedelta(minutes=6))
    assert {state for _, state, _ in ways()} == {"pending"}


def test_routing_at_once_makes_each_delivery_once(ann, monkeypatch):
    monkeypatch.setattr(routing, "BATCH", 7)
    users = [user_with(f"user{n}@example.com") for n in range(10)]
    for n in range(100):
        tell(users[n % 10], f"kind{n}")
    counts, together = [], Barrier(3)

    def work() -> None:
        with db.database.connection_context():
            together.wait()
            counts.append(route(["email", "console"]))

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 100
    assert db.rows("select count(*), count(distinct (notification_id, channel)) from delivery") == [(200, 200)]
