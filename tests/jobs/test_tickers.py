"""A ticker is exactly the last 24 hours, however its trades came."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from threading import Thread

import pytest

import db
import events
from bench.tape import Print, follow, insert
from domain.prices import Price
from jobs.candles import build_candles
from jobs.tickers import build_tickers
from models import building, feeds, prices, tickers

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
DAY = timedelta(hours=24)


@pytest.fixture(autouse=True)
def exchange(database, redis):
    """Two pairs that trade."""
    follow(["BTCUSDT", "ETHUSDT"])


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def trade(seconds: float, price: str | int, quantity: str | int = 1, symbol: str = "BTCUSDT", corrects=None) -> int:
    ((number,),) = db.rows(
        """insert into trade (symbol, traded_at, price, quantity, side, corrects)
           values (%s, %s, %s, %s, 'buy', %s) returning id""",
        *(symbol, at(seconds), Decimal(price), Decimal(quantity), corrects),
    )
    return number


def advance(seconds: float) -> tickers.Advance:
    """Candles and then tickers, as the schedule has them."""
    list(building.build(feeds.TRADE, at(seconds)))
    step = tickers.advance(at(seconds))
    assert step is not None
    assert step.drifted == 0
    return step


def ticker(symbol: str = "BTCUSDT") -> tuple:
    names = "open, high, low, last, change, percent, volume, quote_volume, trades"
    return db.rows(f"select {names} from ticker where symbol = %s", symbol)[0]


def stored() -> dict[str, tuple]:
    names = "open, high, low, last, volume, quote_volume, trades, opened_at, last_at"
    return {row[0]: row[1:] for row in db.rows(f"select symbol, {names} from ticker")}


def brute_force(prints: Iterable[Print], until: datetime) -> dict[str, tuple]:
    """What the trades of the window `(until - 24 h, until]` make; those of one instant in their order."""
    found: dict[str, tuple] = {}
    for symbol in ("BTCUSDT", "ETHUSDT"):
        before = sorted((p for p in prints if p.symbol == symbol and p.at <= until), key=lambda p: p.at)
        rows = [p for p in before if p.at > until - DAY]
        if not rows:
            found[symbol] = (None, None, None, before[-1].price if before else None, 0, 0, 0, None,
                             before[-1].at if before else None)  # fmt: skip
            continue
        values = [p.price for p in rows]
        turnover = sum(p.price * p.quantity for p in rows)
        found[symbol] = (values[0], max(values), min(values), values[-1], sum(p.quantity for p in rows), turnover,
                         len(rows), rows[0].at, rows[-1].at)  # fmt: skip
    return found


def test_a_ticker_has_the_last_24_hours():
    for seconds, price, quantity in ((0, 100, 2), (10, 110, 1), (20, 90, 1), (30, 105, 1)):
        trade(seconds, price, quantity)
    assert advance(40).changed == ["BTCUSDT", "ETHUSDT"]
    assert ticker() == (100, 110, 90, 105, 5, 5, 5, 505, 4)
    assert ticker("ETHUSDT") == (None, None, None, None, None, None, 0, 0, 0)


def test_what_leaves_is_taken_away_to_the_instant():
    for seconds, price in ((0, 100), (10, 120), (20, 90), (30, 105)):
        trade(seconds, price)
    advance(40)
    advance(86400 - 1)
    assert ticker()[:3] == (100, 120, 90)
    advance(86400)
    assert ticker()[:3] == (120, 120, 90)
    advance(86410)
    assert ticker()[:3] == (90, 105, 90)
    advance(86430)
    assert ticker() == (None, None, None, 105, None, None, 0, 0, 0)


def test_twice_is_the_same_as_once_and_writes_nothing():
    trade(0, 100)
    advance(10)
    before = db.rows("select xmin::text, ctid::text from ticker")
    assert advance(10) == ([], 0, 0)
    assert advance(15) == ([], 0, 0)
    assert db.rows("select xmin::text, ctid::text from ticker") == before


def test_late_corrected_and_cancelled_trades_are_seen():
    first = trade(0, 100)
    high = trade(10, 500)
    advance(20)
    trade(-50, 80)
    advance(25)
    assert ticker()[:4] == (80, 500, 80, 500)
    trade(10, 105, 2, corrects=high)
    advance(30)
    assert ticker()[:4] == (80, 105, 80, 105)
    assert ticker()[6:] == (4, 390, 3)
    trade(0, 100, 0, corrects=first)
    advance(35)
    assert ticker()[6:] == (3, 290, 2)


def test_a_trade_ahead_of_our_clock_counts_when_its_time_comes():
    trade(0, 100)
    trade(100, 200)
    advance(50)
    assert ticker()[3] == 100
    advance(99)
    assert ticker()[3] == 100
    advance(100)
    assert ticker()[:4] == (100, 200, 100, 200)


def test_a_pair_that_is_not_traded_any_more_has_no_ticker_and_begins_afresh_when_it_is():
    trade(0, 100)
    advance(10)
    db.rows("update pair set active = false where symbol = 'BTCUSDT'")
    advance(15)
    assert [t["symbol"] for t in tickers.tickers()] == ["ETHUSDT"]
    trade(20, 200)
    advance(25)
    db.rows("update pair set active = true")
    advance(30)
    assert ticker()[:4] == (100, 200, 100, 200)


def test_it_equals_brute_force_second_by_second_with_late_and_corrected_trades():
    random = Random(1)
    moments = random.sample(range(-87_000_000, 120_000), 700)  # no two at one instant
    prints = [
        Print(random.choice(["BTCUSDT", "ETHUSDT"]), at(moment / 1000), Decimal(random.randrange(1, 60)), Decimal(2))
        for moment in sorted(moments)
    ]
    # The highest prices of the window leave one after the other.
    prints += [Print("BTCUSDT", at(n - 86400 + 0.0005), Decimal(199 - n), Decimal(1)) for n in range(0, 90, 9)]
    seen, coming = [p for p in prints if p.at <= at(-60)], [p for p in prints if p.at > at(-60)]
    insert(seen)
    late = random.sample(seen, 30)
    for second in [*range(-60, 60), *range(60, 120, 7)]:  # an hour begins in the middle
        news = [p for p in coming if p.at <= at(second)]
        coming = [p for p in coming if p.at > at(second)]
        if late and random.random() < 0.2:
            again = late.pop()
            news.append(again._replace(at=again.at + timedelta(microseconds=1), price=Decimal(random.randrange(1, 60))))
        insert(news)
        seen += news
        advance(second)
        assert stored() == brute_force(seen, at(second)), second


def test_a_step_follows_the_candles_and_not_trades_that_they_do_not_have_yet():
    trade(0, 100)
    advance(10)
    trade(11, 200)
    assert tickers.advance(at(12)) == ([], 0, 0)
    assert advance(15).changed == ["BTCUSDT"]
    assert ticker()[3] == 200


def test_a_correction_that_the_candles_do_not_have_yet_waits_for_them():
    first, last = trade(0, 100), trade(7200, 120)
    advance(7260)
    trade(0, 100, 0, corrects=first)
    tickers.advance(at(10_860))  # an hour later: made afresh
    assert ticker()[:4] == (100, 120, 100, 120)
    advance(10_861)
    assert ticker()[:4] == (120, 120, 120, 120)
    advance(86_399)
    trade(7200, 120, 0, corrects=last)
    tickers.advance(at(86_401))
    assert ticker()[:4] == (120, 120, 120, 120)
    advance(86_402)
    assert ticker() == (None, None, None, None, None, None, 0, 0, 0)


def test_a_position_that_is_lost_or_a_long_pause_begins_afresh():
    trade(0, 100)
    advance(10)
    trade(20, 50)
    trade(86000, 70)
    assert advance(86405).afresh == 2
    assert ticker()[:4] == (50, 70, 50, 70)


def test_a_clock_that_was_set_back_does_not_leave_the_window_in_the_future():
    trade(0, 100)
    advance(86400 * 300)
    advance(10)
    assert ticker()[3:] == (100, 0, 0, 1, 100, 1)
    assert db.rows("select until from ticker_window") == [(at(10),)]


def test_every_ticker_is_cached_with_its_times_and_the_changed_ones_are_broadcast(redis):
    ago = (datetime.now(UTC) - NOW).total_seconds() - 60
    trade(ago, "100.50", 2)
    build_candles(due_at=NOW)
    listener = redis.pubsub()
    listener.subscribe(events.LIVE)
    assert build_tickers(due_at=NOW)["changed"] == 2
    cached = json.loads(redis.get("nightdesk:ticker:BTCUSDT"))
    assert (cached["last"], cached["volume"], cached["percent"]) == ("100.50", "2", "0.0000")
    assert cached["last_at"] == at(ago).isoformat()
    assert datetime.fromisoformat(cached["until"]) <= datetime.now(UTC)
    assert json.loads(redis.get("nightdesk:ticker:ETHUSDT"))["last"] is None
    assert 10_000 < redis.pttl("nightdesk:ticker:ETHUSDT") <= 15_000
    trade(ago + 1, 101)
    build_candles(due_at=NOW)
    redis.flushall()  # what it forgets is there again at the next step
    build_tickers(due_at=NOW)
    assert redis.exists("nightdesk:ticker:BTCUSDT", "nightdesk:ticker:ETHUSDT") == 2
    heard = [m for m in iter(lambda: listener.get_message(timeout=0.1), None) if m["type"] == "message"]
    news = [json.loads(message["data"]) for message in heard]
    assert [n["payload"]["symbol"] for n in news if n["topic"] == "ticker"] == ["BTCUSDT", "ETHUSDT", "BTCUSDT"]
    listener.close()


def test_the_last_price_of_a_pair_is_a_price_that_alerts_can_watch(redis):
    ago = (datetime.now(UTC) - NOW).total_seconds() - 60
    db.rows("insert into instrument (symbol, kind) values ('ETHUSDT', 'crypto')")  # an operator follows that elsewhere
    db.rows("insert into quote (symbol) values ('ETHUSDT')")
    trade(ago, "100.50", 2)
    trade(ago, "3000", symbol="ETHUSDT")
    build_candles(due_at=NOW)
    build_tickers(due_at=NOW)
    build_tickers(due_at=NOW)
    assert db.rows("select symbol, price, source from tick") == [("BTCUSDT", Decimal("100.50"), "exchange")]
    assert db.rows("select i.kind, q.state, q.happened_at from quote q join instrument i using (symbol)"
                   " where symbol = 'BTCUSDT'") == [("pair", "fresh", at(ago))]  # fmt: skip
    assert build_candles(due_at=NOW) == {"trade": 0, "changed": 0, "too_late": 0, "tick": 1}


def test_that_a_price_has_become_old_is_told_whoever_finds_it(redis):
    ago = datetime.now(UTC) - timedelta(minutes=2)
    prices.follow(["BTCUSD"], "crypto")
    prices.record([Price("BTCUSD", Decimal(100), ago, "binance")], {}, ago)
    build_tickers(due_at=NOW)
    told = db.rows("select topic, payload from event order by id")
    assert told == [(f"prices.{s}", {"symbols": {"BTCUSD": why}}) for s, why in (("fresh", None), ("stale", "old"))]


def test_a_last_price_that_is_corrected_or_cancelled_is_another_one_for_alerts_too(redis):
    def last() -> Decimal:
        build_candles(due_at=NOW)
        build_tickers(due_at=NOW)
        return db.rows("select price from quote where symbol = 'BTCUSDT'")[0][0]

    ago = (datetime.now(UTC) - NOW).total_seconds() - 60
    trade(ago - 5, 100)
    wrong = trade(ago, 500)
    assert last() == 500
    right = trade(ago, 105, corrects=wrong)
    assert last() == 105
    trade(ago, 105, 0, corrects=right)
    assert last() == 100
    trade(ago + 1, 101)
    assert last() == 101
    assert db.rows("select price from tick order by id") == [(500,), (105,), (100,), (101,)]


def test_two_steps_at_once_count_every_trade_once():
    def work() -> None:
        with db.database.connection_context():
            for _ in range(15):
                list(building.build(feeds.TRADE, at(0)))
                tickers.advance(at(100))

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    prints = [Print("BTCUSDT", at(n / 10), Decimal(n), Decimal(1)) for n in range(1, 300)]
    for n in range(0, 300, 10):
        insert(prints[n : n + 10])
    for thread in threads:
        thread.join()
    advance(100)
    assert stored() == brute_force(prints, at(100))


def test_a_step_that_is_killed_is_as_if_it_had_not_been():
    trade(0, 100)
    advance(5)
    trade(6, 200)
    list(building.build(feeds.TRADE, at(7)))
    with db.database.atomic() as transaction:
        tickers.advance(at(8))
        transaction.rollback()
    assert advance(10).changed == ["BTCUSDT"]
    assert ticker()[8] == 2


def test_a_position_of_another_database_is_refused():
    db.rows("insert into reader_position values ('build_tickers', '999999999999', 1)")
    with pytest.raises(LookupError, match="restored"):
        build_tickers(due_at=NOW)
