"""A desk whose database is restored into another cluster goes on exactly where it was."""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import config
import db
from bench.tape import Print, brute_force, follow, insert, stored
from cli import servers
from domain.alerts import Rule
from domain.measures import Reading
from domain.prices import Price
from models import building, clusters, events, feeds, orders, prices, readings, tickers, triggers
from models.alerts import create_alert, user_with
from tests.exchange import NOW, open_market, place

READERS = {
    "build_candles.trade": lambda: sum(batch.rows for batch in building.build(feeds.TRADE, at(200))),
    "build_candles.tick": lambda: sum(batch.rows for batch in building.build(feeds.TICK, at(200))),
    "build_tickers": lambda: len(getattr(tickers.advance(at(200)), "changed", ())),
    "check_alerts": lambda: sum(batch.values for batch in triggers.fire_reached()),
    "tell_expired": lambda: sum(orders.tell()),
}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def trade(*seconds: int) -> list[Print]:
    prints = [Print("ETHUSDT", at(n), Decimal(2000 + n), Decimal(n + 1)) for n in seconds]
    insert(prints)
    return prints


def tick(second: int, value: int) -> None:
    prices.record([Price("XAUUSD", Decimal(value), at(second), "binance")], {}, at(second))


def reading(second: int) -> None:
    value = Decimal(int(at(3600 + second).timestamp()))
    readings.record([Reading("M1", "starts_at", value, at(second), "fixtures")], at(second))


def alert(level: int) -> int:
    return create_alert(user_with("a@b.c"), "XAUUSD", Rule("above", Decimal(level), None), at(0)).id


def expire(who: str) -> int:
    """An order that ends."""
    order = place(who, "buy", 1, 100)
    assert sum(orders.expire(NOW)) == 1
    return order


def read() -> dict[str, int]:
    """What one run of each reader finds."""
    return {name: reader() for name, reader in READERS.items()}


def fired() -> list[tuple[int, Decimal]]:
    return db.rows("select alert_id, value from alert_trigger order by id")


def told() -> Counter[int]:
    """How often a user was told of each order."""
    notes = db.rows("select data -> 'order_ids' from notification where kind = 'order'")
    return Counter(number for (numbers,) in notes for number in numbers)


def spend(number: int) -> None:
    """So many transactions are counted."""
    db.rows(f"do $$ begin for i in 1..{number} loop perform pg_current_xact_id(); commit; end loop; end $$")


