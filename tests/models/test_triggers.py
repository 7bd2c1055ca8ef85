"""Alerts fire on what the ticks since the last check have reached: once, with the first price that did it."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from threading import Barrier, Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peewee import PeeweeException

import db
from domain.alerts import Rule, aim
from domain.measures import PRICE
from domain.prices import Price
from domain.watches import Firing, Seen, Standing, first_watch, follow, true_at_once
from models import prices, triggers
from models.alerts import alerts, create_alert, remove_alert, user_with
from tests.waiting import until

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def tick(second: int, value: str | int, symbol: str = "BTCUSD", late: int = 0) -> None:
    """A price of that second; `late` seconds old when it came."""
    prices.record([Price(symbol, Decimal(value), at(second), "binance")], {}, at(second + late))


def add(
    kind: str,
    level: str | int,
    direction: str | None = None,
    symbol: str = "BTCUSD",
    second: int = 0,
    by: str = "a@b.c",
) -> int:
    rule = Rule(kind, Decimal(level), direction)
    return create_alert(user_with(by), symbol, rule, at(second)).id


def check() -> int:
    return sum(batch.fired for batch in triggers.fire_reached())


def fired() -> list[tuple[int, Decimal, float]]:
    """(alert, price, second), in order of time."""
    found = db.rows("select alert_id, value, happened_at from alert_trigger order by happened_at, alert_id")
    return [(alert, value, (happened_at - NOW).total_seconds()) for alert, value, happened_at in found]


def test_a_position_of_another_database_is_refused_and_nothing_fires(database):
    tick(0, 97000)
    add("above", 97100)
    check()
    db.rows("update reader_position set xid = '4000000000' where reader = %s", triggers.READER)
    tick(5, 97200)
    with pytest.raises(LookupError, match="the position of check_alerts is of another cluster"):
        check()
    assert fired() == []


def test_an_alert_that_is_removed_while_it_fires_waits_for_nobody_in_a_circle(database):
    tick(0, 97000)
    alert, firing, removed = add("above", 97100), Event(), []

    def remove():
        with db.database.connection_context():
            firing.wait(20)
            removed.append(remove_alert(alert))

    other = Thread(target=remove)
    other.start()
    with db.transaction():
        db.rows("delete from alert_watch where alert_id = %s", alert)
        firing.set()
        until(lambda: db.rows("select 1 from pg_locks where not granted"))
        db.rows(
            "update alert set status = 'triggered', trigger_count = 1, last_triggered_at = now() where id = %s", alert
        )
    other.join(20)
    assert removed == [True]
    assert db.rows("select status from alert") == [("removed",)]


@contextmanager
def check_that_waits():
    """A function that begins a check elsewhere and returns once it waits for us, and what that finds by the end."""
    found = []

    def look():
        with db.database.connection_context():
            found.append(check())

    other = Thread(target=look)

    def begin():
        other.start()
        until(lambda: db.rows("select 1 from pg_locks where not granted"))

    yield begin, found
    other.join(20)


def test_an_alert_that_is_removed_while_its_level_is_touched_waits_for_nobody_in_a_circle(database):
    tick(0, 97000)
    rule = Rule("crosses", Decimal(97100), "up", frequency="every", cooldown=timedelta(seconds=60))
    alert = create_alert(user_with("a@b.c"), "BTCUSD", rule, at(0)).id
    tick(5, 97100)
    assert check() == 1
    tick(6, 97099)
    tick(7, 97100)
    with check_that_waits() as (begin, found), db.transaction():
        db.rows("delete from alert_watch where alert_id = %s", alert)
        begin()
        db.rows("update alert set status = 'removed' where id = %s", alert)
    assert found == [0]
    assert db.rows("select status, touches from alert") == [("removed", 0)]


def test_for_an_alert_that_somebody_else_has_changed_the_others_are_not_gone_through_again(database):
    tick(0, 97000)
    ((whole,),) = db.rows(f"explain (format json) {triggers._CHECK}", "0", 0, 1, 1, 1)

    def nodes(plan: dict) -> list[dict]:
        return [plan, *(node for part in plan.get("Plans", ()) for node in nodes(part))]

    (settled,) = [node for node in nodes(whole[0]["Plan"]) if node.get("Subplan Name") == "CTE settled"]
    assert settled["Relation Name"] == "alert"
    assert "Append" not in {node["Node Type"] for node in nodes(settled)}, "its parts are read again for every such row"


def test_alerts_that_somebody_else_changes_while_they_fire_are_waited_for_and_fire(database):
    tick(0, 97000)
    made = {add("above", 97100) for _ in range(3)}
    tick(5, 97200)
    with check_that_waits() as (begin, found), db.transaction():
        db.rows("update alert set silence = null")
        begin()
    assert found == [3]
    assert {alert for alert, _, _ in fired()} == made


def test_an_alert_fires_when_its_level_is_reached_and_not_before(database):
    tick(0, 97000)
    alert = add("above", 97100)
    tick(5, "97099.99")
    assert check() == 0
    tick(10, "97100.00")
    assert check() == 1
    assert fired() == [(alert, Decimal("97100.00"), 10)]


def test_other_symbols_and_levels_are_left_alone(database):
    tick(0, 97000)
    tick(0, "4165.2", "XAUUSD")
    add("above", 98000)
    add("above", 5000, symbol="XAUUSD")
    add("below", 4000, symbol="XAUUSD")
    tick(5, 97500)
    assert check() == 0
    assert db.rows("select count(*) from alert_watch") == [(3,)]


def test_a_spike_between_two_checks_fires_with_its_own_time_and_price(database):
    tick(0, 97000)
    alert = add("above", 97500)
    for second, value in ((5, 97100), (10, 97600), (15, 98000), (20, 97000)):
        tick(second, value)
    assert check() == 1
    assert fired() == [(alert, Decimal(97600), 10)]


def test_a_firing_writes_trigger_count_notification_and_event_together(database):
    tick(0, 97000)
    alert = add("below", "96500.5")
    tick(5, 96400)
    check()
    ((trigger, *inputs),) = db.rows(
        "select id, number, value, previous, happened_at, received_at, source, rule from alert_trigger"
    )
    assert inputs[:3] == [1, 96400, 97000]
    assert inputs[3:6] == [at(5), at(5), "binance"]
    assert (inputs[6]["condition"], inputs[6]["level"], inputs[6]["version"]) == ("below", "96500.5", 1)
    assert db.rows("select status, trigger_count, last_triggered_at from alert") == [("triggered", 1, at(5))]
    assert db.rows("select count(*) from alert_watch") == [(0,)]
    ((title, *rest),) = db.rows("select title, kind, subject, key, routed_at from notification")
    assert title == "BTCUSD is at 96400, below 96500.5"
    assert rest == ["alert", "BTCUSD", f"trigger-{trigger}", None]
    ((topic, payload),) = db.rows("select topic, payload from event where topic like 'alert%%'")
    assert (topic, payload["alert_id"], payload["trigger_id"]) == ("alert.triggered", alert, trigger)
    assert payload["title"] == title


def test_a_firing_that_cannot_be_written_whole_is_not_written_at_all(database):
    tick(0, 97000)
    add("above", 97500)
    tick(5, 97600)
    db.rows("alter table notification add constraint nothing_new check (false) not valid")
    with pytest.raises(PeeweeException):
        check()
    db.rows("alter table notification drop constraint nothing_new")
    assert fired() == []
    assert check() == 1


def test_a_firing_changes_no_index_of_alerts(database):
    tick(0, 97000)
    add("above", 97500)
    create_alert(user_with("a@b.c"), "BTCUSD", Rule("above", Decimal(97500), frequency="bar", bar="1h"), at(0))
    tick(5, 97600)
    written = "select pg_stat_get_xact_tuples_{}('alert'::regclass)"
    with db.transaction():
        before = [db.rows(written.format(how))[0][0] for how in ("updated", "hot_updated")]
        assert check() == 2
        after = [db.rows(written.format(how))[0][0] for how in ("updated", "hot_updated")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 2]


def test_a_new_connection_reads_the_statement_again(database):
    tick(0, 97000)
    add("above", 97500)
    assert check() == 0
    db.database.close()
    db.database.connect()
    tick(5, 97600)
    assert check() == 1


def test_twice_is_the_same_as_once(database):
    tick(0, 97000)
    add("above", 97500)
    tick(5, 97600)
    assert (check(), check()) == (1, 0)
    tick(10, 97000), tick(15, 97700)
    assert check() == 0
    assert len(fired()) == 1


def test_a_check_with_nothing_new_writes_nothing(database):
    tick(0, 97000)
    check()
    before = db.rows("select xmin::text, * from reader_position")
    assert check() == 0
    assert db.rows("select xmin::text, * from reader_position") == before


def test_a_level_rule_that_is_already_true_fires_when_it_is_made(database):
    tick(0, 97000)
    created = create_alert(user_with("a@b.c"), "BTCUSD", Rule("above", Decimal(97000)), at(1))
    assert created.fired
    assert fired() == [(created.id, 97000, 0)]
    assert db.rows("select count(*) from notification") == [(1,)]
    assert check() == 0


def test_a_stale_price_fires_nothing_neither_at_creation_nor_as_a_tick(database):
    tick(0, 97000)
    alert = add("above", 90000, second=61)
    assert fired() == []
    tick(100, 97000, late=70)
    assert check() == 0
    tick(200, 97000)
    assert check() == 1
    assert fired() == [(alert, 97000, 200)]


def test_ticks_from_before_an_alert_was_made_do_not_fire_it(database):
    tick(0, 97000), tick(5, 99000), tick(10, 97000)
    add("above", 98000, second=10)
    assert check() == 0
    tick(15, 98000)
    assert check() == 1


def test_an_alert_on_a_symbol_without_a_price_waits_for_the_first_one(database):
    alert = add("above", 90000)
    tick(5, 97000)
    assert check() == 1
    assert fired() == [(alert, 97000, 5)]


def test_a_crossing_made_past_its_level_is_silent_until_it_has_been_back(database):
    tick(0, 101)
    alert = add("crosses", 100, "up")
    tick(5, 102)
    assert check() == 0
    tick(10, 99)
    assert check() == 0
    tick(15, 101)
    assert check() == 1
    assert fired() == [(alert, 101, 15)]
    assert db.rows("select title from notification") == [("BTCUSD crossed 100 upwards, at 101",)]


def test_a_crossing_is_armed_and_fires_within_one_window(database):
    tick(0, 101)
    alert = add("crosses", 100, "up")
    for second, value in ((5, 103), (10, 99), (15, 98), (20, 100), (25, 99)):
        tick(second, value)
    assert check() == 1
    assert fired() == [(alert, 100, 20)]


def test_a_price_before_the_arming_one_fires_nothing(database):
    tick(0, 101)
    add("crosses", 100, "up")
    tick(5, 102), tick(10, 99)
    assert check() == 0
    assert db.rows("select direction, arms, since from alert_watch") == [("up", False, at(10))]


def test_a_removed_alert_fires_no_more(database):
    tick(0, 97000)
    alert = add("above", 97500)
    assert remove_alert(alert)
    assert not remove_alert(alert)
    tick(5, 98000)
    assert check() == 0
    assert alerts(at(5)) == []


def test_an_unknown_symbol_is_refused(database):
    with pytest.raises(LookupError, match="NOSUCH is not followed"):
        add("above", 1, symbol="NOSUCH")
    prices.retire("BTCUSD")
    with pytest.raises(LookupError, match="BTCUSD is not followed"):
        add("above", 1)


def test_more_than_one_batch_fires_everything_in_several_transactions(database, monkeypatch):
    monkeypatch.setattr(triggers, "WATCHES", 3)
    monkeypatch.setattr(triggers, "LEAST_PER_STREAM", 1)
    monkeypatch.setattr(triggers, "VALUES", 2)
    tick(0, 97000)
    made = [add("above", 97100 + n) for n in range(10)] + [add("below", 96900 - n) for n in range(10)]
    crossing = add("crosses", 97000, "either")
    for second, value in ((5, 97050), (10, 97105), (15, 96895), (20, 97200), (25, 96000)):
        tick(second, value)
    batches = list(triggers.fire_reached())
    assert len(batches) > 5
    assert sum(batch.fired for batch in batches) == 21
    assert {alert for alert, _, _ in fired()} == {*made, crossing}
    assert {alert: second for alert, _, second in fired()}[crossing] == 15


def test_two_checks_at_once_fire_each_alert_once(database):
    tick(0, 97000)
    for n in range(300):
        add("above", 97100 + n)
    tick(5, 98000)
    counts, errors, together = [], [], Barrier(3)

    def run() -> None:
        with db.database.connection_context():
            together.wait()
            try:
                counts.append(check())
            except PeeweeException as error:
                errors.append(error)

    threads = [Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(counts) == 300
    assert db.rows("select count(*), count(distinct alert_id) from alert_trigger") == [(300, 300)]


def test_a_tick_whose_transaction_ends_late_is_not_skipped(database):
    tick(0, 97000)
    tick(0, 4000, "XAUUSD")
    alert = add("above", 97500)
    from psycopg2 import connect

    other = connect(**db.database.connect_params, dbname=db.database.database)
    try:
        cursor = other.cursor()
        cursor.execute("select pg_current_xact_id()")  # an older transaction that is still open
        cursor.execute(
            "insert into tick (symbol, happened_at, received_at, price, source, fresh)"
            " values ('BTCUSD', %s, %s, 97600, 'binance', true)",
            (at(5), at(5)),
        )
        tick(6, 4001, "XAUUSD")  # a younger one that is committed
        assert check() == 0
        other.commit()
    finally:
        other.close()
    assert check() == 1
    assert fired() == [(alert, 97600, 5)]


def test_alerts_made_while_prices_move_and_checks_run_miss_nothing_and_fire_once(database):  # noqa: C901
    symbols = ["BTCUSD", "XAUUSD", "EURUSD"]
    for symbol in symbols:
        tick(0, 100, symbol)
    made: dict[int, tuple[str, Decimal, datetime]] = {}
    errors, stop = [], Event()

    def work(task) -> None:
        with db.database.connection_context():
            try:
                task(Random(1))
            except PeeweeException as error:
                errors.append(error)
                stop.set()

    def move(dice: Random) -> None:
        second = 0
        while not stop.is_set():
            second += 1
            for symbol in dice.sample(symbols, 2):
                tick(second, dice.randint(90, 110), symbol)
            if second >= 150 and len(made) > 20:  # whoever is slower is waited for
                stop.set()

    def make(dice: Random) -> None:
        while not stop.is_set():
            symbol, rule = dice.choice(symbols), Rule("above", Decimal(dice.randint(95, 115)))
            with db.transaction():
                ((since,),) = db.rows("select happened_at from quote where symbol = %s for share", symbol)
                created = create_alert(user_with("a@b.c"), symbol, rule, since)
            made.update({} if created.fired else {created.id: (symbol, rule.level, since)})

    def look(dice: Random) -> None:
        while not stop.is_set():
            check()

    threads = [Thread(target=work, args=(task,)) for task in (move, make, make, look, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check()
    assert errors == []
    shots = {alert: (happened_at, count) for alert, happened_at, count in db.rows(
        "select alert_id, min(happened_at), count(*) from alert_trigger group by 1"
    )}  # fmt: skip
    for alert, (symbol, level, since) in made.items():
        ((first,),) = db.rows(
            "select min(happened_at) from tick where symbol = %s and price >= %s and happened_at > %s",
            symbol,
            level,
            since,
        )
        assert shots.get(alert) == ((first, 1) if first else None)


# A law: whatever the path of prices, the moments of checking and the alerts, what fires is what following each
# alert price by price says, and so is how often a level was touched.

LEVELS = st.integers(96, 104)
FREQUENCIES = st.one_of(
    st.just({}),
    st.builds(lambda bar: {"frequency": "bar", "bar": bar}, st.sampled_from(["1m", "5m", "1h"])),
    st.builds(lambda s: {"frequency": "every", "cooldown": timedelta(seconds=s)}, st.sampled_from([1, 60, 500])),
)
RULES = st.one_of(
    st.builds(
        lambda kind, level, how: Rule(kind, Decimal(level), **how),
        st.sampled_from(["above", "below", "equals"]), LEVELS, FREQUENCIES,
    ),
    st.builds(
        lambda level, way, how: Rule("crosses", Decimal(level), way, **how),
        LEVELS, st.sampled_from(["either", "up", "down"]), FREQUENCIES,
    ),
    st.builds(
        lambda kind, level, how: Rule(kind, Decimal(level), base="creation", **how),
        st.sampled_from(["percent_up", "percent_down"]), st.sampled_from([1, 3]), FREQUENCIES,
    ),
)  # fmt: skip
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), LEVELS, st.sampled_from([0, 0, 0, 70]), st.sampled_from([10, 10, 70])),
        st.tuples(st.just("alert"), RULES),
        st.tuples(st.just("check")),
    ),
    max_size=30,
)


class Followed:
    """One alert, followed in plain code."""

    def __init__(self, rule: Rule, now: Seen | None) -> None:
        price = now and now.value
        self.aim = aim(rule, PRICE, price, Decimal(1))
        self.standing = Standing(first_watch(self.aim, price))
        if now and true_at_once(self.aim, price):
            self.see(now)

    def see(self, seen: Seen) -> None:
        watch, fired, touches, paused = self.standing
        did = follow(self.aim, watch, [seen], fired)
        fresh = [Firing(f.seen, touches) for f in did.fired[len(fired) :]]
        touches = 0 if fresh else touches + did.touches
        self.standing = Standing(did.watch, (*fired, *fresh), touches, paused or did.paused)


@settings(max_examples=60)
@given(steps=STEPS, sizes=st.sampled_from([(20_000, 20_000, 10), (2, 1, 1), (3, 20_000, 10)]))
def test_what_fires_is_what_following_each_alert_price_by_price_says(database, steps, sizes):
    db.rows("select seed.restore()")
    db.rows("update instrument set tick_size = 1 where symbol = 'BTCUSD'")
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("VALUES", "WATCHES", "LEAST_PER_STREAM"), sizes, strict=True):
            patch.setattr(triggers, name, size)
        followed, last, price, clock = {}, None, None, 0
        for step in steps:
            if step[0] == "tick":
                clock += step[3] + step[2]
                tick(clock - step[2], step[1], late=step[2])
                seen = Seen(at(clock - step[2]), Decimal(step[1]), last if last != step[1] else None)
                last, price = Decimal(step[1]), seen if not step[2] else None  # what came late is stale, and no price
                for alert in followed.values() if price else []:
                    alert.see(seen)
            elif step[0] == "alert":
                try:
                    created = create_alert(user_with("a@b.c"), "BTCUSD", step[1], at(clock))
                except LookupError:
                    assert price is None, "a percentage needs a price to count from"
                    continue
                followed[created.id] = Followed(step[1], price)
                assert created.fired == bool(followed[created.id].standing.fired)
            else:
                check()
        check()
    shots = {
        (alert, number): (value, happened_at, touches)
        for alert, number, value, happened_at, touches in db.rows(
            "select alert_id, number, value, happened_at, touches from alert_trigger"
        )
    }
    assert shots == {
        (alert, number): (firing.seen.value, firing.seen.at, firing.touches)
        for alert, one in followed.items()
        for number, firing in enumerate(one.standing.fired, 1)
    }
    assert dict(db.rows("select id, touches from alert")) == {
        alert: one.standing.touches for alert, one in followed.items()
    }
    assert dict(db.rows("select alert_id, (direction, level, band, arms)::text from alert_watch")) == {
        alert: f"({w.direction},{w.level},{w.band},{'t' if w.arms else 'f'})"
        for alert, one in followed.items()
        if (w := one.standing.watch)
    }
