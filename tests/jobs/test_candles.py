"""Candles are what their trades and ticks say, in whatever order those come."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peewee import IntegrityError, PeeweeException

import config
import db
import events
from bench.tape import Print, brute_force, follow, insert, stored
from domain.candles import INTERVALS
from domain.prices import Price
from jobs.candles import build_candles, prune_candles, verify_candles
from models import buckets, building, candles, feeds, prices
from models.events import LAST_ID, Position

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)  # a Monday


@pytest.fixture(autouse=True)
def exchange(database, redis):
    """Two pairs that trade."""
    follow(["BTCUSDT", "ETHUSDT"])


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def trade(seconds: float, price, quantity=1, symbol="BTCUSDT", corrects=None, received: datetime | None = None) -> int:
    ((number,),) = db.rows(
        """insert into trade (symbol, traded_at, price, quantity, side, corrects, received_at)
           values (%s, %s, %s, %s, 'buy', %s, coalesce(%s, now())) returning id""",
        *(symbol, at(seconds), Decimal(price), Decimal(quantity), corrects, received),
    )
    return number


def tick(seconds: float, price: str | int, symbol: str = "BTCUSD", late: float = 0) -> None:
    with db.transaction():
        feeds.look(feeds.TICK, at(seconds + late))
        prices.record([Price(symbol, Decimal(price), at(seconds), "binance")], {}, at(seconds + late))


def build() -> dict[str, int]:
    return build_candles(due_at=NOW)


def candle(interval: str = "1m", seconds: float = 0, symbol: str = "BTCUSDT") -> tuple | None:
    rows = db.rows(
        """select open, high, low, close, volume, quote_volume, trades from candle
           where symbol = %s and "interval" = %s and starts_at = candle_start(%s, %s)""",
        *(symbol, interval, interval, at(seconds)),
    )
    return rows[0] if rows else None


def test_trades_become_candles_of_all_nine_intervals():
    for seconds, price, quantity in ((1, 100, 2), (30, 105, 1), (59, 99, 1), (61, 101, 3)):
        trade(seconds, price, quantity)
    assert build()["changed"] == 10
    assert candle("1m") == (100, 105, 99, 99, 4, 404, 3)
    assert candle("1m", 60) == (101, 101, 101, 101, 3, 303, 1)
    for interval in ("5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"):
        assert candle(interval) == (100, 105, 99, 101, 7, 707, 4), interval


def test_ticks_become_candles_without_volume_and_other_symbols_are_left_alone():
    tick(0, "97000")
    tick(5, "97010")
    tick(10, "96990")
    build()
    assert candle(symbol="BTCUSD") == (97000, 97010, 96990, 96990, 0, 0, 3)
    assert db.rows("select count(*), count(distinct symbol) from candle") == [(9, 1)]


def test_a_symbol_that_the_exchange_trades_has_the_candles_of_its_trades_and_not_of_its_ticks():
    prices.add("BTCUSDT", "crypto", None, None)
    tick(0, "97000", "BTCUSDT")
    trade(1, 97005)
    build()
    assert candle() == (97005, 97005, 97005, 97005, 1, 97005, 1)


def test_twice_is_the_same_as_once_and_writes_nothing():
    trade(0, 100)
    build()
    before = db.rows("select xmin::text, ctid::text from candle order by starts_at")
    assert build()["changed"] == 0
    db.rows("update reader_position set xid = '0', id = 0 where reader like 'build_candles.%%'")
    assert build() == {"trade": 1, "changed": 0, "too_late": 0, "tick": 0}
    assert db.rows("select xmin::text, ctid::text from candle order by starts_at") == before


def test_a_late_trade_mends_exactly_its_buckets():
    trade(0, 100)
    trade(86400 * 3, 200)
    build()
    before = stored()
    trade(130, 90)
    assert build()["changed"] == 9
    changed = {key[1:]: value for key, value in stored().items() if before.get(key) != value}
    assert {interval for interval, _ in changed} == set(INTERVALS)
    assert all(starts_at < at(86400) for _, starts_at in changed)
    assert candle("1h") == (100, 100, 90, 90, 2, 190, 2)
    assert candle("1M") == (100, 200, 90, 200, 3, 390, 3)


def test_what_comes_in_order_is_added_to_what_is_there():
    trade(0, 100), trade(2, 90, symbol="ETHUSDT")
    build()
    db.rows("delete from trade")
    trade(30, 105), trade(59.5, 99), trade(61, 102), trade(2, 95, symbol="ETHUSDT")
    assert build()["changed"] == 19
    assert candle("1m") == (100, 105, 99, 99, 3, 304, 3)
    assert candle("1m", 60) == (102, 102, 102, 102, 1, 102, 1)
    assert {candle(interval) for interval in INTERVALS[1:]} == {(100, 105, 99, 102, 4, 406, 4)}
    assert candle("1M", symbol="ETHUSDT") == (95, 95, 95, 95, 1, 95, 1), "of one instant: made anew"


def test_a_trade_that_was_cancelled_from_before_its_own_position_is_never_counted(monkeypatch):
    from psycopg2 import connect

    monkeypatch.setattr(building, "ROWS", 1)
    other = connect(**db.database.connect_params, dbname=db.database.database)
    try:
        cursor = other.cursor()
        cursor.execute("insert into asset (code, scale) values ('XYZ', 2)")
        number = trade(0, 100)
        cursor.execute(
            """insert into trade (symbol, traded_at, price, quantity, side, corrects)
               values ('BTCUSDT', %s, 100, 0, 'buy', %s)""",
            (at(0), number),
        )
        other.commit()
    finally:
        other.close()
    assert build()["trade"] == 2
    assert stored() == {}


def test_a_correction_mends_its_buckets_and_a_cancelled_trade_is_gone_from_all_nine():
    first, second = trade(0, 100), trade(20, 500)
    build()
    wrong = trade(20, 105, 2, corrects=second)
    build()
    assert {row[1:] for row in db.rows('select "interval", high, close, volume, trades from candle')} == {
        (105, 105, 3, 2)
    }
    trade(20, 105, 0, corrects=wrong)
    build()
    assert candle("1M") == (100, 100, 100, 100, 1, 100, 1)
    trade(0, 100, 0, corrects=first)
    build()
    assert stored() == {}


def test_a_trade_is_corrected_once_and_only_if_it_exists():
    first = trade(0, 100)
    trade(0, 101, corrects=first)
    with pytest.raises(IntegrityError, match="already exists"):
        trade(0, 102, corrects=first)
    with pytest.raises(IntegrityError, match="no trade 77 of BTCUSDT"):
        trade(0, 102, corrects=77)
    with pytest.raises(IntegrityError, match="no trade"):
        trade(1, 102, corrects=first)
    with pytest.raises(IntegrityError, match="no trade"):
        trade(0, 102, symbol="ETHUSDT", corrects=first)


@pytest.mark.parametrize(
    ("price", "quantity"),
    [("NaN", 1), ("Infinity", 1), (0, 1), (-1, 1), (1, "NaN"), (1, 0), (1, -1), (1, "Infinity"), ("1e15", 1)],
)
def test_the_database_itself_refuses_a_trade_that_is_none(price, quantity):
    with pytest.raises(IntegrityError):
        trade(0, price, quantity)


@pytest.mark.parametrize("when", ["-infinity", "0044-03-15 BC", "1999-12-31"])
def test_a_trade_from_a_time_that_no_exchange_of_ours_has_seen_is_refused(when):
    with pytest.raises(IntegrityError, match="trade_traded_at_check"):
        db.rows(
            "insert into trade (symbol, traded_at, price, quantity, side) values ('BTCUSDT', %s, 1, 1, 'buy')", when
        )


def test_a_trade_from_the_future_is_refused_and_one_of_an_unknown_pair_too():
    ahead = (datetime.now(UTC) - NOW).total_seconds() + 16 * 60
    with pytest.raises(IntegrityError, match="check"):
        trade(ahead, 100)
    trade(ahead - 120, 100)
    with pytest.raises(IntegrityError):
        trade(0, 100, symbol="NOPAIR")


TRADES = st.lists(
    st.tuples(
        st.sampled_from(["BTCUSDT", "ETHUSDT"]),
        st.integers(0, 40 * 86400).map(lambda s: s // 7 * 7 if s % 3 else s % 600),
        st.integers(1, 50),
        st.integers(1, 9),
    ),
    max_size=30,
)


@settings(max_examples=25)
@given(TRADES, st.booleans(), st.randoms(use_true_random=False))
def test_candles_equal_brute_force_whatever_the_order_of_arrival(exchange, trades, in_order, random):
    db.rows("delete from trade"), db.rows("delete from candle")
    prints = [
        Print(symbol, at(seconds) + timedelta(microseconds=n), Decimal(price) / 10, Decimal(quantity) / 100)
        for n, (symbol, seconds, price, quantity) in enumerate(trades)
    ]
    arriving = sorted(prints, key=lambda row: row.at)
    if not in_order:
        random.shuffle(arriving)
    while arriving:
        count = random.randint(1, len(arriving))
        insert(arriving[:count])
        del arriving[:count]
        build()
    assert stored() == brute_force(prints)
    assert buckets.mend(feeds.TRADE, at(-86400), at(86400 * 41)) == [], "made anew they are the same"
    volumes = db.rows(
        'select symbol, "interval", sum(volume), sum(quote_volume), sum(trades) from candle group by 1, 2'
    )
    assert len({(symbol, *sums) for symbol, _, *sums in volumes}) <= 2, "the sums are equal at every level"


def test_a_symbol_s_newest_candles_are_cached_for_a_minute_and_broadcast(redis):
    listener = redis.pubsub()
    listener.subscribe(events.LIVE)
    trade(0, "100.50")
    build()
    cached = {name.decode(): json.loads(text) for name, text in redis.hgetall("nightdesk:candles:BTCUSDT").items()}
    assert cached.keys() == set(INTERVALS)
    assert (cached["1m"]["close"], cached["1m"]["closed"]) == ("100.50", True)
    assert (cached["1M"]["ends_at"], cached["1M"]["closed"]) == ("2025-12-01T00:00:00+00:00", True)
    assert 50 < redis.ttl("nightdesk:candles:BTCUSDT") <= 60
    heard = [
        message for message in iter(lambda: listener.get_message(timeout=0.1), None) if message["type"] == "message"
    ]
    (news,) = [json.loads(message["data"]) for message in heard]
    assert (news["topic"], news["payload"]["symbol"]) == ("candle", "BTCUSDT")
    assert news["payload"]["candles"] == cached
    listener.close()


def test_two_builds_at_once_count_every_trade_once():
    random = Random(4)
    prints = [
        Print("BTCUSDT", at(random.randrange(7200)), Decimal(random.randrange(1, 99)), Decimal(1)) for _ in range(600)
    ]
    failures = []

    def work() -> None:
        with db.database.connection_context():
            try:
                for _ in range(12):
                    list(building.build(feeds.TRADE, at(0)))
            except PeeweeException as error:
                failures.append(error)

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(0, 600, 20):
        insert(prints[n : n + 20])
    for thread in threads:
        thread.join()
    build()
    assert failures == []
    assert stored() == brute_force(prints)


def test_a_build_that_is_killed_is_taken_up_where_it_was():
    prints = [Print("BTCUSDT", at(n), Decimal(n + 1), Decimal(1)) for n in range(50)]
    insert(prints)
    with db.database.atomic() as transaction:
        next(building.build(feeds.TRADE, at(0)))
        transaction.rollback()
    assert stored() == {}
    build()
    assert stored() == brute_force(prints)


def test_more_trades_than_fit_into_one_transaction_are_built_in_several(monkeypatch):
    monkeypatch.setattr(building, "ROWS", 7)
    prints = [Print("BTCUSDT", at(n * 9), Decimal(n + 1), Decimal(1)) for n in range(50)]
    insert(prints)
    assert build()["trade"] == 50
    assert stored() == brute_force(prints)


@pytest.fixture
def looked_at(monkeypatch) -> list[int]:
    """How many rows the statements that make candles went through: read, joined, or thrown away again."""
    execute, found = db.database.execute_sql, []

    def rows(node: dict) -> float:
        thrown_away = sum(value for name, value in node.items() if name.startswith("Rows Removed"))
        return (node["Actual Rows"] + thrown_away) * node["Actual Loops"] + sum(map(rows, node.get("Plans", ())))

    def watched(sql, params=None):
        if "touched as materialized" in sql:
            with db.database.savepoint() as point:
                explain = f"explain (analyze, timing off, format json) {sql}"
                found.append(rows(execute(explain, params).fetchone()[0][0]["Plan"]))
                point.rollback()
        return execute(sql, params)

    monkeypatch.setattr(db.database, "execute_sql", watched)
    return found


ROWS_EACH = 50  # of a trade or a bucket in one interval, on its way through all that is made of it
SCATTERED, WEEKS = 2000, 4


def scattered() -> list[int]:
    """Seconds of some weeks."""
    return Random(3).sample(range(WEEKS * 7 * 86400), SCATTERED)


def test_of_trades_scattered_over_weeks_each_is_held_against_its_own_bucket_alone(looked_at):
    prints = [Print("BTCUSDT", at(-n), Decimal(1 + n % 999), Decimal(1)) for n in [-1, *scattered()]]
    insert(prints[:1]), build()  # the others are late
    insert(prints[1:]), build()
    assert stored() == brute_force(prints)
    assert len(looked_at) > len(INTERVALS)
    assert max(looked_at) < ROWS_EACH * SCATTERED


def test_of_trades_scattered_over_weeks_that_come_in_order_each_is_added_to_its_own_buckets_alone(looked_at):
    prints = [Print("BTCUSDT", at(-n), Decimal(1 + n % 999), Decimal(1)) for n in scattered()]
    insert(prints)
    build()
    assert stored() == brute_force(prints)
    assert len(looked_at) == len(feeds.FEEDS), "one statement each"
    assert max(looked_at) < ROWS_EACH * len(INTERVALS) * SCATTERED


def test_of_ticks_scattered_over_weeks_each_is_held_against_its_own_bucket_alone(looked_at):
    tick(1, 97000), build()  # the others are late
    db.rows(
        """insert into tick (symbol, happened_at, received_at, price, source, fresh)
           select 'BTCUSD', at, at, 97000, 'binance', true from unnest(%s::timestamptz[]) at""",
        db.array(at(-n) for n in scattered()),
    )
    build()
    assert sum(row[-1] for key, row in stored().items() if key[1] == "1M") == SCATTERED + 1
    assert len(looked_at) > len(INTERVALS)
    assert max(looked_at) < ROWS_EACH * SCATTERED


def test_however_many_trades_are_looked_at_none_is_held_against_all_corrections(looked_at):
    seconds = scattered()
    ids = insert(Print("BTCUSDT", at(-n), Decimal(100), Decimal(1)) for n in seconds)
    for number, second in zip(ids[:200], seconds, strict=False):
        trade(-second, 500, corrects=number)
    db.rows("set work_mem = '64kB'")  # in which as many as a batch can have would not fit
    db.rows("set hash_mem_multiplier = 1")
    first, minutes = at(-WEEKS * 7 * 86400), WEEKS * 7 * 1440
    every = buckets.Buckets(
        db.array(["BTCUSDT"] * minutes), db.array(first + n * timedelta(minutes=1) for n in range(minutes)), first, NOW
    )
    with db.transaction():
        buckets.rebuild(feeds.TRADE, every, Position(2**40, LAST_ID))
    prints = [
        Print("BTCUSDT", at(-n), Decimal(500 if place < 200 else 100), Decimal(1)) for place, n in enumerate(seconds)
    ]
    assert stored() == brute_force(prints)
    assert max(looked_at) < ROWS_EACH * minutes


def test_a_position_of_another_database_is_refused():
    db.rows("update reader_position set xid = '999999999999' where reader = 'build_candles.trade'")
    with pytest.raises(LookupError, match="restored"):
        build()


# --- reading without gaps


def line(
    interval: str = "1m", since: float = 0, until: float = 600, symbol: str = "BTCUSDT", as_of: float | None = None
):
    known = None if as_of is None else at(as_of)
    return candles.line(symbol, interval, at(since), at(until), known)


def test_a_minute_without_trades_has_the_close_before_it_no_volume_and_is_synthetic():
    trade(0, 100)
    trade(190, 103, 2)
    build()
    found = line()
    assert [(c["open"], c["close"], c["volume"], c["trades"], c["synthetic"]) for c in found[:5]] == [
        (100, 100, 1, 1, False),
        (100, 100, 0, 0, True),
        (100, 100, 0, 0, True),
        (103, 103, 2, 1, False),
        (103, 103, 0, 0, True),
    ]
    assert len(found) == 10
    assert [c["starts_at"] for c in found] == [at(60 * n) for n in range(10)]
    assert not any(c["outage"] for c in found)
    assert line(since=300, until=360)[0]["close"] == 103, "carried from before the time asked for"


def test_there_is_nothing_before_the_first_trade_and_nothing_for_an_unknown_symbol():
    trade(120, 100)
    build()
    assert [c["starts_at"] for c in line(since=-600, until=240)] == [at(120), at(180)]
    assert line(symbol="NOPAIR") == []
    assert line("2m") == []
    assert len(line("1M", since=-86400 * 90, until=60)) == 1


def test_a_candle_is_closed_when_all_that_came_in_time_is_in_it():
    trade(0, 100)
    list(building.build(feeds.TRADE, at(59)))
    assert [(c["starts_at"], c["closed"]) for c in line()] == [(at(0), False)]
    list(building.build(feeds.TRADE, at(61)))
    assert [(c["starts_at"], c["closed"]) for c in line()] == [(at(0), True), (at(60), False)]


def test_a_committed_trade_behind_an_open_transaction_leaves_candles_open_until_it_is_seen():
    from psycopg2 import connect

    other = connect(**db.database.connect_params, dbname=db.database.database)
    try:
        other.cursor().execute("insert into asset (code, scale) values ('XYZ', 2)")
        trade(0, 100)
        list(building.build(feeds.TRADE, at(61)))
        assert db.rows("select built_until from candle_feed where feed = 'trade'") == [(None,)]
        other.rollback()
    finally:
        other.close()
    list(building.build(feeds.TRADE, at(62)))
    assert line()[0]["closed"]


def test_a_time_when_nobody_looked_is_an_outage_and_no_silence():
    tick(0, 97000)
    tick(20, 97001)
    tick(40, 97002)
    tick(310, 97003)
    build()
    assert [(c["synthetic"], c["outage"]) for c in line(symbol="BTCUSD")] == [(False, False)] + [(True, True)] * 4 + [
        (False, False)
    ]


def test_silence_of_the_market_is_no_outage_while_we_look():
    tick(0, 97000)
    for seconds in range(5, 300, 5):
        feeds.look(feeds.TICK, at(seconds))
    tick(300, 97003)
    build()
    assert [(c["synthetic"], c["outage"]) for c in line(symbol="BTCUSD")[1:5]] == [(True, False)] * 4


def test_trades_of_any_pair_say_that_the_exchange_was_there_when_we_were_not():
    list(building.build(feeds.TRADE, at(0)))
    trade(0, 100)
    for seconds in range(30, 600, 50):
        trade(seconds, 10, symbol="ETHUSDT")
    list(building.build(feeds.TRADE, at(1200)))
    found = line(until=1200)
    assert [c["outage"] for c in found[1:9]] == [False] * 8
    assert [c["outage"] for c in found[9:]] == [True] * 11


def test_a_symbol_whose_source_fails_for_long_is_in_an_outage_and_the_others_are_not():
    tick(0, 97000)
    tick(0, 4165, "XAUUSD")
    failure = {"BTCUSD": ConnectionError("down")}
    for seconds in range(5, 300, 5):
        feeds.look(feeds.TICK, at(seconds))
        prices.record([], failure, at(seconds))
        list(building.build(feeds.TICK, at(seconds)))
    tick(300, 97001)
    tick(300, 4165, "XAUUSD")
    list(building.build(feeds.TICK, at(301)))
    assert [c["outage"] for c in line(symbol="BTCUSD")] == [False, True, True, True, True, False]
    assert not any(c["outage"] for c in line(symbol="XAUUSD"))
    assert db.rows("select symbol, began_at, ended_at from outage") == [("BTCUSD", at(5), at(301))]


# --- what was known when


def test_a_reader_who_asks_as_of_an_instant_never_sees_what_came_later():
    first = trade(0, 100, received=at(1))
    trade(70, 101, received=at(80))
    build()
    trade(30, 50, received=at(200))
    build()
    trade(0, 99, corrects=first, received=at(300))
    build()
    assert [c["close"] for c in line(as_of=100)] == [100, 101]
    assert [(c["low"], c["volume"], c["closed"]) for c in line(as_of=100)] == [(100, 1, True), (101, 1, False)]
    assert [(c["open"], c["low"], c["volume"]) for c in line(as_of=250)[:2]] == [(100, 50, 2), (101, 101, 1)]
    assert line(as_of=350)[0]["open"] == 99
    assert [c["close"] for c in line(as_of=75)] == [100, 100]
    assert line("1h", as_of=100)[0]["low"] == 100
    assert line(since=60, until=70, as_of=75)[0]["close"] == 100
    assert line(since=300, until=310, as_of=310)[0]["close"] == 101
    assert line(as_of=0) == [], "nothing had come yet"


@pytest.mark.parametrize("others", [[(70, 50)], []], ids=["beside another", "alone"])
def test_a_trade_that_was_cancelled_later_was_there_before_in_all_nine_intervals(others):
    def lines(as_of: float) -> list:
        return [line(interval, -86400 * 40, 300, as_of=as_of) for interval in INTERVALS]

    first = trade(10, 100, received=at(11))
    for seconds, price in others:
        trade(seconds, price, received=at(seconds + 1))
    build()
    before = lines(as_of=100)
    assert all(rows[-1]["high"] == 100 for rows in before[1:])
    trade(10, 100, 0, corrects=first, received=at(1800))
    build()
    assert lines(as_of=100) == before
    assert lines(as_of=1800) == lines(as_of=1900)
    assert bool(lines(as_of=1800)[0]) == bool(others)
    assert verify_candles(due_at=at(3600)) == {}


def test_the_close_that_is_carried_on_is_of_what_had_come_by_then():
    trade(-600, 100, received=at(-599))
    trade(-300, 90, received=at(7200))  # late, as the next
    trade(-590, 101, received=at(7200))
    trade(-3600, 1, received=at(-3599))
    gone = trade(-120, 110, received=at(30))
    build()
    trade(-120, 110, 0, corrects=gone, received=at(7200))
    build()
    assert [c["close"] for c in line(until=60, as_of=20)] == [100]
    assert [c["close"] for c in line(until=60, as_of=40)] == [110]
    assert [c["close"] for c in line(until=60, as_of=7300)] == [90]


def test_the_tick_that_is_carried_on_is_of_what_had_come_by_then():
    tick(-600, 97000)
    tick(-300, 97001, late=400)
    build()
    assert [c["close"] for c in line(until=60, symbol="BTCUSD", as_of=50)] == [97000]
    assert [c["close"] for c in line(until=60, symbol="BTCUSD", as_of=150)] == [97001]


def test_the_price_that_was_known_at_an_instant_is_the_one_that_happened_last_and_not_the_one_that_came_last():
    prices.follow(["BTCUSDT"], "pair")
    trade(-86400, 70, received=at(-86399))
    trade(10, 100, received=at(11))
    build()
    prices.record([Price("BTCUSDT", Decimal(100), at(10), "exchange")], {}, at(12))
    trade(-86000, 71, received=at(30))
    trade(3600, 102, received=at(3601))
    build()
    known = prices.as_of("BTCUSDT", at(60))
    assert (known["price"], known["source"], known["happened_at"]) == (100, "exchange", at(10))
    db.rows("delete from tick")
    known = prices.as_of("BTCUSDT", at(60))
    assert (known["price"], known["source"], known["happened_at"]) == (100, "1m candle", at(10))


# --- verified, mended, thinned


def hours_of_trades(hours: int, seed: int = 5) -> list[Print]:
    random = Random(seed)
    first = at(-3600 * hours)
    prints = [
        Print(symbol, first + timedelta(seconds=random.randrange(3600 * hours), microseconds=n), Decimal(n), Decimal(1))
        for n, symbol in enumerate(["BTCUSDT", "ETHUSDT"] * 150, 1)
    ]
    insert(prints)
    return prints


def test_candles_that_were_deleted_or_spoilt_or_made_up_are_mended_and_listed():
    prints = hours_of_trades(20)
    build()
    whole = stored()
    assert whole == brute_force(prints)
    found = db.rows('select symbol, "interval", starts_at from candle where starts_at >= %s', at(-3600 * 20))
    lost = Random(7).sample(found, 37)
    for key in lost:
        db.rows('delete from candle where (symbol, "interval", starts_at) = (%s, %s, %s)', *key)
    db.rows("update candle set volume = volume + 1 where symbol = 'ETHUSDT' and \"interval\" = '4h'")
    taken = {starts_at for _, interval, starts_at in whole if interval == "5m"}
    free = next(at(-300 * n) for n in range(1, 200) if at(-300 * n) not in taken)
    db.rows("insert into candle select 'BTCUSDT', '5m', %s, 1, 1, 1, 1, 1, 1, 1, now(), now()", free)
    counts = verify_candles(due_at=NOW)
    assert stored() == whole
    assert (counts["missing"], counts["too many"]) == (37, 1)
    assert counts["wrong"] >= 4
    listed = [c for (p,) in db.rows("select payload from event where topic = 'candles.mended'") for c in p["candles"]]
    assert {(c["symbol"], c["interval"], datetime.fromisoformat(c["starts_at"])) for c in listed} >= set(lost)
    assert verify_candles(due_at=NOW) == {}


def test_the_candles_of_ticks_are_verified_too_and_what_is_right_is_not_written():
    for seconds in range(-3600, 0, 40):
        tick(seconds, 97000 + seconds)
    build()
    before = db.rows("select xmin::text, ctid::text from candle where \"interval\" <> '30m' order by ctid")
    db.rows("delete from candle where \"interval\" = '30m'")
    assert verify_candles(due_at=NOW) == {"missing": 2}
    assert db.rows("select xmin::text, ctid::text from candle where \"interval\" <> '30m' order by ctid") == before


def test_ticks_and_short_candles_go_by_age_and_what_is_left_reads_as_before():
    for seconds in range(-86400, 0, 600):
        tick(seconds, 97000 + seconds // 600)
    build()
    day = datetime(2025, 11, 3, tzinfo=UTC)
    months, days = stored(), line("1d", since=-86400, symbol="BTCUSD")
    prices_before = [prices.as_of("BTCUSD", at(seconds))["price"] for seconds in range(-60000, 0, 6000)]
    assert feeds.keep_from(feeds.TICK, at(86400 * 30)) == day + timedelta(days=30)
    db.rows("delete from tick")
    assert [prices.as_of("BTCUSD", at(seconds))["price"] for seconds in range(-60000, 0, 6000)] == prices_before
    assert stored() == months
    tick(50, 1)  # too late: its candles can no longer be made again
    assert build() == {"trade": 0, "changed": 0, "too_late": 1, "tick": 1}
    assert verify_candles(due_at=NOW) == {}
    assert candles.prune(at(86400 * 30)) > 100
    assert line("1d", since=-86400, symbol="BTCUSD") == days
    assert prices.as_of("BTCUSD", at(-700))["price"] == days[0]["close"], "of the day before: today's was not known"
    assert {interval for _, interval, _ in stored()} == {"1d", "1w", "1M"}


def test_while_candles_are_verified_the_short_ones_that_they_are_made_of_do_not_go(monkeypatch):
    for seconds in range(-86400 * 2, 86400, 3600):
        tick(seconds, 97000 + seconds // 3600)
    build()
    monkeypatch.setattr(config, "settings", replace(config.settings, tick_days=9, minute_days=1))
    kept, levels, pruned = {"1d", "1w", "1M"}, buckets._each_interval, []

    def prune():
        with db.database.connection_context():
            pruned.append(prune_candles(due_at=at(86400 * 4)))

    other = Thread(target=prune)

    def held_up(*arguments):
        for level in levels(*arguments):
            yield level
            if other.ident is None:
                other.start()
                while other.is_alive() and not db.rows("select 1 from pg_locks where not granted"):
                    pass

    monkeypatch.setattr(buckets, "_each_interval", held_up)
    before = {key: row for key, row in stored().items() if key[1] in kept}
    assert buckets.mend(feeds.TICK, at(-86400), at(86400)) == []
    other.join(20)
    assert pruned[0]["candles"] > 100
    assert stored() == before


def test_ticks_that_no_candle_has_seen_are_kept():
    tick(0, 97000)
    assert feeds.keep_from(feeds.TICK, at(86400 * 30)) == datetime(2025, 11, 3, tzinfo=UTC)
    build()
    assert feeds.keep_from(feeds.TICK, at(86400 * 30)) == datetime(2025, 12, 3, tzinfo=UTC)


def test_trades_are_dropped_by_age_and_their_candles_stay(monkeypatch):
    monkeypatch.setattr(config, "settings", replace(config.settings, trade_days=2, minute_days=3650))
    trade(0, 100)
    build()
    prune_candles(due_at=NOW)
    assert db.rows("select count(*) from trade") == [(1,)]
    assert prune_candles(due_at=datetime.now(UTC) + timedelta(days=2))["dropped"] >= 1
    assert db.rows("select count(*) from trade") == [(0,)]
    assert candle() == (100, 100, 100, 100, 1, 100, 1)
    db.rows("select make_partition('trade', '2000-01-01', 100000)")  # as it was


def test_a_history_of_years_that_is_brought_in_makes_no_more_partitions():
    before = db.rows("select count(*) from partition_spans('trade')")
    insert(Print("BTCUSDT", at(-86400 * n), Decimal(n), Decimal(1)) for n in range(1, 3650))
    assert prune_candles(due_at=NOW)["strays"] == 0
    assert db.rows("select count(*) from partition_spans('trade')") == before
