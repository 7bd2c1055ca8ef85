"""A stock moves to its new name with its users, alerts and history, whether or not that is followed already."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

import db
from bench import tape
from domain.alerts import Rule
from domain.stocks import Bar, Quote
from models import bars, buckets, building, feeds, names, portfolios, prices, stock_quotes, stocks, triggers
from models.alerts import create_alert, user_with

NOW = datetime(2026, 11, 25, 15, tzinfo=UTC)
LEFT_ALONE = {
    "pair": "the exchange's", "trade": "the exchange's", "ticker": "the exchange's",
    "instrument": "made anew", "quote": "made anew", "stock": "made anew", "stock_quote": "made anew",
    "alert": "by its type", "alert_watch": "with its alert",
    "alert_trigger": "as it was", "notification": "as it was", "chain_incident": "of chains",
}  # fmt: skip


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def follow(*symbols: str) -> None:
    portfolios.watch(user_with("ann@example.com"), symbols)
    stocks.adopt()


def price(symbol: str, seconds: float, value: int) -> None:
    stock_quotes.record([Quote(symbol, Decimal(value), at(seconds), "yahoo")], {}, at(seconds))


def bar(symbol: str, day: int, close: int) -> None:
    numbers = [Decimal(close)] * 4
    bars.keep_bars([Bar(symbol, date(2026, 11, day), *numbers, 100, "yahoo")], NOW)


def build() -> None:
    list(building.build(feeds.TICK, at(7200)))


def check() -> list[str]:
    list(triggers.fire_reached())
    return [subject for (subject,) in db.rows("select subject from alert_trigger order by id")]


def rename() -> dict[str, int]:
    with db.transaction():
        return names.rename("FB", "META")


def test_every_table_that_names_a_symbol_is_known(database):
    found = db.rows(
        """select c.relname::text from pg_attribute a join pg_class c on c.oid = a.attrelid
           where a.attname in ('symbol', 'subject') and c.relkind in ('r', 'p') and not c.relispartition
             and c.relnamespace = 'public'::regnamespace"""
    )
    assert {table for (table,) in found} == names.PLACES.keys() | LEFT_ALONE.keys()


def test_all_that_stands_under_the_old_name_stands_under_the_new_one(database):
    follow("FB")
    bob = user_with("bob@example.com")
    portfolios.hold(bob, "FB", Decimal(10))
    price("FB", 0, 300), price("FB", 60, 310)
    bar("FB", 23, 290), bar("FB", 24, 295)
    build()
    check()
    alert = create_alert(bob, "FB", Rule("above", Decimal(320), None), at(61))
    assert not alert.fired
    db.rows("insert into mute (user_id, subject) values (%s, 'FB')", bob)
    before = [dict(row, symbol="META") for row in db.maps("select * from candle order by interval, starts_at")]
    moved = rename()
    assert {table: count for table, count in moved.items() if count} == {
        "watchlist_item": 1, "portfolio_item": 1, "mute": 1, "daily_bar": 2, "tick": 2, "candle": 10, "alert": 1
    }  # fmt: skip
    for table, (column, *_) in names.PLACES.items():
        assert db.rows(f"select count(*) from {table} where {column} = 'FB'") == [(0,)], table
    assert db.maps("select * from candle order by interval, starts_at") == before
    assert db.rows("select symbol, price, state from quote where symbol in ('FB', 'META')") == [("META", 310, "fresh")]
    assert db.rows("select symbol, last from stock_quote") == [("META", 310)]
    assert db.rows("select symbol, state from stock") == [("META", "new")]
    assert db.rows("select payload from event where topic = 'stocks.moved'") == [({"from": "FB", "to": "META"},)]
    price("META", 120, 325)
    assert check() == ["META"]
    build()
    assert db.rows("""select open, high, trades from candle where "interval" = '1d'""") == [(300, 325, 3)]
    assert buckets.mend(feeds.TICK, at(-7200), at(7200)) == []


def test_what_has_come_and_is_in_no_candle_and_no_alert_yet_is_so_under_the_new_name(database):
    follow("FB")
    price("FB", 0, 300)
    create_alert(user_with("bob@example.com"), "FB", Rule("above", Decimal(320), None), at(1))
    check(), build()
    price("FB", 60, 330)
    rename()
    assert check() == ["META"]
    build()
    assert db.rows("""select symbol, open, high, trades from candle where "interval" = '1d'""") == [
        ("META", 300, 330, 2)
    ]


def test_where_both_names_are_followed_they_become_one(database):
    follow("FB", "META")
    ann, bob = user_with("ann@example.com"), user_with("bob@example.com")
    portfolios.hold(bob, "FB", Decimal(10)), portfolios.hold(bob, "META", Decimal(5))
    db.rows("update watchlist_item set active = false where symbol = 'META'")
    db.rows("insert into mute (user_id, subject) values (%s, 'FB'), (%s, 'META')", ann, ann)
    price("FB", 0, 300), price("FB", 30, 320), price("META", 45, 310), price("META", 90, 315)
    bar("FB", 23, 290), bar("FB", 24, 295), bar("META", 24, 296)
    build()
    rename()
    assert db.rows("select user_id, symbol, active from watchlist_item") == [(ann, "META", True)]
    assert db.rows("select user_id, symbol, quantity from portfolio_item") == [(bob, "META", 15)]
    assert db.rows("select symbol, extract(day from date)::int, close from daily_bar order by date") == [
        ("META", 23, 290), ("META", 24, 296)
    ]  # fmt: skip
    assert db.rows("""select open, high, low, close, trades from candle where "interval" in ('1m', '1d')
                      order by "interval", starts_at""") == [
        (300, 320, 300, 315, 4), (300, 320, 300, 310, 3), (315, 315, 315, 315, 1)
    ]  # fmt: skip
    assert buckets.mend(feeds.TICK, at(-7200), at(7200)) == []
    assert db.rows("select price from quote where symbol = 'META'") == [(315,)]


def test_others_are_left_alone_and_an_alert_of_another_type_on_the_same_word_too(database):
    follow("FB", "MSFT")
    price("MSFT", 0, 500), bar("MSFT", 24, 500), build()
    db.rows(
        """insert into alert (user_id, type, subject, measure, condition, level, status)
           values (%s, 'match_start', 'FB', 'starts_at', 'within', 60, 'paused')""",
        user_with("ann@example.com"),
    )
    tables = ("candle", "tick", "daily_bar", "quote", "stock")
    rows = {table: db.rows(f"select * from {table} where symbol = 'MSFT'") for table in tables}
    assert rename()["alert"] == 0
    assert rows == {table: db.rows(f"select * from {table} where symbol = 'MSFT'") for table in tables}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("NOPE", "META", "NOPE is not a stock that is followed"),
        ("BTCUSD", "META", "BTCUSD is not a stock"),
        ("FB", "FB", "another stock"),
        ("FB", "BTCUSD", "another stock"),
        ("FB", "META.L", "of the same market"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(database, old, new, why):
    follow("FB")
    with pytest.raises((LookupError, ValueError), match=why), db.transaction():
        names.rename(old, new)
    assert db.rows("select symbol from watchlist_item") == [("FB",)]
    assert prices.quotes(NOW, ["FB"])


def test_a_pair_of_the_exchange_that_has_not_traded_yet_is_no_stocks_new_name(database):
    follow("FB")
    tape.follow(["METAUSD"])
    with pytest.raises(ValueError, match="another stock"), db.transaction():
        names.rename("FB", "METAUSD")


def test_a_second_time_there_is_nothing_to_move(database):
    follow("FB")
    rename()
    with pytest.raises(LookupError):
        rename()
    follow("FB")  # the app still has it: it is followed again, and can be moved again
    assert rename()["watchlist_item"] == 0
    assert db.rows("select symbol from stock") == [("META",)]