@contextmanager
def open_transaction() -> Iterator[psycopg2.extensions.cursor]:
    """One that has its number and writes later."""
    connection = psycopg2.connect(config.settings.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("select pg_current_xact_id()")
        yield cursor
    connection.close()


class Desk:
    """What a desk has been given, and what must become of it."""

    def __init__(self) -> None:
        """Something of everything is dealt with."""
        open_market()
        follow(["ETHUSDT"])
        tick(0, 4000)
        self.alerts = [alert(level) for level in (4005, 4010, 4020, 4030)]
        self.prints = trade(1, 70, 3)
        tick(5, 4006), reading(5)
        self.orders = [expire("ann"), expire("bob")]
        assert read() == {
            "build_candles.trade": 3, "build_candles.tick": 2, "build_tickers": 2, "check_alerts": 3, "tell_expired": 2
        }  # fmt: skip
        self.reached = [4006]

    def more(self, second: int, value: int) -> None:
        """And something is not: of the trades one with a lower transaction number and a higher id than the other."""
        with open_transaction() as older:
            with db.transaction(), db.transaction():  # a savepoint has another number than its transaction
                self.prints += trade(second)
            tick(second, value), reading(second)
            self.orders.append(expire("ann"))
            older.execute(
                "insert into trade (symbol, traded_at, price, quantity, side) values ('ETHUSDT', %s, 2004, 5, 'buy')",
                (at(second - 120),),
            )
        self.prints.append(Print("ETHUSDT", at(second - 120), Decimal(2004), Decimal(5)))
        self.reached.append(value)

    def must_be_right(self) -> None:
        found = stored()
        assert {key: candle for key, candle in found.items() if key[0] == "ETHUSDT"} == brute_force(self.prints)
        assert found["XAUUSD", "1d", at(-12 * 3600)][-1] == len(self.reached) + 1
        volume = sum(print_.quantity for print_ in self.prints)
        assert db.rows("select trades, volume from ticker where trades > 0") == [(len(self.prints), volume)]
        assert fired() == list(zip(self.alerts, self.reached, strict=False))
        assert told() == Counter(self.orders)
        assert read() == dict.fromkeys(READERS, 0)


@pytest.fixture
def move(postgres, database, tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """`move(spent)`: from here on the desk is what pg_restore made of it in a new cluster that had counted so far."""
    new = servers.postgres(tmp_path / "new", fsync=False, programs=postgres._programs)

    def switch(url: str) -> None:
        db.database.close()
        monkeypatch.setattr(config, "settings", replace(config.settings, database_url=url))
        monkeypatch.setattr(db, "settings", config.settings)
        db.database.init(None)
        db.database.connect()

    def go(spent: int = 0, *how: str) -> None:
        programs, dump = Path(postgres._prepare()[0][0]).parent, tmp_path / "dump"
        run(programs / "pg_dump", "-Fc", "--exclude-schema=seed", "-f", dump, "-d", config.settings.database_url)
        new.start()
        switch(new.url)
        spend(spent)
        db.rows("create role nightdesk_app nologin")
        run(programs / "pg_restore", "--no-owner", *how, "-d", new.url, dump)

    yield go
    db.database.close()
    monkeypatch.undo()
    db.database.init(None)
    new.stop()
    new.remove()


def run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def refused() -> list[str]:
    names = []
    for name, reader in READERS.items():
        with pytest.raises(LookupError, match=f"{name} is of another cluster.*`nightdesk restore`"):
            reader()
        names.append(name)
    return names


def rows_of(done: list[dict[str, Any]]) -> dict[str, int]:
    return {row["what"]: row["rows"] for row in done if row["rows"] is not None}


def test_every_table_that_has_transaction_numbers_is_known(database):
    tables = db.rows(
        """select c.relname::text from pg_attribute a join pg_class c on c.oid = a.attrelid
           where a.atttypid in ('xid8'::regtype, 'xid'::regtype) and a.attnum > 0 and c.relkind in ('r', 'p')
             and not c.relispartition and c.relnamespace = 'public'::regnamespace"""
    )
    assert {table for (table,) in tables} == {*clusters.STREAMS, "reader_position"}


@pytest.mark.parametrize("how", [(), ("--jobs=3",), ("--single-transaction",)])
def test_a_desk_goes_on_where_it_was_in_a_cluster_that_has_counted_less(move, how):
    spend(20_000)
    desk = Desk()
    desk.more(130, 4012)
    move(0, *how)
    assert refused() == list(READERS)
    desk.more(140, 4022)  # the world does not wait
    spend(30_000)  # and the cluster counts on beyond where the old one was
    assert refused() == list(READERS)
    desk.more(150, 4032)
    events.remember_floor(at(-1))  # as every night
    assert rows_of(clusters.settle()) == {"trade": 5, "tick": 3, "reading": 2, "event": 8}
    assert read() == {
        "build_candles.trade": 6, "build_candles.tick": 3, "build_tickers": 1, "check_alerts": 6, "tell_expired": 1
    }  # fmt: skip
    desk.must_be_right()
    assert clusters.settle() == []
    desk.orders.append(expire("bob"))
    read()
    desk.must_be_right()


def test_who_followed_the_events_before_starts_over_and_who_follows_them_now_does_not(move):
    spend(20_000)
    desk = Desk()
    ((token, _),) = db.rows("select xid::text::bigint, id from event order by xid desc limit 1")
    desk.more(130, 4012)
    move()
    clusters.settle()
    page = events.latest(1000)
    assert token >= page.next_xid, "a token of before is of no event here"
    assert page.settled >= page.floor
    spend(30_000)
    assert page.settled >= events.latest(1000).floor


def test_ticks_and_trades_are_kept_while_their_positions_say_nothing(move):
    Desk()
    move()
    with pytest.raises(LookupError, match="restored"):
        feeds.keep_from(feeds.TRADE, NOW)


def test_a_desk_goes_on_where_it_was_in_a_cluster_that_has_counted_further(move):
    desk = Desk()
    desk.more(130, 4012)
    move(200_000)
    assert refused() == list(READERS)
    desk.more(140, 4022)
    before = db.rows("select xid, id from trade order by id")
    done = clusters.settle()
    assert rows_of(done) == {}
    assert {row["what"] for row in done if row["was"] == row["now"]} >= set(READERS)
    assert db.rows("select xid, id from trade order by id") == before
    read()
    desk.must_be_right()
